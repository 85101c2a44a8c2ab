"""What a training run writes for people and plots: metrics as JSON lines and for TensorBoard."""

import json
import pathlib
from collections.abc import Mapping

import tensorboardX

from shapjax import files


class RunLog:
    """Appends metrics to WORKDIR/metrics.jsonl and WORKDIR/tensorboard; a context manager.

    Args:
      workdir: of the run.
      step: steps done already. Lines of later steps, from a run that was cut off after its newest checkpoint, are
        dropped: those steps will be done, and written, again.
    """

    def __init__(self, workdir: pathlib.Path, *, step: int):
        self.path = workdir / "metrics.jsonl"
        kept = [line for line in self._lines() if json.loads(line)["step"] <= step]
        with files.replacing(self.path) as part:
            part.write_text("".join(kept))
        self._file = self.path.open("a")
        self._board = tensorboardX.SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Writes one line: {"step": …, "split": …, **metrics}."""
        self._file.write(json.dumps({"step": step, "split": split, **metrics}) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            self._board.add_scalar(f"{split}/{name}", value, step)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()
        self._board.close()

    def _lines(self) -> list[str]:
        """Complete lines written so far; a last line without its end was cut off and is dropped."""
        text = self.path.read_text() if self.path.exists() else ""
        return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
