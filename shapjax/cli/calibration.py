"""Calibrates a trained model's errors for the commands, and keeps the result beside the model."""

import jax
import numpy as np
from jax.experimental import multihost_utils

import shapjax
from shapjax.cli import dataset
from shapjax.data.sources import Source
from shapjax.errors import UserError
from shapjax.evaluation import calibration
from shapjax.evaluation.comparison import to_pixels
from shapjax.evaluation.over_images import default_batch_size
from shapjax.export import calibration as kept
from shapjax.model import SelfExplainingModel


def calibrated(model: SelfExplainingModel, test_source: Source | None = None, *, batch_size: int | None = None
               ) -> SelfExplainingModel:
    """Returns the model with its errors calibrated; as it is if it was calibrated before, or there are too few images.

    The images are those held out of training; without enough of them, the second half of the test images. What is found
    is written beside the model, where files can be written there.

    Args:
      model: from `shapjax.load`.
      test_source: its test images; None: there are only those held out.
      batch_size: coalition pairs a forward pass.

    Several processes share the work; the first one's result is that of all, and it writes.
    """
    if model.calibration is not None:
        return model
    least, most = calibration.MIN_IMAGES, calibration.plan(model.classifier, model.image_shape).images
    try:
        images = dataset.load_held_out(model, most)
    except UserError as e:  # who has a model need not have the images that it was trained on
        if test_source is None:
            raise
        print(f"the images held out of training cannot be read: {e}")
        images = ()
    if not (held_out := len(images) >= least):
        rows = np.arange(len(test_source) // 2, len(test_source))[:most] if test_source else []
        if len(rows) < least:
            print(f"not calibrated: that takes {least} images that were not trained on; {max(len(images), len(rows))} "
                  f"are there{'' if test_source else '; python -m shapjax eval calibrates on test images'}")
            return model
        images = test_source.read(rows)["image"]
    is_first = jax.process_index() == 0
    try:
        law = calibration.calibrate(model.classifier, to_pixels(images), batch_size=batch_size or default_batch_size(),
                                    progress=is_first)
    except ValueError as e:
        print(f"not calibrated: {e}")
        return model
    law = multihost_utils.broadcast_one_to_all(law)
    found = kept.Calibration(law=law, step=model.step, params=kept.digest(model.params), images=len(images),
                             held_out=held_out)
    try:
        if is_first:
            kept.write(model.directory, found)
    except OSError as e:
        print(f"the calibration is not kept: {model.directory} cannot be written to ({e.strerror or e})")
    return model.calibrated(found)


def after_training(workdir: str) -> None:
    """Calibrates the newest checkpoint of a run of one process; says so if it cannot."""
    if jax.process_count() > 1:
        if jax.process_index() == 0:
            print("not calibrated: the run has several processes; python -m shapjax eval calibrates")
        return
    calibrated(shapjax.load(workdir))
