"""Lays Shapley values over an image in one color scale, symmetric around zero."""

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_hex
from PIL import Image

from shapjax.report.formatting import signed

# Without the near-black ends, on which neither the image nor a number could be read.
COLORS = LinearSegmentedColormap.from_list("shapley", matplotlib.colormaps["RdBu_r"](np.linspace(0.08, 0.92, 201)), 256)
MAX_LABELED_PATCHES = 25  # more numbers than this are too small to read


def overlay(image: np.ndarray, values: np.ndarray, limit: float, *, smooth: bool = False) -> np.ndarray:
    """Returns the image in faded gray, tinted patch by patch with the color of the patch's value.

    An image on a black ground is shown inverted: light strokes become ink on paper, so that a value of zero is white.

    Args:
      image: uint8 [H, W, C], C = 1 or 3.
      values: float [gh, gw], logits.
      limit: the value with the strongest color.
      smooth: interpolate values between the patches' centers, for the eye alone: pixels have no values.

    Returns:
      uint8 [H, W, 3].
    """
    height, width = image.shape[:2]
    if smooth:
        each = np.asarray(Image.fromarray(values.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC))
    else:
        rows, columns = (np.arange(pixels) * patches // pixels
                         for pixels, patches in zip((height, width), values.shape, strict=True))
        each = values[rows][:, columns]
    tint = COLORS(Normalize(-limit, limit)(each))[..., :3]
    gray = _gray(image)
    if has_dark_ground(image):
        gray = 1 - gray
    # Multiplied, the hue stays the value's and the image shows as light and shade.
    return np.round(255 * tint * (0.8 + 0.2 * gray[..., None])).astype(np.uint8)


def has_dark_ground(image: np.ndarray) -> bool:
    """Returns whether most of a uint8 [H, W, C] image is all but black."""
    return bool(np.median(_gray(image)) < 0.1)


def color_limit(values: np.ndarray) -> float:
    """Returns the largest absolute value, where the color scale ends on both sides; 1 if all values are zero."""
    return float(np.max(np.abs(values))) or 1.0


def value_text(value: float, limit: float) -> str:
    """Formats a value for its patch: with one digit behind the point, or two if all values are below 1."""
    return signed(value, digits=1 if limit >= 1 else 2)


def number_colors(strength: float) -> tuple[str, str]:
    """Returns the colors of the number on a patch, and of the halo that keeps the image away from the number.

    The number is white or dark, whichever reads better on the patch's color, which is the halo's.

    Args:
      strength: the patch's value over the limit of the scale, in [-1, 1].
    """
    tint = COLORS((1 + strength) / 2)
    luminance = np.dot(np.power(tint[:3], 2.2), (0.2126, 0.7152, 0.0722))
    return ("#ffffff" if luminance < 0.28 else "#1c2430"), to_hex(tint)


def gradient() -> str:
    """Returns the color scale from the lowest value to the highest, as the stops of a CSS gradient."""
    return ", ".join(to_hex(COLORS(position)) for position in np.linspace(0, 1, 9))


def rgb(image: np.ndarray) -> np.ndarray:
    """Converts uint8 [H, W, 1 or 3] to uint8 [H, W, 3]; raises ValueError on anything else."""
    if image.ndim != 3 or image.shape[-1] not in (1, 3) or image.dtype != np.uint8:
        raise ValueError(f"an image must be uint8 [H, W, 1 or 3], not {image.dtype} {image.shape}")
    return np.broadcast_to(image, (*image.shape[:2], 3))


def _gray(image: np.ndarray) -> np.ndarray:
    return rgb(image).astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) / 255
