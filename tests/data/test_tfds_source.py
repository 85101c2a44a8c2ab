"""Datasets of TFDS: read without TensorFlow, with masks cut as the image is, and mistakes named."""

import concurrent.futures
import io
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from shapjax import paths
from shapjax.config import default_config
from shapjax.data import normalization
from shapjax.data.encoded import EncodedSource
from shapjax.data.sources import ArraySource, count, load_source, undecoded
from shapjax.errors import UserError

IMAGE, MASK = tfds.features.Image(), tfds.features.Image(shape=(None, None, 1))
LABEL = tfds.features.ClassLabel(names=["cat", "dog"])


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write(data_dir: pathlib.Path, name: str, features: dict, splits: dict[str, list[dict]], supervised=None) -> None:
    """Writes a prepared dataset; splits: {name: examples}, dicts of bytes or ints, as stored."""
    directory = data_dir / name / "1.0.0"
    directory.mkdir(parents=True)
    tfds.features.FeaturesDict(features).save_config(directory)
    info = {"name": name, "version": "1.0.0", "fileFormat": "array_record", "splits": []}
    if supervised:
        info["supervisedKeys"] = {"tuple": {"items": [{"featureKey": key} for key in supervised]}}
    for split, examples in splits.items():
        writer = ArrayRecordWriter(str(directory / f"{name}-{split}.array_record-00000-of-00001"), "group_size:1")
        for stored in examples:
            example = tf_example_pb2.Example()
            for key, value in stored.items():
                feature = example.features.feature[key]
                values = feature.bytes_list.value if isinstance(value, bytes) else feature.int64_list.value
                values.append(value)
            writer.write(example.SerializeToString())
        writer.close()
        info["splits"].append({"name": split, "shardLengths": [str(len(examples))], "numBytes": "1",
                               "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"})
    (directory / "dataset_info.json").write_text(json.dumps(info))


def config(name, data_dir, **data):
    c = default_config()
    c.dataset, c.augment.crop_area = f"tfds:{name}", 0.2
    c.data.update({"data_dir": str(data_dir), **data})
    return c


def pet(seed, trimap=(2, 1, 3)):
    """Makes an example whose pixels show its mask: the animal is red, its border yellow, the rest black."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(30, 60, 2)
    background, animal, border = trimap
    mask = np.full((height, width), background, np.uint8)
    top, left = rng.integers(2, 12, 2)
    mask[top : top + 16, left : left + 14] = border
    mask[top + 2 : top + 14, left + 2 : left + 12] = animal
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[mask != background, 0] = 255
    pixels[mask == border, 1] = 255
    return {"image": png(pixels), "segmentation_mask": png(mask), "label": seed % 2}


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("tfds")
    features = {"image": IMAGE, "label": LABEL, "segmentation_mask": MASK}
    write(data_dir, "oxford_iiit_pet", features, {"train": [pet(i) for i in range(12)],
                                                  "test": [pet(i) for i in range(20, 26)]}, ("image", "label"))
    write(data_dir, "shapes", features, {"train": [pet(i, (0, 1, 7)) for i in range(4)], "test": [pet(5, (0, 1, 7))]})
    return data_dir


@pytest.mark.parametrize("name", ["oxford_iiit_pet", "shapes"])
def test_masks_are_cut_exactly_as_their_images(pets, name):
    source = load_source(config(name, pets, image_size=20), "train")
    assert isinstance(source, EncodedSource) and source.has_object_masks and source.crops_on_read
    n = np.arange(4)
    rng = np.random.default_rng(0)
    crops = np.stack([rng.uniform(0.3, 0.9, 4), rng.uniform(0.7, 1.4, 4), *rng.uniform(0, 1, (2, 4))], 1)
    for batch in (source.read(n), source.read(n, crops=crops)):
        assert batch["object_mask"].dtype == bool and batch["object_mask"].shape == (4, 20, 20)
        red = batch["image"][..., 0]
        assert batch["object_mask"].any((1, 2)).sum() >= 3  # a crop may miss the animal
        assert batch["object_mask"][red > 200].all() and not batch["object_mask"][red < 55].any()


def test_test_images_are_decoded_once_with_their_masks(pets):
    test = load_source(config("oxford_iiit_pet", pets, image_size=20), "test")
    assert isinstance(test, ArraySource) and test.has_object_masks and not test.crops_on_read
    decoded = load_source(config("oxford_iiit_pet", pets, image_size=20, cache_gib=0.0), "test")
    assert isinstance(decoded, EncodedSource)
    images_alone = 6 * 20 * 20 * 3 / 2**30
    assert isinstance(load_source(config("oxford_iiit_pet", pets, image_size=20, cache_gib=images_alone), "test"),
                      EncodedSource)  # the masks take memory too
    for key, values in test.read(np.arange(6)).items():
        np.testing.assert_array_equal(values, decoded.read(np.arange(6))[key])
    for source in (test, decoded):
        np.testing.assert_array_equal(source.read_labels(np.array([4, 1])), test.read(np.array([4, 1]))["label"])
    assert test.mean == decoded.mean == normalization.KNOWN["imagenet2012"][0]


def test_threads_read_the_same(pets):
    source = load_source(config("oxford_iiit_pet", pets, image_size=20), "train")
    expected = source.read(np.arange(12))["image"]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for image in pool.map(lambda i: source.read(np.array([i]))["image"], range(12)):
            expected = expected[1:] if np.array_equal(image[0], expected[0]) else pytest.fail("another image")


def test_a_slice_reads_its_part_in_order(pets):
    whole = load_source(config("oxford_iiit_pet", pets, image_size=20), "train")
    part = load_source(config("oxford_iiit_pet", pets, image_size=20, train_split="train[25%:75%]"), "train")
    assert len(part) == 6
    np.testing.assert_array_equal(part.read(np.arange(6))["image"], whole.read(np.arange(3, 9))["image"])


def test_the_directory_of_datasets_may_begin_with_a_tilde(pets, monkeypatch):
    monkeypatch.setenv("HOME", str(pets.parent))
    assert len(load_source(config("shapes", f"~/{pets.name}", image_size=8), "train")) == 4


def test_unknown_means_and_deviations_are_measured(pets):
    source = load_source(config("shapes", pets, image_size=20), "train")
    pixels = source.read(np.arange(4))["image"] / 255
    np.testing.assert_allclose(source.mean, pixels.mean((0, 1, 2)), atol=1e-12)
    np.testing.assert_allclose(source.std, np.maximum(pixels.std((0, 1, 2)), 1 / 255), atol=1e-9)
    assert source.std[2] == pytest.approx(1 / 255)  # no blue anywhere


def test_the_shape_of_images_is_known_without_decoding_any(pets):
    c = config("oxford_iiit_pet", pets, image_size=20)
    prepared = undecoded(c)
    assert isinstance(prepared, EncodedSource) and len(prepared) == 12 and prepared.crops_on_read
    c.data.data_dir += "/elsewhere"
    known = undecoded(c)  # TFDS knows this dataset, though its files are not there
    assert len(known) == 0 and len(known.class_names) == 37
    assert (known.image_shape, known.crops_on_read) == (prepared.image_shape, prepared.crops_on_read)
    with pytest.raises(UserError, match="neither a dataset that TFDS knows"):
        undecoded(config("shapes", pets / "elsewhere", image_size=20))


def test_the_shape_and_number_of_images_in_a_bucket_is_known_without_copying_any(pets, bucket, monkeypatch):
    paths.upload(paths.as_path(pets), paths.as_path(bucket))
    monkeypatch.setattr(paths, "_copy", None)
    known, local = (undecoded(config("shapes", path, image_size=20)) for path in (bucket, pets))
    assert len(known) == len(local) == count(config("shapes", bucket, image_size=20)) == 4
    assert (known.class_names, known.image_shape) == (local.class_names, local.image_shape)
    with pytest.raises(UserError, match="expected a split or a slice such as"):
        undecoded(config("shapes", bucket, image_size=20, train_split="nothing"))


def test_images_of_their_own_size_need_one_to_resize_to(pets):
    with pytest.raises(UserError, match="--config.data.image_size=224"):
        load_source(config("shapes", pets), "train")


def test_a_record_that_is_no_image_fails_or_is_left_out(tmp_path, capsys):
    examples = [pet(i) for i in range(5)]
    examples[2]["image"] = examples[2]["image"][:60]
    write(tmp_path, "shapes", {"image": IMAGE, "label": LABEL}, {"train": examples, "test": examples[:2]})
    source = load_source(config("shapes", tmp_path, image_size=8, corrupt="skip"), "train")
    assert source.read(np.arange(len(source)))["label"].tolist() == [0, 1, 1, 0]
    assert "left out 1 of 5 images, which cannot be read: image 2 of tfds:shapes, train" in capsys.readouterr().out
    with pytest.raises(UserError, match="image 2 of tfds:shapes, train"):
        load_source(config("shapes", tmp_path, image_size=8), "train").read(np.array([1, 2]))


def test_labels_that_are_no_class_are_named(tmp_path):
    write(tmp_path, "shapes", {"image": IMAGE, "label": LABEL}, {"train": [pet(0)], "test": [pet(1) | {"label": -1}]})
    with pytest.raises(UserError, match="image 0 of tfds:shapes, test has the label -1"):
        load_source(config("shapes", tmp_path, image_size=8), "test")


def test_supervised_keys_name_the_features_and_others_are_refused(tmp_path):
    renamed = {"picture": png(np.full((4, 4, 3), 9, np.uint8)), "kind": 1}
    write(tmp_path, "renamed", {"picture": tfds.features.Image(shape=(4, 4, 3)), "kind": LABEL},
          {"train": [renamed], "test": [renamed]}, ("picture", "kind"))
    source = load_source(config("renamed", tmp_path), "train")
    assert isinstance(source, ArraySource) and source.image_shape == (4, 4, 3)
    assert source.class_names == ("cat", "dog") and (source.images == 9).all() and source.labels.tolist() == [1]
    write(tmp_path, "boxes", {"image": IMAGE, "count": tfds.features.Scalar(np.int64)},
          {"train": [{"image": renamed["picture"], "count": 1}], "test": [{"image": renamed["picture"], "count": 1}]})
    with pytest.raises(UserError, match=r"it has count \(Scalar\), image \(Image\); expected an Image and a Class"):
        load_source(config("boxes", tmp_path), "train")


@pytest.mark.parametrize("name, changes, message", [
    ("cifar1O", {}, "neither a dataset that TFDS knows nor.*did you mean cifar10 or"),
    ("cifar100", {}, r"not prepared in .*; run `python -m shapjax prepare cifar100 --data_dir "),
    ("zzqqzz", {}, "see https://www.tensorflow.org/datasets/catalog"),
    ("shapes", {"train_split": "valid"}, r"Unknown split 'valid'. Should be one of \['train', 'test'\]; expected"),
    ("shapes", {"test_split": "train[:x]"}, r"train\[:x\]'; expected a split or a slice such as train\[:90%\]"),
    ("shapes", {"train_split": "train[:0%]"}, "has no images"),
    ("shapes", {"train_split": "train[:99]"}, "incompatible with 4 examples"),
    ("shapes", {"corrupt": "ignore"}, "corrupt=ignore: expected one of fail, skip"),
])
def test_a_mistake_is_one_line_with_what_to_do(pets, name, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        load_source(config(name, pets, **changes), "train")
    assert "\n" not in str(caught.value)


def test_missing_files_and_formats_without_random_access_say_how_to_prepare(tmp_path):
    write(tmp_path, "shapes", {"image": IMAGE, "label": LABEL}, {"train": [pet(0)], "test": [pet(1)]})
    directory = tmp_path / "shapes" / "1.0.0"
    info = directory / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match="prepared as tfrecord, which has no random access; run `python -m"):
        load_source(config("shapes", tmp_path, image_size=8), "train")
    info.write_text(info.read_text().replace("tfrecord", "array_record"))
    (directory / "shapes-train.array_record-00000-of-00001").unlink()
    with pytest.raises(UserError, match="cannot be read from .*; remove that directory and run `python -m"):
        load_source(config("shapes", tmp_path, image_size=8), "train")


def test_reading_does_not_import_tensorflow(pets):
    settings = config("oxford_iiit_pet", pets, image_size=8).to_dict()
    code = ("import sys, ml_collections; from shapjax.data.sources import load_source;"
            f"source = load_source(ml_collections.ConfigDict({settings}), 'test');"
            "source.read([0]); print('tensorflow' in sys.modules)")
    root = pathlib.Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip()) == (0, "False"), result.stderr


@pytest.fixture(scope="module")
def real():
    if not (directory := os.environ.get("SHAPJAX_DATA_DIR")):
        pytest.skip("SHAPJAX_DATA_DIR is not set")
    return pathlib.Path(directory) / "tfds"


@pytest.mark.parametrize("name, shape", [("cifar10", (32, 32, 3)), ("fashion_mnist", (28, 28, 1))])
def test_real_datasets_are_as_tfds_decodes_them(real, name, shape):
    source = load_source(config(name, real, train_split="train[:5000]", test_split="test[:10]"), "train")
    assert isinstance(source, ArraySource) and source.image_shape == shape and len(source.class_names) == 10
    pixels = source.images / 255
    np.testing.assert_allclose(source.mean, pixels.mean((0, 1, 2)), atol=0.01)
    np.testing.assert_allclose(source.std, pixels.std((0, 1, 2)), atol=0.01)
    reference = tfds.data_source(name, split="train", data_dir=real, download=False)
    for i in (0, 1, 4999):
        np.testing.assert_array_equal(source.images[i], reference[i]["image"])
        assert source.labels[i] == reference[i]["label"]


def test_a_dataset_in_a_bucket_gives_the_same_images(pets, bucket):
    paths.upload(paths.as_path(pets), paths.as_path(bucket))
    n = np.arange(6)
    one, other = (load_source(config("shapes", path, image_size=8, test_split="train"), "test").read(n[:4])
                  for path in (pets, bucket))
    for key, values in one.items():
        np.testing.assert_array_equal(values, other[key])
    with pytest.raises(UserError, match=f"not prepared in {bucket}; run .* --data_dir DIRECTORY`, copy what is in DIR"):
        load_source(config("cifar10", bucket), "train")
