"""Time of a ConvNeXt's gradient step on the CPU, by how its depthwise convolutions are computed.

  python -m benchmarks.depthwise [--image_size 64] [--batch 4] [--remat full] [--rounds 15]

The ways take turns within one process, so that a drift of the machine's speed hits all of them; the minimum counts.
"""

import argparse
import time
from collections.abc import Callable
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import optax

from shapjax import config as settings
from shapjax import models
from shapjax.models import depthwise

WAYS = {"sum of shifts, its own gradient": depthwise.by_shifts,
        "sum of shifts, JAX's gradient": depthwise.sum_of_shifts, "XLA's convolution": depthwise.by_xla}


def gradient_step(module: models.convnext.ConvNeXt, way: Callable) -> Callable[..., tuple[chex.Array, chex.ArrayTree]]:
    """Returns (params, images, labels) -> (loss, gradient) of a module whose convolutions are computed in this way."""

    def loss(params: chex.ArrayTree, images: chex.Array, labels: chex.Array) -> chex.Array:
        logits_BK = jnp.sum(module.apply({"params": params}, images), axis=1)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits_BK, labels))

    def step(*arguments):
        with mock.patch.object(depthwise, "by_shifts", way):  # while it is traced
            return jax.value_and_grad(loss)(*arguments)

    return jax.jit(step)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="ConvNeXt-T", help="as in --config.model.variant")
    parser.add_argument("--image_size", type=int, default=64, help="pixels a side")
    parser.add_argument("--batch", type=int, default=4, help="images a step")
    parser.add_argument("--remat", default="full", help="as in --config.model.remat")
    parser.add_argument("--rounds", type=int, default=15, help="timed calls of each step")
    args = parser.parse_args()

    config = settings.default_config()
    settings.set_model(config, models.variant(args.variant) | {"remat": args.remat})
    image_shape = (args.image_size, args.image_size, 3)
    module = models.build(settings.model_settings(config), image_shape=image_shape, num_classes=10)
    arrays = (models.init_params(module, jax.random.key(0), image_shape=image_shape),
              jax.random.normal(jax.random.key(1), (args.batch, *image_shape)), jnp.arange(args.batch) % 10)
    steps = {name: gradient_step(module, way) for name, way in WAYS.items()}
    seconds = {name: [] for name in steps}
    for turn in range(args.rounds + 1):
        for name, step in steps.items():
            begun = time.perf_counter()
            jax.block_until_ready(step(*arrays))
            if turn:  # the first compiles
                seconds[name].append(time.perf_counter() - begun)
    base = min(next(iter(seconds.values())))
    print(f"{args.variant}, {args.image_size}x{args.image_size}, batch {args.batch}, remat {args.remat}, jax "
          f"{jax.__version__}\n\n| depthwise convolutions | seconds a step | ratio |\n|---|---|---|")
    for name, each in seconds.items():
        print(f"| {name} | {min(each):.3f} | {min(each) / base:.2f} |")


if __name__ == "__main__":
    main()
