"""Evaluates a checkpoint: python eval.py --checkpoint runs/mnist5k (see --help)."""

from shapjax.cli.eval import run

if __name__ == "__main__":
    run()
