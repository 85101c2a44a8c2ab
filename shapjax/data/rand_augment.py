"""RandAugment on the device (Cubuk, Zoph, Shlens, Le 2020, arXiv 1909.13719): its 14 operations as Pillow does them.

An operation is drawn for each image, so under `vmap` every image pays for every branch. There are three branches
instead of 14: a table of pixel values, a blend with another image and a warp; those not drawn change nothing.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

OPERATIONS = ("identity", "autocontrast", "equalize", "solarize", "posterize", "color", "contrast", "brightness",
              "sharpness", "rotate", "shear_x", "shear_y", "translate_x", "translate_y")


def rand_augment(image: chex.Array, key: chex.PRNGKey, *, operations: int, magnitude: float) -> chex.Array:
    """Applies operations drawn uniformly with replacement, one after the other, each in a random direction.

    Args:
      image: uint8 [H, W, C].
      key: PRNG key.
      operations: their number.
      magnitude: of all of them, from 0 (operations that have a strength do nothing) to 10.

    Returns:
      uint8 [H, W, C].
    """

    def one_more(image, round_key):
        operation_key, direction_key = jax.random.split(round_key)
        operation = jax.random.randint(operation_key, (), 0, len(OPERATIONS))
        direction = jax.random.rademacher(direction_key, (), jnp.float32)
        return apply(image, operation, direction * (magnitude / 10)), None

    return jax.lax.scan(one_more, image, jax.random.split(key, operations))[0]


def apply(image: chex.Array, operation: chex.Array, level: chex.Array) -> chex.Array:
    """Applies one operation; warps take the nearest pixel, and black from outside of the image.

    At level 1: rotate by 30 degrees, shear by 0.3 about the upper left corner, translate by 150/331 of the side, blend
    with factor 1.9 (at -1 with 0.1), posterize to 4 bits, solarize everything; the last two ignore the sign.

    Args:
      image: uint8 [H, W, C]; C = 3 is RGB.
      operation: int scalar, a position in `OPERATIONS`.
      level: float scalar in [-1, 1].

    Returns:
      uint8 [H, W, C].
    """
    turn = {name: operation == position for position, name in enumerate(OPERATIONS)}
    # The order does not matter to the result, as two of the three do nothing; in this one XLA recomputes least.
    return _warp(_blend(_look_up(image, turn, level), turn, level), turn, level)


def _look_up(image: chex.Array, turn: dict[str, chex.Array], level: chex.Array) -> chex.Array:
    """Applies autocontrast, equalize, solarize, posterize: a new value for each of the 256 values of each channel."""
    channels, values = image.shape[-1], jnp.arange(256)
    cell = image.astype(jnp.int32) + 256 * jnp.arange(channels)  # position in the table of all channels
    counts = jnp.zeros(channels * 256, jnp.int32).at[cell.reshape(-1)].add(1, mode="clip").reshape(channels, 256)

    low = jnp.argmax(counts > 0, axis=1)[:, None]
    high = 255 - jnp.argmax(counts[:, ::-1] > 0, axis=1)[:, None]
    stretched = jnp.where(high > low, (values - low) * 255 // jnp.maximum(high - low, 1), values)

    step = (image.shape[0] * image.shape[1] - jnp.take_along_axis(counts, high, axis=1)) // 255
    below = jnp.cumsum(counts, axis=1) - counts
    equalized = jnp.where(step > 0, (below + step // 2) // jnp.maximum(step, 1), values)

    strength = jnp.abs(level)
    solarized = jnp.where(values < 256 - jnp.floor(strength * 256), values, 255 - values)
    dropped = jnp.round(strength * 4).astype(jnp.int32)
    posterized = values >> dropped << dropped

    table = jnp.select([turn["autocontrast"], turn["equalize"], turn["solarize"], turn["posterize"]],
                       [stretched, equalized, *(jnp.broadcast_to(t, stretched.shape) for t in (solarized, posterized))],
                       jnp.broadcast_to(values, stretched.shape))
    return jnp.take(jnp.clip(table, 0, 255).astype(jnp.uint8), cell, mode="clip")


def _blend(image: chex.Array, turn: dict[str, chex.Array], level: chex.Array) -> chex.Array:
    """Applies color, contrast, brightness, sharpness: blends with gray, mean gray, black, a smoothed image.

    The image has the weight 1 + 0.9·level, the other -0.9·level.
    """
    pixels = image.astype(jnp.float32)
    gray = jnp.floor(luminance(pixels) + 0.5)
    padded = jnp.pad(pixels, ((1, 1), (1, 1), (0, 0)))
    height, width, _ = image.shape
    around = sum(padded[i : i + height, j : j + width] for i in range(3) for j in range(3))
    smooth = jnp.floor((around + 4 * pixels) / 13 + 0.5)
    border = jnp.zeros((height, width, 1), bool).at[0].set(True).at[-1].set(True).at[:, 0].set(True).at[:, -1].set(True)
    others = [gray, jnp.floor(gray.mean() + 0.5), 0.0, jnp.where(border, pixels, smooth)]
    turns = [turn[name] for name in ("color", "contrast", "brightness", "sharpness")]
    other = jnp.select(turns, [jnp.broadcast_to(x, pixels.shape) for x in others], pixels)
    return jnp.clip(other + (1 + 0.9 * level) * (pixels - other), 0, 255).astype(jnp.uint8)


def _warp(image: chex.Array, turn: dict[str, chex.Array], level: chex.Array) -> chex.Array:
    """Rotates, shears or translates: output pixel (x, y) is the input pixel at (a·x + b·y + c, d·x + e·y + f)."""
    height, width, channels = image.shape
    shift = level * (150 / 331)
    angle = jnp.where(turn["rotate"], -level * np.radians(30), 0.0)
    a = e = jnp.cos(angle)
    b = jnp.sin(angle) + jnp.where(turn["shear_x"], 0.3 * level, 0.0)
    d = -jnp.sin(angle) + jnp.where(turn["shear_y"], 0.3 * level, 0.0)
    mid_x, mid_y = width / 2, height / 2
    c = jnp.where(turn["rotate"], mid_x - a * mid_x - b * mid_y, jnp.where(turn["translate_x"], shift * width, 0.0))
    f = jnp.where(turn["rotate"], mid_y - d * mid_x - e * mid_y, jnp.where(turn["translate_y"], shift * height, 0.0))
    x, y = jnp.arange(width) + 0.5, jnp.arange(height)[:, None] + 0.5
    column, row = (jnp.floor(v).astype(jnp.int32) for v in (a * x + b * y + c, d * x + e * y + f))
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    # An index beyond the end reads black.
    position = jnp.where(inside, row * width + column, height * width)
    return image.reshape(-1, channels).at[position].get(mode="fill", fill_value=0)


def luminance(pixels: chex.Array) -> chex.Array:
    """Returns the ITU-R 601 luminance of RGB, with Pillow's weights, or the mean of other channels.

    Args:
      pixels: float [..., C].

    Returns:
      float [..., 1].
    """
    if pixels.shape[-1] != 3:
        return pixels.mean(axis=-1, keepdims=True)
    return (pixels * jnp.asarray([19595.0, 38470.0, 7471.0])).sum(axis=-1, keepdims=True) / 65536
