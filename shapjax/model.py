"""A trained model: `load(directory)`, explain images, evaluate coalitions, export."""

import copy
import functools
import os
import warnings
from collections.abc import Sequence
from typing import Any

import chex
import jax
import numpy as np
from flax import linen as nn

from shapjax import paths
from shapjax.data import inputs
from shapjax.errors import UserError
from shapjax.evaluation import refined
from shapjax.export import calibration, read, write
from shapjax.export.calibration import Calibration
from shapjax.games import classifier, contract, outputs
from shapjax.games.any_prior import MAX_PAIRS
from shapjax.games.classifier import row_keys
from shapjax.models import inference
from shapjax.report.explanation import Explanation
from shapjax.report.formatting import decimal, percent
from shapjax.training.meta import Meta


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
      calibration: of the errors of its values; None if it has none.
      measured: {"dataset", "accuracy", "r2"} as eval.py found them; None if it has not run.
      directory: of the training run, or of the exported model.
    """

    def __init__(self, module: nn.Module, params: chex.ArrayTree, meta: Meta, *, step: int,
                 directory: str | os.PathLike, calibration: Calibration | None = None,
                 measured: dict[str, Any] | None = None):
        self.params, self.step, self.directory = jax.device_put(params), step, paths.as_path(directory)
        self.config, self.class_names, self.image_shape = meta.config, meta.class_names, meta.image_shape
        self.mean, self.meta, self.measured = meta.mean, meta, measured
        self.classifier = inference.classifier_of(
            module, self.params, meta.mean, meta.std).replace(class_names=tuple(meta.class_names))
        self._set_calibration(calibration)
        self.grid, self.num_players = self.classifier.grid, self.classifier.num_players
        self._pair_values = jax.jit(
            functools.partial(classifier.pair_values, read=outputs.all_classes()), static_argnames="batch_size")

    def _set_calibration(self, calibration: Calibration | None) -> None:
        self.calibration = calibration
        self.classifier = self.classifier.replace(error_law=calibration and jax.device_put(calibration.law))

    def calibrated(self, calibration: Calibration) -> "SelfExplainingModel":
        """Returns the model with these errors of its values."""
        model = copy.copy(self)
        model._set_calibration(calibration)
        return model

    def __repr__(self) -> str:
        """Says what the model is: where from, its backbone, patches, classes, and how good it is."""
        (h, w, c), (gh, gw), k = self.image_shape, self.grid, len(self.class_names)
        names = ", ".join(self.class_names[:3]) + (", …" if k > 3 else "")
        count = sum(x.size for x in jax.tree.leaves(self.params))
        errors = "calibrated" if self.calibration else "not calibrated"
        quality = "not evaluated"
        if self.measured:
            r2 = self.measured["r2"]
            quality = (f"{self.measured['dataset']}: accuracy {percent(self.measured['accuracy'])}"
                       + (f", R² {decimal(r2)}" if r2 is not None else ""))
        return (f"shapjax model of {self.directory}, step {self.step}: {self.config.model.backbone}, {count:,} "
                f"parameters; images {h}x{w}x{c}, {gh}x{gw} patches, {k} classes ({names}); {quality}; {errors}")

    def explain(self, images: Any, *, pairs: int = 0, tolerance: float | None = None, max_pairs: int | None = None,
                seed: int = 0, batch_size: int = 256) -> Explanation:
        """Predicts and explains, in one forward pass an image; further passes make the values better.

            e = model.explain("cat.jpg")
            e.plot("cat.png")

        Args:
          images: a path, an image of Pillow, an array [H, W, C] or [B, H, W, C], uint8 or floats in [0, 1], or a list
            of these. Of those of another size than `image_shape` the largest centered area of that aspect is resized;
            `Explanation.changes` says so.
          pairs: coalition pairs an image that the values are refined by; each costs `classifier.pair_passes` passes.
          tolerance: refine by as many pairs as it takes, until the largest standard error of an image is within this
            fraction of the spread (max − min) of its values. Images that need more than max_pairs raise a warning.
          max_pairs: with a tolerance, the most pairs an image; 16 times the patches if None.
          seed: of the coalitions.
          batch_size: images, or pairs, a forward pass.

        Raises:
          UserError: if an image cannot be read or is of another range, an argument cannot be, the values are to be
            refined and the model is not calibrated, or logits are not finite.
        """
        self._require_batch_size(batch_size)
        images, names, changes = inputs.as_inputs(images, image_shape=self.image_shape)
        numbers = self._numbers_of_pairs(pairs, tolerance, max_pairs)
        keys = row_keys(jax.random.key(seed), len(images))
        found = refined.explanations(self.classifier, images, keys, numbers, tolerance=tolerance, batch_size=batch_size)
        contract.require_finite_logits(found["logits"])
        explanation = Explanation(**{"standard_error": None, "freedom": None} | found, images=images, names=names,
                                  changes=changes, class_names=self.class_names)
        if tolerance is not None:
            reached = explanation.largest_error
            if late := int((reached > tolerance).sum()):
                warnings.warn(f"{late} of {len(images)} images have larger errors than tolerance={tolerance} after "
                              f"{numbers[-1]} pairs, of up to {reached.max():.3g} of the spread; raise max_pairs",
                              stacklevel=2)
        return explanation

    def _numbers_of_pairs(self, pairs: int, tolerance: float | None, max_pairs: int | None) -> list[int]:
        """Returns the numbers of pairs to try, one after the other; raises UserError if an argument cannot be."""
        most = 16 * self.num_players if max_pairs is None else max_pairs
        for name, value, least in (("pairs", pairs, 0), ("max_pairs", most, 1)):
            if not isinstance(value, int | np.integer) or not least <= value <= MAX_PAIRS:
                raise UserError(f"{name} is {value}, expected a whole number from {least} to {MAX_PAIRS:,}")
        if tolerance is None:
            numbers = [pairs]
        elif pairs or not isinstance(tolerance, int | float | np.floating) or not tolerance > 0:
            raise UserError(f"tolerance is {tolerance!r} with pairs={pairs}: expected a positive fraction of the "
                            "spread, such as 0.05, and no pairs")
        else:
            numbers = [0]
            while numbers[-1] < most:
                numbers.append(min(most, max(4, 2 * numbers[-1])))
        if numbers[-1] and self.calibration is None:
            raise UserError(f"{self.directory} is not calibrated at step {self.step}, so that its values cannot be "
                            "refined; run python -m shapjax eval on it")
        return numbers

    def coalition_values(self, images: Any, masks: Any, *, batch_size: int = 256) -> np.ndarray:
        """Evaluates the game: the logits of the model when it sees only some patches.

        Args:
          images: uint8 [B, H, W, C], or floats in [0, 1] of that shape; (H, W, C) is `image_shape`.
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
          platforms: that the programs (StableHLO) shall run on, some of `export.write.PLATFORMS`: the whole explanation
            and, if the model is calibrated, the values of a pair; None leaves them out.
          weights: write the parameters, which `load` needs.

        Returns:
          the names of the files written.

        Raises:
          UserError: if files of something else would be replaced, or on an unknown platform.
          OSError: if a file cannot be written.
        """
        write.require_free(directory)
        programs = {} if platforms is None else write.stablehlo(self, platforms=platforms)
        return write.write(self, directory, programs=programs, weights=weights)

    def _require_batch_size(self, batch_size: int) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}, expected at least 1")

    def _checked(self, images: Any, batch_size: int) -> np.ndarray:
        """Returns the images as an array; raises UserError if they are of another shape or range."""
        self._require_batch_size(batch_size)
        images = np.asarray(images)
        shape = ", ".join(map(str, self.image_shape))
        if images.ndim != 4 or not len(images) or images.shape[1:] != tuple(self.image_shape):
            raise UserError(f"images are {list(images.shape)}, expected [B, {shape}] with B of at least 1")
        inputs.require_pixels(images, "the batch of images")
        return images if images.dtype == np.uint8 else images.astype(np.float32)


def load(directory: str | os.PathLike, *, step: int | None = None) -> SelfExplainingModel:
    """Loads a trained model from a directory.

        model = shapjax.load("mnist5k")  # a small one that comes with the package

    Args:
      directory: the --workdir of a training run, or an exported model; local or in a bucket. Or the name of a model
        that comes with the package.
      step: of the checkpoint; None = the newest.

    Raises:
      UserError: if there is no usable model.
    """
    directory = read.located(directory)
    params, meta, step = read.read_model(directory, step=step)
    return SelfExplainingModel(
        read.build(meta), params, meta, step=step, directory=directory,
        calibration=calibration.read(directory, step=step, params=params),
        measured=read.read_measured(directory, step=step))
