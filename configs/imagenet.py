"""Unmeasured. ImageNet-1k from scratch at 224 pixels, 196 patches: a ViT-S/16 for 90 epochs, or a ViT-B/16 for 300.

  python -m shapjax prepare imagenet2012 --data_dir /mnt/shared/tfds        # once; needs the two archives
  python train.py --config configs/imagenet.py     --workdir /mnt/shared/runs/s16 --multihost \\
    --config.data.data_dir=/mnt/shared/tfds
  python train.py --config configs/imagenet.py:b16 --workdir /mnt/shared/runs/b16 --multihost \\
    --config.data.data_dir=/mnt/shared/tfds

For a TPU pod slice or several GPU nodes; docs/scaling.md has the commands and the arithmetic. The recipe of the S/16:
Beyer, Zhai, Kolesnikov 2022, "Better plain ViT baselines for ImageNet-1k". The state of the B/16 is split over devices.
"""

import ml_collections

from shapjax.config import default_config


def get_config(model: str = "s16") -> ml_collections.ConfigDict:
    config = default_config()
    config.dataset = "tfds:imagenet2012"
    config.data.test_split = "validation"
    config.data.image_size = 224
    config.data.threads = 8
    config.model.variant = "S/16"
    config.model.dtype = "bfloat16"
    config.model.remat = "dots"
    config.augment.max_shift = 0
    config.augment.flip = True
    config.augment.crop_area = 0.05
    config.augment.rand_augment = 2
    config.augment.rand_magnitude = 10.0
    config.augment.mixup = 0.2
    config.optim.batch_size = 1024
    config.optim.learning_rate = 1e-3
    config.optim.weight_decay = 0.1
    config.optim.b2 = 0.999
    config.optim.steps = 112_600  # 90 epochs
    config.optim.ema_decay = 0.9998
    config.run.eval_every = 2_500
    if model == "b16":
        config.model.variant = "B/16"
        config.run.parallel = "fsdp"
        config.run.fsdp_devices = 8
        config.augment.crop_area = 0.08
        config.augment.rand_magnitude = 9.0
        config.augment.mixup = 0.8
        config.augment.cutmix = 1.0
        config.augment.erase = 0.25
        config.optim.batch_size = 4096
        config.optim.learning_rate = 3e-3
        config.optim.steps = 93_800  # 300 epochs
    config.optim.warmup = 10_000 / config.optim.steps
    return config
