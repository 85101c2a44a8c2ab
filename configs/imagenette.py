"""Imagenette: 10 easy classes of ImageNet, 9 469 photographs to train on, 3 925 to test, at 160 pixels; 100 patches.

  python -m shapjax.data.prepare imagenette/160px-v2
  python train.py --config configs/imagenette.py --workdir runs/imagenette

For one GPU or TPU chip: 200 epochs. Not run yet: no figures.
"""

import ml_collections

from shapjax.config import default_config


def get_config() -> ml_collections.ConfigDict:
    config = default_config()
    config.dataset = "tfds:imagenette/160px-v2"
    config.data.train_split = "train"
    config.data.test_split = "validation"
    config.data.image_size = 160
    config.data.threads = 16
    config.model.variant = "Ti/16"
    config.model.dtype = "bfloat16"
    config.augment.max_shift = 0
    config.augment.flip = True
    config.augment.crop_area = 0.35
    config.augment.rand_augment = 2
    config.augment.mixup = 0.2
    config.learning_rate = 1e-3
    config.b2 = 0.999
    config.batch_size = 256
    config.steps = 7_400  # 200 epochs
    config.eval_every = 370
    config.ema_decay = 0.999
    return config
