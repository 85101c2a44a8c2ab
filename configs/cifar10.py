"""CIFAR-10: 50 000 images of 32x32 to train on, 10 000 to test; 64 patches of 4x4.

  python -m shapjax prepare cifar10
  python train.py --config configs/cifar10.py        --workdir runs/cifar10      # a small ResNet, on 2 CPU cores
  python train.py --config configs/cifar10.py:vit    --workdir runs/cifar10_vit  # a ViT, on one GPU or TPU chip
  python train.py --config configs/cifar10.py:vit100 --workdir runs/cifar100     # the same for CIFAR-100

The ResNet is measured in docs/results.md. Unmeasured: the ViTs, 300 epochs.
The baseline model, to see what self-explanation costs: --config.shapley.weight=0 --workdir runs/cifar10_baseline
"""

import ml_collections

from shapjax.config import default_config


def get_config(model: str = "resnet") -> ml_collections.ConfigDict:
    config = default_config()
    config.dataset = "tfds:cifar100" if model == "vit100" else "tfds:cifar10"
    config.model.patch_size = 4
    config.augment.flip = True
    if model == "resnet":
        config.model.backbone = "resnet"
        config.model.width = 64
        config.model.stages = (0, 2)
        config.model.remat = "none"
        config.shapley.start = 0.5
        config.shapley.weight = 40.0
        config.optim.learning_rate = 3e-3
        config.optim.batch_size = 64
        config.optim.steps = 4000  # 5 epochs
        config.run.eval_every = 1000
    else:
        config.model.width = 384
        config.model.depth = 9
        config.model.heads = 6
        config.model.dtype = "bfloat16"
        config.model.remat = "dots"
        config.augment.max_shift = 4
        config.augment.rand_augment = 2
        config.augment.cutmix = 1.0
        config.augment.mixup = 0.8
        config.optim.learning_rate = 1e-3
        config.optim.b2 = 0.999
        config.optim.batch_size = 512
        config.optim.steps = 29_000  # 300 epochs
        config.optim.ema_decay = 0.9995
        config.run.eval_every = 1_000
    return config
