"""Measures what coalition packing saves: a training step's operations and seconds, with and without it.

  python -m benchmarks.packing [--variant S/16] [--image_size 224] [--batch 8] [--repeats 5] [--flops_only]

Three gradient steps of the same model on the same batch: "plain" classifies the image (one pass), "packed" is the joint
loss with one coalition pair in one packed pass, "unpacked" the same loss with a masked pass each for S and for its
complement. Each step runs with remat "none" and "full".

Operations are XLA's own count (`cost_analysis`) of the lowered program, which depends on no device. XLA counts the body
of a loop once, however often it runs, and the model loops over its blocks (`nn.scan`); so for counting, and only for
that, the loop is unrolled. The timed model has its loop. Steps take turns within one process, so that a drift of
the machine's speed hits all of them; the median counts.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import optax

from shapjax import models
from shapjax.games import coalitions
from shapjax.models import blocks, vit
from shapjax.training.loss import LossSettings, joint_loss

SETTINGS = LossSettings(num_pairs=1, weight=1.0, masked_weight=1.0)
STEPS = ("plain", "packed", "unpacked")
PAIR_PATCH_LOGITS = coalitions.pair_patch_logits  # while another stands in its place


def loss(module: vit.ViT, kind: str) -> Callable[..., chex.Array]:
    """Returns (params, images, targets, keys) -> the loss of one of `STEPS`."""

    def plain(params, images, targets, keys):
        logits = module.apply({"params": params}, images).sum(axis=1)
        return jnp.mean(optax.softmax_cross_entropy(logits, targets))

    def joint(params, images, targets, keys):
        def phi_fn(x, segment_ids):
            return module.apply({"params": params}, x, segment_ids)

        return joint_loss(phi_fn, images, targets, keys, settings=SETTINGS)[0]

    def unpacked(*args):
        with mock.patch.object(coalitions, "pair_patch_logits", _two_masked_passes):
            return joint(*args)

    return {"plain": plain, "packed": joint, "unpacked": unpacked}[kind]


def gradient_step(module: vit.ViT, kind: str) -> Callable[..., chex.ArrayTree]:
    """Returns (params, images, targets, keys) -> gradients of `loss`."""
    return jax.grad(loss(module, kind))


def _two_masked_passes(phi_fn: coalitions.PhiFn, images: chex.Array, masks: chex.Array) -> chex.Array:
    """Computes `coalitions.pair_patch_logits` as others do: each pass gives the logits of its visible patches alone."""
    return jnp.where(masks[..., None], PAIR_PATCH_LOGITS(phi_fn, images, masks),
                     PAIR_PATCH_LOGITS(phi_fn, images, ~masks))


def make_module(sizes: dict[str, int], *, image_size: int, remat: str) -> vit.ViT:
    """Returns the model that is counted and timed: a variant for 1000 classes."""
    return vit.ViT(num_classes=1000, image_size=(image_size, image_size), remat=remat, **sizes)


def count_flops(module: vit.ViT, kind: str, *, batch: int) -> float:
    """Counts floating-point operations of a gradient step, without compiling or running it."""
    image_shape = (*module.image_size, 3)
    params = models.param_shapes(module, image_shape=image_shape)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch))
    images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)
    targets = jax.ShapeDtypeStruct((batch, module.num_classes), jnp.float32)
    with blocks.traced_for("cpu"):
        return jax.jit(gradient_step(module, kind)).lower(params, images, targets, keys).cost_analysis()["flops"]


def measure_seconds(modules: dict[str, vit.ViT], *, batch: int, repeats: int) -> dict[tuple[str, str], float]:
    """Returns median seconds of every step of every module, taking turns, after a first call that compiles."""
    image_shape = (*next(iter(modules.values())).image_size, 3)
    params = models.init_params(next(iter(modules.values())), jax.random.key(0), image_shape=image_shape)
    args = (params, jax.random.normal(jax.random.key(1), (batch, *image_shape)),
            jax.nn.one_hot(jnp.arange(batch), 1000), jax.random.split(jax.random.key(2), batch))
    steps = {(name, kind): jax.jit(gradient_step(module, kind)) for name, module in modules.items() for kind in STEPS}
    seconds = {key: [] for key in steps}
    for turn in range(repeats + 1):
        for key, step in steps.items():
            begun = time.perf_counter()
            jax.block_until_ready(step(*args))
            if turn:
                seconds[key].append(time.perf_counter() - begun)
    return {key: statistics.median(values) for key, values in seconds.items()}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="S/16", help="as in --config.model.variant")
    parser.add_argument("--image_size", type=int, default=224, help="pixels a side")
    parser.add_argument("--batch", type=int, default=8, help="images a step")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each step")
    parser.add_argument("--flops_only", action="store_true", help="count, do not run")
    args = parser.parse_args()

    sizes = vit.variant(args.variant) or parser.error(f"--variant {args.variant} is unknown; expected one such as S/16")
    modules = {remat: make_module(sizes, image_size=args.image_size, remat=remat) for remat in ("none", "full")}
    flops = {(name, kind): count_flops(module, kind, batch=args.batch)
             for name, module in modules.items() for kind in STEPS}
    seconds = {} if args.flops_only else measure_seconds(modules, batch=args.batch, repeats=args.repeats)

    print(f"{args.variant}, {args.image_size}x{args.image_size}, {modules['none'].num_patches} patches, batch "
          f"{args.batch}, float32, jax {jax.__version__} on {jax.devices()[0].device_kind}\n")
    print("| remat | step | GFLOP an image | x plain | seconds | x plain |\n|---|---|---|---|---|---|")
    for name, kind in flops:
        row = [name, kind, f"{flops[name, kind] / args.batch / 1e9:.1f}",
               f"{flops[name, kind] / flops[name, 'plain']:.3f}"]
        row += ([f"{seconds[name, kind]:.3f}", f"{seconds[name, kind] / seconds[name, 'plain']:.2f}"]
                if seconds else ["", ""])
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
