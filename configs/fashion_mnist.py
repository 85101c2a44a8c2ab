"""Fashion-MNIST: 60 000 images to train on, 10 000 to test; 16 patches of 7x7, or 49 of 4x4.

  python -m shapjax prepare fashion_mnist
  python train.py --config configs/fashion_mnist.py    --workdir runs/fashion16     # 25 minutes on 2 CPU cores
  python train.py --config configs/fashion_mnist.py:49 --workdir runs/fashion49     # 33 minutes; unmeasured

An ordinary classifier that learns to explain itself, in a third of the steps of joint training:

  python train.py --config configs/fashion_mnist.py          --workdir runs/fashion16_plain --config.shapley.num_pairs=0
  python train.py --config configs/fashion_mnist.py:finetune --workdir runs/fashion16_finetuned

Results: docs/results.md. The baseline model: --config.shapley.weight=0 --workdir runs/fashion16_baseline
"""

import ml_collections

from shapjax.config import default_config


def get_config(recipe: str = "16") -> ml_collections.ConfigDict:
    config = default_config()
    config.dataset = "tfds:fashion_mnist"
    config.model.width = 96
    config.model.depth = 4
    config.augment.flip = True
    config.optim.steps = 12_500  # 20 epochs
    config.optim.batch_size = 96
    config.run.eval_every = 3125
    config.shapley.start = 0.25  # the first steps learn classes, at half the price
    if recipe == "49":
        config.model.patch_size = 4
        config.optim.steps = 8000  # 13 epochs
        config.run.eval_every = 1600
        config.shapley.start = 0.6
        config.shapley.weight = 24.0
    if recipe == "finetune":
        config.pretrained = "runs/fashion16_plain"
        config.shapley.start = 0.0
        config.shapley.weight = 24.0  # fewer steps, and the classifier is trained already
        config.optim.learning_rate = 1.5e-3  # less than from scratch
        config.optim.steps = 4166
        config.run.eval_every = 2083
    return config
