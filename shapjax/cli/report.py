"""Writes the report of an evaluated run, or of a model and its plain twin: one HTML file that opens anywhere.

  python -m shapjax.commands.report --runs runs/mnist5k,runs/mnist5k_twin --output report

The first run is the model; the second, if there is one, is what it is compared with: the same training with
--config.shapley_weight=0. Each must have been evaluated (python eval.py --checkpoint RUN). Writes OUTPUT/index.html.
"""

from collections.abc import Sequence

from absl import flags

from shapjax.cli import run_command
from shapjax.errors import UserError
from shapjax.report import page

_FLAGS = flags.FLAGS


def run() -> None:
    """Entry point of `python -m shapjax.commands.report` and `shapjax-report`."""
    # Defined here, not on import: several commands have an --output, and one process may import them all.
    flags.DEFINE_list("runs", None, "One or two run directories, separated by a comma; the first is the model.")
    flags.DEFINE_string("output", "report", "Directory to write index.html to; made if it is not there.")
    run_command(main)


def main(_: Sequence[str]) -> None:
    """Reads the flags, writes the report, prints where it is."""
    if not _FLAGS.runs:
        raise UserError("--runs is missing: name one or two run directories, such as --runs runs/mnist5k")
    print(page.write_report(_FLAGS.output, _FLAGS.runs))


if __name__ == "__main__":
    run()
