"""Trains a model: python train.py --config configs/mnist5k.py --workdir runs/mnist5k (see --help)."""

from shapjax.cli.train import run

if __name__ == "__main__":
    run()
