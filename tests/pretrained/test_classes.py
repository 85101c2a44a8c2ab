"""A kept head meets the dataset's classes by name."""

import json

import numpy as np
import pytest

from shapjax.errors import UserError

NAMES = ["cat", "dog", "Grey Wolf"]


@pytest.fixture
def weights(tmp_path, write_vit):
    """Returns a directory with the weights of a tiny ViT whose config names its three classes."""
    write_vit(tmp_path / "weights")
    name_classes(tmp_path / "weights", NAMES)
    return tmp_path / "weights"


def name_classes(directory, names):
    config = json.loads((directory / "config.json").read_text())
    config["id2label"] = {str(i): name for i, name in enumerate(names)}
    (directory / "config.json").write_text(json.dumps(config))


def test_the_same_names_in_another_order_are_put_in_the_datasets(weights, load):
    as_stored, other = load(weights, class_names=NAMES), load(weights, class_names=["grey_wolf", "cat", "dog"])
    for name, x in as_stored.params["head"].items():
        np.testing.assert_array_equal(other.params["head"][name], x[..., [2, 0, 1]])
    assert "put in the dataset's order" in str(other.report) and "order" not in str(as_stored.report)


def test_other_names_are_refused_with_those_that_disagree(weights, load):
    with pytest.raises(UserError, match=r"other classes \(only there: dog; only in the dataset: fox\); set --conf"):
        load(weights, class_names=["cat", "fox", "grey wolf"])
    assert "head" in load(weights, class_names=["cat", "fox", "grey wolf"], new_head=True).report.new[0]


@pytest.mark.parametrize("names", [["LABEL_0", "LABEL_1", "LABEL_2"], None])
def test_without_names_the_order_is_taken_to_be_the_datasets_and_said(names, weights, load):
    config = json.loads((weights / "config.json").read_text())
    del config["id2label"]
    (weights / "config.json").write_text(json.dumps(config))
    if names:
        name_classes(weights, names)
    assert "do not name their classes" in str(load(weights, class_names=["a", "b", "c"]).report)
