"""Explains images: python explain.py --checkpoint runs/mnist5k --images a.png b.jpg --output out (see --help)."""

from shapjax.errors import end_on_interrupt

if __name__ == "__main__":
    end_on_interrupt()  # also during the imports, which take seconds
    from shapjax.cli.explain import run
    run()
