"""A trace of some steps of a run, for TensorBoard and Perfetto, and the share of the devices' rate that they use."""

import os
import pathlib
import re
import tempfile
import time
from collections.abc import Callable

import jax

from shapjax import paths


def parse(given: str, *, steps: int, eval_every: int) -> range:
    """Returns the steps that START:STEPS names; the first step of all is none to trace, since it compiles.

    Args:
      given: "START:STEPS".
      steps: of the whole run.
      eval_every: steps between evaluations, whose time would count.

    Raises:
      ValueError: if they cannot be traced.
    """
    match = re.fullmatch(r"(\d+):(\d+)", given)
    first, last = (int(match[1]), int(match[1]) + int(match[2]) - 1) if match else (0, 0)
    if not (2 <= first <= last <= steps and (first - 2) // eval_every == (last - 1) // eval_every):
        raise ValueError(f"expected START:STEPS, such as 2:10, of the steps 2 to {steps}, with no evaluation (every "
                         f"{eval_every} steps) before or among them")
    return range(first, last + 1)


class Profile:
    """Traces steps of a run.

    The files lie in WORKDIR/tensorboard/plugins/profile/TIME: TensorBoard opens .xplane.pb with its plugin
    tensorboard-plugin-profile, https://ui.perfetto.dev opens .trace.json.gz.

    Args:
      workdir: of the run.
      steps: to trace, one after the other.
      batch_size: images a step, over all devices.
      flops: operations a step, over all devices.
      peak: operations a second of a device; None: not known.
      say: takes a line for people.
    """

    def __init__(self, workdir: str | os.PathLike, *, steps: range, batch_size: int, flops: float,
                 peak: float | None, say: Callable[[str], None]):
        self._directory, self._steps = paths.as_path(workdir) / "tensorboard", steps
        self._batch_size, self._flops, self._peak, self._say = batch_size, flops, peak, say

    def step(self, step: int, wait: Callable[[], None]) -> None:
        """Begins or ends the trace, if it is time, after a step that has been dispatched; `wait` waits for its end."""
        if step == self._steps[0] - 1:
            wait()
            self._files = tempfile.TemporaryDirectory()
            jax.profiler.start_trace(self._files.name)
            self._begun = time.monotonic()
        elif step == self._steps[-1]:
            wait()
            self._end((time.monotonic() - self._begun) / len(self._steps))

    def _end(self, seconds: float) -> None:
        jax.profiler.stop_trace()
        with self._files as local:
            for file in filter(pathlib.Path.is_file, pathlib.Path(local).rglob("*")):
                target = self._directory / file.relative_to(local)
                with paths.replacing(target) as part:
                    part.write_bytes(file.read_bytes())
        rate = self._flops / seconds / jax.device_count()
        share = f", {rate / self._peak:.1%} of its peak" if self._peak else ""
        self._say(f"steps {self._steps[0]} to {self._steps[-1]}: {seconds:.3f} s each, "
                  f"{self._batch_size / seconds:,.0f} images/s, {rate / 1e12:.3g} TFLOP/s a device{share}; the trace "
                  f"is in {target.parent}")
