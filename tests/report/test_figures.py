"""What the pictures claim: one symmetric scale, votes that sum to the logits, the same bytes every time."""

import io

import numpy as np
import pytest
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from shapjax.report import figures, formatting
from shapjax.report.heatmap import overlay, value_text

NAMES = ["zero", "one", "two", "three"]
GREY = np.full((8, 12, 1), 200, np.uint8)


def votes_of(seed=0, grid=(2, 3), classes=4):
    return np.random.default_rng(seed).normal(0, 2, (*grid, classes)).astype(np.float32)


def softmax(votes):
    exponentials = np.exp(votes.sum((0, 1)) - votes.sum((0, 1)).max())
    return exponentials / exponentials.sum()


def explain(votes, image=GREY, names=NAMES, **settings):
    return figures.explanation_figure(image, votes, softmax(votes), names, **settings)


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def vote_panels(figure):
    """The axes with overlays: an input panel comes first, the color bar last."""
    return [axes for axes in figure.axes if axes.images][1:]


def color_bar(figure):
    (bar,) = {axes._colorbar for axes in figure.axes if isinstance(getattr(axes, "_colorbar", None), Colorbar)}
    return bar


def test_the_color_scale_is_symmetric_and_covers_the_classes_shown():
    votes = votes_of()
    top = np.argsort(-softmax(votes))[:3]
    votes[..., np.argsort(-softmax(votes))[3]] *= 0.1
    bar = color_bar(explain(votes, top=3))
    assert bar.vmin == -bar.vmax
    assert bar.vmax == pytest.approx(np.abs(votes[..., top]).max())


def test_a_class_that_is_not_shown_does_not_stretch_the_scale():
    votes = np.zeros((2, 3, 4), np.float32)
    votes[..., 0] = 1.0
    votes[0, 0, 3], votes[1, 1, 3] = -50, 40  # improbable
    assert color_bar(explain(votes, top=1)).vmax == pytest.approx(1.0)


def test_the_same_vote_has_the_same_color_in_every_panel():
    votes = np.zeros((2, 3, 4), np.float32)
    votes[0, 0, 0], votes[1, 2, 1] = 3.0, 3.0
    votes[0, 1, 1] = -1.5
    first, second, *_ = [axes.images[0].get_array() for axes in vote_panels(explain(votes))]
    assert (first[0, 0] == second[-1, -1]).all()
    assert (first[0, 0] != second[0, 5]).any()


def test_red_is_for_blue_is_against_and_zero_has_no_hue():
    overlay = overlay(GREY, np.array([[2.0, 0.0, -2.0]]), 2.0).astype(int)
    left, middle, right = overlay[0, 0], overlay[0, 5], overlay[0, -1]
    assert left[0] > left[2] + 80
    assert right[2] > right[0] + 80
    assert np.ptp(middle) < 8


def test_a_patch_is_tinted_exactly_where_it_lies():
    votes = np.zeros((2, 3))
    votes[1, 2] = 1.0
    overlay = overlay(GREY, votes, 1.0)
    differs = (overlay != overlay[0, 0]).any(-1)
    expected = np.zeros((8, 12), bool)
    expected[4:, 8:] = True
    np.testing.assert_array_equal(differs, expected)


def test_zero_votes_are_light_on_black_pictures_too():
    image = np.zeros((8, 8, 1), np.uint8)
    image[2:4, 2:4] = 255
    overlay = overlay(image, np.zeros((2, 2)), 1.0)
    assert overlay[0, 0].min() > 230
    assert overlay[2, 2].max() < overlay[0, 0].min()


@pytest.mark.parametrize("seed", range(3))
def test_titles_give_name_probability_and_the_logit(seed):
    votes = votes_of(seed)
    probabilities, written = softmax(votes), texts(explain(votes, top=2))
    best, second, *rest = np.argsort(-probabilities)
    for index in (best, second):
        logit = votes[..., index].sum()
        assert NAMES[index] in written
        assert f"{formatting.probability_text(probabilities[index])}  ·  sum {formatting.signed(logit)}" in written
    assert not {NAMES[index] for index in rest} & set(written)


def test_every_patch_has_its_number_where_there_is_room_and_none_where_there_is_not():
    few = explain(votes_of(), top=1)
    assert len(vote_panels(few)[0].texts) == 6 + 2  # two lines of heading
    many = explain(votes_of(grid=(6, 6)), image=np.zeros((12, 12, 3), np.uint8), top=1)
    assert len(vote_panels(many)[0].texts) == 2


def test_more_classes_than_there_are_and_names_with_dollars_are_drawn():
    figure = explain(votes_of(), names=["$a$", "$b", "a_{b}$c$", "x" * 80], top=9, label=3, title="$1 for $2")
    assert len(vote_panels(figure)) == 4
    assert figures.figure_bytes(figure, dpi=40)
    assert max(map(len, texts(figure))) < 60


def test_the_label_may_be_an_index_or_a_name():
    assert "label two" in texts(explain(votes_of(), label=2))
    assert "label a cat" in texts(explain(votes_of(), label="a cat"))


def test_arrays_that_do_not_fit_are_refused():
    votes = votes_of()
    with pytest.raises(ValueError, match="number of class names"):
        figures.explanation_figure(GREY, votes, softmax(votes), NAMES[:3])
    with pytest.raises(ValueError, match="not finite"):
        figures.explanation_figure(GREY, votes * np.nan, softmax(votes), NAMES)
    with pytest.raises(ValueError, match="uint8"):
        explain(votes, image=GREY / 255)


def test_agreement_panels_share_equal_axes_and_state_r2():
    exact = [np.random.default_rng(seed).normal(size=(5, 2, 2, 3)) * (seed + 1) for seed in range(2)]
    predicted = [exact[0], np.zeros_like(exact[1]) + exact[1].mean((1, 2, 3), keepdims=True)]
    figure = figures.agreement_figure(predicted, exact, titles=["Model", "Twin"])
    limits = {axes.get_xlim() for axes in figure.axes} | {axes.get_ylim() for axes in figure.axes}
    assert len(limits) == 1
    assert all(axes.collections[0].get_offsets().shape == (60, 2) for axes in figure.axes)
    assert ["R² = 1.00", "R² = 0.00"] == [text for text in texts(figure) if text.startswith("R²")]


def test_agreement_puts_exact_values_on_x():
    exact, predicted = np.array([[[1.0, 2.0]]]), np.array([[[3.0, 4.0]]])
    figure = figures.agreement_figure([predicted], [exact], titles=["Model"])
    np.testing.assert_array_equal(figure.axes[0].collections[0].get_offsets(), [[1, 3], [2, 4]])


def test_curves_show_each_run_and_the_accuracy_by_step():
    def records(scale):
        train = [{"step": s, "split": "train", "loss_classification": scale / s, "loss_masked": 1.0,
                  "loss_shapley": 0.0} for s in (10, 20, 30)]
        return [*train, {"step": 30, "split": "test", "accuracy": 0.5 * scale}]

    figure = figures.curves_figure([("Model", records(1)), ("Twin", records(2))])
    classification, _, shapley, accuracy = figure.axes
    assert classification.get_yscale() == "log"
    assert "not recorded" in [text.get_text() for text in shapley.texts]  # zero has no place on a log scale
    assert [list(line.get_ydata()) for line in accuracy.lines] == [[0.5], [1.0]]
    assert {"Model", "Twin"} <= set(texts(figure))
    assert figures.figure_bytes(figure, format="svg")


def test_a_loss_that_hardly_moves_still_has_two_ticks():
    records = [{"step": s, "split": "train", "loss_masked": 1.3 + s / 1e4} for s in (10, 20, 30)]
    axes = figures.curves_figure([("Model", records)]).axes[1]
    low, high = axes.get_ylim()
    assert sum(low <= tick <= high for tick in axes.get_yticks()) >= 2


def test_series_are_in_order_and_the_later_record_of_a_step_counts():
    records = [{"step": 20, "split": "train", "loss": 2.0}, {"step": 10, "split": "train", "loss": 1.0},
               {"step": 20, "split": "train", "loss": 3.0}, {"step": 30, "split": "train", "loss": float("nan")},
               {"step": 20, "split": "test", "loss": 9.0}, {"step": 40, "split": "train"}]
    steps, values = figures.series(records, "train", "loss")
    assert list(steps) == [10, 20]
    assert list(values) == [1.0, 3.0]


def test_the_same_figure_has_the_same_bytes():
    def files():
        figure = figures.agreement_figure([votes_of(1)[None]], [votes_of(2)[None]], titles=["Model"])
        return [figures.figure_bytes(figure, format=format) for format in ("png", "svg")]

    assert files() == files()


def test_themes_change_the_paper_and_leave_the_votes_alone():
    votes = votes_of()
    light, dark = (explain(votes, theme=theme) for theme in (figures.LIGHT, figures.DARK))
    pictures = [Image.open(io.BytesIO(figures.figure_bytes(figure, dpi=40))) for figure in (light, dark)]
    paper = [np.asarray(picture.convert("L"))[0, 0] for picture in pictures]
    assert paper[0] > 250 and paper[1] < 60
    for a, b in zip(vote_panels(light), vote_panels(dark), strict=True):
        np.testing.assert_array_equal(a.images[0].get_array(), b.images[0].get_array())


def test_no_global_state_is_left_behind():
    import matplotlib
    from matplotlib import _pylab_helpers

    before = dict(matplotlib.rcParams)
    assert isinstance(explain(votes_of()), Figure)
    assert dict(matplotlib.rcParams) == before
    assert not _pylab_helpers.Gcf.figs


@pytest.mark.parametrize(("value", "text"), [(1.234, "+1.23"), (-1.234, "−1.23"), (-0.001, "0.00"), (0.0, "0.00")])
def test_signed(value, text):
    assert formatting.signed(value) == text


@pytest.mark.parametrize(("value", "text"), [
    (0.9731, "97.3 %"), (1.0, "100.0 %"), (0.99996, "> 99.9 %"), (0.0, "0.0 %"), (0.0001, "< 0.1 %")])
def test_percent_never_rounds_to_certainty(value, text):
    assert formatting.percent(value) == text


@pytest.mark.parametrize(("value", "text"), [(np.float32(1 - 1e-9), "> 99.9 %"), (0.0, "< 0.1 %"), (0.9731, "97.3 %")])
def test_a_probability_is_no_certainty_even_where_its_float_is_one(value, text):
    assert formatting.probability_text(float(value)) == text


@pytest.mark.parametrize(("vote", "limit", "text"), [(0.46, 2.0, "+0.5"), (0.46, 0.9, "+0.46"), (-0.04, 3.0, "0.0")])
def test_small_votes_are_written_with_two_digits(vote, limit, text):
    assert value_text(vote, limit) == text
