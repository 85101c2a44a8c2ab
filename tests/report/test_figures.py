"""Pictures have one symmetric scale, values that sum to the logits, and the same bytes every time."""

import io

import numpy as np
import pytest
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from scipy.special import softmax

from shapjax.report import figures, formatting, plots
from shapjax.report.heatmap import overlay, value_text

NAMES = ["zero", "one", "two", "three"]
GRAY = np.full((8, 12, 1), 200, np.uint8)


def values_of(seed=0, grid=(2, 3), classes=4):
    return np.random.default_rng(seed).normal(0, 2, (*grid, classes)).astype(np.float32)


def explain(values, image=GRAY, names=NAMES, **settings):
    return figures.explanation_figure(image, values, softmax(values.sum((0, 1))), names, **settings)


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def value_panels(figure):
    """Returns the axes with overlays: an input panel comes first, the color bar last."""
    return [axes for axes in figure.axes if axes.images][1:]


def color_bar(figure):
    (bar,) = {axes._colorbar for axes in figure.axes if isinstance(getattr(axes, "_colorbar", None), Colorbar)}
    return bar


def test_the_color_scale_is_symmetric_and_covers_the_classes_shown():
    values = values_of()
    top = np.argsort(-softmax(values.sum((0, 1))))[:3]
    values[..., np.argsort(-softmax(values.sum((0, 1))))[3]] *= 0.1
    bar = color_bar(explain(values, top=3))
    assert bar.vmin == -bar.vmax
    assert bar.vmax == pytest.approx(np.abs(values[..., top]).max())


def test_a_class_that_is_not_shown_does_not_stretch_the_scale():
    values = np.zeros((2, 3, 4), np.float32)
    values[..., 0] = 1.0
    values[0, 0, 3], values[1, 1, 3] = -50, 40  # improbable
    assert color_bar(explain(values, top=1)).vmax == pytest.approx(1.0)


def test_the_same_value_has_the_same_color_in_every_panel():
    values = np.zeros((2, 3, 4), np.float32)
    values[0, 0, 0], values[1, 2, 1] = 3.0, 3.0
    values[0, 1, 1] = -1.5
    first, second, *_ = [axes.images[0].get_array() for axes in value_panels(explain(values))]
    assert (first[0, 0] == second[-1, -1]).all()
    assert (first[0, 0] != second[0, 5]).any()


def test_red_is_for_blue_is_against_and_zero_has_no_hue():
    shown = overlay(GRAY, np.array([[2.0, 0.0, -2.0]]), 2.0).astype(int)
    left, middle, right = shown[0, 0], shown[0, 5], shown[0, -1]
    assert left[0] > left[2] + 80
    assert right[2] > right[0] + 80
    assert np.ptp(middle) < 8


def test_a_patch_is_tinted_exactly_where_it_lies():
    values = np.zeros((2, 3))
    values[1, 2] = 1.0
    shown = overlay(GRAY, values, 1.0)
    differs = (shown != shown[0, 0]).any(-1)
    expected = np.zeros((8, 12), bool)
    expected[4:, 8:] = True
    np.testing.assert_array_equal(differs, expected)


def test_zero_values_are_light_on_black_pictures_too():
    image = np.zeros((8, 8, 1), np.uint8)
    image[2:4, 2:4] = 255
    shown = overlay(image, np.zeros((2, 2)), 1.0)
    assert shown[0, 0].min() > 230
    assert shown[2, 2].max() < shown[0, 0].min()


@pytest.mark.parametrize("seed", range(3))
def test_titles_give_name_probability_and_the_logit(seed):
    values = values_of(seed)
    probabilities, written = softmax(values.sum((0, 1))), texts(explain(values, top=2))
    best, second, *rest = np.argsort(-probabilities)
    for index in (best, second):
        logit = values[..., index].sum()
        assert NAMES[index] in written
        assert f"{formatting.probability_text(probabilities[index])}  ·  sum {formatting.signed(logit)}" in written
    assert not {NAMES[index] for index in rest} & set(written)


def test_every_patch_has_its_number_where_there_is_room_and_none_where_there_is_not():
    few = explain(values_of(), top=1)
    assert len(value_panels(few)[0].texts) == 6 + 2  # two lines of heading
    many = explain(values_of(grid=(6, 6)), image=np.zeros((12, 12, 3), np.uint8), top=1)
    assert len(value_panels(many)[0].texts) == 2


def test_patches_whose_interval_holds_0_are_hatched_and_numbers_have_their_error():
    values = values_of()
    values += np.where(values > 0, 0.2, -0.2).astype(np.float32)
    half = np.full(values.shape, 0.1, np.float32)
    half[1, 2] = np.abs(values[1, 2]) + 0.5
    for axes in value_panels(explain(values, half_width=half, top=2)):
        (hatched,) = [patch for patch in axes.patches if patch.get_hatch()]
        assert hatched.get_xy() == pytest.approx((7.5, 3.5)) and hatched.get_width() == pytest.approx(4)
        assert sum(text.get_text().endswith("\n±0.1") for text in axes.texts) == 5
    assert any("hatched: sign not certain" in text for text in texts(explain(values, half_width=half)))
    for figure in (explain(values), explain(values, half_width=half, smooth=True)):
        assert not any(patch.get_hatch() for axes in value_panels(figure) for patch in axes.patches)
        assert not any("hatched" in text for text in texts(figure))


def test_more_classes_than_there_are_and_names_with_dollars_are_drawn():
    figure = explain(values_of(), names=["$a$", "$b", "a_{b}$c$", "x" * 80], top=9, label=3, title="$1 for $2")
    assert len(value_panels(figure)) == 4
    assert figures.figure_bytes(figure, dpi=40)
    assert max(map(len, texts(figure))) < 60


def test_the_label_may_be_an_index_or_a_name():
    assert "label two" in texts(explain(values_of(), label=2))
    assert "label a cat" in texts(explain(values_of(), label="a cat"))


def test_arrays_that_do_not_fit_are_refused():
    values = values_of()
    with pytest.raises(ValueError, match="number of class names"):
        figures.explanation_figure(GRAY, values, softmax(values.sum((0, 1))), NAMES[:3])
    with pytest.raises(ValueError, match="not finite"):
        figures.explanation_figure(GRAY, values * np.nan, softmax(values.sum((0, 1))), NAMES)
    with pytest.raises(ValueError, match="uint8"):
        explain(values, image=GRAY / 255)


def test_the_same_figure_has_the_same_bytes():
    def files():
        figure = plots.agreement_figure([values_of(1)[None]], [values_of(2)[None]], r2=[0.5], titles=["Model"])
        return [figures.figure_bytes(figure, format=format) for format in ("png", "svg")]

    assert files() == files()


def test_themes_change_the_paper_and_leave_the_values_alone():
    values = values_of()
    light, dark = (explain(values, theme=theme) for theme in (figures.LIGHT, figures.DARK))
    pictures = [Image.open(io.BytesIO(figures.figure_bytes(figure, dpi=40))) for figure in (light, dark)]
    paper = [np.asarray(picture.convert("L"))[0, 0] for picture in pictures]
    assert paper[0] > 250 and paper[1] < 60
    for a, b in zip(value_panels(light), value_panels(dark), strict=True):
        np.testing.assert_array_equal(a.images[0].get_array(), b.images[0].get_array())


def test_no_global_state_is_left_behind():
    import matplotlib
    from matplotlib import _pylab_helpers

    before = dict(matplotlib.rcParams)
    assert isinstance(explain(values_of()), Figure)
    assert dict(matplotlib.rcParams) == before
    assert not _pylab_helpers.Gcf.figs


@pytest.mark.parametrize(("value", "limit", "text"), [(0.46, 2.0, "+0.5"), (0.46, 0.9, "+0.46"), (-0.04, 3.0, "0.0")])
def test_small_values_are_written_with_two_digits(value, limit, text):
    assert value_text(value, limit) == text


def test_a_smooth_picture_has_the_patches_colors_at_their_centers_and_no_numbers():
    image, values = np.full((90, 90, 1), 200, np.uint8), np.array([[2.0, 0, 0], [0, -2.0, 0], [0, 0, 0]])
    sharp, smooth = overlay(image, values, 2.0).astype(int), overlay(image, values, 2.0, smooth=True).astype(int)
    centers = np.ix_([15, 45, 75], [15, 45, 75])
    assert np.abs(sharp - smooth)[centers].max() < 12
    steps = [np.abs(np.diff(shown, axis=axis)).max() for shown in (sharp, smooth) for axis in (0, 1)]
    assert max(steps[2:]) < 30 < min(steps[:2])
    assert len(value_panels(explain(values_of(), top=1, smooth=True))[0].texts) == 2
