"""The joint step and the explanation of a ViT-B/16 in bfloat16, as they are lowered for TPUs."""

import functools
import math
import re

import jax
import jax.export
import jax.numpy as jnp
import pytest

from configs import imagenet
from shapjax import config as defaults
from shapjax.models import blocks, inference, param_shapes
from shapjax.training import loop, plan, sharding
from shapjax.training.loss import LossParts
from tests.training.test_loop import Source
from tests.training.test_sharding import collectives, core

DEVICES = 8
ROWS = 22  # of the batch a device; no size of the model is that
ROW_SIZES = {ROWS, ROWS // 2, DEVICES * ROWS, DEVICES * ROWS // 2}  # images of a batch, or pairs of them
PROGRAMS = pytest.mark.parametrize("name", [
    "pmap", "fsdp", "explain", *(pytest.param(f"{x}, augmented", marks=pytest.mark.slow) for x in ("pmap", "fsdp"))])


@functools.cache
def run_of(augmented):
    """Returns the run of the recipe for ImageNet, by shapes alone, with or without its augmentation."""
    config = imagenet.get_config("b16")
    config.optim.batch_size = DEVICES * ROWS
    if not augmented:
        config.augment.update(defaults.default_config().augment)
    source = Source(class_names=tuple(map(str, range(1000))), image_shape=(224, 224, 3), mean=(0.5,) * 3,
                    std=(0.25,) * 3, crops_on_read=True)
    return loop.setup(loop.resolve(config), source, num_devices=DEVICES)


@functools.cache
def program(name):
    """Returns the StableHLO of the step in a layout, or of the explanation."""
    parallel, _, augmented = name.partition(", ")
    run = run_of(bool(augmented))
    with blocks.traced_for("tpu"):
        if name == "explain":
            shapes = (param_shapes(run.module, image_shape=run.meta.image_shape),
                      jax.ShapeDtypeStruct((ROWS, *run.meta.image_shape), jnp.uint8))
            fn = jax.jit(lambda params, images: inference.explanation(
                inference.classifier_of(run.module, params, run.meta.mean, run.meta.std), images))
        else:
            layout = sharding.make_layout(parallel)
            shapes = layout.shapes(jax.eval_shape(run.init_state), plan.batch_shapes(run))
            fn = jax.jit(layout.step(run.step))
        return jax.export.export(fn, platforms=["tpu"])(*shapes).mlir_module()


@pytest.fixture(autouse=True)
def eight_devices():
    if jax.device_count() != DEVICES:
        pytest.skip("needs eight devices; unset JAX_PLATFORMS to split the CPU")


@PROGRAMS
def test_products_are_in_bfloat16_but_for_the_heads_and_nothing_is_float64(name):
    text = program(name)
    assert not re.search(r"\bf64\b|xf64>", text)
    products = re.findall(r"stablehlo\.dot_general.* : \(tensor<(\S+)>, tensor<(\S+)>\)", text)
    wide = [x for x in products if not all(part.endswith("bf16") for part in x)]
    assert len(products) - len(wide) >= (7 if name == "explain" else 30)
    assert all("1000" in sum((part.split("x") for part in x), []) for x in wide if "augmented" not in name)


@PROGRAMS
def test_the_host_is_never_asked(name):
    called = set(re.findall(r"custom_call @([\w.]+)", program(name)))
    assert called <= {"Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape"}


@PROGRAMS
def test_one_block_stands_for_all(name):
    passes = 1 if name == "explain" else 4  # of whole images and of a pair, each with its gradient
    assert len(re.findall(r"stablehlo\.tanh", program(name))) == passes  # of GELU


@PROGRAMS
def test_no_image_is_looked_up_in_the_batch(name):
    """Rows of the batch lie on different devices; indexing them would bring all of them together."""
    indexed = []
    for operation, key in (("gather", "start_index_map"), ("scatter", "scatter_dims_to_operand_dims")):
        pattern = rf'"stablehlo\.{operation}".*?{key} = \[([\d, ]*)\].*?: \(tensor<([^>]+)>'
        for axes, operand in re.findall(pattern, program(name), re.S):
            sizes = operand.split("x")
            indexed += [int(sizes[int(axis)]) for axis in axes.split(",")]
    for cut, operand in re.findall(r"stablehlo\.dynamic_slice .*sizes = \[([\d, ]+)\] : \(tensor<([^>]+)>",
                                   program(name)):
        sizes = zip(map(int, cut.split(",")), map(int, operand.split("x")[:-1]), strict=True)
        indexed += [whole for part, whole in sizes if part < whole]
    assert indexed and not ROW_SIZES & set(indexed)


@pytest.mark.parametrize("name", ["pmap", pytest.param("pmap, augmented", marks=pytest.mark.slow)])
def test_copies_meet_for_the_moments_of_the_values_and_for_gradients_and_metrics(name):
    found = re.findall(r"stablehlo\.(all_gather|all_to_all|collective_permute|collective_broadcast|reduce_scatter)",
                       program(name))
    reduced = re.findall(r'"stablehlo\.all_reduce"\(([^)]*)\)', program(name))
    arrays = jax.tree.leaves(param_shapes(run_of(False).module, image_shape=(224, 224, 3)))
    assert not found and sum(len(x.split(",")) for x in reduced) == 2 + len(arrays) + len(LossParts._fields)


def test_a_split_state_is_split_in_every_large_array_and_so_is_the_batch():
    text = program("fsdp")
    header = text[text.index("func.func public @main("):].split("\n")[0]
    arguments = re.findall(r"%arg\d+: tensor<([^>]+)> (.*?)(?=, %arg|\) ->)", header)
    assert len(arguments) > 50
    for shape, attributes in arguments:
        size = math.prod(map(int, shape.split("x")[:-1]))
        assert ('"fsdp"' in attributes) == (size >= sharding.MIN_SPLIT or shape.startswith(f"{DEVICES * ROWS}")), shape


@pytest.mark.slow
def test_compiled_with_augmentation_a_split_state_sends_weights_gradients_and_single_numbers_alone():
    run, layout = run_of(True), sharding.make_layout("fsdp")
    shapes = layout.shapes(jax.eval_shape(run.init_state), plan.batch_shapes(run))
    with blocks.traced_for("tpu"):
        sent = collectives(layout.step(run.step).lower(*shapes).compile())
    weights = jax.tree.leaves(param_shapes(run.module, image_shape=run.meta.image_shape))
    weights = {core(shape) for x in weights for shape in (x.shape, x.shape[1:])}
    assert {core(shape) for operation, arrays in sent if operation == "all-gather" for shape in arrays} <= weights
    parts = {core(layout.sharding(shape).shard_shape(shape)) for shape in weights}
    reduced = {core(shape) for operation, arrays in sent if operation != "all-gather" for shape in arrays}
    assert reduced <= weights | parts | {(), (1000,)}  # (1000,): moments of the values
