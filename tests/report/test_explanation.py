"""An explanation shows itself: text, pictures, JSON, whose numbers are the values."""

import json

import numpy as np
import pytest
from scipy.special import softmax

from shapjax.errors import UserError
from shapjax.report.explanation import Explanation

NAMES = ("cat", "dog", "bird")


@pytest.fixture
def explanation():
    rng = np.random.default_rng(0)
    shapley = rng.normal(size=(3, 2, 4, 3)).astype(np.float32)
    logits = shapley.sum((1, 2))
    return Explanation(
        logits=logits, shapley=shapley, probabilities=softmax(logits, axis=1),
        standard_error=np.full(shapley.shape, 0.05, np.float32), freedom=np.full(3, 9.0, np.float32),
        pairs=np.zeros(3, int), images=rng.integers(0, 256, (3, 8, 16, 3), dtype=np.uint8),
        names=("photos/one.jpg", "image 1", "image 2"), changes=("as given",) * 3, class_names=NAMES)


def test_top_patches_are_the_largest_values_of_the_predicted_class(explanation):
    for values, logits, patches in zip(explanation.shapley, explanation.logits, explanation.top(2), strict=True):
        own = values[..., logits.argmax()]
        assert [patch["value"] for patch in patches] == pytest.approx(np.sort(own, axis=None)[:-3:-1])
        assert all(own[patch["row"], patch["column"]] == np.float32(patch["value"]) for patch in patches)
    assert len(explanation.top(100)[0]) == 8 and explanation.top(0) == [[], [], []]


def test_text_names_images_classes_and_patches(explanation):
    lines = repr(explanation).split("\n")
    assert len(lines) == 3 and lines[0].startswith("photos/one.jpg: ")
    best = NAMES[explanation.logits[1].argmax()]
    place = explanation.top(1)[1][0]
    assert f"patches for {best}: row {place['row'] + 1} column {place['column'] + 1} " in lines[1]
    many = explanation.replace(**{name: np.repeat(getattr(explanation, name), 5, axis=0) for name in (
        "logits", "shapley", "probabilities")}, names=explanation.names * 5)
    assert repr(many).endswith("… and 5 more images")


def test_a_plot_is_written_as_its_name_says(explanation, tmp_path):
    figure = explanation.plot(tmp_path / "deep" / "out.png", classes=2, image=1)
    assert (tmp_path / "deep" / "out.png").read_bytes().startswith(b"\x89PNG")
    assert sum(bool(axes.images) for axes in figure.axes) >= 3
    explanation.plot(tmp_path / "out.svg", smooth=True)
    assert "one.jpg" in (tmp_path / "out.svg").read_text()
    floats = explanation.replace(images=explanation.images / np.float32(255))
    assert floats.plot().get_figwidth() == explanation.plot().get_figwidth()


def test_a_notebook_shows_pictures_of_the_first_images(explanation):
    html = explanation._repr_html_()
    assert html.count("<svg") == 3 and "more images" not in html and "<?xml" not in html


def test_json_holds_the_values(explanation, tmp_path):
    explanation.save(tmp_path / "e.json")
    saved = json.loads((tmp_path / "e.json").read_text())
    assert saved == explanation.to_dict() and saved["class_names"] == list(NAMES)
    np.testing.assert_allclose([image["shapley"] for image in saved["images"]], explanation.shapley, rtol=1e-6)
    assert [image["name"] for image in saved["images"]] == list(explanation.names)
    assert saved["images"][0]["prediction"] == NAMES[explanation.logits[0].argmax()]
    without = explanation.replace(standard_error=None, freedom=None).to_dict()
    assert without["images"][0]["standard_error"] is None and without["images"][0]["freedom"] is None


@pytest.mark.parametrize(("arguments", "message"), [
    ({"image": 3}, "image is 3, expected 0 to 2"), ({"path": "out.pdf"}, "ends in .png or .svg"),
    ({"path": "out"}, "ends in .png or .svg")])
def test_a_plot_that_cannot_be_is_one_line(explanation, arguments, message):
    with pytest.raises(UserError, match=message):
        explanation.plot(**arguments)


def test_arguments_of_another_kind_are_refused(explanation, tmp_path):
    with pytest.raises(UserError, match="expected a path that ends in .json"):
        explanation.save(tmp_path / "e.csv")
    for classes in ("5", 0, 1.5):
        with pytest.raises(UserError, match="expected how many classes to draw"):
            explanation.plot(classes=classes)
    for level in (0, 1, "0.9", None):
        with pytest.raises(UserError, match="expected a share between 0 and 1"):
            explanation.interval(level)


def test_it_is_no_container(explanation):
    with pytest.raises(TypeError):
        len(explanation)
