"""Completes a run's config from its weights: the model's settings, and the normalization of pixels."""

import os
from collections.abc import Collection

import ml_collections

from shapjax import models
from shapjax.config import model_settings, set_model
from shapjax.errors import UserError, as_user_error
from shapjax.pretrained import loading
from shapjax.pretrained.architecture import HEAD_SETTINGS, RUN_SETTINGS
from shapjax.training.meta import newest_meta


def complete(config: ml_collections.ConfigDict, workdir: str | os.PathLike, given: Collection[str] = ()
             ) -> ml_collections.ConfigDict:
    """Returns the config of a run, completed if it has `pretrained`. Does not start JAX.

    The weights decide how the model is built, whatever a recipe says, and how pixels are normalized if `data.mean` and
    `data.std` are empty. Once the run has a checkpoint, that decides both, and the weights are no longer needed.

    Args:
      config: as the user set it.
      workdir: of the run.
      given: names of the settings that a person has given, such as "model.width"; these are not overridden.

    Raises:
      UserError: if the weights are missing, damaged or of no known model, or a setting that is given is not theirs.
    """
    if not config.pretrained:
        return config
    config = config.copy_and_resolve_references()
    meta = newest_meta(workdir)
    if meta is not None:
        settings = {key: value for key, value in model_settings(meta.config).items() if key not in RUN_SETTINGS}
        mean, std = meta.config.data.mean, meta.config.data.std
    else:
        architecture = loading.describe(config.pretrained)
        keeps_head = architecture.num_classes is not None and not config.new_head
        settings = {key: value for key, value in architecture.settings.items()
                    if keeps_head or key not in HEAD_SETTINGS}
        mean, std = architecture.mean or (), architecture.std or ()
    for key in (name.removeprefix("model.") for name in given):
        if key in settings and config.model[key] != settings[key]:
            raise UserError(f"--config.model.{key}={config.model[key]}: --config.pretrained={config.pretrained} has "
                            f"{settings[key]}; leave it out")
    set_model(config, settings)
    if meta is None and config.model.variant:
        with as_user_error("--config.model."):
            variant = models.variant(config.model.variant)
        loading.require_fit(config.pretrained, architecture, variant)
    if not (config.data.mean or config.data.std):
        with config.unlocked():
            config.data.update(mean=mean, std=std)
    return config
