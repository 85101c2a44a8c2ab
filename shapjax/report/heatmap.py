"""How votes look: one color scale, symmetric around zero, laid over the image."""

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_hex

from shapjax.report.formatting import signed

# Without the near-black ends, on which neither the image nor a number could be read.
COLORS = LinearSegmentedColormap.from_list(
    "votes", matplotlib.colormaps["RdBu_r"](np.linspace(0.08, 0.92, 201)), 256
)
MAX_LABELED_PATCHES = 25  # more numbers than this are too small to read


def overlay(image: np.ndarray, votes: np.ndarray, limit: float) -> np.ndarray:
    """The image in faded gray, tinted patch by patch with the color of the patch's vote.

    An image on a black ground is shown inverted: light strokes become ink on paper, so that a vote of zero is white.

    Args:
      image: uint8 [H, W, C].
      votes: float [gh, gw], logits.
      limit: the vote with the strongest color.

    Returns:
      uint8 [H, W, 3].
    """
    height, width = image.shape[:2]
    rows = np.arange(height) * votes.shape[0] // height
    columns = np.arange(width) * votes.shape[1] // width
    tint = COLORS(Normalize(-limit, limit)(votes))[rows][:, columns, :3]
    gray = _gray(image)
    if has_dark_ground(image):
        gray = 1 - gray
    # Multiplied, the hue stays the vote's and the image shows as light and shade.
    return np.round(255 * tint * (0.8 + 0.2 * gray[..., None])).astype(np.uint8)


def has_dark_ground(image: np.ndarray) -> bool:
    """Whether most of a uint8 [H, W, C] image is all but black."""
    return bool(np.median(_gray(image)) < 0.1)


def color_limit(votes: np.ndarray) -> float:
    """The largest vote by size: the color scale runs from minus this to this. 1 if all votes are zero."""
    return float(np.max(np.abs(votes))) or 1.0


def value_text(vote: float, limit: float) -> str:
    """A vote as it is written on its patch: with one digit behind the point, or two if all votes are below 1."""
    return signed(vote, digits=1 if limit >= 1 else 2)


def number_colors(strength: float) -> tuple[str, str]:
    """Colors of the number on a vote of this strength (vote / limit, in [-1, 1]).

    The number is white or dark, whichever reads better on the vote's color, which is the halo that keeps the image
    away from the number.
    """
    tint = COLORS((1 + strength) / 2)
    luminance = np.dot(np.power(tint[:3], 2.2), (0.2126, 0.7152, 0.0722))
    return ("#ffffff" if luminance < 0.28 else "#1c2430"), to_hex(tint)


def gradient() -> str:
    """The colors of the votes from the lowest to the highest, as CSS."""
    stops = (COLORS(position)[:3] for position in np.linspace(0, 1, 9))
    return ", ".join("#" + "".join(f"{round(255 * channel):02x}" for channel in stop) for stop in stops)


def rgb(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 1 or 3] as uint8 [H, W, 3]. Raises ValueError for anything else."""
    if image.ndim != 3 or image.shape[-1] not in (1, 3) or image.dtype != np.uint8:
        raise ValueError(f"an image must be uint8 [H, W, 1 or 3], not {image.dtype} {image.shape}")
    return np.broadcast_to(image, (*image.shape[:2], 3))


def _gray(image: np.ndarray) -> np.ndarray:
    return rgb(image).astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) / 255
