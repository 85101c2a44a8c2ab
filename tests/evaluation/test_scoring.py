"""Every metric of the comparison is what its name says: each is computed anew, in numpy, from the game's values."""

import functools

import jax
import numpy as np
import pytest
from scipy import special, stats

from shapjax.evaluation import scoring
from shapjax.evaluation.keys import image_keys
from shapjax.games import Constant, wrap
from shapjax.metrics import localization, perturbation, pixel_perturbation

N, ALL = 4, 15
COUNTS = np.floor(np.arange(10) / 10 * N + 0.5).astype(int)  # patches removed at 0, 10 … 90 %


@pytest.fixture(scope="module")
def values(game, case):
    return jax.device_get(jax.jit(functools.partial(scoring.shared_values, batch_size=16))(
        game.model, game.images, case["targets"], image_keys("coalitions", len(game.images), seed=0)))


def test_random_coalitions_have_a_quarter_half_or_any_number_of_the_patches():
    model = wrap(lambda x: x.reshape(len(x), 2, -1).sum(axis=2), grid=(3, 4), removal=Constant(0.0))
    out = scoring.shared_values(model, np.ones((1, 6, 4, 1), np.float32), np.zeros(1, np.int32),
                                    image_keys("coalitions", 1, seed=0), batch_size=64)
    sizes = {kind: np.unique(out[f"{kind}/masks"].sum(axis=-1)) for kind in ("quarter", "half", "any")}
    assert sizes["quarter"].tolist() == [3] and sizes["half"].tolist() == [6]
    assert sizes["any"].tolist() == list(range(1, 12))


@pytest.fixture(scope="module")
def scores(measured):
    return measured["linear"]


def order(case):
    return np.argsort(-case["attributions"], axis=1)


def logits_along(game, patches):
    """Returns logits as the patches int [n, N] are shown one by one: [n, N+1, K]."""
    codes = np.concatenate([np.zeros((len(patches), 1), int), np.cumsum(2**patches, axis=1)], axis=1)
    return np.take_along_axis(game.values, codes[:, :, None], axis=1)


def p_along(game, case, patches):
    return take(special.softmax(logits_along(game, patches), axis=-1), case["targets"])


def take(x, classes):
    return np.take_along_axis(x, classes.reshape(-1, *[1] * (x.ndim - 1)), axis=-1)[..., 0]


def test_curves_and_what_is_made_of_probabilities(game, case, scores):
    inserted = p_along(game, case, order(case))
    deleted = p_along(game, case, order(case)[:, ::-1])[:, ::-1]
    fall = deleted[:, :1] - deleted[:, COUNTS[1:]]
    least_first = p_along(game, case, order(case)[:, ::-1])[:, 1:]
    expected = {
        "curve/insertion": inserted, "curve/deletion": deleted,
        "metric/insertion": np.trapezoid(inserted, dx=1 / N, axis=1),
        "metric/deletion": np.trapezoid(deleted, dx=1 / N, axis=1),
        "metric/aopc": fall.mean(axis=1), "metric/aopc_absolute": np.abs(fall).mean(axis=1),
        "metric/lodds": np.log(deleted[:, COUNTS[1:]] / deleted[:, :1]).mean(axis=1),
        "metric/monotonicity": (np.diff(least_first, axis=1) >= 0).all(axis=1)}
    for name, x in expected.items():
        np.testing.assert_allclose(scores[name], x, atol=1e-5, err_msg=name)
    assert 0 < expected["metric/monotonicity"].sum() < len(case["labels"])


def test_what_is_made_of_predictions_counts_the_class_it_names(game, case, scores):
    removed = {"positive": logits_along(game, order(case)[:, ::-1])[:, N - COUNTS],  # the most important ones
               "negative": logits_along(game, order(case))[:, N - COUNTS]}
    for name, logits in removed.items():
        for suffix, classes in (("", case["predicted"]), ("_label", case["labels"])):
            right = logits.argmax(axis=-1) == classes[:, None]
            area = 100 * np.trapezoid(1.0 * right, dx=0.1, axis=1)
            np.testing.assert_allclose(scores[f"metric/{name}{suffix}"], area, atol=1e-4, err_msg=name + suffix)
        np.testing.assert_array_equal(scores[f"curve/{name}"], logits.argmax(axis=-1) == case["predicted"][:, None])
    areas = [scores[f"metric/{name}"].mean() for name in ("positive", "negative", "positive_label", "negative_label")]
    assert len(set(np.round(areas, 2))) == 4


def test_pixels_and_imputation_are_those_of_the_metrics_of_these_names(game, case, scores):
    keys = image_keys("ties", len(game.images), seed=0)
    for name in ("positive", "negative"):
        fn = getattr(pixel_perturbation, f"{name}_perturbation_pixels")
        expected = fn(game.model, game.images, case["attributions"], case["predicted"], keys)
        np.testing.assert_allclose(scores[f"metric/{name}_pixels"], expected, atol=1e-4)
    assert scores["metric/positive_pixels"].mean() != scores["metric/negative_pixels"].mean()
    road = np.asarray(perturbation.road(game.model, game.images, order(case), case["targets"]))
    np.testing.assert_allclose(scores["metric/road"], road[:, 1:].mean(axis=1), atol=1e-5)
    np.testing.assert_array_equal(road[:, 0], case["predicted"] == case["targets"])
    assert (road[:, :1] != road[:, 1:]).any()


def log_odds(game, case, masks):
    p = take(special.softmax(game.values, axis=-1), case["targets"])
    return special.logit(np.take_along_axis(p, masks @ 2 ** np.arange(N), axis=1))


def test_random_coalitions_are_of_their_sizes_and_have_the_targets_log_odds(game, case, values):
    for kind, sizes in (("any", {1, 2, 3}), ("quarter", {1}), ("half", {2})):
        masks = values[f"{kind}/masks"]
        assert set(masks.sum(axis=-1).ravel()) == sizes and masks.shape == (len(game.images), scoring.RANDOM_PAIRS, N)
        np.testing.assert_allclose(values[f"{kind}/inside"], log_odds(game, case, masks), atol=1e-4)
        np.testing.assert_allclose(values[f"{kind}/outside"], log_odds(game, case, ~masks), atol=1e-4)
    assert not np.array_equal(values["any/masks"][0], values["any/masks"][1])


def test_what_is_made_of_random_coalitions(game, case, values, scores):
    attributions, p_full = case["attributions"], p_along(game, case, order(case))[:, -1]
    for i in range(len(game.images)):
        a = attributions[i]

        def rows(kind, i=i, a=a):
            """Sums and log-odds of coalitions, and the same of their complements."""
            masks = values[f"{kind}/masks"][i]
            return (masks @ a, values[f"{kind}/inside"][i]), (~masks @ a, values[f"{kind}/outside"][i])

        every = [np.concatenate(pair) for pair in zip(*rows("any"), strict=True)]
        fixed = [stats.spearmanr(*pair)[0] for pair in (*rows("quarter"), rows("half")[0])]
        (sums, _), (_, without) = rows("quarter")
        faithfulness = np.corrcoef(sums, p_full[i] - special.expit(without))[0, 1]
        removed, drop = a.sum() - every[0], p_full[i] - special.expit(every[1])
        scaled = removed * (removed @ drop) / (removed @ removed)
        expected = {"sensitivity_n": stats.spearmanr(*every)[0], "sensitivity_n_fixed": np.mean(fixed),
                    "faithfulness": faithfulness, "infidelity": np.mean((scaled - drop) ** 2)}
        for name, x in expected.items():
            assert scores[f"metric/{name}"][i] == pytest.approx(x, abs=1e-3), name


def test_sparseness_is_the_gini_index(case, scores):
    a = np.abs(case["attributions"])
    differences = np.abs(a[:, :, None] - a[:, None, :]).sum(axis=(1, 2))
    np.testing.assert_allclose(scores["metric/sparseness"], differences / (2 * N * a.sum(axis=1)), atol=1e-5)


def test_agreement_is_that_with_the_targets_ground_truth(game, case, scores):
    of_target = take(game.exact, case["targets"])
    for i, (a, b) in enumerate(zip(case["attributions"], of_target, strict=True)):
        assert scores["metric/shapley_pearson"][i] == pytest.approx(stats.pearsonr(a, b)[0], abs=1e-5)
        assert scores["metric/shapley_spearman"][i] == pytest.approx(stats.spearmanr(a, b)[0], abs=1e-5)


def test_localization_is_of_the_labeled_pixels_of_the_objects(case, subjects, scores):
    objects = subjects.object_masks
    touches = (objects > 0).reshape(-1, 2, 2, 2, 2).any(axis=(2, 4)).reshape(-1, N)
    np.testing.assert_array_equal(scores["metric/pointing"], take(touches, order(case)[:, 0]))
    where = {"grid": (2, 2), "image_size": (4, 4)}
    np.testing.assert_allclose(scores["metric/map"], localization.segmentation_average_precision(
        case["attributions"], objects, **where), atol=0.05)
    labeled, counts = (objects >= 0).sum(axis=(1, 2)), scores["metric/miou"]
    np.testing.assert_array_equal(counts[:, 1], labeled)
    np.testing.assert_array_equal(counts, scores["metric/pixel_accuracy"])
    # For object and background, the union is in the mask or the map; correct pixels are in an intersection.
    np.testing.assert_array_equal(counts[:, 0], counts[:, 2] + counts[:, 3])
    np.testing.assert_array_equal(counts[:, 4] - counts[:, 2], counts[:, 5] - counts[:, 3])
    assert (labeled - counts[:, 0] == counts[:, 4] - counts[:, 2]).all() and (counts[:, 0] != counts[:, 1]).any()
