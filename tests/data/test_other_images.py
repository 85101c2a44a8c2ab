"""Images of another set than that of training: classes by name, any size, labels or none."""

import numpy as np
import pytest
from PIL import Image

from shapjax.data import other_images
from shapjax.errors import UserError

MODEL = {"cache_gib": 1.0, "class_names": ("ant", "bee", "cat", "dog"), "image_shape": (8, 8, 3)}


def picture(path, level, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level, level, level)).save(path)


def load(path, split="all"):
    return other_images.load(f"folder:{path}", split, data_dir="", **MODEL)


def test_labels_are_the_places_of_the_models_classes_of_the_same_names(tmp_path):
    for name, level in (("dog", 30), ("bee", 10)):
        for i in range(5):
            picture(tmp_path / name / f"{i}.png", level + i)
    source = load(tmp_path)
    batch = source.read(np.arange(len(source)))
    assert source.labeled and source.class_names == MODEL["class_names"] and len(source) == 10
    assert {int(image[0, 0, 0]): int(label) for image, label in zip(batch["image"], batch["label"], strict=True)} == {
        10: 1, 11: 1, 12: 1, 13: 1, 14: 1, 30: 3, 31: 3, 32: 3, 33: 3, 34: 3}
    assert len(load(tmp_path, "test")) == 2 and len(load(tmp_path, "train")) == 8


def test_images_of_any_size_are_cut_and_resized(tmp_path):
    picture(tmp_path / "cat" / "a.png", 40, size=(30, 12))
    picture(tmp_path / "ant" / "b.png", 50, size=(16, 16))
    batch = load(tmp_path).read(np.arange(2))
    assert batch["image"].shape == (2, 8, 8, 3) and sorted(batch["label"].tolist()) == [0, 2]


@pytest.mark.parametrize(("sizes", "central"), [([8, 8], False), ([8, 6], True), ([16, 16], True)])
def test_as_in_training_the_center_is_seen_where_images_are_larger_or_differ(tmp_path, sizes, central):
    for i, size in enumerate(sizes):
        picture(tmp_path / "cat" / f"{i}.png", 1, size=(size, size))
    source = other_images.load(f"folder:{tmp_path}", "all", data_dir="", **MODEL | {"cache_gib": 0.0})
    assert source.crops_on_read == central


def test_pictures_without_directories_have_no_labels_and_are_in_the_order_of_their_names(tmp_path, capsys):
    for i in range(3):
        picture(tmp_path / f"{i}.png", 10 * i)
    (tmp_path / "2.png").write_bytes(b"no image")
    source = load(tmp_path)
    batch = source.read(np.arange(2))
    assert not source.labeled and batch["label"].tolist() == [-1, -1] and batch["image"][:, 0, 0, 0].tolist() == [0, 10]
    assert "left out 1 of 3 images" in capsys.readouterr().out


def test_a_class_that_the_model_has_not_is_refused_by_name(tmp_path):
    picture(tmp_path / "cat" / "a.png", 1)
    assert len(load(tmp_path)) == 1
    picture(tmp_path / "dgo" / "a.png", 1)
    with pytest.raises(UserError, match=r"dgo has images of none of the 4 classes \(did you mean dog\?\)"):
        load(tmp_path)
    with pytest.raises(UserError, match="--dataset=mnist6k: expected folder:PATH or tfds:NAME"):
        other_images.load("mnist6k", "test", data_dir="", **MODEL)
