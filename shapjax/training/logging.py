"""Metrics of a training run for people and plots: a progress bar with the time left, JSON lines, TensorBoard."""

import contextlib
import json
import math
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future

import chex
import jax
import numpy as np
import tqdm

from shapjax import paths
from shapjax.errors import UserError
from shapjax.training.profiling import Profile

# Where torch is installed, tensorboardX would import it, for seconds, to take its tensors; it gets none from here.
_hidden = sys.modules.setdefault("torch", None) is None
import tensorboardX  # noqa: E402

if _hidden:
    del sys.modules["torch"]


ESTIMATE_AFTER = 10.0  # seconds after a step that compiles
WATCHED_STEPS = 50  # over which the loss is averaged
UPLOAD_EVERY = 60.0  # seconds, of what grows and lies in a bucket
DIVERGED = 1.5, 0.25  # a loss of more than this times the lowest so far plus this has diverged, nats


class RunLog(contextlib.AbstractContextManager):
    """Writes metrics to WORKDIR/metrics.jsonl, WORKDIR/tensorboard and a progress bar; a context manager.

    A step's metrics are fetched after the next step is on its way, so the devices never wait for the host. Every loss
    and gradient is checked. For a workdir in a bucket, where files cannot grow, they grow on a local disk. They are
    uploaded every minute, and after each evaluation, before its checkpoint is.

    Args:
      workdir: of the run.
      start: steps done already. Lines of later steps, from a run that was cut off after its newest checkpoint, are
        dropped: those steps will be done, and written, again.
      work: float [steps + 1], increasing: what the first 0, 1, … steps of the run cost, with the evaluations that
        follow them, in any unit. The time left is told from it.
      batch_size: images a step, over all devices.
      every: steps between lines of training metrics.
      fetch: device scalars to the host (`Layout.fetch`).
      writes: False in all processes of a run but one; the others only check.
      compiling: steps after the first that begin with compiling a program too: their time tells nothing.
      profile: traces some of the steps, in the process that writes.

    Attributes:
      stalled: seconds that the devices had nothing to do after a step, as its next batch was not there yet.
    """

    def __init__(self, workdir: str | os.PathLike, *, start: int, work: np.ndarray, batch_size: int, every: int,
                 fetch: Callable[[chex.ArrayTree], chex.ArrayTree], writes: bool = True,
                 compiling: Iterable[int] = (), profile: Profile | None = None):
        self._workdir, self._fetch = paths.as_path(workdir), fetch
        self._file, self._grown, self._uploaded = None, None, time.monotonic()
        self._profile = profile if writes else None
        if writes:
            path, directory = self._workdir / "metrics.jsonl", self._workdir
            lines = path.read_text().splitlines(keepends=True) if path.exists() else []
            complete = [line for line in lines if line.endswith("\n")]  # the last one may have been cut off
            if paths.in_bucket(directory):
                self._grown = tempfile.TemporaryDirectory()
                directory = paths.as_path(self._grown.name)
            path = directory / path.name
            paths.write_text(path, "".join(line for line in complete if json.loads(line)["step"] <= start))
            self._file = path.open("a")
            self._board = tensorboardX.SummaryWriter(str(directory / "tensorboard"), purge_step=start + 1)
        self._batch_size, self._every = batch_size, every
        self._work, steps = work, len(work) - 1
        self._bar = tqdm.tqdm(
            total=work[-1], initial=work[start], desc="training:", dynamic_ncols=True, mininterval=1.0, smoothing=0.05,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
            disable=start >= steps or not writes)
        self._compiling, self._first = {start + 1, *compiling}, (0.0, 0.0)  # after such a step: the time, the work
        self._estimated = False
        self._pending: tuple[int, dict[str, chex.Array]] | None = None
        self._done: Future[float] | None = None  # the time when the devices have done the last step
        self.stalled = 0.0
        self._test = ""
        self._since = time.monotonic(), start, 0.0  # of the rates: a time, the steps done and seconds stalled by then
        self._seen, self._mean, self._lowest = 0, 0.0, math.inf  # of the classification loss: a running mean
        self._warned = False

    def step(self, step: int, metrics: dict[str, chex.Array], *, waited: tuple[float, float] = (0.0, 0.0)) -> None:
        """Takes the metrics of a step just dispatched, on the devices.

        Args:
          step: its number.
          metrics: its loss and the others.
          waited: when its batch was asked for, and when it was there (`time.monotonic`).

        Raises:
          UserError: if the loss or the gradient of the step before was not finite.
        """
        self.catch_up()
        if self._done:
            asked, arrived = waited
            self.stalled += max(0.0, arrived - max(asked, self._done.result()))
        self._pending, self._done = (step, metrics), Future()
        # A daemon: where another process has died, the step is never done.
        threading.Thread(target=_note_when_ready, args=(metrics["loss"], self._done), daemon=True).start()
        if self._profile:
            self._profile.step(step, self.catch_up)

    def catch_up(self) -> None:
        """Waits for the metrics of the last step; for use before its state is kept. Raises as `step` does."""
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        loss, norm, classification = map(float, self._fetch(
            [metrics[name] for name in ("loss", "gradient_norm", "loss_classification")]))
        _require_finite(step, {"loss": loss, "norm of the gradient": norm})
        self._watch(step, classification)
        if step % self._every == 0:
            then, self._since = self._since, (time.monotonic(), step, self.stalled)
            seconds, steps, stalled = (now - before for now, before in zip(self._since, then, strict=True))
            rate, stall = steps * self._batch_size / seconds, stalled / seconds
            values = {name: float(value) for name, value in self._fetch(metrics).items()}
            self._write(step, "train", values | {"images_per_second": rate, "input_stall": stall})
            self._bar.set_postfix_str(
                f"loss {values['loss']:.3f} = class {values['loss_classification']:.3f}, masked "
                f"{values['loss_masked']:.3f}, shapley {values['loss_shapley']:.3f}; acc {values['accuracy']:.3f}"
                f"{self._test}; {rate:.0f} img/s{f', {stall:.0%} of the time no images' * (stall > 0.01)}",
                refresh=False)
        self._bar.set_description_str(f"training: step {step:,}/{len(self._work) - 1:,}", refresh=False)
        self._bar.update(self._work[step] - self._bar.n)
        self._estimate(step)

    def _estimate(self, step: int) -> None:
        """Says once how long the run will take, if that is more than a minute."""
        if {step, step + 1} & self._compiling:  # the next step is on its way by now
            self._first = time.monotonic(), self._work[step]
            return
        seconds, done = time.monotonic() - self._first[0], self._work[step] - self._first[1]
        if self._estimated or seconds < ESTIMATE_AFTER:
            return
        self._estimated = True
        if (left := seconds / done * (self._work[-1] - self._work[step])) > 60:
            self._say(f"about {left / 60:.0f} minutes to go, evaluation included")

    def _watch(self, step: int, classification: float) -> None:
        """Says once that the run diverges, when its loss has risen far above where it was."""
        self._seen += 1
        self._mean += (classification - self._mean) / min(self._seen, WATCHED_STEPS)
        if self._seen >= WATCHED_STEPS:
            self._lowest = min(self._lowest, self._mean)
        if not self._warned and self._mean > DIVERGED[0] * self._lowest + DIVERGED[1]:
            self._say(f"step {step}: the classification loss is {self._mean:.2f} and was {self._lowest:.2f}: the run "
                      "diverges; lower --config.optim.learning_rate")
            self._warned = True

    def test(self, step: int, *, accuracy: float, cross_entropy: float) -> None:
        """Takes the metrics of an evaluation after a step; raises UserError if the cross-entropy is not finite."""
        _require_finite(step, {"cross-entropy of the test images": cross_entropy})
        self._write(step, "test", {"accuracy": accuracy, "cross_entropy": cross_entropy})
        self._test = f", test {accuracy:.4f}"
        self._upload()
        self._since = time.monotonic(), step, self.stalled  # an evaluation is not training time

    def __exit__(self, *_) -> None:
        self._bar.close()
        if self._file:
            self._file.close()
            self._board.close()
            self._upload()
            if self._grown:
                self._grown.cleanup()

    def _upload(self) -> None:
        """Brings what has grown to the bucket, if the workdir lies in one."""
        if self._grown:
            self._board.flush()
            with tempfile.TemporaryDirectory() as now:  # TensorBoard's thread goes on writing
                shutil.copytree(self._grown.name, now, dirs_exist_ok=True)
                paths.upload(paths.as_path(now), self._workdir)
            self._uploaded = time.monotonic()

    def _say(self, text: str) -> None:
        """Says something above the bar, in the process that writes."""
        if self._file:
            self._bar.write(text, file=sys.stderr)

    def _write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        if not self._file:
            return
        self._file.write(json.dumps({"step": step, "split": split, **metrics}) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            self._board.add_scalar(f"{split}/{name}", value, step)
        if time.monotonic() - self._uploaded > UPLOAD_EVERY:
            self._upload()


def _note_when_ready(x: chex.Array, done: Future[float]) -> None:
    """Waits until the devices have computed an array; notes the time."""
    with contextlib.suppress(Exception):  # which the metrics raise too when they are fetched
        jax.block_until_ready(x)
    done.set_result(time.monotonic())


def _require_finite(step: int, numbers: Mapping[str, float]) -> None:
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise UserError(f"the {name} is {number} at step {step}; lower --config.optim.learning_rate or "
                            "--config.shapley.weight. Checkpoints of earlier steps are kept")
