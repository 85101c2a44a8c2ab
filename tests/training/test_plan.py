"""A plan says what a step takes of devices, by compiling it alone."""

import functools
import importlib.util

import jax
import pytest

from shapjax import config
from shapjax.errors import UserError
from shapjax.models import blocks
from shapjax.training import loop, plan, sharding
from tests.training.test_loop import Source

WIDTH, DEPTH, BATCH, TOKENS, PIXELS = 64, 3, 16, 16, 7 * 7
PLAN = plan.Plan(num_params=1000, num_devices=8, batch_size=64, flops=64e12, state=int(4e9), batch=int(1e9),
                 temporary=int(10e9), collectives={"all-gather": 12, "all-reduce": 2})


def run_of(**changes):
    c = config.default_config()
    c.update_from_flattened_dict(
        {"model.width": WIDTH, "model.depth": DEPTH, "model.heads": 2, "optim.batch_size": BATCH,
         "model.dtype": "bfloat16", "model.remat": "none", "augment.max_shift": 0}
        | {key.replace("__", "."): value for key, value in changes.items()})
    source = Source(class_names=tuple("abc"), image_shape=(28, 28, 1), mean=(0.5,), std=(0.25,), crops_on_read=False)
    return loop.setup(loop.resolve(c), source, num_devices=jax.device_count())


@pytest.fixture(scope="module")
def planned():
    """Makes the plan of a run on the eight devices in a layout, with its blocks in a loop."""

    @functools.cache
    def make(parallel, depth=DEPTH):
        with blocks.traced_for("tpu"):
            run = run_of(run__parallel=parallel, model__depth=depth)
            return plan.make(run, sharding.make_layout(parallel)), run

    return make


@functools.cache
def flops(**changes):
    """Counts the operations of a step of a wider model of two blocks."""
    return plan.step_flops(run_of(model__width=256, model__depth=2, **changes))


def test_operations_are_those_of_the_formula():
    """They are multiplications and additions of all products, forward and twice as many backward, in two passes."""
    t, d, depth, classes = TOKENS, 256, 2, 3
    block = 2 * t * d * (3 * d + d + 8 * d) + 2 * 2 * t * t * d
    forward = depth * block + 2 * t * d * classes + 2 * t * PIXELS * d
    assert flops() == pytest.approx(2 * 3 * BATCH * forward, rel=0.05)


def test_parts_of_a_batch_cost_the_same_and_computing_again_a_third_more():
    assert flops(optim__accumulate=2) == pytest.approx(flops(), rel=1e-3)
    with blocks.traced_for("tpu"):  # in a loop
        assert plan.step_flops(run_of(model__width=256, model__depth=2)) == pytest.approx(flops(), rel=1e-3)
    assert flops(model__remat="full") == pytest.approx(4 / 3 * flops(), rel=0.1)


@pytest.mark.slow
def test_a_device_holds_the_whole_state_or_its_share(planned):
    copies, run = planned("pmap")
    assert copies.state == sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(run.init_state)))
    split, _ = planned("fsdp")
    assert 1 / 8 < split.state / copies.state < 0.2
    assert copies.batch == split.batch == BATCH // 8 * (28 * 28 + 2 * 4)
    assert copies.temporary > 0 and split.temporary > 0 and copies.num_params == run.num_params


@pytest.mark.slow
def test_what_is_sent_in_the_loop_over_blocks_counts_for_each_block(planned):
    assert planned("pmap")[0].collectives == {"all-reduce": 2}
    few, many = (planned("fsdp", depth)[0].collectives for depth in (DEPTH, 2 * DEPTH))
    more = {key: many[key] - few[key] for key in few}
    assert more["all-gather"] >= 2 * DEPTH and all(n % DEPTH == 0 for n in more.values())


def test_collectives_count_as_often_as_they_run_and_their_parts_once():
    program = """HloModule jit_step

%sum (a: f32[], b: f32[]) -> f32[] {
  ROOT %add = f32[] add(%a, %b)
}

%inner (p: f32[4]) -> f32[4] {
  ROOT %all-reduce.7 = f32[4]{0} all-reduce(%p), channel_id=1, to_apply=%sum
}

%part (p: f32[2]) -> f32[4] {
  ROOT %all-gather.8 = f32[4]{0} all-gather(%p), channel_id=2, dimensions={0}
}

%part.clone (p: f32[2]) -> f32[4] {
  ROOT %all-gather.9 = f32[4]{0} all-gather(%p), channel_id=2, dimensions={0}
}

%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %all-gather-start.1 = (f32[2]{0}, f32[4]{0}) all-gather-start(%x), channel_id=5, dimensions={0}
  %all-gather-done.1 = f32[4]{0} all-gather-done(%all-gather-start.1)
  %fusion.1 = f32[4]{0} fusion(%y), kind=kLoop, calls=%part
  %fusion.2 = f32[4]{0} fusion(%y), kind=kLoop, calls=%part.clone
  %fusion = f32[4]{0} fusion(%y), kind=kLoop, calls=%inner
}

%condition (p: (s32[], f32[4])) -> pred[] {
  %constant.1 = s32[]{:T(128)} constant(7)
  %constant.10 = s32[]{:T(128)} constant(12)
  ROOT %less = pred[] compare(%i, %constant.10), direction=LT
}

%until (p: (pred[], f32[4])) -> pred[] {
  %constant.1 = s32[] constant(7)
  ROOT %not = pred[] not(%go)
}

ENTRY %main (arg: f32[4]) -> f32[4] {
  %while.3 = (s32[], f32[4]{0}) while(%t), condition=%condition, body=%body, metadata={op_name="while"}
  %while.4 = (pred[], f32[4]{0}) while(%u), condition=%until, body=%inner
  %conditional = f32[4]{0} conditional(%i, %a, %b), branch_computations={%other, %third}
  ROOT %all-reduce = f32[4]{0} all-reduce(%z), channel_id=3, to_apply=%sum
}

%other (p: f32[4]) -> f32[4] {
  ROOT %collective-permute = f32[4]{0} collective-permute(%p), channel_id=4
}

%third (p: f32[4]) -> f32[4] {
  ROOT %collective-permute = f32[4]{0} collective-permute(%p), channel_id=4
}
"""
    assert plan.collectives(program) == {"all-gather": 24, "all-reduce": 14, "collective-permute": 1}


def test_the_lines_say_speed_and_time_of_a_chip():
    text = plan.describe(PLAN, config.default_config(), "v5e")
    assert "1,000 parameters" in text and "64.0 TFLOP, 1,000.0 GFLOP an image" in text
    assert "4.00 GB of state, 1.00 GB of images, 10.00 GB of temporary" in text
    assert "12 all-gather, 2 all-reduce" in text and "630 images/s" in text  # 0.4 · 197e12 · 8 / 64e12 · 64
    assert "speed" not in plan.describe(PLAN, config.default_config(), None)


@pytest.mark.parametrize(("changes", "settings", "expected"), [
    ({}, {}, None),
    ({"temporary": int(12e9)}, {"model.remat": "none"},
     "takes 17.0 GB a device, and v5e has 16 GB; try --config.run.parallel=fsdp, --config.model.remat=full, "
     "--config.optim.accumulate=2, more devices"),
    ({"temporary": 0, "refusal": "no room"}, {"run.parallel": "fsdp", "run.fsdp_devices": 4, "model.remat": "full"},
     "does not fit: no room; try --config.run.fsdp_devices=8, --config.optim.accumulate=2, more devices"),
    ({"temporary": int(12e9)}, {"run.parallel": "fsdp", "model.remat": "full", "optim.accumulate": 8},
     "16 GB; try more devices"),
    ({"state": int(1e9), "temporary": int(15e9)}, {}, "16 GB; try --config.model.remat=full, --config.optim.acc")])
def test_what_does_not_fit_is_said_with_what_helps(changes, settings, expected):
    c = config.default_config()
    c.update_from_flattened_dict(settings)
    if expected is None:
        return plan.require_fit(PLAN._replace(**changes), c, "v5e")
    with pytest.raises(UserError, match=expected):
        plan.require_fit(PLAN._replace(**changes), c, "v5e")
    plan.require_fit(PLAN._replace(temporary=int(12e9)), c, "H100")


@pytest.mark.parametrize(("chip", "count", "sides"), [
    ("v5e", 1, [1, 1]), ("v5e", 2, [2, 1]), ("v5e", 4, [2, 2]), ("v5e", 8, [2, 4]), ("v6e", 32, [4, 8]),
    ("v5e", 256, [16, 16]), ("v5p", 4, [2, 2, 1]), ("v5p", 8, [2, 2, 2]), ("v5p", 16, [2, 2, 4]),
    ("v5p", 128, [4, 4, 8])])
def test_slices_are_as_square_as_google_cuts_them(chip, count, sides):
    assert plan.slice_sides(chip, count) == sides


def test_without_a_compiler_of_its_own_a_chip_has_no_devices(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert plan.topology("v5e", 8) == plan.topology("H100", 8) == []


@pytest.fixture
def libtpu():
    pytest.importorskip("libtpu")


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["pmap", "fsdp"])
def test_a_step_is_compiled_for_tpus_that_are_not_there(libtpu, planned, parallel):
    devices = plan.topology("v5e", 8)
    assert {device.device_kind for device in devices} == {plan.CHIPS["v5e"].kind}
    with blocks.traced_for("tpu"):
        found = plan.make(run_of(run__parallel=parallel), sharding.make_layout(parallel, devices=devices))
    expected = planned(parallel)[0]
    assert found.collectives["all-reduce"] >= 2 and ("all-gather" in found.collectives) == (parallel == "fsdp")
    assert found[:6] == expected[:6] and 0 < found.temporary < 16e9


@pytest.mark.slow
def test_what_is_too_large_for_a_tpu_has_no_plan_of_its_memory(libtpu):
    with blocks.traced_for("tpu"):
        run = run_of(optim__batch_size=2**21)
        found = plan.make(run, sharding.make_layout("pmap", devices=plan.topology("v5e", 8)))
    assert found.temporary == 0 and "exceeds available HBM (15.75G)" in found.refusal and "\n" not in found.refusal


def test_a_slice_of_a_number_that_is_not_made_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with pytest.raises(ValueError, match="devices=24: slices of v5e have 1, 2, 4, 8"):
        plan.topology("v5e", 24)
