"""A sequence of blocks of one form, whose parameters are stacked: the first axis of each array counts the blocks."""

import contextlib
import contextvars
from collections.abc import Iterator, Mapping
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

# The part of a block that is kept for the backward pass; the rest is computed again.
REMAT_POLICIES = {"none": None, "dots": jax.checkpoint_policies.dots_saveable,
                  "full": jax.checkpoint_policies.nothing_saveable}

_PLATFORM: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)


def platform() -> str:
    """Returns the kind of device that models are traced for: that of `traced_for`, else that of this process."""
    return _PLATFORM.get() or jax.default_backend()


@contextlib.contextmanager
def traced_for(platform: str) -> Iterator[None]:
    """Traces models in the block for "cpu", "gpu" or "tpu", whatever this process has.

    A function that `jax.jit` has traced before is not traced again.
    """
    token = _PLATFORM.set(platform)
    try:
        yield
    finally:
        _PLATFORM.reset(token)


class Blocks(nn.Module):
    """Applies blocks one after the other.

    A block takes (x, shared, layer's) and returns (x, layer's). The first passes through all blocks, the second is the
    same for all, the third is each block's own, stacked on the first axis.

    On accelerators one compiled block serves all (`nn.scan`), which compiles in constant time. On a CPU, where storing
    and slicing stacked activations costs up to a third of a step, each block is compiled by itself. Both give the same
    numbers from the same parameters.

    Attributes:
      block: the class of the blocks.
      settings: its fields.
      length: number of blocks.
      remat: key of `REMAT_POLICIES`.
    """

    block: type[nn.Module]
    settings: Mapping[str, Any]
    length: int
    remat: str

    def setup(self):
        policy = REMAT_POLICIES[self.remat]
        block = nn.remat(self.block, policy=policy, prevent_cse=False) if policy else self.block
        self.scanned = nn.scan(block, variable_axes={"params": 0}, split_rngs={"params": True},
                               in_axes=(nn.broadcast, 0), length=self.length)(**self.settings)
        nn.share_scope(self, self.scanned)

    def __call__(self, x: chex.Array, shared: Any = None, layers: chex.ArrayTree = None
                 ) -> tuple[chex.Array, chex.ArrayTree]:
        """Returns x after the last block, and what each block returned beside it, stacked."""
        if self.is_initializing() or platform() != "cpu":  # the shapes are known before JAX starts
            return self.scanned(x, shared, layers)
        block, policy, outputs = self.block(**self.settings, parent=None), REMAT_POLICIES[self.remat], []

        def apply(params: chex.ArrayTree, x: chex.Array, layer: chex.ArrayTree) -> tuple[chex.Array, chex.ArrayTree]:
            return block.apply({"params": params}, x, shared, layer)

        apply = jax.checkpoint(apply, policy=policy) if policy else apply
        for i, params in enumerate(_unstack(self.variables["params"])):
            x, output = apply(params, x, jax.tree.map(lambda array, i=i: array[i], layers))
            # Else XLA fuses the sum of all blocks so far into each gradient, and computes it many times.
            x = jax.lax.optimization_barrier(x)
            outputs.append(output)
        return x, jax.tree.map(lambda *arrays: jnp.stack(arrays), *outputs)


def _unstack(stacked: chex.ArrayTree) -> list[chex.ArrayTree]:
    """Returns the parameters of each block; by `split`, whose gradient is one array, not a sum of padded ones."""
    leaves, form = jax.tree.flatten(stacked)
    parts = [[part[0] for part in jax.lax.split(x, [1] * len(x))] for x in leaves]
    return [form.unflatten(block) for block in zip(*parts, strict=True)]
