"""Processes of a run find each other, and a run stops when asked."""

import os
import signal
import socket
import subprocess
import sys
import time

import jax
import pytest
from jax.experimental import multihost_utils

from shapjax.errors import Interrupted, Stopped, UserError
from shapjax.training import distributed

START = "from shapjax.training import distributed; distributed.start(multihost=False, " \
        "coordinator='localhost:{port}', num_processes=2, process_id={i}, timeout_s=2)"


def start(**given):
    """Calls `distributed.start` with the arguments of a command line."""
    distributed.start(**(dict(multihost=False, coordinator=None, num_processes=None, process_id=None) | given))


def test_a_run_of_one_process_needs_nothing():
    start()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (dict(coordinator="a:1", num_processes=2), "--process_id is missing"),
        (dict(process_id=0), "--coordinator, --num_processes is missing"),
        (dict(coordinator="a:1", num_processes=2, process_id=2), "--process_id=2: expected 0 to 1"),
        (dict(coordinator="a", num_processes=2, process_id=0), "--coordinator=a: expected HOST:PORT"),
        (dict(coordinator="a:b", num_processes=2, process_id=0), "--coordinator=a:b: expected HOST:PORT"),
    ],
)
def test_flags_that_cannot_work_are_one_line(given, expected):
    with pytest.raises(UserError, match=expected) as e:
        start(**given)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("i", [0, 1])
def test_a_process_that_nobody_meets_ends_with_one_line_in_time(i):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    result = subprocess.run([sys.executable, "-c", START.format(port=port, i=i)], capture_output=True, text=True,
                            timeout=120)
    assert result.returncode == 1 and not result.stdout
    assert result.stderr.startswith(f"error: the processes of the run did not meet at localhost:{port}, as --process_id"
                                    f"={i} of 2, in 2 s") and len(result.stderr.splitlines()) == 1, result.stderr


def wait_until(condition):
    """Waits for a condition: Python hears a signal a moment after it was sent."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end


@pytest.fixture
def sigterm():
    """Returns the handler of SIGTERM, and restores it after the test."""
    before = signal.getsignal(signal.SIGTERM)
    yield before
    signal.signal(signal.SIGTERM, before)


def test_sigterm_is_a_request_while_the_block_runs_and_a_second_one_changes_nothing(sigterm):
    with distributed.stop_request() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        wait_until(stop)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop() is Stopped
    os.kill(os.getpid(), signal.SIGTERM)  # while the process ends


def test_without_a_request_sigterm_is_as_before_after_the_block(sigterm):
    with distributed.stop_request():
        assert signal.getsignal(signal.SIGTERM) is not sigterm
    assert signal.getsignal(signal.SIGTERM) is sigterm


def test_the_first_ctrl_c_is_a_request_and_the_second_is_as_before_the_block(capsys, sigterm):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with distributed.stop_request() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            wait_until(stop)
            assert stop() is Interrupted and "Ctrl-C again" in capsys.readouterr().err
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
                wait_until(lambda: False)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getsignal(signal.SIGTERM) is sigterm
        with distributed.stop_request() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            wait_until(stop)
            os.kill(os.getpid(), signal.SIGINT)
            wait_until(lambda: "Ctrl-C again" in capsys.readouterr().err)
            assert stop() is Stopped  # the first one counts
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with distributed.stop_request():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_processes_that_agree_on_where_to_stop_count_their_own_steps_from_1(monkeypatch):
    """If the signal comes before its first question, JAX stops a run at number 1, resumed or not."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", lambda number: number == 3)
    with distributed.stop_request() as stop:
        assert [stop() for _ in range(4)] == [None, None, Stopped, None]
