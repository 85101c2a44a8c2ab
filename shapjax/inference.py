"""A trained model in the hand: `load(directory)`, explain images, evaluate coalitions."""

import functools
import math
import pathlib
from typing import Any

import chex
import jax
import numpy as np
from flax import linen as nn

from shapjax import checkpoint, coalitions, models, preprocessing
from shapjax.errors import UserError


@chex.dataclass(frozen=True)
class Explanation:
    """Predictions and, for every patch and class, its Shapley value; arrays on the host.

    Attributes:
      logits: float32 [B, K], the sums of the Shapley values over the patches.
      shapley: float32 [B, gh, gw, K], in logits.
      probabilities: float32 [B, K], softmax of the logits.
    """

    logits: np.ndarray
    shapley: np.ndarray
    probabilities: np.ndarray


class SelfExplainingModel:
    """A trained model with what belongs to it; made by `load`.

    Attributes:
      config: the resolved config of its training run.
      class_names: K names.
      image_shape: (H, W, C) of the images it takes.
      grid: (gh, gw), patches down and across; gh·gw = N players.
      params: parameters, arrays on the device.
      step: of the checkpoint.
      directory: of the training run.
    """

    def __init__(self, module: nn.Module, params: chex.ArrayTree, meta: checkpoint.Meta, *, step: int,
                 directory: pathlib.Path):
        self.params, self.step, self.directory = jax.device_put(params), step, directory
        self.config, self.class_names, self.image_shape = meta.config, meta.class_names, meta.image_shape
        self.grid: tuple[int, int] = module.grid

        def phi_fn(params: chex.ArrayTree, images: chex.Array, sides: chex.Array | None = None) -> chex.Array:
            return module.apply({"params": params}, preprocessing.normalize(images, meta.mean, meta.std), sides)

        def pair_values(params: chex.ArrayTree, images: chex.Array, masks: chex.Array):
            return coalitions.pair_values(functools.partial(phi_fn, params), images, masks)

        self._phi, self._pair_values = jax.jit(phi_fn), jax.jit(pair_values)

    @property
    def num_players(self) -> int:
        """N."""
        return math.prod(self.grid)

    def explain(self, images: Any, *, batch_size: int = 256) -> Explanation:
        """Predicts and explains, in one forward pass an image.

        Args:
          images: uint8 [B, H, W, C], or floats in [0, 1] of that shape; (H, W, C) is `image_shape`.
          batch_size: images a forward pass.

        Raises:
          UserError: if the images are of another shape or range.
        """
        images = self._checked(images, batch_size)
        rows = min(len(images), batch_size)
        padded = _pad(images, rows, axis=0)
        phi = jax.device_get([self._phi(self.params, padded[i : i + rows]) for i in range(0, len(padded), rows)])
        phi_BNK = np.concatenate(phi)[: len(images)]
        logits = phi_BNK.sum(axis=1)
        return Explanation(logits=logits, shapley=phi_BNK.reshape(len(images), *self.grid, -1),
                           probabilities=np.asarray(jax.nn.softmax(logits)))

    def coalition_values(self, images: Any, masks: Any, *, batch_size: int = 256) -> np.ndarray:
        """The game itself: the logits of the model when it sees only some patches.

        Args:
          images: as in `explain`.
          masks: bool [B, M, N], True = visible; N = gh·gw patches in reading order.
          batch_size: coalitions a forward pass.

        Returns:
          float32 [B, M, K]; the values of the empty coalition are 0.

        Raises:
          UserError: if an argument has another shape, type or range.
        """
        return self.pair_values(images, masks, batch_size=batch_size)[0]

    def pair_values(self, images: Any, masks: Any, *, batch_size: int = 256) -> tuple[np.ndarray, np.ndarray]:
        """`coalition_values` of the coalitions and, in the same forward passes, of their complements.

        Args and errors as in `coalition_values`.

        Returns:
          two float32 [B, M, K]: v(S) and v(S^c).
        """
        images, masks = self._checked(images, batch_size), np.asarray(masks)
        if masks.dtype != bool or masks.ndim != 3 or not masks.shape[1] or (
                masks.shape[::2] != (len(images), self.num_players)):
            raise UserError(f"masks are {masks.dtype} {list(masks.shape)}, expected bool [{len(images)}, M, "
                            f"{self.num_players}] with M of at least 1; True = visible")
        b, m, _ = masks.shape
        columns = min(m, batch_size)
        rows = min(b, max(1, batch_size // columns))
        images, masks = _pad(images, rows, axis=0), _pad(_pad(masks, rows, axis=0), columns, axis=1)
        blocks = jax.device_get([
            [self._pair_values(self.params, images[i : i + rows], masks[i : i + rows, j : j + columns])
             for j in range(0, masks.shape[1], columns)]
            for i in range(0, masks.shape[0], rows)
        ])  # fetched once, at the end: the device never waits for the host
        values, complements = (
            np.concatenate([np.concatenate([block[side] for block in row], axis=1) for row in blocks])[:b, :m]
            for side in (0, 1))
        return values, complements

    def _checked(self, images: Any, batch_size: int) -> np.ndarray:
        """The images as an array of the right shape and range, or a UserError."""
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}, expected at least 1")
        images = np.asarray(images)
        shape = ", ".join(map(str, self.image_shape))
        if images.ndim != 4 or not len(images) or images.shape[1:] != tuple(self.image_shape):
            raise UserError(f"images are {list(images.shape)}, expected [B, {shape}] with B of at least 1")
        if images.dtype == np.uint8:
            return images
        if not np.issubdtype(images.dtype, np.floating) or not np.all((images >= 0) & (images <= 1)):
            raise UserError(f"images are {images.dtype} from {images.min()} to {images.max()}, expected uint8, or "
                            "floats in [0, 1]")
        return images.astype(np.float32)


def load(directory: str | pathlib.Path, *, step: int | None = None) -> SelfExplainingModel:
    """Loads a trained model; the directory of its training run is all it takes.

    Args:
      directory: the --workdir of the run.
      step: of the checkpoint; None = the newest.

    Raises:
      UserError: if there is no usable checkpoint.
    """
    def build(meta: checkpoint.Meta) -> nn.Module:
        return models.build(meta.config.model, image_shape=meta.image_shape, num_classes=len(meta.class_names))

    params, meta, step = checkpoint.load_params(
        directory, lambda meta: models.param_shapes(build(meta), image_shape=meta.image_shape), step=step)
    return SelfExplainingModel(build(meta), params, meta, step=step, directory=pathlib.Path(directory))


def _pad(x: np.ndarray, multiple: int, *, axis: int) -> np.ndarray:
    """Zeros at the end of an axis up to a multiple, so that every pass has one shape and compiles once."""
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, -x.shape[axis] % multiple)
    return np.pad(x, widths)
