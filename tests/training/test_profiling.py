"""A profile traces the steps that it is asked for, and says how fast they were."""

import gzip
import json
import time

import jax
import jax.numpy as jnp
import pytest

from shapjax.training.profiling import Profile, parse


@pytest.fixture
def profile(tmp_path):
    """Returns what makes a profile of steps 3 and 4, and what it has said."""
    said = []

    def make(peak):
        return Profile(tmp_path, steps=range(3, 5), batch_size=10, flops=jax.device_count() * 4e9, peak=peak,
                       say=said.append), said

    return make


def test_the_trace_opens_in_tensorboard_and_perfetto_and_the_share_of_the_peak_is_said(profile, tmp_path, monkeypatch):
    traced, said = profile(peak=16e9)
    now, waits = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def wait():
        waits.append(now[0])
        jnp.ones(8).sum().block_until_ready()

    for step in range(1, 7):
        now[0] += 0.5
        traced.step(step, wait)
    assert waits == [1.0, 2.0]  # after steps 2 and 4
    assert len(said) == 1 and "steps 3 to 4: 0.500 s each, 20 images/s, 0.008 TFLOP/s a device, 50.0% of its" in said[0]
    directory = tmp_path / "tensorboard" / "plugins" / "profile"
    (for_perfetto,), (for_tensorboard,) = (list(directory.glob(f"*/*.{end}")) for end in ("trace.json.gz", "xplane.pb"))
    assert str(for_perfetto.parent) in said[0] and {"/host:CPU"} <= {
        plane.name for plane in jax.profiler.ProfileData.from_file(str(for_tensorboard)).planes}
    assert json.loads(gzip.decompress(for_perfetto.read_bytes()))["traceEvents"]


def test_of_an_unknown_chip_only_the_rate_is_said(profile):
    traced, said = profile(peak=None)
    for step in range(2, 5):
        traced.step(step, lambda: None)
    assert len(said) == 1 and "TFLOP/s a device; the trace" in said[0]


def test_a_run_that_ends_before_says_nothing(profile):
    traced, said = profile(peak=None)
    traced.step(1, pytest.fail)
    assert not said


@pytest.mark.parametrize(("given", "eval_every", "expected"), [
    ("2:3", 500, [2, 3, 4]), ("12:1", 500, [12]), ("8:5", 500, [8, 9, 10, 11, 12]), ("3:4", 6, [3, 4, 5, 6])])
def test_the_steps_are_those_that_are_named(given, eval_every, expected):
    assert list(parse(given, steps=12, eval_every=eval_every)) == expected


@pytest.mark.parametrize(("given", "eval_every"), [
    ("ten", 500), ("1:3", 500), ("2:0", 500), ("9:5", 500), ("5:3", 6), ("7:2", 6)])
def test_steps_that_compile_or_are_not_there_or_have_an_evaluation_before_or_among_them_are_refused(given, eval_every):
    with pytest.raises(ValueError, match="such as 2:10, of the steps 2 to 12") as error:
        parse(given, steps=12, eval_every=eval_every)
    assert "\n" not in str(error.value)
