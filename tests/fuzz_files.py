"""Mutated image files and random folders: each is read, or refused in one line; none ends in a traceback or hangs.

  nice -n 19 python -m tests.fuzz_files                            # 2 000 images, 500 folders; a few minutes
  python -m tests.fuzz_files --images=0 --folders=1 --first=123    # one of them again

Every case follows from its number alone. A case that takes a minute ends the program, with a traceback.
"""

import argparse
import collections
import contextlib
import faulthandler
import functools
import io
import os
import pathlib
import random
import sys
import tempfile
import traceback
import warnings

import numpy as np
from PIL import Image

from shapjax.config import default_config
from shapjax.data import images, sources
from shapjax.data.inputs import as_inputs
from shapjax.errors import UserError

KINDS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA")
SHAPE = (16, 16, 3)
SECONDS = 60  # that a case may take
CLASSES = ("a", "b", "猫", "é", "$x$ < & \"", "x" * 80, "of two")
RARE_CLASSES = ("e\u0301", "masks", "test", "__MACOSX", "new\nline")
FILES = ("x.jpg", "photo", "b.HEIC", "film.mp4", "m.h5", "Thumbs.db", ".DS_Store", "n\n.png", "empty.png", "notes.txt",
         "c.gif", "link.png", "pipe.png", "deep", "loop")


@functools.cache
def encoded(kind: str, variant: int) -> bytes:
    """Returns a small image of a kind, with metadata, gray or in color or with transparency."""
    pixels = np.random.default_rng(variant).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x011A] = 1 + variant % 8, "description", 72.0
    options = {"exif": exif} if kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF") else {}
    if kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        options["icc_profile"] = bytes(range(256))
    if variant % 3 == 1 and kind not in ("AVIF", "WEBP"):
        image = image.convert("L")
    elif variant % 3 == 2 and kind in ("PNG", "GIF", "WEBP", "TIFF", "TGA"):
        image.putalpha(128)
    elif kind == "JPEG" and variant % 2:
        image = image.convert("CMYK")
    if variant % 4 == 3 and kind in ("PNG", "GIF", "WEBP", "TIFF"):
        options |= {"save_all": True, "append_images": [image.transpose(Image.Transpose.ROTATE_180)]}
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def mutated(rng: random.Random) -> bytes:
    """Returns the file of an image, changed in one to three ways."""
    data = bytearray(encoded(rng.choice(KINDS), rng.randrange(12)))
    for _ in range(rng.randint(1, 3)):
        near = min(len(data), rng.choice((32, 200, len(data))))  # most of what decides lies at the beginning
        start = rng.randrange(near) if near else 0
        length = rng.choice((1, 2, 4, 30))
        match rng.randrange(7):
            case 0:
                data[start : start + length] = rng.randbytes(length)
            case 1:
                data[start : start + length] = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * length
            case 2:
                del data[start:]
            case 3:
                del data[start : start + length]
            case 4:
                data[start:start] = rng.randbytes(length)
            case 5:
                data[start:start] = data[start : start + 200]
            case 6:
                data[: start // 4] = encoded(rng.choice(KINDS), rng.randrange(12))[: start // 4]
    return bytes(data)


def image_case(rng: random.Random, directory: pathlib.Path) -> str:
    """Reads a mutated file in every way; returns "read" or "refused"."""
    path = directory / f"image{rng.choice(('.png', '.jpg', '', '.tif'))}"
    path.write_bytes(mutated(rng))
    results = []
    for read in (images.read_image, lambda path, image_shape: as_inputs(path, image_shape=image_shape).images[0]):
        try:
            results.append(read(path, image_shape=SHAPE))
        except UserError as error:
            require_one_line(error)
            results.append(None)
    one, other = results
    assert (one is None) == (other is None), "the same file is read in one way only"
    if one is not None:
        assert one.shape == SHAPE and one.dtype == np.uint8 and (one == other).all()
    try:
        images.check(str(path), thorough=True)
    except Exception:  # what `verification.size_or_error` takes for an unreadable image
        return "refused"
    assert one is not None, "an image that passed the check cannot be read"
    return "read"


def fill(rng: random.Random, directory: pathlib.Path, *, depth: int = 0) -> None:
    """Fills a directory of a class with what people have in theirs."""
    directory.mkdir(parents=True, exist_ok=True)
    for i in range(rng.choice((0, *6 * (1, 2, 5)))):
        (directory / f"{i}.png").write_bytes(encoded("PNG", rng.randrange(12)))
    for name in rng.sample(FILES, rng.choice((0, 0, 1, 2))):
        path = directory / name
        match name:
            case "link.png":
                path.symlink_to(rng.choice(("0.png", "nowhere", "link.png", "..", "/dev/zero")))
            case "loop":
                path.symlink_to(rng.choice((".", "..", "../..", "/etc/alternatives")), target_is_directory=True)
            case "pipe.png":
                os.mkfifo(path)
            case "deep":
                if depth < 3:
                    fill(rng, path, depth=depth + 1)
            case "empty.png":
                path.touch()
            case _:
                good = (encoded("JPEG", 0), encoded("PNG", 1), encoded("GIF", 2))
                path.write_bytes(rng.choice((b"no image", mutated(rng), *good)))


def folder_case(rng: random.Random, directory: pathlib.Path) -> str:
    """Loads both splits of a random folder; returns "read" or "refused"."""
    root = directory / "data"
    root.mkdir()
    splits = rng.choice((*2 * (("",), ("train", "test"), ("train", "val")), ("train",), ("train", "test", "extra")))
    names = rng.sample(CLASSES, rng.choice((0, 1, *3 * (2, 3, 4))))
    names += rng.sample(RARE_CLASSES, rng.choice((*8 * (0,), 1, 2)))
    for split in splits:
        for name in names:
            if rng.random() < 0.95:
                fill(rng, root / split / name)
        if rng.random() < 0.2:
            fill(rng, root / split)
    if rng.random() < 0.1:
        fill(rng, root / "masks" / (names or ["a"])[0])
    c = default_config()
    c.dataset = f"folder:{root}"
    c.data.corrupt, c.data.image_size = rng.choice(("fail", *3 * ("skip",))), rng.choice((0, *4 * (16,)))
    c.data.train_split = rng.choice(("train", "train", "train[:50%]"))
    c.data.cache_gib = rng.choice((0.0, 1.0))
    try:
        train, test = (sources.load_source(c, split) for split in sources.SPLITS)
        for source in (train, test):
            batch = source.read(np.arange(len(source)))
            assert len(source) and batch["image"].shape == (len(source), *train.image_shape)
            assert set(batch["label"]) <= set(range(len(train.class_names)))
        assert train.class_names == test.class_names
    except UserError as error:
        require_one_line(error)
        return "refused"
    return "read"


def require_one_line(error: UserError) -> None:
    """Raises AssertionError unless a message is one line that any terminal shows."""
    assert str(error) and "\n" not in str(error), repr(str(error))
    str(error).encode()


def run(name: str, case, numbers: range) -> tuple[collections.Counter, list[int]]:
    """Runs cases; returns how many ended how, and the numbers of those that failed."""
    ends, failed = collections.Counter(), []
    for number in numbers:
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        with tempfile.TemporaryDirectory() as directory, contextlib.redirect_stdout(io.StringIO()) as out:
            try:
                ends[case(random.Random(f"{name} {number}"), pathlib.Path(directory))] += 1
                out.getvalue().encode()
            except Exception:  # whatever it is, it is what we look for
                failed.append(number)
                print(f"{name} {number}\n{traceback.format_exc()}", file=sys.stderr)
        faulthandler.cancel_dump_traceback_later()
    return ends, failed


def main() -> None:
    """Reads the arguments, runs all cases, prints the counts; status 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--folders", type=int, default=500)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # of Pillow, as in the commands
    wrong = False
    for name, case, count in (("images", image_case, arguments.images), ("folders", folder_case, arguments.folders)):
        ends, failed = run(name, case, range(arguments.first, arguments.first + count))
        print(f"{count:,} {name}: {ends['read']:,} read, {ends['refused']:,} refused in one line, {len(failed)} failed"
              f"{f': {failed[:20]}' if failed else ''}", flush=True)
        wrong |= bool(failed)
    sys.exit(int(wrong))


if __name__ == "__main__":
    main()
