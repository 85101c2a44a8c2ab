"""Unmeasured. Your own photographs: a sub-directory for each class, below train/ and test/ if you have split them.

  python train.py --config configs/own_folder.py --workdir runs/own --config.dataset=folder:PATH

Made for hundreds to thousands of images at 128 pixels, 64 patches, on a CPU. For more: --config.data.image_size=224,
--config.model.variant=S/16 and an accelerator. docs/data.md says what may lie in the folder.
"""

import ml_collections

from shapjax.config import default_config


def get_config() -> ml_collections.ConfigDict:
    config = default_config()
    config.dataset = "folder:photos"
    config.data.image_size = 128
    config.data.threads = 2
    config.model.patch_size = 16
    config.model.width = 128
    config.model.depth = 4
    config.augment.max_shift = 0
    config.augment.flip = True
    config.augment.crop_area = 0.5
    config.augment.color_jitter = 0.2
    config.optim.batch_size = 32
    config.optim.steps = 5_000
    config.run.eval_every = 250
    return config
