"""Folders as people have them: links, files of other kinds, names in any script. Nothing vanishes in silence."""

import os
import pathlib
import unicodedata

import numpy as np
import pytest
from PIL import Image

from shapjax.config import default_config
from shapjax.data import folder, opening
from shapjax.data.sources import load_source
from shapjax.errors import UserError


def fill(directory, count=2, color=0, suffix=".png"):
    directory.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("L", (8, 8), color).save(directory / f"{i}{suffix}", format="PNG")


def names(path, split="train"):
    records = folder.open_records(str(path), split)
    return sorted(os.path.relpath(records.name(i), path) for i in range(len(records)))


def config(path, **data):
    c = default_config()
    c.dataset = f"folder:{path}"
    c.data.update(data)
    return c


@pytest.fixture
def two(tmp_path):
    """Makes a training split of two classes of two images each."""
    fill(tmp_path / "data" / "train" / "a")
    fill(tmp_path / "data" / "train" / "b")
    return tmp_path / "data"


def test_linked_files_and_directories_are_images_of_their_class(two, tmp_path):
    fill(tmp_path / "elsewhere" / "deep")
    fill(tmp_path / "whole")
    (two / "train" / "a" / "more").symlink_to(tmp_path / "elsewhere")
    (two / "train" / "a" / "x.png").symlink_to(tmp_path / "whole" / "0.png")
    (two / "train" / "c").symlink_to(tmp_path / "whole")
    assert names(two) == [f"train/{name}" for name in ("a/0.png", "a/1.png", "a/more/deep/0.png", "a/more/deep/1.png",
                                                       "a/x.png", "b/0.png", "b/1.png", "c/0.png", "c/1.png")]


@pytest.mark.parametrize("target", [".", "..", "../..", "deep", "/"])
def test_a_link_to_where_it_lies_or_to_what_is_listed_already_adds_nothing(two, target):
    fill(two / "train" / "a" / "deep")
    before = names(two)
    (two / "train" / "a" / "loop").symlink_to(target)
    (two / "train" / "a" / "deep" / "back").symlink_to(two / "train" / "a" / "deep")
    assert len(names(two)) == len(before)


def test_a_link_that_leads_nowhere_is_an_image_that_cannot_be_read(two):
    (two / "train" / "a" / "gone.png").symlink_to("nowhere.png")
    (two / "train" / "b" / "self.png").symlink_to("self.png")
    for split in ("a", "b"):
        fill(two / "test" / split)
    with pytest.raises(UserError, match=r"cannot read the image .*(gone|self)\.png: .*2 such images.*corrupt=skip"):
        load_source(config(two), "train")
    assert len(load_source(config(two, corrupt="skip"), "train")) == 4


def test_what_systems_leave_behind_is_no_class_and_no_image(two, capsys):
    for place in (two, two / "train", two / "train" / "a"):
        fill(place / "__MACOSX" / "a")
        fill(place / "@eaDir")
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._0.png"):
            (place / name).write_bytes(b"x")
    assert names(two) == ["train/a/0.png", "train/a/1.png", "train/b/0.png", "train/b/1.png"]
    assert capsys.readouterr().out == ""


def test_files_of_other_kinds_are_left_out_counted_and_named_once(two, capsys, monkeypatch):
    monkeypatch.setattr(opening, "suffixes", lambda: {".png"})
    for name in ("a/1.HEIC", "a/2.heic", "a/film.mp4", "b/model.h5", "b/film.mpg", "b/1.avif", "notes", "0.png"):
        (two / "train" / name).write_bytes(b"no image")
    Image.new("L", (8, 8)).save(two / "train" / "beside.png")
    assert names(two) == names(two) == ["train/a/0.png", "train/a/1.png", "train/b/0.png", "train/b/1.png"]
    (line,) = capsys.readouterr().out.splitlines()
    assert f"folder:{two / 'train'}: left out 8 files" in line
    for part in ("2 .heic (`pip install pillow-heif` to read them)", "1 .avif (`pip install -U pillow` to read them)",
                 "1 .mp4", "1 .h5", "1 .mpg", "2 outside the directories of the classes", "and 5 more"):
        assert part in line, part


def test_images_without_a_suffix_are_images_and_other_files_without_one_are_named(two, capsys):
    for name, kind in (("photo", "JPEG"), ("Dr. Who and friends", "PNG")):
        Image.new("L", (8, 8)).save(two / "train" / "a" / name, kind)
    (two / "train" / "a" / "Makefile").write_text("all:\n")
    (two / "train" / "a" / "empty").touch()
    assert {"train/a/photo", "train/a/Dr. Who and friends"} < set(names(two)) and len(names(two)) == 6
    assert "left out 2 files" in (out := capsys.readouterr().out) and "2 without a suffix; a/Makefile, a/empty" in out


def test_a_pipe_is_not_waited_for(two, capsys):
    for name in ("pipe.png", "pipe"):
        os.mkfifo(two / "train" / "a" / name)
    (two / "train" / "a" / "link.png").symlink_to("pipe.png")
    assert len(names(two)) == 4 and "left out 3 files" in capsys.readouterr().out


def test_a_class_of_pictures_that_are_not_read_says_which(two, monkeypatch):
    monkeypatch.setattr(opening, "suffixes", lambda: {".png"})
    fill(two / "train" / "phone", suffix=".heic")
    with pytest.raises(UserError, match=r"phone has no images \(of files only 2 \.heic \(`pip install pillow-heif`"):
        names(two)


@pytest.mark.parametrize("missing", ["absent", "empty"])
def test_a_class_without_test_images_is_said_and_keeps_its_label(two, capsys, missing):
    fill(two / "test" / "b", color=200)
    fill(two / "test" / "of neither", count=0)
    if missing == "empty":
        fill(two / "test" / "a", count=0)
    train, test = (load_source(config(two), split) for split in ("train", "test"))
    assert train.class_names == test.class_names == ("a", "b")
    assert test.labels.tolist() == [1, 1] and (test.images == 200).all()
    assert capsys.readouterr().out.count("the split 'test' has no images of 1 of 2 classes: a") == 1


NAMES = ["猫", "кошка", "بسة", "a $x^2$ < & \"b\" 'c'", "é", "x" * 80, "🐈", " ", "50 %", "a,b;c"]


def test_classes_have_names_in_any_script(tmp_path):
    for name in NAMES:
        fill(tmp_path / "my données" / name)
    source = load_source(config(tmp_path / "my données"), "train")
    assert source.class_names == tuple(sorted(NAMES)) and len(source) == len(NAMES)


def test_the_forms_of_unicode_of_a_name_are_one_class_and_order(tmp_path):
    for form in ("NFC", "NFD"):
        fill(tmp_path / form / "train" / unicodedata.normalize(form, "é"), count=9)
        fill(tmp_path / form / "train" / "z")
    fill(tmp_path / "NFC" / "test" / unicodedata.normalize("NFD", "é"))
    assert load_source(config(tmp_path / "NFC"), "test").class_names == ("z", unicodedata.normalize("NFC", "é"))
    order = [[pathlib.Path(records.name(i)).name for i in range(len(records))]
             for records in (folder.open_records(str(tmp_path / form), "train") for form in ("NFC", "NFD"))]
    assert order[0] == order[1]
    fill(tmp_path / "NFC" / "train" / unicodedata.normalize("NFD", "é"))
    with pytest.raises(UserError, match="two directories of the name é, in two forms of Unicode"):
        names(tmp_path / "NFC")


@pytest.mark.parametrize("name", [b"\xff\xfe", b"new\nline"])
def test_a_class_whose_name_cannot_be_printed_is_one_line(two, name):
    os.mkdir(os.path.join(os.fsencode(two), b"train", name))
    with pytest.raises(UserError, match="which cannot be printed; rename it") as error:
        names(two)
    assert "\n" not in str(error.value) and str(error.value).encode()


def test_an_image_whose_name_cannot_be_printed_is_read_and_named_in_one_line(two, capsys):
    path = os.path.join(os.fsencode(two), b"train", b"a", b"\xff\n.png")
    with open(path, "wb") as file:
        file.write(b"no image")
    fill(two / "test" / "a")
    with pytest.raises(UserError, match="is not an image") as error:
        load_source(config(two), "train")
    assert "\n" not in str(error.value) and str(error.value).encode()
    load_source(config(two, corrupt="skip"), "train")
    out = capsys.readouterr().out
    assert "left out 1 of 5 images" in out and out.count("\n") == out.encode().count(b"\n") == 2


def test_a_directory_that_cannot_be_listed_is_one_line(two, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(UserError, match=r"data cannot be listed: Permission denied"):
        names(two)


def test_masks_of_linked_directories_are_found(tmp_path):
    for name in ("a", "b"):
        fill(tmp_path / "elsewhere" / name, count=5)
        fill(tmp_path / "data" / "masks" / name, count=5, color=1)
        (tmp_path / "data" / name).symlink_to(tmp_path / "elsewhere" / name)
    batch = load_source(config(tmp_path / "data"), "train").read(np.arange(2))
    assert batch["object_mask"].all()
