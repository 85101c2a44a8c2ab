"""A trained model: `load(directory)`, explain images, evaluate coalitions, export."""

import functools
import os
from collections.abc import Sequence
from typing import Any

import chex
import jax
import numpy as np
from flax import linen as nn

from shapjax import paths
from shapjax.errors import UserError
from shapjax.export import read, write
from shapjax.games import classifier
from shapjax.models import inference
from shapjax.training.checkpoint import Meta


@chex.dataclass(frozen=True)
class Explanation:
    """Predictions and, for every patch and class, the model's Shapley value; arrays on the host.

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
      mean: color that is subtracted from pixels; one number a channel in [0, 1].
      meta: all of these, as checkpoints keep them.
      grid: (gh, gw), patches down and across.
      num_players: the number of patches N = gh·gw.
      params: parameters, arrays on the device.
      classifier: what `shapjax.attribution` and `shapjax.metrics` take; its images are floats in [0, 1].
      step: of the checkpoint.
      directory: of the training run, or of the exported model.
    """

    def __init__(self, module: nn.Module, params: chex.ArrayTree, meta: Meta, *, step: int,
                 directory: str | os.PathLike):
        self.params, self.step, self.directory = jax.device_put(params), step, paths.as_path(directory)
        self.config, self.class_names, self.image_shape = meta.config, meta.class_names, meta.image_shape
        self.mean, self.meta = meta.mean, meta
        self.classifier = inference.classifier_of(module, self.params, meta.mean, meta.std)
        self.grid, self.num_players = self.classifier.grid, self.classifier.num_players
        self._explain = jax.jit(inference.explanation)
        self._pair_values = jax.jit(
            functools.partial(classifier.pair_values, read=classifier.all_classes()), static_argnames="batch_size")

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
        # Zeros up to a multiple: every pass has one shape and compiles once.
        padded = np.pad(images, ((0, -len(images) % rows), (0, 0), (0, 0), (0, 0)))
        parts = [self._explain(self.classifier, padded[i : i + rows]) for i in range(0, len(padded), rows)]
        return Explanation(**jax.tree.map(lambda *x: np.concatenate(x)[: len(images)], *jax.device_get(parts)))

    def coalition_values(self, images: Any, masks: Any, *, batch_size: int = 256) -> np.ndarray:
        """Evaluates the game: the logits of the model when it sees only some patches.

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
        """Evaluates coalitions as `coalition_values` does and, in the same forward passes, their complements.

        Arguments and errors are those of `coalition_values`.

        Returns:
          two float32 [B, M, K]: v(S) and v(S^c).
        """
        images, masks = self._checked(images, batch_size), np.asarray(masks)
        if masks.dtype != bool or masks.ndim != 3 or not masks.shape[1] or (
                masks.shape[::2] != (len(images), self.num_players)):
            raise UserError(f"masks are {masks.dtype} {list(masks.shape)}, expected bool [{len(images)}, M, "
                            f"{self.num_players}] with M of at least 1; True = visible")
        return jax.device_get(self._pair_values(self.classifier, images, masks, batch_size=batch_size))

    def export(self, directory: str | os.PathLike, *, platforms: Sequence[str] | None = ("cpu", "cuda", "tpu"),
               weights: bool = True) -> list[str]:
        """Writes the model as files that hold no Python code; `load` and other programs read them.

        Args:
          directory: made if it is not there.
          platforms: that the program of the whole explanation (StableHLO) shall run on, some of
            `export.write.PLATFORMS`; None leaves the program out.
          weights: write the parameters, which `load` needs.

        Returns:
          the names of the files written.

        Raises:
          UserError: if files of something else would be replaced, or on an unknown platform.
          OSError: if a file cannot be written.
        """
        write.require_free(directory)
        program = None if platforms is None else write.stablehlo(self, platforms=platforms)
        return write.write(self, directory, program=program, weights=weights)

    def _checked(self, images: Any, batch_size: int) -> np.ndarray:
        """Returns the images as an array; raises UserError if they are of another shape or range."""
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}, expected at least 1")
        images = np.asarray(images)
        shape = ", ".join(map(str, self.image_shape))
        if images.ndim != 4 or not len(images) or images.shape[1:] != tuple(self.image_shape):
            raise UserError(f"images are {list(images.shape)}, expected [B, {shape}] with B of at least 1")
        if images.dtype == np.uint8:
            return images
        if not np.issubdtype(images.dtype, np.floating) or not np.all((images >= 0) & (images <= 1)):
            found = f"{images.dtype} from {images.min()} to {images.max()}"
            raise UserError(f"images are {found}, expected uint8, or floats in [0, 1]")
        return images.astype(np.float32)


def load(directory: str | os.PathLike, *, step: int | None = None) -> SelfExplainingModel:
    """Loads a trained model from a directory.

    Args:
      directory: the --workdir of a training run, or an exported model; local or in a bucket.
      step: of the checkpoint; None = the newest.

    Raises:
      UserError: if there is no usable model.
    """
    params, meta, step = read.read_model(directory, step=step)
    return SelfExplainingModel(read.build(meta), params, meta, step=step, directory=directory)
