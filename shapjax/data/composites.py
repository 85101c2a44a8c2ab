"""A dataset whose objects are known to the pixel: cut-outs, pasted on photographs."""

import csv
import functools
import itertools
import os
import pathlib
from typing import NamedTuple

import numpy as np
import tqdm
from PIL import Image

from shapjax.data import boxes, folder, images, opening
from shapjax.errors import UserError

BACKGROUND_SHARE = 0.5, 1.0  # of a photograph's area that is seen
OBJECT_SIDE = 0.4, 0.8  # the longer side of the object over that of the image
OPAQUE = 128  # from this alpha of 255 on a pixel belongs to the object


class Split(NamedTuple):
    """Names the files that the images of a split are made of.

    Attributes:
      cutouts: class name -> files with a transparent background.
      backgrounds: files.
    """

    cutouts: dict[str, list[str]]
    backgrounds: list[str]


def find(cutouts: str, backgrounds: str) -> dict[str, Split]:
    """Divides cut-outs and photographs between "train" and "test": no file is in both.

    Args:
      cutouts: a directory with one of images for each class.
      backgrounds: a directory of images, at any depth.

    Raises:
      UserError: if one is missing, or has less than two classes, or two files a class or of photographs.
    """
    for path in (cutouts, backgrounds):
        if not os.path.isdir(path):
            raise UserError(f"there is no directory {path}; expected one of cut-outs, with a directory for each class, "
                            "and one of photographs")
    others = {}
    classes, photographs = folder.classes_in(cutouts), folder.image_files(backgrounds, ".", others)
    folder.say_left_out(backgrounds, others)
    for name, files in (classes | {backgrounds: photographs}).items():
        if len(files) < 2:
            raise UserError(f"{name} has {len(files)} images; expected at least two, one to train and one to test")

    def files_of(listed: folder.Files, test: bool) -> list[str]:
        return [file for _, file in folder.part(listed, test=test)]

    return {split: Split({name: files_of(listed, split == "test") for name, listed in classes.items()},
                         files_of(photographs, split == "test")) for split in ("train", "test")}


def paste(cutout: Image.Image, background: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """Pastes an object on an image, at a random size and place and as often as not mirrored.

    Args:
      cutout: RGBA.
      background: RGB, a square.
      rng: advanced by the same amount whatever the images are.

    Returns:
      the image, RGB, and its mask, L: 255 on the object and 0 elsewhere; of the size of the background.

    Raises:
      ValueError: if the cut-out has no opaque pixel, or no other.
    """
    (side, top, left, mirrored), size = rng.random(4), background.width
    opaque = cutout.getchannel("A").point(lambda alpha: 255 * (alpha >= OPAQUE))
    bounds, (least, _) = opaque.getbbox(), opaque.getextrema()
    if not bounds or least:
        raise ValueError("it is not a cut-out: its background should be transparent, and the object opaque")
    item = cutout.crop(bounds)
    low, high = OBJECT_SIDE
    scale = size * (low + (high - low) * side) / max(item.size)
    item = item.resize([max(1, round(scale * length)) for length in item.size], Image.Resampling.BICUBIC)
    if mirrored < 0.5:
        item = item.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    layer = Image.new("RGBA", background.size)
    layer.paste(item, (round(left * (size - item.width)), round(top * (size - item.height))))
    mask = layer.getchannel("A").point(lambda alpha: 255 * (alpha >= OPAQUE))
    return Image.alpha_composite(background.convert("RGBA"), layer).convert("RGB"), mask


def write(splits: dict[str, Split], output: pathlib.Path, *, size: int, counts: dict[str, int], seed: int) -> None:
    """Writes OUTPUT/SPLIT/CLASS/N.jpg, the masks OUTPUT/masks/SPLIT/CLASS/N.png, and what each is made of, parts.csv.

    Every cut-out of a class is used equally often, on random photographs.

    Args:
      splits: by name.
      output: a directory that does not exist yet.
      size: the side of the images in pixels.
      counts: split -> images a class.
      seed: of the random choices.

    Raises:
      UserError: on a file that is no image or no cut-out; names it.
    """
    rows, rng = [], np.random.default_rng(seed)
    total = sum(counts[name] * len(split.cutouts) for name, split in splits.items())
    with tqdm.tqdm(total=total, unit="image", desc="pasting") as bar:
        for name, split in splits.items():
            for class_name, cutouts in split.cutouts.items():
                place = pathlib.Path(name, class_name)
                (output / place).mkdir(parents=True)
                (output / folder.MASKS / place).mkdir(parents=True)
                for i, cutout in enumerate(itertools.islice(itertools.cycle(cutouts), counts[name])):
                    background = split.backgrounds[rng.integers(len(split.backgrounds))]
                    image, mask = _pasted(cutout, background, rng, size)
                    image.save(output / place / f"{i:05}.jpg", quality=95)
                    mask.save(output / folder.MASKS / place / f"{i:05}.png")
                    rows.append((place / f"{i:05}.jpg", cutout, background))
                    bar.update()
    with (output / "parts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "cutout", "background"), *rows])


def _pasted(cutout: str, background: str, rng: np.random.Generator, size: int) -> tuple[Image.Image, Image.Image]:
    """Returns `paste` on a random part of a photograph; raises UserError that names a file that cannot be used."""
    (area, y, x), (low, high) = rng.random(3), BACKGROUND_SHARE
    box_of = functools.partial(boxes.crop_box, crop=(low + (high - low) * area, 1.0, y, x))
    try:
        photograph = images.decode(background, box_of, image_shape=(size, size, 3), upright=True)
    except Exception as error:  # on damaged files decoders raise nearly anything
        raise opening.unreadable(background, error) from error
    try:
        with opening.open_image(cutout) as file:
            return paste(file.convert("RGBA"), Image.fromarray(photograph), rng)
    except Exception as error:
        raise opening.unreadable(cutout, error) from error
