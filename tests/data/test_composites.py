"""Cut-outs on photographs: the mask is the object's, and nothing that is tested was seen in training."""

import csv
import types

import numpy as np
import pytest
from PIL import Image

from shapjax.cli import paste as command
from shapjax.config import default_config
from shapjax.data import composites
from shapjax.data.sources import load_source
from shapjax.errors import UserError


def cutout(color, *, size=(30, 20)):
    """A rectangle of a color, with a transparent border that is wider on the left."""
    image = Image.new("RGBA", (60, 40))
    image.paste(Image.new("RGBA", size, (*color, 255)), (25, 12))
    return image


@pytest.fixture
def parts(tmp_path):
    """Directories of cut-outs, in the classes red and blue, and of gray photographs."""
    for name, color in {"red": (255, 0, 0), "blue": (0, 0, 255)}.items():
        (tmp_path / "cutouts" / name / "deeper").mkdir(parents=True)
        for i in range(5):
            cutout(color).save(tmp_path / "cutouts" / name / "deeper" / f"{i}.png")
    (tmp_path / "photographs").mkdir()
    for i in range(5):
        Image.new("L", (50 + i, 40), 100 + i).save(tmp_path / "photographs" / f"{i}.jpg")
    return tmp_path


def run(parts, *names, **changes):
    flags = {"size": 32, "train": 7, "test": 3, "seed": 0} | changes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "_FLAGS", types.SimpleNamespace(**flags))
        command.main(["paste", *(str(parts / name) for name in names or ("cutouts", "photographs", "out"))])


def source(parts, split):
    c = default_config()
    c.dataset = f"folder:{parts / 'out'}"
    return load_source(c, split)


def test_the_mask_is_the_object(parts):
    run(parts)
    for split, count in (("train", 14), ("test", 6)):
        batch = source(parts, split).read(np.arange(count))
        for image, mask, label in zip(batch["image"].astype(int), batch["object_mask"], batch["label"], strict=True):
            color = image[..., [2, 0][label]] - image[..., 1]  # blue, red
            inner = mask[1:-1, 1:-1] & mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
            assert color[1:-1, 1:-1][inner].min() > 150 and np.median(color[~mask]) < 20
            height, width = (np.ptp(np.flatnonzero(mask.any(axis=axis))) + 1 for axis in (1, 0))
            assert 0.4 * 32 - 1 <= width <= 0.8 * 32 + 1 and width / height == pytest.approx(1.5, abs=0.25)


def test_no_part_of_a_test_image_was_seen_in_training(parts):
    run(parts)
    with (parts / "out" / "parts.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20 and all((parts / "out" / row["image"]).is_file() for row in rows)
    for part in ("cutout", "background"):
        train, test = ({row[part] for row in rows if row["image"].startswith(split)} for split in ("train", "test"))
        assert train and test and not train & test


def test_the_same_seed_makes_the_same_images(parts):
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(parts, "cutouts", "photographs", out, seed=seed)
    a, b, c = ([file.read_bytes() for file in sorted((parts / out).rglob("*.jpg"))] for out in "abc")
    assert a == b and a != c


def test_objects_lie_everywhere_and_are_mirrored():
    item = cutout((255, 0, 0))
    item.putpixel((25, 12), (0, 255, 0, 255))
    item = item.resize((240, 160), Image.Resampling.NEAREST)
    rng, gray = np.random.default_rng(0), Image.new("RGB", (64, 64), "gray")
    places, green = [], []
    for _ in range(200):
        image, mask = composites.paste(item, gray, rng)
        rows, columns = np.nonzero(np.asarray(mask))
        places.append((rows.min() / (64 - np.ptp(rows)), columns.min() / (64 - np.ptp(columns))))
        corner = np.asarray(image)[rows.min() + 1, [columns.min() + 1, columns.max() - 1]].astype(int)
        green.append(np.argmax(corner[:, 1] - corner[:, 0]))
    assert np.ptp(places, axis=0) == pytest.approx([1, 1], abs=0.1) and np.mean(green) == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize(("change", "message"), [
    (lambda p: Image.new("RGB", (9, 9)).save(p / "cutouts/red/deeper/0.png"), "deeper/0.png: it is not a cut-out"),
    (lambda p: Image.new("RGBA", (9, 9)).save(p / "cutouts/red/deeper/0.png"), "deeper/0.png: it is not a cut-out"),
    (lambda p: (p / "photographs/0.jpg").write_bytes(b"no"), "photographs/0.jpg is not an image"),
    (lambda p: [(p / f"photographs/{i}.jpg").unlink() for i in range(4)], "photographs has 1 images; expected"),
    (lambda p: [(p / f"cutouts/red/deeper/{i}.png").unlink() for i in range(4)], "red has 1 images; expected at"),
    (lambda p: (p / "out").mkdir(), "out exists already; give another directory")])
def test_bad_input_is_one_line_and_nothing_is_half_written(parts, change, message):
    change(parts)
    with pytest.raises(UserError, match=message) as error:
        run(parts, train=10, test=5)
    assert "\n" not in str(error.value)
    assert not (parts / "out.part").exists() and not list(parts.glob("out/*"))


def test_directories_are_checked(parts):
    with pytest.raises(UserError, match="there is no directory .*/none"):
        run(parts, "cutouts", "none", "out")
    with pytest.raises(UserError, match="expected three directories, .* but got .*cutouts"):
        run(parts, "cutouts")
