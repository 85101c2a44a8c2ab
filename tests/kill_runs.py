"""Training runs that are killed at random moments: each goes on and ends equal to the bit to one that was left alone.

  nice -n 19 python -m tests.kill_runs                # 100 kills; an hour or so on 2 cores
  python -m tests.kill_runs --kills=5 --seed=3        # others

A kill is SIGKILL or SIGTERM. It comes at any moment, from the first import on; or while a checkpoint is being written;
or while it is being written to a disk that is full before it has ended. The kinds of kills follow from the seed.
"""

import argparse
import collections
import contextlib
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import jax

from tests.cli.conftest import ROOT, SLOW_STEPS, SMALL, require_same_state
from tests.cli.test_faults import complete_checkpoints

STEPS, EVERY = 60, 3  # of a run, and between checkpoints
MOMENTS = ("any moment", "during a save", "on a full disk")
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
# Files may have this many bytes from some moment on: the arrays of a checkpoint have more.
FULL_DISK = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (6_000, 6_000))\n"
QUICK = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
SECONDS = 600  # that a process may take
NOISE = ("training:", "persistent compilation cache", "warnings.warn")  # lines of stderr that say nothing


class Failure(Exception):
    """A run did what it must not."""


def start(workdir: pathlib.Path, log: pathlib.Path, *, full: bool = False) -> subprocess.Popen:
    """Starts a run, or goes on with it; its output goes to a file."""
    arguments = [*SMALL, f"--config.optim.steps={STEPS}", f"--config.run.eval_every={EVERY}", f"--workdir={workdir}"]
    cache = {"JAX_COMPILATION_CACHE_DIR": str(log.parent / "compiled")}
    with log.open("w") as file:
        return subprocess.Popen([sys.executable, "-c", (FULL_DISK if full else "") + SLOW_STEPS, *arguments], cwd=ROOT,
                                stdout=file, stderr=subprocess.STDOUT, env=os.environ | QUICK | cache)


def wait(process: subprocess.Popen, until, seconds: float = SECONDS) -> None:
    """Waits until a function of nothing is true or the process has ended; raises `Failure` if neither comes."""
    end = time.monotonic() + seconds
    while process.poll() is None and not until():
        if time.monotonic() > end:
            process.kill()
            raise Failure("it hangs")
        time.sleep(0.002)


def unfinished(workdir: pathlib.Path) -> set[tuple[str, int]]:
    """Returns orbax's temporary directories of checkpoints, those that earlier kills have left among them."""
    found = set()
    for path in (workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"):
        with contextlib.suppress(FileNotFoundError):  # it has its final name by now
            found.add((path.name, path.stat().st_mtime_ns))
    return found


def said(log: pathlib.Path) -> list[str]:
    """Returns the lines that a process printed, without the progress bar."""
    lines = log.read_text(errors="replace").replace("\r", "\n").split("\n")
    return [line for line in lines if line.strip() and not any(noise in line for noise in NOISE)]


def kill(workdir: pathlib.Path, log: pathlib.Path, rng: random.Random, seconds: float) -> str:
    """Goes on with a run and kills it; returns what was done and how it ended; raises `Failure` if it did wrong."""
    moment, number = rng.choice(MOMENTS), rng.choice(SIGNALS)
    before, left = complete_checkpoints(workdir), unfinished(workdir)
    process = start(workdir, log, full=moment == "on a full disk")
    if moment == "any moment":
        end = time.monotonic() + rng.uniform(0, seconds)
        wait(process, lambda: time.monotonic() > end)
    else:
        wait(process, lambda: unfinished(workdir) - left)
        time.sleep(rng.uniform(0, 0.05))
    process.send_signal(number)
    wait(process, lambda: False)
    status, lines, after = process.returncode, said(log), complete_checkpoints(workdir)
    ends = {-number: "killed", 75: "stopped, saved", 0: "at its end"}
    if moment == "on a full disk":
        ends[1] = "error in one line"
    if status not in ends:
        raise Failure(f"status {status}: {lines[-3:]}")
    if status in (1, 75) and sum(line.startswith(("error: ", "stopped on request")) for line in lines) != 1:
        raise Failure(f"not one line: {lines}")
    if any("damaged" in line or "Traceback" in line for line in lines):
        raise Failure(f"{lines}")
    if (after or [0])[-1] < (before or [0])[-1]:
        raise Failure(f"checkpoints {before} became {after}")
    return f"{number.name} {moment}: {ends[status]}"


def finish(workdir: pathlib.Path, log: pathlib.Path) -> float:
    """Lets a run end; returns the seconds that took; raises `Failure` if it did wrong."""
    begun, process = time.monotonic(), start(workdir, log)
    wait(process, lambda: False)
    if process.returncode or any("damaged" in line for line in said(log)):
        raise Failure(f"status {process.returncode}: {said(log)[-3:]}")
    return time.monotonic() - begun


def main() -> None:
    """Reads the arguments, kills, goes on, compares, prints the counts; raises on a run that did wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    rng, counts, done, runs = random.Random(arguments.seed), collections.Counter(), 0, 0
    directory = pathlib.Path(tempfile.mkdtemp())
    print(f"in {directory}, which stays if a run does wrong", flush=True)
    log, whole = directory / "log", directory / "whole"
    finish(whole, log)
    seconds = finish(directory / "again", log)  # with the programs compiled
    require_same_state(whole, directory / "again")
    while done < arguments.kills:
        runs, workdir = runs + 1, directory / f"killed{runs}"
        while done < arguments.kills and (complete_checkpoints(workdir) or [0])[-1] < STEPS:
            what = kill(workdir, log, rng, seconds)
            done, counts[what] = done + 1, counts[what] + 1
            print(f"{done}: {what}; checkpoints {complete_checkpoints(workdir)}", flush=True)
        finish(workdir, log)
        require_same_state(whole, workdir)
    shutil.rmtree(directory)
    for what, count in sorted(counts.items()):
        print(f"{count:4}  {what}")
    print(f"{done} kills; {runs} runs, all of which ended equal to the bit to one that was left alone")


if __name__ == "__main__":
    main()
