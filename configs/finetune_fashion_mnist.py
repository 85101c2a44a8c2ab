"""Fashion-MNIST: a plain classifier that learns to explain itself, in a third of the steps of joint training.

  python -m shapjax.data.prepare fashion_mnist
  python train.py --config configs/fashion_mnist.py --workdir runs/fashion16_twin --config.num_pairs=0
  python train.py --config configs/finetune_fashion_mnist.py --workdir runs/fashion16_finetuned

Players and sizes are those of the run that it starts from: --config.pretrained=runs/... for another one.
"""

import ml_collections

from configs import fashion_mnist


def get_config() -> ml_collections.ConfigDict:
    config = fashion_mnist.get_config()
    config.pretrained = "runs/fashion16_twin"
    config.coalitions_from = 0.0
    config.learning_rate = 1e-3  # half of what is right from scratch
    config.steps //= 3
    config.eval_every = config.steps // 4
    return config
