"""Writes the report of an evaluated model, alone or beside its baseline model: one HTML file that opens anywhere.

  python -m shapjax report --runs runs/mnist5k --output report
  python -m shapjax report --runs runs/mnist5k,runs/mnist5k_baseline --output report

The first run is the model. The second, if given, is compared with it: usually the baseline model, which is the same
training with --config.shapley.weight=0. Each directory must hold an evaluation (python -m shapjax eval). If it holds
the log of a training run too, the report shows the training curves. Writes OUTPUT/index.html.
"""

from collections.abc import Sequence

from absl import flags

from shapjax.cli import run_command
from shapjax.report import page

_FLAGS = flags.FLAGS


def run() -> None:
    """Runs `python -m shapjax report`."""
    # Defined here, not on import: several commands have an --output, and one process may import them all.
    flags.DEFINE_list("runs", None, "One or two directories that eval wrote to, separated by a comma; the first is "
                      "of the model.", required=True)
    flags.DEFINE_string("output", "report", "Directory to write index.html to; made if it is not there.")
    run_command(main)


def main(_: Sequence[str]) -> None:
    """Reads the flags, writes the report, prints where it is."""
    print(page.write_report(_FLAGS.output, _FLAGS.runs))
