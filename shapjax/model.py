"""A trained model in the hand: `load(directory)`, explain images, evaluate coalitions."""

import functools
import math
import pathlib
from collections.abc import Callable
from typing import Any

import chex
import jax
import numpy as np
from flax import linen as nn

from shapjax import models
from shapjax.errors import UserError
from shapjax.export import read as exported
from shapjax.games import classifier, coalitions, shapley
from shapjax.models import preprocessing
from shapjax.models import probes as vit_probes
from shapjax.training import checkpoint


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


def explanation(model: classifier.Classifier, images: chex.Array) -> dict[str, chex.Array]:
    """The fields of an `Explanation` of images uint8 or float [B, H, W, C], to be traced: one forward pass."""
    phi_BNK = model.phi(images)
    logits = phi_BNK.sum(axis=1)
    return {"logits": logits, "shapley": phi_BNK.reshape(-1, *model.grid, phi_BNK.shape[-1]),
            "probabilities": jax.nn.softmax(logits)}


class SelfExplainingModel:
    """A trained model with what belongs to it; made by `load`.

    Attributes:
      config: the resolved config of its training run.
      class_names: K names.
      image_shape: (H, W, C) of the images it takes.
      mean: what is subtracted from pixels, the dataset's color as a rule; one number a channel in [0, 1].
      meta: all of these, as checkpoints keep them.
      grid: (gh, gw), patches down and across; gh·gw = N players.
      params: parameters, arrays on the device.
      classifier: what `shapjax.attribution` and `shapjax.metrics` take; its images are floats in [0, 1].
      step: of the checkpoint.
      directory: of the training run, or of the exported model.
    """

    def __init__(self, module: nn.Module, params: chex.ArrayTree, meta: checkpoint.Meta, *, step: int,
                 directory: pathlib.Path):
        self.params, self.step, self.directory = jax.device_put(params), step, directory
        self.config, self.class_names, self.image_shape = meta.config, meta.class_names, meta.image_shape
        self.mean, self.meta = meta.mean, meta
        self.grid: tuple[int, int] = module.grid

        self.classifier = _classifier(module, self.params, meta)
        self._explain = jax.jit(explanation)
        self._pair_values = jax.jit(
            functools.partial(classifier.pair_values, read=classifier.all_classes()), static_argnames="batch_size")

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
        parts = [self._explain(self.classifier, padded[i : i + rows]) for i in range(0, len(padded), rows)]
        return Explanation(**jax.tree.map(lambda *x: np.concatenate(x)[: len(images)], *jax.device_get(parts)))

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
        return jax.device_get(self._pair_values(self.classifier, images, masks, batch_size=batch_size))

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
    """Loads a trained model; a directory is all it takes.

    Args:
      directory: the --workdir of a training run, or an exported model.
      step: of the checkpoint; None = the newest.

    Raises:
      UserError: if there is no usable model.
    """
    params, meta, step = read(directory, step=step)
    return SelfExplainingModel(build(meta), params, meta, step=step, directory=pathlib.Path(directory))


def read(directory: str | pathlib.Path, *, step: int | None = None) -> tuple[chex.ArrayTree, checkpoint.Meta, int]:
    """What is in the directory of a training run or of an exported model; arguments and errors as of `load`.

    Returns:
      parameters (host arrays), meta data, step.
    """
    reader = exported.read if exported.is_exported(directory) else checkpoint.load_params
    return reader(directory, lambda meta: models.param_shapes(build(meta), image_shape=meta.image_shape), step=step)


def build(meta: checkpoint.Meta) -> nn.Module:
    """The module of a model with this meta data."""
    return models.build(meta.config.model, image_shape=meta.image_shape, num_classes=len(meta.class_names),
                        mean=meta.mean, std=meta.std)


def _classifier(module: nn.Module, params: chex.ArrayTree, meta: checkpoint.Meta) -> classifier.Classifier:
    """The model's functions on pixels: its own way to hide patches, a coalition and its complement together."""

    def normalize(images: chex.Array) -> chex.Array:
        return preprocessing.normalize(images, meta.mean, meta.std)

    def logits_fn(params: chex.ArrayTree, images: chex.Array) -> chex.Array:
        return module.voter.apply({"params": params}, normalize(images)).sum(axis=1)

    def phi_fn(params: chex.ArrayTree, images: chex.Array, segment_ids: chex.Array | None = None) -> chex.Array:
        return module.apply({"params": params}, normalize(images), segment_ids)

    def pair_fn(params: chex.ArrayTree, images: chex.Array, mask: chex.Array) -> tuple[chex.Array, chex.Array]:
        values = coalitions.pair_values(functools.partial(phi_fn, params), images, mask[:, None])
        return tuple(value[:, 0] for value in values)

    def coalition_fn(params: chex.ArrayTree, images: chex.Array, mask: chex.Array) -> chex.Array:
        if module.pair_passes == 1:  # the complement comes for free
            return pair_fn(params, images, mask)[0]
        votes = module.apply({"params": params}, normalize(images), mask, method="visible_patch_logits")
        return shapley.coalition_sums(votes, mask[:, None])[0][:, 0]

    def on_pixels(fn: Callable) -> Callable:
        return lambda params, images, argument: fn(params, normalize(images), argument)

    return classifier.wrap(
        logits_fn, params, grid=module.grid, removal=None, pair_fn=pair_fn, coalition_fn=coalition_fn,
        pair_passes=module.pair_passes, phi_fn=phi_fn,
        **{name: on_pixels(fn) for name, fn in vit_probes.probes(module).items()})


def _pad(x: np.ndarray, multiple: int, *, axis: int) -> np.ndarray:
    """Zeros at the end of an axis up to a multiple, so that every pass has one shape and compiles once."""
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, -x.shape[axis] % multiple)
    return np.pad(x, widths)
