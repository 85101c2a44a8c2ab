"""Encodes images and figures as data inside the page."""

import base64
import io

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from shapjax.report import figures


def image_uri(image: np.ndarray) -> str:
    """Returns a data: address of uint8 [H, W, 1 or 3]: a small image to the bit, as PNG, a photograph as JPEG."""
    buffer = io.BytesIO()
    # JPEG takes a fifth of the bytes; subsampling would blur the edges of patches.
    kind, options = ("png", {}) if is_small(image) else ("jpeg", {"quality": 88, "subsampling": 0})
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, kind, optimize=True, **options)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()


def svg_uri(figure: Figure) -> str:
    """Returns a data: address of a matplotlib figure as SVG."""
    svg = figures.figure_bytes(figure, format="svg", transparent=True)
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()


def image_height(image: np.ndarray) -> float:
    """Returns the height of an image that is 100 units wide."""
    return round(100 * image.shape[0] / image.shape[1], 2)


def is_small(image: np.ndarray) -> bool:
    """Returns whether the image is shown enlarged, its pixels as squares; a photograph is shown smooth."""
    return max(image.shape[:2]) <= 96
