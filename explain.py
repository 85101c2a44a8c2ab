"""Explains images: python explain.py --checkpoint runs/mnist5k --images a.png b.jpg --output out (see --help)."""

from shapjax.cli.explain import run

if __name__ == "__main__":
    run()
