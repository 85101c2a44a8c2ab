"""CIFAR-100: 50 000 images of 32x32 to train on, 10 000 to test, 100 classes; 64 patches of 4x4.

  python -m shapjax.data.prepare cifar100
  python train.py --config configs/cifar100.py --workdir runs/cifar100

A ViT, 300 epochs, for one GPU or TPU chip. Not run yet: no figures.
"""

import ml_collections

from configs import cifar10


def get_config() -> ml_collections.ConfigDict:
    config = cifar10.get_config("vit")
    config.dataset = "tfds:cifar100"
    return config
