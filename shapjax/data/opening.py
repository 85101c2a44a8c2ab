"""Opens image files of the kinds that are read, whatever is wrong with their metadata."""

import contextlib
import functools
import io
import os
import struct
import zlib
from typing import BinaryIO

from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from shapjax.errors import UserError

with contextlib.suppress(ImportError):  # an optional dependency, for HEIC
    import pillow_heif

    pillow_heif.register_heif_opener()

# Kinds that Pillow knows and does not decode, or only by running another program.
_NOT_READ = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_PNG = b"\x89PNG\r\n\x1a\n"
_COMMON = {"AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "PNG", "TIFF", "WEBP"}  # have a signature of their own
_HEIF = (".heic", ".heif", ".hif")
_ORIENTATION = 0x0112  # the EXIF tag; what turns an image of each value but 1 upright:
UPRIGHT = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
           5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
           8: Image.Transpose.ROTATE_90}


@functools.cache
def kinds() -> tuple[str, ...]:
    """Returns Pillow's names of the kinds of images that are read."""
    Image.init()
    return tuple(kind for kind in Image.ID if kind not in _NOT_READ)


@functools.cache
def suffixes() -> frozenset[str]:
    """Returns the suffixes, in lower case, of files of the kinds that are read."""
    read = {*kinds(), "MPO"}  # which are JPEG files with more than one image
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in read)


def begins_as_image(path: str) -> bool:
    """Returns whether a file begins as an image of a common kind does, whatever its name."""
    try:
        with Image.open(path, formats=[kind for kind in kinds() if kind in _COMMON]):
            return True
    except Exception:  # on damaged files decoders raise nearly anything
        return False


def how_to_read(suffix: str) -> str:
    """Returns what to install for images of a suffix that is not read; "" where nothing would help."""
    suffix = suffix.lower()
    if suffix in suffixes():
        return ""
    return "`pip install pillow-heif`" if suffix in _HEIF else "`pip install -U pillow`" if suffix == ".avif" else ""


def open_image(file: str | BinaryIO) -> Image.Image:
    """Opens an image of a kind that is read. Broken metadata of a PNG file are left out.

    Args:
      file: a path, or an open file.

    Raises:
      Exception: of nearly any type, on damaged files; `unreadable` turns it into a UserError.
    """
    try:
        return _open(file)
    except Image.DecompressionBombError:
        raise
    except Exception:  # one broken chunk is enough for Pillow
        if isinstance(file, str | os.PathLike):
            with open(file, "rb") as opened:
                data = opened.read()
        else:
            file.seek(0)
            data = file.read()
        if not data.startswith(_PNG):
            raise
        return _open(io.BytesIO(_without_metadata(data)))


def _open(file: str | BinaryIO) -> Image.Image:
    """Opens an image, and decodes a PNG file, whose metadata may lie behind its pixels."""
    image = Image.open(file, formats=kinds())
    try:
        require_size(image)
        if image.format == "PNG":
            image.load()
    except BaseException:
        image.close()
        raise
    return image


def _without_metadata(data: bytes) -> bytes:
    """Returns a PNG file without the chunks that its pixels do not need; whole EXIF stays, it tells what is up."""
    kept, start = [_PNG], len(_PNG)
    while start + 12 <= len(data):
        end = start + 12 + struct.unpack(">I", data[start : start + 4])[0]
        kind, checked = data[start + 4 : start + 8], struct.pack(">I", zlib.crc32(data[start + 4 : end - 4]))
        if kind[:1].isupper() or kind in (b"tRNS", b"eXIf") and data[end - 4 : end] == checked:
            kept.append(data[start:end])
        start = end
    return b"".join(kept)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Returns (width, height) after EXIF orientation."""
    width, height = image.size
    return (height, width) if orientation(image) >= 5 else (width, height)


def orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 to 8; 1 where there is none, or none that has a meaning."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return 1  # Pillow itself turns these, and has their size upright
    try:
        value = image.getexif().get(_ORIENTATION)
    except Exception:  # broken EXIF raises nearly anything, and its pixels are good
        return 1
    return value if isinstance(value, int) and value in UPRIGHT else 1


def unreadable(name: str, error: Exception) -> UserError:
    """Returns a UserError in place of an error of decoding; name: of the image."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        return UserError(f"the image {name} has more than {Image.MAX_IMAGE_PIXELS / 1e6:.0f} megapixels; "
                         "give a smaller copy")
    if isinstance(error, UnidentifiedImageError):
        plugin = how_to_read(os.path.splitext(name)[1])
        return UserError(f"{name} is not an image in a format that is read; "
                         f"{f'{plugin} to read it, or ' if plugin else ''}convert it to PNG or JPEG")
    reason = " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())
    return UserError(f"cannot read the image {name}: {reason}; give another file")


def require_size(image: Image.Image) -> None:
    """Raises DecompressionBombError for sizes at which Pillow only warns."""
    if image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError
