"""MNIST-5k: 4 000 digits to train on, 1 000 to test, 16 patches of 7x7; needs no network.

  python train.py --config configs/mnist5k.py --workdir runs/mnist5k

Two CPU cores take about two minutes. Results: docs/results.md.
The baseline model, to see what self-explanation costs: --config.shapley.weight=0 --workdir runs/mnist5k_baseline
"""

import ml_collections

from shapjax.config import default_config


def get_config() -> ml_collections.ConfigDict:
    config = default_config()
    config.dataset = "mnist5k"
    return config
