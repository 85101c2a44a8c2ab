"""Trains a model: python train.py --config configs/mnist5k.py --workdir runs/mnist5k (see --help)."""

from shapjax.errors import end_on_interrupt

if __name__ == "__main__":
    end_on_interrupt()  # also during the imports, which take seconds
    from shapjax.cli.train import run
    run()
