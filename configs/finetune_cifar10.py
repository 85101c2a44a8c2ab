"""CIFAR-10: a plain classifier that learns to explain itself, with 64 patches of 4x4.

  python -m shapjax.data.prepare cifar10
  python train.py --config configs/cifar10.py --workdir runs/cifar10_classifier --config.num_pairs=0 \\
      --config.steps=7000
  python train.py --config configs/finetune_cifar10.py            --workdir runs/cifar10_joint
  python train.py --config configs/finetune_cifar10.py:allocation --workdir runs/cifar10_explained

The last run trains the allocation head alone: the prediction and the game are those of the run before, to the bit, and
its steps cost less than half. It explains any such classifier without changing it.
"""

import ml_collections

from configs import cifar10


def get_config(stage: str = "joint") -> ml_collections.ConfigDict:
    config = cifar10.get_config()
    config.coalitions_from = 0.0
    if stage == "allocation":
        config.pretrained = "runs/cifar10_joint"
        config.train_only = ("allocation",)
        config.num_pairs = 2  # passes that need no gradient are cheap
        config.learning_rate = 4e-3
        config.steps = 1500
        config.eval_every = 500
    else:
        config.pretrained = "runs/cifar10_classifier"
        config.learning_rate = 1.5e-3  # less than from scratch
        config.masked_weight = 0.5
        config.shapley_weight = 20.0
        config.shapley_warmup = 0.1
        config.steps = 4200
        config.eval_every = 700
    return config
