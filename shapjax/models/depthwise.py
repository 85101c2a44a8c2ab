"""Convolution of each channel alone.

XLA's own convolution is made for accelerators. On CPUs a sum of shifted images with its own gradient is faster: the
gradient step of a ConvNeXt-T (64 and 96 pixels, 2 to 8 images, 2 cores, jax 0.10.2) takes 1.1 to 1.3 times as long by
JAX's gradient of that sum, and 18 times by XLA's convolution (`python -m benchmarks.depthwise`).
"""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp


class DepthwiseConv(nn.Module):
    """Convolves channel c of [B, H, W, C] with kernel[:, :, c], zeros around the image, and adds a bias.

    Attributes:
      size: side of the kernel, odd.
      dtype: of the computation.
    """

    size: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: chex.Array) -> chex.Array:
        shape = (self.size, self.size, x.shape[-1])
        fan_in = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", in_axis=(0, 1), out_axis=(),
                                                  batch_axis=2)
        kernel = self.param("kernel", fan_in, shape)
        bias = self.param("bias", nn.initializers.zeros, shape[-1:])
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        return jax.lax.platform_dependent(x, kernel, cpu=by_shifts, default=by_xla) + bias.astype(self.dtype)


def by_xla(x: chex.Array, kernel: chex.Array) -> chex.Array:
    """Convolves x [B, H, W, C] with kernel [size, size, C], as one operation of XLA."""
    return jax.lax.conv_general_dilated(x, kernel[:, :, None], (1, 1), "SAME", feature_group_count=x.shape[-1],
                                        dimension_numbers=("NHWC", "HWIO", "NHWC"))


def sum_of_shifts(x: chex.Array, kernel: chex.Array) -> chex.Array:
    """Computes `by_xla` as a sum over the kernel, in float32; JAX derives the gradient."""
    size, padded = len(kernel), _padded(x, len(kernel))
    h, w = x.shape[1:3]
    parts = (padded[:, i : i + h, j : j + w] * kernel[i, j] for i in range(size) for j in range(size))
    return sum(parts).astype(x.dtype)


@jax.custom_vjp
def by_shifts(x: chex.Array, kernel: chex.Array) -> chex.Array:
    """Computes `sum_of_shifts`, with a gradient that is a sum of shifts too."""
    return sum_of_shifts(x, kernel)


def _forward(x: chex.Array, kernel: chex.Array) -> tuple[chex.Array, tuple[chex.Array, chex.Array]]:
    return sum_of_shifts(x, kernel), (x, kernel)


def _backward(saved: tuple[chex.Array, chex.Array], gradient: chex.Array) -> tuple[chex.Array, chex.Array]:
    x, kernel = saved
    size, padded = len(kernel), _padded(x, len(kernel))
    h, w = x.shape[1:3]

    def row(i: chex.Array) -> chex.Array:  # of the kernel; one compiled for all
        band = jax.lax.dynamic_slice_in_dim(padded, i, h, axis=1)
        return jnp.stack([jnp.sum(band[:, :, j : j + w] * gradient, axis=(0, 1, 2)) for j in range(size)])

    of_kernel = jax.lax.map(row, jnp.arange(size)).astype(kernel.dtype)
    return sum_of_shifts(gradient, kernel[::-1, ::-1]), of_kernel


by_shifts.defvjp(_forward, _backward)


def _padded(x: chex.Array, size: int) -> chex.Array:
    """Returns x in float32 with zeros around it, as wide as a kernel of this size reaches."""
    border = (size // 2, size // 2)
    return jnp.pad(x.astype(jnp.float32), ((0, 0), border, border, (0, 0)))
