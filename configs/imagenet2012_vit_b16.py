"""ImageNet-1k with a ViT-B/16 at 224 pixels, 196 patches: 300 epochs from scratch, the state split over the devices.

  python train.py --config configs/imagenet2012_vit_b16.py --workdir /mnt/shared/runs/b16 --multihost \
    --config.data.data_dir=/mnt/shared/tfds

For a TPU pod slice or several GPU nodes; docs/scaling.md has the commands and the arithmetic. Not run yet: no figures.
"""

import ml_collections

from shapjax.config import default_config


def get_config() -> ml_collections.ConfigDict:
    config = default_config()
    config.dataset = "tfds:imagenet2012"
    config.data.test_split = "validation"
    config.data.image_size = 224
    config.data.threads = 8
    config.data.workers = 8
    config.model.variant = "B/16"
    config.model.dtype = "bfloat16"
    config.model.remat = "dots"
    config.parallel = "fsdp"
    config.fsdp_devices = 8
    config.augment.max_shift = 0
    config.augment.flip = True
    config.augment.crop_area = 0.08
    config.augment.rand_augment = 2
    config.augment.mixup = 0.8
    config.augment.cutmix = 1.0
    config.augment.erase = 0.25
    config.batch_size = 4096
    config.learning_rate = 3e-3
    config.weight_decay = 0.1
    config.b2 = 0.999
    config.warmup = 10_000 / 93_800
    config.steps = 93_800  # 300 epochs
    config.eval_every = 2_500
    config.eval_batch_size = 2048
    config.ema_decay = 0.9998
    return config
