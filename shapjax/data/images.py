"""One image file of nearly any kind to the array that a model takes."""

import os
import warnings
import zipfile

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from shapjax.errors import UserError

_MODES = {1: "L", 3: "RGB"}


def read_image(path: str | os.PathLike, *, image_shape: tuple[int, int, int]) -> np.ndarray:
    """The image at `path` as uint8 [H,W,C], image_shape = (H, W, C).

    The largest centred area with the aspect H:W is resized to (H, W) (antialiased bicubic): the same as
    resizing the image until it just covers (H, W), then cropping its centre. An image of that size keeps its
    pixels.

    C = 1 gives luminance (ITU-R 601), C = 3 RGB. EXIF orientation is applied, transparency composited on
    white, 16-bit grey scaled to 8 bits (32-bit integers count as 16-bit ones); of an animation the first
    frame is taken. Large JPEG files are decoded at a reduced size that is still at least twice (H, W).

    Raises:
      UserError: C is not 1 or 3; or the file is missing, not a file, empty, damaged, not an image, of more
        pixels than Pillow's guard against decompression bombs lets pass, or of pixels without a defined white
        (float).
    """
    height, width, channels = image_shape
    if channels not in _MODES:
        raise UserError(f"images are read with 1 (grey) or 3 (RGB) channels, not {channels}; "
                        f"the model wants {height}x{width}x{channels}")
    if not os.path.exists(path):
        raise UserError(f"there is no image file {path}; check the path")
    if not os.path.isfile(path):
        kind = "a directory" if os.path.isdir(path) else "not a regular file"
        raise UserError(f"{path} is {kind}; give the path of one image file")
    if os.path.getsize(path) == 0:
        raise UserError(f"the image file {path} is empty (0 bytes); give another file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = _decode(path, at_least=2 * max(height, width))
            image = _flatten(image).convert(_MODES[channels])
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise UserError(f"the image {path} has more than {Image.MAX_IMAGE_PIXELS / 1e6:.0f} megapixels; "
                        "give a smaller copy") from None
    except UnidentifiedImageError:
        raise UserError(f"{path} is not an image in a format that Pillow reads; "
                        "convert it to PNG or JPEG") from None
    except Exception as error:  # on damaged files decoders raise nearly anything
        reason = " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())
        raise UserError(f"cannot read the image {path}: {reason}; give another file") from error
    return np.array(ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)).reshape(image_shape)


def _decode(path: str | os.PathLike, at_least: int) -> Image.Image:
    """The upright image; large JPEG files at a reduced size whose sides are still `at_least` pixels long."""
    with Image.open(path) as image:
        image.draft(None, (at_least, at_least))
        return ImageOps.exif_transpose(image)


def _flatten(image: Image.Image) -> Image.Image:
    """The image without transparency and with 8 bits a channel, ready for conversion to grey or RGB."""
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
    """Segmentation masks of images: positive on the object, 0 on the background, negative where not labelled.

    Args:
      path: an .npy with an array [n, H, W] of bools or integers, or an .npz that holds one as "masks".
      shape: (n, H, W) to expect; of more masks, the first n are taken.

    Raises:
      UserError: if the file is missing, holds no such array, or one of another type or size.
    """
    wanted = f"expected bools or integers [{', '.join(map(str, shape))}]"
    try:
        stored = np.load(path, allow_pickle=False)
        masks = stored if isinstance(stored, np.ndarray) else stored["masks"]
    except FileNotFoundError:
        raise UserError(f"there is no file of masks {path}; check the path") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        raise UserError(f"{path} is not an .npy of masks, nor an .npz with an array \"masks\"; {wanted}") from None
    if masks.ndim != 3 or len(masks) < shape[0] or masks.shape[1:] != tuple(shape[1:]) or masks.dtype.kind not in "biu":
        raise UserError(f"the masks of {path} are {masks.dtype} {list(masks.shape)}; {wanted}")
    return masks[: shape[0]]
