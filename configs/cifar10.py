"""CIFAR-10: 50 000 images of 32x32 to train on, 10 000 to test; 64 patches of 4x4.

  python -m shapjax.data.prepare cifar10
  python train.py --config configs/cifar10.py     --workdir runs/cifar10        # a small ResNet, for a CPU
  python train.py --config configs/cifar10.py:vit --workdir runs/cifar10_vit    # a ViT, for one GPU or TPU chip

The ResNet as one run of 15 000 steps has not been measured; by the speed of its steps it takes about two hours on 2 CPU
cores with AVX2. What was measured starts from a plain classifier: configs/finetune_cifar10.py. The ViT has not been run
yet.

The plain twin, to see what self-explanation costs: --config.num_pairs=0 --workdir runs/cifar10_twin
"""

import ml_collections

from shapjax.config import default_config


def get_config(backbone: str = "resnet") -> ml_collections.ConfigDict:
    config = default_config()
    config.dataset = "tfds:cifar10"
    config.model.backbone = backbone
    config.model.patch_size = 4
    config.augment.flip = True
    config.augment.max_shift = 4
    if backbone == "resnet":
        config.model.stem = "4x4"
        config.model.width = 64
        config.model.stages = (0, 2)
        config.model.norm = "cell"
        config.model.layer_masking = True  # a game nearer to additive, whose coalitions are easier to classify
        config.model.allocation_depth = 2
        config.model.remat = "none"
        config.augment.max_shift = 2
        config.learning_rate = 3e-3
        config.batch_size = 64
        config.steps = 15_000  # 19 epochs
        config.eval_every = 3000
        config.coalitions_from = 0.6
        config.shapley_gradient = "game"  # 64 patches interact too much for shares alone
        config.shapley_weight = 40.0
        config.shapley_warmup = 0.05
    else:
        config.model.width = 384
        config.model.depth = 9
        config.model.heads = 6
        config.model.dtype = "bfloat16"
        config.model.remat = "dots"
        config.augment.rand_augment = 2
        config.augment.cutmix = 1.0
        config.augment.mixup = 0.8
        config.learning_rate = 1e-3
        config.b2 = 0.999
        config.batch_size = 512
        config.steps = 29_000  # 300 epochs
        config.eval_every = 1_000
        config.ema_decay = 0.9995
    return config
