"""Turns what people have in hand, paths, Pillow's images, arrays, into the images that a model takes."""

import functools
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from shapjax.data.boxes import central_box
from shapjax.data.images import MODES, read_image, take_part
from shapjax.data.opening import UPRIGHT, open_image, orientation, unreadable, upright_size
from shapjax.errors import UserError
from shapjax.paths import as_path

_EXPECTED = "expected a path, an image of Pillow, an array [H, W, C] or [B, H, W, C], or a list of these"
_GRAY = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L")  # modes of Pillow


class Inputs(NamedTuple):
    """Holds images as a model takes them.

    Attributes:
      images: uint8 [B, H, W, C], or float32 in [0, 1] where floats of that size were given.
      names: of each image, a path or "image 0".
      changes: what was done to each: "as given", or what applies of "turned upright, made gray, center cut out of
        500x375 and resized to 28x28".
    """

    images: np.ndarray
    names: tuple[str, ...]
    changes: tuple[str, ...]


def as_inputs(given: Any, *, image_shape: tuple[int, int, int]) -> Inputs:
    """Returns images of a model's size. Those that have it stay as they are; others are prepared as in evaluation.

    The largest centered area of the model's aspect is resized, and colors become gray or gray RGB where the model wants
    that.

    Args:
      given: a path, an image of Pillow, an array [H, W], [H, W, C] or [B, H, W, C], uint8 or floats in [0, 1], or a
        list of these.
      image_shape: (H, W, C) of the model.

    Raises:
      UserError: if it is nothing of this, or an image cannot be read; names it.
    """
    if isinstance(given, str | os.PathLike | Image.Image):
        given = [given]
    elif not isinstance(given, list | tuple):
        given = _unstacked(given)
    if not len(given):
        raise UserError(f"there is no image; {_EXPECTED}")
    if isinstance(given, np.ndarray) and given.dtype == np.uint8 and given.shape[1:] == tuple(image_shape):
        return Inputs(given, tuple(f"image {i}" for i in range(len(given))), ("as given",) * len(given))
    parts = [_one(item, f"image {i}", image_shape) for i, item in enumerate(given)]
    images, names, changes = zip(*parts, strict=True)
    if any(image.dtype != np.uint8 for image in images):
        images = [image / np.float32(255) if image.dtype == np.uint8 else image for image in images]
    return Inputs(np.stack(images), names, changes)


def _unstacked(given: Any) -> Sequence[np.ndarray]:
    """Returns the images of an array."""
    array = np.asarray(given)
    if array.dtype == object or array.ndim not in (2, 3, 4):
        found = type(given).__name__ if array.dtype == object else f"{array.dtype} {list(array.shape)}"
        raise UserError(f"the images are {found}; {_EXPECTED}")
    return array if array.ndim == 4 else array[None]


def _one(item: Any, name: str, image_shape: tuple[int, int, int]) -> tuple[np.ndarray, str, str]:
    """Returns one image of the model's size, its name, and what was done to it."""
    if isinstance(item, str | os.PathLike):
        image = read_image(item, image_shape=image_shape)
        with as_path(item).open("rb") as file, open_image(file) as picture:
            return image, os.fspath(item), _change(picture, image_shape)
    if isinstance(item, Image.Image):
        return _prepared(item, name, image_shape), name, _change(item, image_shape)
    array = np.asarray(item)
    if array.ndim not in (2, 3):
        raise UserError(f"{name} is {type(item).__name__} {list(array.shape)}; {_EXPECTED}")
    array = array if array.ndim == 3 else array[..., None]
    require_pixels(array, name)
    if array.shape == tuple(image_shape):
        return array if array.dtype == np.uint8 else array.astype(np.float32), name, "as given"
    if array.shape[-1] not in (1, 3, 4) or not array.size:
        raise UserError(f"{name} is {list(array.shape)}, expected [H, W, C] with C of 1, 3 or 4")
    pixels = array if array.dtype == np.uint8 else np.round(255 * array).astype(np.uint8)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    return _prepared(picture, name, image_shape), name, _change(picture, image_shape)


def require_pixels(array: np.ndarray, name: str) -> None:
    """Raises UserError unless an array is uint8, or floats in [0, 1] of any width.

    Args:
      name: of the image or images, for the message.
    """
    floats = jax.dtypes.issubdtype(array.dtype, np.floating)  # bfloat16 too
    if array.dtype != np.uint8 and not (floats and np.all((array >= 0) & (array <= 1))):
        found = f"{array.dtype} from {array.min()} to {array.max()}" if array.size else str(array.dtype)
        raise UserError(f"{name} is {found}, expected uint8, or floats in [0, 1]")


def _prepared(picture: Image.Image, name: str, image_shape: tuple[int, int, int]) -> np.ndarray:
    """Returns the center of a picture at the model's size, as `read_image` does for a file."""
    if image_shape[2] not in MODES:
        raise UserError(f"{name} is not of the model's size {image_shape}, and images of {image_shape[2]} channels "
                        "cannot be resized; give an array of that shape")
    box_of = functools.partial(central_box, shape=image_shape[:2])
    try:
        picture.load()  # else a JPEG file would be decoded at a reduced size, and stay so for whoever has opened it
        return take_part(picture, box_of, image_shape=image_shape, upright=True)
    except Exception as error:  # on damaged pictures Pillow raises nearly anything
        raise unreadable(name, error) from error


def _change(picture: Image.Image, image_shape: tuple[int, int, int]) -> str:
    """Returns what is done to a picture."""
    (height, width, channels), size, changes = image_shape, upright_size(picture), []
    if orientation(picture) in UPRIGHT:
        changes.append("turned upright")
    if channels == 1 and picture.mode not in _GRAY:
        changes.append("made gray")
    if size != (width, height):
        changes.append(f"center cut out of {size[0]}x{size[1]} and resized to {width}x{height}")
    return ", ".join(changes) or "as given"
