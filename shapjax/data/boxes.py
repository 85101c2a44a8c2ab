"""The part of an image that is seen, as a box (left, top, right, bottom) in pixels inside the image."""

import math
from collections.abc import Sequence

Box = tuple[float, float, float, float]


def central_box(width: int, height: int, *, shape: tuple[int, int], share: float = 1.0) -> Box:
    """Returns the box of the center of an image.

    Args:
      width, height: of the image.
      shape: (H, W) that the part will be resized to; the box has this aspect.
      share: of the sides of the largest box of this aspect. 0.875 is the protocol of ImageNet: to resize the shorter
        side to 256 and to cut out the central 224 (Krizhevsky et al. 2012). An image that has the size (H, W) already
        is seen whole, whatever the share.
    """
    if (height, width) == tuple(shape):
        return 0, 0, width, height
    scale = share * min(height / shape[0], width / shape[1])
    return _placed(width, height, scale * shape[1], scale * shape[0], 0.5, 0.5)


def crop_box(width: int, height: int, crop: Sequence[float]) -> Box:
    """Returns the box of a random-resized crop (Szegedy et al. 2015, arXiv 1409.4842; torchvision's RandomResizedCrop).

    Args:
      width, height: of the image.
      crop: float [4]: its share of the image's area, its aspect (width over height), and its place in the room that is
        left, from 0 (top, left) to 1 (bottom, right), first vertically. A side that does not fit is as long as the
        image's.
    """
    area, aspect, y, x = map(float, crop)
    return _placed(width, height, math.sqrt(area * width * height * aspect),
                   math.sqrt(area * width * height / aspect), y, x)


def _placed(width: int, height: int, w: float, h: float, y: float, x: float) -> Box:
    """Returns the box of w x h pixels, cut to the image, at the place (y, x) in [0, 1]² of the room that is left."""
    w, h = min(max(w, 1.0), width), min(max(h, 1.0), height)
    left, top = x * (width - w), y * (height - h)
    return left, top, min(left + w, width), min(top + h, height)
