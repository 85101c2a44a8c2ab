"""Folders of images: classes and splits, decoding and crops, and mistakes named with the file."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from shapjax import paths
from shapjax.config import default_config
from shapjax.data import folder
from shapjax.data.encoded import EncodedSource
from shapjax.data.sources import ArraySource, load_source
from shapjax.errors import UserError

COLORS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


def config(path, crop_area=1.0, **data):
    c = default_config()
    c.dataset, c.augment.crop_area = f"folder:{path}", crop_area
    c.data.update(data)
    return c


def fill(directory: pathlib.Path, counts: dict[str, int], *, sizes=((12, 12),), suffix="png") -> None:
    """Writes images of one color, that of their class; sizes (width, height) in turn."""
    for name, count in counts.items():
        (directory / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.new("RGB", sizes[i % len(sizes)], COLORS[name]).save(directory / name / f"{i}.{suffix}")


def everything(source):
    return source.read(np.arange(len(source)))


def names(path, split):
    records = folder.open_records(str(path), split)
    return [str(pathlib.Path(records.name(i)).relative_to(path)) for i in range(len(records))]


def test_labels_are_the_sorted_directories_and_images_are_theirs(tmp_path):
    fill(tmp_path / "train", {"red": 5, "blue": 3, "green": 4})
    fill(tmp_path / "test", {"red": 1, "blue": 1, "green": 1})
    train, test = (load_source(config(tmp_path), split) for split in ("train", "test"))
    assert isinstance(train, ArraySource) and train.image_shape == (12, 12, 3)
    assert (len(train), len(test)) == (12, 3) and train.class_names == test.class_names == ("blue", "green", "red")
    batch = everything(train)
    for image, label in zip(batch["image"], batch["label"], strict=True):
        assert (image == COLORS[train.class_names[label]]).all()
    assert np.bincount(batch["label"]).tolist() == [3, 4, 5]
    assert train.mean == pytest.approx((5 / 12, 4 / 12, 3 / 12)) and train.mean == test.mean


def test_a_folder_without_splits_is_split_by_class_the_same_way_every_time(tmp_path):
    fill(tmp_path, {"red": 50, "blue": 4, "green": 1})
    train, test = names(tmp_path, "train"), names(tmp_path, "test")
    assert len(set(train) | set(test)) == len(train) + len(test) == 55
    assert [sum(name.startswith(c) for name in test) for c in COLORS] == [1, 0, 10]
    assert (train, test) == (names(tmp_path, "train"), names(tmp_path, "test"))
    assert test != sorted(test)  # classes are mixed
    (tmp_path / "moved").mkdir()
    for c in COLORS:
        (tmp_path / c).rename(tmp_path / "moved" / c)
    assert names(tmp_path / "moved", "test") == test  # only names count, not where the folder lies


def test_slices_part_a_split_without_overlap(tmp_path):
    fill(tmp_path / "train", {"red": 21, "blue": 20})
    whole = names(tmp_path, "train")
    assert names(tmp_path, "train[:90%]") + names(tmp_path, "train[90%:]") == whole
    assert names(tmp_path, "train[:7]") == whole[:7] and names(tmp_path, "train[-3:]") == whole[-3:]
    assert {name.split("/")[1] for name in names(tmp_path, "train[:50%]")} == {"blue", "red"}
    load_source(config(tmp_path, train_split="train[:90%]", test_split="train[90%:]"), "test")


def test_a_folder_may_begin_with_a_tilde(tmp_path, monkeypatch):
    fill(tmp_path / "pictures", {"red": 4, "blue": 4})
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load_source(config("~/pictures"), "train")) == 6


@pytest.mark.parametrize("directory", ["val", "validation"])
def test_validation_directories_stand_in_for_a_missing_test(tmp_path, directory):
    fill(tmp_path / "train", {"red": 2, "blue": 2})
    fill(tmp_path / directory, {"red": 1, "blue": 1})
    assert all(name.startswith(directory) for name in names(tmp_path, "test"))
    fill(tmp_path / "test", {"red": 1, "blue": 1})
    assert all(name.startswith("test") for name in names(tmp_path, "test"))


def test_hidden_files_and_other_types_are_left_out_and_sub_directories_are_not(tmp_path):
    fill(tmp_path, {"red": 2, "blue": 2})
    (tmp_path / ".git").mkdir()
    (tmp_path / "red" / "deep").mkdir()
    (tmp_path / "red" / ".deep").mkdir()
    for name in (".hidden.png", "notes.txt", "deep/A.JPG", "deep/b.webp", ".deep/c.png"):
        Image.new("RGB", (12, 12)).save(tmp_path / "red" / name, "PNG")
    found = sorted(names(tmp_path, "train") + names(tmp_path, "test"))
    assert found == ["blue/0.png", "blue/1.png", "red/0.png", "red/1.png", "red/deep/A.JPG", "red/deep/b.webp"]


def test_images_of_their_own_size_are_cropped_on_read(tmp_path):
    """Columns tell where a crop lies: pixel value = column."""
    for name in COLORS:
        (tmp_path / name).mkdir()
        for i in range(4):
            columns = np.broadcast_to(np.arange(200 + i, dtype=np.uint8), (100, 200 + i))
            Image.fromarray(columns).save(tmp_path / name / f"{i}.png")
    source = load_source(config(tmp_path, crop_area=0.2, image_size=50), "train")
    assert isinstance(source, EncodedSource) and source.crops_on_read and source.image_shape == (50, 50, 3)
    crops = np.array([[0.25, 0.5, 0.0, 0.0], [0.25, 0.5, 0.0, 1.0]], np.float32)  # 50 columns of 100 rows
    left, right = source.read(np.array([0, 0]), crops=crops)["image"].mean((1, 3))
    np.testing.assert_allclose(left, np.arange(50), atol=1.5)
    np.testing.assert_allclose(right - right[0], np.arange(50), atol=1.5)
    assert right[-1] > 195
    center = source.read(np.array([0]))["image"].mean((0, 1, 3))  # the central 87.5 of 100 rows, and as many columns
    assert center[-1] - center[0] == pytest.approx(87.5 * 49 / 50, abs=1.5)
    assert isinstance(load_source(config(tmp_path, crop_area=0.2, image_size=50), "test"), ArraySource)
    assert isinstance(load_source(config(tmp_path, image_size=50), "train"), ArraySource)  # nothing to cut


def test_images_of_one_size_are_kept_as_they_are_or_cropped_at_full_resolution(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 6, 3), dtype=np.uint8)
    for name, image in zip("ab", pixels, strict=True):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.fromarray(image).save(tmp_path / name / f"{i}.png")
    as_is = load_source(config(tmp_path, image_size=6), "train")
    for image, label in zip(as_is.images, as_is.labels, strict=True):
        np.testing.assert_array_equal(image, pixels[label])
    half = load_source(config(tmp_path, crop_area=0.2, image_size=3, cache_gib=0.0), "train")
    assert half.crops_on_read  # at the full six pixels, not at three
    seen = half.read(np.array([0, 0]), crops=np.array([[1, 1, 0, 0], [0.25, 1, 0, 0]], np.float32))["image"]
    corner = pixels[everything(half)["label"][0]][:3, :3]
    np.testing.assert_array_equal(seen[1], corner)
    assert not np.array_equal(seen[0], corner)


def test_orientation_is_applied_before_sizes_are_compared(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(5):
            lying, options = ((20, 10), {"exif": exif}) if i % 2 else ((10, 20), {})
            Image.new("RGB", lying, "red").save(tmp_path / name / f"{i}.jpg", **options)
    assert load_source(config(tmp_path), "train").image_shape == (20, 10, 3)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_corrupt_image_ends_the_run_or_is_left_out_and_named(tmp_path, suffix, capsys):
    fill(tmp_path / "train", {"red": 3, "blue": 3}, sizes=((64, 64),), suffix=suffix)
    fill(tmp_path / "test", {"red": 1, "blue": 1}, sizes=((64, 64),))
    corrupt = tmp_path / "train" / "red" / f"1.{suffix}"
    corrupt.write_bytes(corrupt.read_bytes()[: corrupt.stat().st_size // 2])
    (tmp_path / "train" / "blue" / "9.png").write_text("no image")
    with pytest.raises(UserError, match=r"2 such images.*--config.data.corrupt=skip") as caught:
        load_source(config(tmp_path), "train")
    assert str(corrupt) in str(caught.value) or "blue/9.png" in str(caught.value)
    source = load_source(config(tmp_path, corrupt="skip"), "train")
    assert np.bincount(everything(source)["label"]).tolist() == [3, 2]
    out = capsys.readouterr().out
    assert out.startswith("left out 2 of 7 images") and str(corrupt) in out and "blue/9.png" in out


def test_what_only_decoding_finds_is_left_out_before_the_run(tmp_path):
    """The tables of this JPEG are broken and its end is there, so that only decoding finds the fault."""
    fill(tmp_path / "train", {"red": 3, "blue": 3}, sizes=((64, 64),), suffix="jpg")
    fill(tmp_path / "test", {"red": 1, "blue": 1}, sizes=((64, 64),))
    file = tmp_path / "train" / "red" / "0.jpg"
    data = bytearray(file.read_bytes())
    table = data.index(b"\xff\xc4")
    data[table + 5 : table + 21] = b"\xff" * 16
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"cannot read the image .*red/0\.jpg"):
        load_source(config(tmp_path), "train")
    assert len(load_source(config(tmp_path, corrupt="skip"), "train")) == 5


def test_nothing_but_corrupt_images_is_an_error(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(3):
            (tmp_path / name / f"{i}.png").write_text("no image")
    with pytest.raises(UserError, match="none of the 4 images can be read"):
        load_source(config(tmp_path, corrupt="skip"), "train")


def test_images_of_different_size_are_named_unless_they_are_resized(tmp_path):
    fill(tmp_path / "train", {"red": 4, "blue": 4}, sizes=((12, 12), (14, 12)))
    fill(tmp_path / "test", {"red": 2, "blue": 2})
    with pytest.raises(UserError, match=r"\.png is 1[24]x12, .*\.png 1[24]x12\); set --config.data.image_size"):
        load_source(config(tmp_path), "train")
    with pytest.raises(UserError, match=r"\.png is 12x12, .*train.*\.png 14x12\)"):
        load_source(config(tmp_path), "test")  # images of one size, which is not that of training images
    assert load_source(config(tmp_path, image_size=8), "train").image_shape == (8, 8, 3)


@pytest.mark.parametrize("make, changes, message", [
    ({}, {"dataset": "folder:nowhere"}, "folder:nowhere: there is no such directory"),
    ({}, {}, "a directory of images for each class, at least two; found none"),
    ({"red": 2}, {}, "at least two; found red"),
    ({"red": 2, "blue": 0}, {}, r"blue has no images"),
    ({"train/red": 2, "train/blue": 2}, {}, r"no split 'test'; there are train, and slices .* such as train\[:90%"),
    ({"red": 2, "blue": 2}, {"train_split": "dev"}, r"no split 'dev'; there are train, test, .* train\[:90%\]"),
    ({"red": 2, "blue": 2}, {"train_split": "train[a:b]"}, r"'train\[a:b\]' is not understood"),
    ({"red": 2, "blue": 2}, {"train_split": "train[:0%]"}, "'train.:0%.' has no images; all of train are 2"),
    ({"train": 2, "test": 2}, {}, "test, train hold no directories"),
    ({"train/red": 2, "train/blue": 2, "test/red": 1, "test/green": 1}, {},
     "test/green has images of none of the"),
    ({"train/red": 2, "train/blue": 0, "test/red": 1, "test/blue": 1}, {}, "train/blue has no images"),
])
def test_a_mistake_is_one_line_with_what_to_do(tmp_path, make, changes, message):
    for name, count in make.items():
        (tmp_path / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (8, 8)).save(tmp_path / name / f"{i}.png")
    changes = dict(changes)
    settings = config(changes.pop("dataset", f"folder:{tmp_path}").removeprefix("folder:"), **changes)
    with pytest.raises(UserError, match=message) as caught:
        load_source(settings, "train")
    assert "\n" not in str(caught.value)


def masked_folder(tmp_path, layout):
    """A folder of 12 images a class, red and blue, with masks whose upper half is the object."""
    places = {"splits": [("train", 8), ("test", 4)], "classes": [(".", 12)]}[layout]
    for place, count in places:
        fill(tmp_path / place, {"red": count, "blue": count}, sizes=((12, 8),))
    mask = Image.fromarray(np.repeat(np.uint8([[7], [0]]), 4, axis=0).repeat(12, axis=1))
    for file in sorted(tmp_path.rglob("*.png")):
        target = tmp_path / "masks" / file.relative_to(tmp_path)
        target.parent.mkdir(parents=True, exist_ok=True)
        mask.save(target)


@pytest.mark.parametrize("layout", ["splits", "classes"])
def test_masks_lie_beside_the_images(layout, tmp_path):
    masked_folder(tmp_path, layout)
    test = load_source(config(tmp_path, image_size=8), "test")
    batch = everything(test)
    assert test.class_names == ("blue", "red") and len(test) == 4 * (2 if layout == "splits" else 1)
    assert batch["object_mask"].shape == (len(test), 8, 8)
    assert batch["object_mask"][:, :4].all() and not batch["object_mask"][:, 4:].any()


def test_masks_of_one_split_leave_the_other_without_and_masks_of_some_images_are_refused(tmp_path):
    masked_folder(tmp_path, "splits")
    for file in (tmp_path / "masks" / "train").rglob("*.png"):
        file.unlink()
    assert not load_source(config(tmp_path), "train").has_object_masks
    (tmp_path / "masks" / "test" / "red" / "2.png").unlink()
    with pytest.raises(UserError, match="test/red/2.png has no mask .*/masks/test/red/2.png, as 1 of 8 images"):
        load_source(config(tmp_path), "test")


def test_a_class_may_be_called_masks(tmp_path):
    fill(tmp_path, {"red": 3, "blue": 3})
    (tmp_path / "red").rename(tmp_path / "masks")
    assert load_source(config(tmp_path), "test").class_names == ("blue", "masks")


def test_a_folder_in_a_bucket_gives_the_same_images(tmp_path, bucket):
    fill(tmp_path, {"red": 5, "blue": 3})
    paths.upload(paths.as_path(tmp_path), paths.as_path(bucket))
    one, other = (everything(load_source(config(path), "train")) for path in (tmp_path, bucket))
    for key, values in one.items():
        np.testing.assert_array_equal(values, other[key])
    with pytest.raises(UserError, match=f"folder:{bucket}/absent: there is no such directory"):
        folder.open_records(f"{bucket}/absent", "train")
