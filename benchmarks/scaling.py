"""Calculates the cost of large models: operations, memory, speed to expect. Prints the tables of docs/scaling.md.

  python -m benchmarks.scaling [--models S/16@224,L/16@384] [--check]

Counted: parameters, operations of a joint step with one coalition pair (XLA's count, see `benchmarks.packing`), and the
bytes that autodiff keeps from the forward to the backward pass; nothing is compiled or run. All else is calculated from
these. --check compiles steps of S/16 (minutes) and prints the memory that XLA plans beside what is counted.
"""

import argparse

import jax
import jax.numpy as jnp

from benchmarks import packing
from shapjax import models
from shapjax.models import blocks, vit
from shapjax.training import plan

MODELS = ("S/16@224", "S/16@384", "B/16@224", "B/16@384", "L/16@224", "L/16@384", "H/14@224", "H/14@392")
DEVICES = (8, 64, 256)  # that one state is split over
STATE_BYTES = 16  # a parameter: float32 parameter, two moments of Adam, moving average
CHIPS = ("v5e", "v5p", "H100")
LANES = 128  # numbers that a TPU computes with at a time, along the last axis of an array
PREFIXES = {"none": 0, "CLS": 1, "CLS, 4 registers": 5}


def make_module(name: str, *, remat: str, dtype: jnp.dtype = jnp.bfloat16) -> vit.ViT:
    """Makes the model "VARIANT@PIXELS" for 1000 classes."""
    variant, _, pixels = name.partition("@")
    return packing.make_module(vit.variant(variant), image_size=int(pixels), remat=remat).clone(dtype=dtype)


def count_params(module: vit.ViT) -> int:
    """Returns the number of parameters."""
    return sum(x.size for x in jax.tree.leaves(models.param_shapes(module, image_shape=(*module.image_size, 3))))


def _arguments(module: vit.ViT, batch: int) -> tuple:
    return (jax.ShapeDtypeStruct((batch, *module.image_size, 3), jnp.float32),
            jax.ShapeDtypeStruct((batch, module.num_classes), jnp.float32),
            jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch)))


def kept_bytes(module: vit.ViT) -> int:
    """Returns the bytes an image that autodiff keeps from the forward to the backward pass of a joint step."""
    params = models.param_shapes(module, image_shape=(*module.image_size, 3))

    def of_batch(batch: int) -> int:
        def pullback(params, *args):
            return jax.vjp(lambda p: packing.loss(module, "packed")(p, *args), params)[1]

        kept = jax.eval_shape(pullback, params, *_arguments(module, batch))
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(kept))

    return of_batch(2) - of_batch(1)  # what does not grow with the batch are parameters


def planned_bytes(module: vit.ViT, batch: int) -> int:
    """Returns the bytes of temporary memory that XLA plans for the gradient of a joint step."""
    params = models.param_shapes(module, image_shape=(*module.image_size, 3))
    step = jax.jit(packing.gradient_step(module, "packed"))
    return step.lower(params, *_arguments(module, batch)).compile().memory_analysis().temp_size_in_bytes


def lane_cost(tokens: int, width: int) -> float:
    """Returns the share of a block's operations that a TPU adds to fill up its rows of `LANES` numbers.

    Only the products with attention maps, of T x T numbers each, have a side that counts tokens: T / (6 D + T) of the
    operations of a block of width D.
    """
    return tokens / (6 * width + tokens) * (-(-tokens // LANES) * LANES / tokens - 1)


def print_table(header: str, rows: list[list[str]]) -> None:
    """Prints a table in Markdown."""
    print(f"| {header} |\n|{'---|' * (header.count('|') + 1)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print(flush=True)


def print_check() -> None:
    """Prints counted and planned bytes an image, of S/16 in float32, on the device that JAX finds."""
    rows = []
    for remat in blocks.REMAT_POLICIES:
        module = make_module("S/16@224", remat=remat, dtype=jnp.float32)
        planned = [planned_bytes(module, batch) for batch in (4, 8)]
        rows.append([remat, f"{kept_bytes(module) / 1e6:.0f}", f"{(planned[1] - planned[0]) / 4e6:.0f}",
                     *(f"{x / 1e6:.0f}" for x in planned)])
    print_table("remat | counted, MB an image | planned, MB an image | planned, batch 4 | planned, batch 8", rows)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help="VARIANT@PIXELS, with commas between")
    parser.add_argument("--check", action="store_true", help="compile S/16 instead")
    args = parser.parse_args()
    if args.check:
        print_check()
        return
    names = args.models.split(",")
    gflop, params, kept = {}, {}, {}
    for name in names:
        module = make_module(name, remat="none")
        params[name] = count_params(module)
        gflop[name] = {kind: packing.count_flops(module, kind, batch=1) / 1e9 for kind in ("plain", "packed")}
        kept[name] = {remat: kept_bytes(make_module(name, remat=remat)) / 1e6 for remat in blocks.REMAT_POLICIES}
    print_table("model | patches | parameters, M | GFLOP an image, plain step | joint step | joint, remat full", [
        [name, str(make_module(name, remat="none").num_patches), f"{params[name] / 1e6:.0f}",
         f"{gflop[name]['plain']:.0f}", f"{gflop[name]['packed']:.0f}", f"{gflop[name]['packed'] * 4 / 3:.0f}"]
        for name in names])
    print_table("model | copies (pmap) | " + " | ".join(f"split over {n}" for n in DEVICES), [
        [name, *(f"{params[name] * STATE_BYTES / n / 1e9:.2f}" for n in (1, *DEVICES))] for name in names])
    print_table("model | " + " | ".join(f"remat {remat}" for remat in blocks.REMAT_POLICIES), [
        [name, *(f"{kept[name][remat]:.0f}" for remat in blocks.REMAT_POLICIES)] for name in names])
    print_table("model | " + " | ".join(CHIPS), [
        [name, *(f"{plan.UTILIZATION * plan.CHIPS[chip].flops / (gflop[name]['packed'] * 4 / 3 * 1e9):.0f}"
                 for chip in CHIPS)]
        for name in names])
    rows = [[name] for name in names]
    for row, name in zip(rows, names, strict=True):
        module = make_module(name, remat="none")
        for prefix in PREFIXES.values():
            tokens = module.num_patches + 2 * prefix
            row.append(f"{tokens} → {-(-tokens // LANES) * LANES}, {lane_cost(tokens, module.width):.1%}")
    print_table("model | " + " | ".join(PREFIXES), rows)


if __name__ == "__main__":
    main()
