"""CIFAR-10: a plain classifier that learns to explain itself, with 64 patches of 4x4, in three runs.

  python -m shapjax.data.prepare cifar10
  python train.py --config configs/cifar10.py --workdir runs/cifar10_classifier --config.num_pairs=0 \\
      --config.model.allocation_depth=0 --config.steps=7000
  python train.py --config configs/finetune_cifar10.py            --workdir runs/cifar10_joint
  python train.py --config configs/finetune_cifar10.py:allocation --workdir runs/cifar10_explained

The second makes the game: coalitions are classified, and votes are drawn to their Shapley values. The third trains an
allocation head alone, which makes phi of them: prediction and game stay those of the second, to the bit. It would
explain the first as well, but a game that nobody shaped is further from additive, and harder to say.
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
        config.own_weight = 4.0
        config.shapley_warmup = 0.0
        config.learning_rate = 4e-3
        config.steps = 2000
        config.eval_every = 500
    else:
        config.pretrained = "runs/cifar10_classifier"
        config.model.allocation_depth = 0
        config.learning_rate = 1.5e-3  # less than from scratch
        config.teacher_weight = 0.5
        config.shapley_weight = 32.0
        config.steps = 4200
        config.eval_every = 700
    return config
