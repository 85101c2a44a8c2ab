"""ImageNet-1k with a ViT-S/16 at 224 pixels, 196 patches: 90 epochs from scratch.

  python -m shapjax.data.prepare imagenet2012 --data_dir /mnt/shared/tfds        # once; needs the two archives
  python train.py --config configs/imagenet2012_vit_s16.py --workdir /mnt/shared/runs/s16 --multihost \
    --config.data.data_dir=/mnt/shared/tfds

For a TPU pod slice or a few GPU nodes; docs/scaling.md has the commands and the arithmetic. Recipe: Beyer, Zhai,
Kolesnikov 2022, "Better plain ViT baselines for ImageNet-1k". Not run yet: no figures.
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
    config.model.variant = "S/16"
    config.model.dtype = "bfloat16"
    config.model.remat = "dots"
    config.augment.max_shift = 0
    config.augment.flip = True
    config.augment.crop_area = 0.05
    config.augment.rand_augment = 2
    config.augment.rand_magnitude = 10.0
    config.augment.mixup = 0.2
    config.batch_size = 1024
    config.learning_rate = 1e-3
    config.weight_decay = 0.1
    config.b2 = 0.999
    config.warmup = 10_000 / 112_600
    config.steps = 112_600  # 90 epochs
    config.eval_every = 2_500
    config.eval_batch_size = 1024
    config.ema_decay = 0.9998
    return config
