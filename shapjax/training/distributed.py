"""The processes of a run: finding each other, stopping on request."""

import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jax.experimental import multihost_utils

from shapjax.errors import Interrupted, Stopped, UserError

LEAVE_S = 60  # seconds that a process waits for the others when it is done or has failed; then JAX ends them all


def start(*, multihost: bool, coordinator: str | None, num_processes: int | None, process_id: int | None,
          timeout_s: int = 300) -> None:
    """Joins the processes of a run (`jax.distributed`); nothing for a run of one. Before JAX's first computation.

    Args:
      multihost: find the others from the environment: a TPU pod, SLURM, Open MPI or Kubernetes.
      coordinator: "host:port" of process 0, which all can reach; num_processes, process_id: with it, where the
        environment tells nothing.
      timeout_s: seconds to wait for the others.

    Raises:
      UserError: if only some of the three are given, or nothing tells where the others are.

    When the others do not come, the process ends, with one line and status 1: JAX waits where no exception can reach.
    """
    given = {"--coordinator": coordinator, "--num_processes": num_processes, "--process_id": process_id}
    missing = [flag for flag, value in given.items() if value is None]
    if len(missing) == len(given) and not multihost:
        return
    if 0 < len(missing) < len(given):
        raise UserError(f"{', '.join(missing)} is missing: a run of several processes takes --coordinator HOST:PORT, "
                        "--num_processes and --process_id, or --multihost alone on a TPU pod or under SLURM")
    if not missing and not 0 <= process_id < num_processes:
        raise UserError(f"--process_id={process_id}: expected 0 to {num_processes - 1} (--num_processes - 1)")
    if not missing and not coordinator.partition(":")[2].isdecimal():
        raise UserError(f"--coordinator={coordinator}: expected HOST:PORT, such as 10.0.0.1:12345, of process 0")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    where = f"at {coordinator}, as --process_id={process_id} of {num_processes}," if coordinator else "by --multihost"
    advice = "check --coordinator, and that every process is started, once, with its own --process_id"

    def end() -> None:
        print(f"error: the processes of the run did not meet {where} in {timeout_s} s; {advice}", file=sys.stderr,
              flush=True)
        os._exit(1)

    timer = threading.Timer(timeout_s, end)
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id, initialization_timeout=10 * timeout_s,
                                   shutdown_timeout_seconds=LEAVE_S)
    except (RuntimeError, ValueError) as e:
        reason = str(e).strip().split("\n")[0]
        raise UserError(f"the processes of the run did not find each other {where}: {reason[:200]}; {advice}") from e
    finally:
        timer.cancel()
    # Processes that connect wait only 30 s for each other (on CPUs, by gloo). In this first sum over all devices they
    # come together; later one may still be compiling.
    jax.pmap(lambda x: jax.lax.psum(x, "all"), "all")(np.ones(jax.local_device_count())).block_until_ready()


def agreed(answer: bool) -> bool:
    """Returns whether all processes of a run answer yes; each has to ask."""
    return bool(np.all(multihost_utils.process_allgather(np.bool_(answer))))


@contextmanager
def stop_request() -> Iterator[Callable[[], type[Stopped] | None]]:
    """Makes SIGTERM, and Ctrl-C in a run of one process, a request to stop while the block runs.

    Neither ends the process. After a SIGTERM further ones are ignored: the process is about to end by itself, and
    another one would hide its exit status. A second Ctrl-C does as before the block, and does not wait for the step.

    Yields:
      a function that returns None, or what to raise when all is saved. Every process calls it once after every step;
      all get the same answer.
    """
    if jax.process_count() > 1:
        # JAX hears the signal itself and finds the first number that no process has asked about. Numbers start at 1
        # in each run: a resumed one that hears the signal before its first step would else have passed that number.
        numbers = itertools.count(1)
        yield lambda: Stopped if multihost_utils.reached_preemption_sync_point(next(numbers)) else None
        return
    asked, sigterm, sigint = [], signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    def interrupt(*_) -> None:
        asked.append(Interrupted)
        signal.signal(signal.SIGINT, sigint)
        print("\nstopping after this step, to save it; Ctrl-C again does not wait for it", file=sys.stderr, flush=True)

    signal.signal(signal.SIGTERM, lambda *_: asked.append(Stopped))
    if callable(sigint):  # else it is ignored, as under nohup
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield lambda: asked[0] if asked else None
    finally:
        if signal.getsignal(signal.SIGINT) is interrupt:
            signal.signal(signal.SIGINT, sigint)
        if Stopped not in asked:
            signal.signal(signal.SIGTERM, sigterm)
