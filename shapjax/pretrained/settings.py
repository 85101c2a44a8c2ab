"""A run's config with what its weights say: the model's settings, and what pixels are normalized with."""

import pathlib

import ml_collections

from shapjax import models
from shapjax.errors import UserError
from shapjax.pretrained import loading
from shapjax.pretrained.architecture import RUN_SETTINGS
from shapjax.training import checkpoint


def complete(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> ml_collections.ConfigDict:
    """The config of a run with `pretrained`, filled in; for use before `config.resolve`. Does not start JAX.

    The weights say how the model is built, and as long as `data.mean` and `data.std` are empty what pixels are
    normalized with. Once the run has a checkpoint, that says both, and the weights need not be there any more.

    Raises:
      UserError: if the weights are not there, damaged or of no known model, or a `model.variant` is given that is
        not theirs.
    """
    if not config.pretrained:
        return config
    config = config.copy_and_resolve_references()
    meta = checkpoint.newest_meta(workdir)
    if meta is not None:
        settings = {key: value for key, value in meta.config.model.items() if key not in RUN_SETTINGS}
        mean, std = meta.config.data.mean, meta.config.data.std
    else:
        architecture = loading.describe(config.pretrained)
        if config.model.variant:
            loading.require_fit(config.pretrained, architecture, models.variant(config.model.variant))
        keeps_head = architecture.num_classes is not None and not config.new_head
        settings = {key: value for key, value in architecture.settings.items()
                    if keeps_head or key not in loading.HEAD_SETTINGS}
        mean, std = architecture.mean or (), architecture.std or ()
    with config.unlocked():
        try:
            config.model.update(settings)
        except TypeError as e:
            raise UserError(f"the config.json of {config.pretrained} has a value of another type than expected: "
                            f"{str(e)[:200]}; copy it again") from e
        if not (config.data.mean or config.data.std):
            config.data.update(mean=mean, std=std)
    return config
