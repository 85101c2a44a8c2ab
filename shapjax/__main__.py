"""Runs a command of shapjax: python -m shapjax COMMAND, or shapjax COMMAND; COMMAND --help says more."""

import importlib
import sys

from shapjax.errors import end_on_interrupt

COMMANDS = {
    "train": "train a model, or go on with a training run",
    "eval": "evaluate a trained model and compare explanation methods",
    "explain": "explain the predictions for images, as pictures",
    "export": "export a trained model for programs without shapjax",
    "report": "write the report of an evaluated model as a page",
    "prepare": "download and prepare a dataset",
    "paste": "make a dataset with masks: cut-outs on photographs",
}


def main() -> None:
    """Runs the command that the first argument names; exits with status 2 if there is none of that name."""
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command in ("-h", "--help", "-help"):
        print(__doc__, "", *(f"  {name:<9}{does}" for name, does in COMMANDS.items()), sep="\n")
    elif command not in COMMANDS:
        wrong = f"there is no command {command!r}; " if command else ""
        print(f"error: {wrong}usage: python -m shapjax {{{','.join(COMMANDS)}}} …", file=sys.stderr)
        sys.exit(2)
    else:
        del sys.argv[1]
        end_on_interrupt()
        importlib.import_module(f"shapjax.cli.{command}").run()


if __name__ == "__main__":
    main()
