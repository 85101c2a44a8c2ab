"""Fashion-MNIST: 60 000 images to train on, 10 000 to test; 16 patches of 7x7, or 49 of 4x4 with `:49`.

  python -m shapjax.data.prepare fashion_mnist
  python train.py --config configs/fashion_mnist.py    --workdir runs/fashion16
  python train.py --config configs/fashion_mnist.py:49 --workdir runs/fashion49

On 2 CPU cores, 16 patches: 90.6 % and an R² of 0.97 in 25 minutes. 49 patches: 89.8 % and 0.93 in 33 minutes, 90.1 %
and 0.94 after 12 more (docs/results.md has the command).
The plain twin, to see what self-explanation costs: --config.num_pairs=0 --workdir runs/fashion16_twin
"""

import ml_collections

from shapjax.config import default_config

PATCH_SIZES = {"16": 7, "49": 4}


def get_config(players: str = "16") -> ml_collections.ConfigDict:
    config = default_config()
    config.dataset = "tfds:fashion_mnist"
    config.model.patch_size = PATCH_SIZES[players]
    config.model.width = 96
    config.model.depth = 4
    config.augment.flip = True
    config.steps = 12_500  # 20 epochs
    config.batch_size = 96
    config.eval_every = 3125
    config.coalitions_from = 0.25  # the first steps, which are not about patches yet, at half the price
    if players == "49":
        config.steps = 8000  # 13 epochs
        config.eval_every = 1600
        config.coalitions_from = 0.6
        config.shapley_gradient = "game"  # 49 patches interact too much for shares alone
        config.shapley_weight = 24.0
        config.shapley_warmup = 0.05
    return config
