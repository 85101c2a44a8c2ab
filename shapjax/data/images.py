"""Reads encoded images of nearly any kind as the arrays that a model takes."""

import functools
import math
import os
import warnings
import zipfile
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from shapjax.data.boxes import Box, central_box
from shapjax.errors import UserError, few
from shapjax.paths import as_path

MODES = {1: "L", 3: "RGB"}  # Pillow's, by channels
_ORIENTATION = 0x0112  # the EXIF tag


def read_image(path: str | os.PathLike, *, image_shape: tuple[int, int, int]) -> np.ndarray:
    """Reads an image as uint8 [H,W,C], image_shape = (H, W, C).

    EXIF orientation is applied, and the largest centered area of the aspect H:W resized to (H, W): see `decode`.

    Args:
      path: of the file; a leading ~ is the home directory.
      image_shape: (H, W, C), C 1 or 3.

    Raises:
      UserError: if C is neither; or if the file is missing, not a file, empty, damaged, not an image, of more pixels
        than Pillow's guard against decompression bombs lets pass, or of floats, whose white is not defined.
    """
    height, width, channels = image_shape
    if channels not in MODES:
        raise UserError(f"images are read with 1 (gray) or 3 (RGB) channels, not {channels}; "
                        f"the model wants {height}x{width}x{channels}")
    path = as_path(path)
    if not path.exists():
        raise UserError(f"there is no image file {path}; check the path")
    if not path.is_file():
        raise UserError(f"{path} is a directory, or no regular file; give the path of one image file")
    if path.stat().length == 0:
        raise UserError(f"the image file {path} is empty (0 bytes); give another file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `decode` refuses where Pillow warns
            with path.open("rb") as file:
                return decode(file, functools.partial(central_box, shape=image_shape[:2]), image_shape=image_shape,
                              upright=True)
    except Exception as error:  # on damaged files decoders raise nearly anything
        raise unreadable(str(path), error) from error


def decode(file: str | BinaryIO, box_of: Callable[[int, int], Box], *, image_shape: tuple[int, int, int],
           upright: bool, fast: bool = False) -> np.ndarray:
    """Decodes a part of an image and resizes it.

    C = 1 gives luminance (ITU-R 601), C = 3 RGB. Transparency is composited on white, 16-bit gray scaled to 8 bits
    (32-bit integers count as 16-bit ones); of an animation the first frame is taken. Resizing is antialiased; a part
    that has the size (H, W) and lies on whole pixels keeps its pixels. JPEG files are decoded at a reduced size where
    each side of the part still has at least twice the pixels of (H, W).

    Args:
      file: a path, or an open file.
      box_of: (width, height) of the upright image -> the part, in its pixels.
      image_shape: (H, W, C) of the result, C 1 or 3.
      upright: apply EXIF orientation.
      fast: for training, where each image is seen many times: bilinear, not bicubic; JPEG decoded at a reduced size
        where the part still has (H, W) pixels.

    Returns:
      uint8 [H,W,C].

    Raises:
      Exception: of nearly any type, on damaged files; `unreadable` turns it into a UserError.
    """
    with Image.open(file) as image:
        return take_part(image, box_of, image_shape=image_shape, upright=upright, fast=fast)


def take_part(image: Image.Image, box_of: Callable[[int, int], Box], *, image_shape: tuple[int, int, int],
              upright: bool, fast: bool = False) -> np.ndarray:
    """Resizes a part of an image of Pillow; arguments, result and errors as of `decode`."""
    height, width, channels = image_shape
    _require_size(image)
    stored_width, stored_height = upright_size(image) if upright else image.size
    left, top, right, bottom = box_of(stored_width, stored_height)
    needed = (1 if fast else 2) * max(width / (right - left), height / (bottom - top))
    if needed < 1:
        image.draft(None, tuple(math.ceil(side * needed) for side in image.size))
    if upright and image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    image = flatten(image)
    if image.mode != MODES[channels]:
        image = image.convert(MODES[channels])
    x, y = image.width / stored_width, image.height / stored_height  # less than 1 for a reduced JPEG
    box = (left * x, top * y, min(right * x, image.width), min(bottom * y, image.height))
    image = image.resize((width, height), Image.Resampling.BILINEAR if fast else Image.Resampling.BICUBIC, box=box,
                         reducing_gap=2.0 if fast else None)
    return np.array(image).reshape(image_shape)


def decode_mask(file: str | BinaryIO, box_of: Callable[[int, int], Box], *, shape: tuple[int, int], background: int
                ) -> np.ndarray:
    """Decodes the part of a segmentation mask that `decode` takes of its image, and resizes it to nearest pixels.

    Args:
      file: a path, or an open file: a one-channel image of class numbers.
      box_of: as in `decode`.
      shape: (H, W) of the result.
      background: the class number that is not the object.

    Returns:
      bool [H,W], True on the object.
    """
    with Image.open(file) as image:
        return np.asarray(image.resize(shape[::-1], Image.Resampling.NEAREST, box=box_of(*image.size))) != background


def check(file: str | BinaryIO, *, thorough: bool) -> tuple[int, int]:
    """Checks that an image can be read.

    Args:
      file: a path, or an open file.
      thorough: decode it in any case. Otherwise a JPEG file that has a header and an end passes: few are damaged
        between the two, and this is much faster.

    Returns:
      its (width, height), upright.

    Raises:
      Exception: of nearly any type, if it cannot be read; `unreadable` turns it into a UserError.
    """
    with Image.open(file) as image:
        _require_size(image)
        size = upright_size(image)
        if not thorough and image.format == "JPEG" and _has_end_marker(image.fp):
            return size
        image.draft(None, (1, 1))
        flatten(image).load()
        return size


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Returns (width, height) after EXIF orientation."""
    width, height = image.size
    return (height, width) if image.getexif().get(_ORIENTATION, 1) >= 5 else (width, height)


def unreadable(name: str, error: Exception) -> UserError:
    """Returns a UserError in place of an error of decoding; name: of the image."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        return UserError(f"the image {name} has more than {Image.MAX_IMAGE_PIXELS / 1e6:.0f} megapixels; "
                         "give a smaller copy")
    if isinstance(error, UnidentifiedImageError):
        return UserError(f"{name} is not an image in a format that Pillow reads; convert it to PNG or JPEG")
    reason = " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())
    return UserError(f"cannot read the image {name}: {reason}; give another file")


def _require_size(image: Image.Image) -> None:
    """Raises DecompressionBombError for sizes at which Pillow only warns."""
    if image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError


def _has_end_marker(file: BinaryIO) -> bool:
    """Returns whether a JPEG file ends as it should."""
    position = file.tell()
    file.seek(-2, os.SEEK_END)
    marker = file.read(2)
    file.seek(position)
    return marker == b"\xff\xd9"


def flatten(image: Image.Image) -> Image.Image:
    """Returns the image on white and with 8 bits a channel, ready for conversion to gray or RGB.

    Raises:
      ValueError: on pixels that are floats, or go beyond 16 bits.
    """
    if image.mode == "F":
        raise ValueError("its pixels are floats, whose white is not defined; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("its pixels go beyond 16 bits (0..65535); save it with 8 or 16 bits")
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def read_masks(path: str | os.PathLike, *, shape: tuple[int, int, int]) -> np.ndarray:
    """Reads object masks of images.

    Args:
      path: an .npy with an array [n, H, W] of bools or integers, or an .npz that holds one as "masks".
      shape: (n, H, W) to expect; of more masks, the first n are taken.

    Returns:
      bools or integers [n, H, W]: positive on the object, 0 on the background, negative where not labeled.

    Raises:
      UserError: if the file is missing, holds no such array, or one of another type or size.
    """
    return _read_arrays(path, "masks", kinds="biu", wanted="bools or integers", shape=shape)["masks"][: shape[0]]


def read_maps(path: str | os.PathLike, *, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads maps of images that another program has made.

    Args:
      path: an .npy with an array [n, gh, gw] of floats, or an .npz that holds one as "maps" and may hold the classes
        that they explain, int [n], as "targets".
      shape: (n, gh, gw) to expect; of more maps, the first n are taken.

    Returns:
      finite floats [n, gh, gw], and the classes int [n] or None.

    Raises:
      UserError: if the file is missing, holds no such array, or one of another type or size, or values that are not
        finite.
    """
    arrays = _read_arrays(path, "maps", kinds="f", wanted="floats", shape=shape)
    maps, targets = arrays["maps"][: shape[0]], arrays.get("targets")
    if bad := [str(i) for i in np.flatnonzero(~np.isfinite(maps).all(axis=(1, 2)))]:
        raise UserError(f"the maps of {path} are not finite for images {few(bad)}; make these again")
    return maps, targets if targets is None else targets[: shape[0]]


def _read_arrays(path: str | os.PathLike, name: str, *, kinds: str, wanted: str, shape: tuple[int, ...]
                 ) -> dict[str, np.ndarray]:
    """Returns the arrays of an .npz, or an .npy's by this name, of which that of this name has the kind and the shape.

    It may have more rows. Raises UserError otherwise.
    """
    path, wanted = as_path(path), f"expected {wanted} [{', '.join(map(str, shape))}]"
    try:
        with path.open("rb") as file:
            stored = np.load(file, allow_pickle=False)
            arrays = {name: stored} if isinstance(stored, np.ndarray) else dict(stored)
        array = arrays[name]
    except FileNotFoundError:
        raise UserError(f"there is no file of {name} {path}; check the path") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        raise UserError(f"{path} is neither an .npy of {name} nor an .npz with an array \"{name}\"; {wanted}") from None
    if array.ndim != 3 or len(array) < shape[0] or array.shape[1:] != tuple(shape[1:]) or array.dtype.kind not in kinds:
        raise UserError(f"the {name} of {path} are {array.dtype} {list(array.shape)}; {wanted}")
    return arrays
