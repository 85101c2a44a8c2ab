"""The metrics by name; every direction follows from what the metric says of the best map and of its reverse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapjax import metrics
from shapjax.games import classifier, outputs
from shapjax.games.removal import Constant
from shapjax.metrics import faithfulness, localization, perturbation, pixel_perturbation, ranking, registry

KEY, WHERE = jax.random.key(0), {"grid": (4, 4), "image_size": (8, 8)}
OBJECT = np.zeros((4, 4), bool)
OBJECT[1:3, :3] = True


@pytest.fixture(scope="module")
def worth():
    """Returns each patch's share in the logit of class 0, which is additive: large on the object, one is negative.

    float32 [1, 16]. With one negative patch, the probability never falls from the least to the most important patch.
    """
    rng = np.random.default_rng(0)
    values = np.where(OBJECT.ravel(), rng.uniform(0.8, 1.2, 16), rng.uniform(0.01, 0.1, 16))
    values[15] = -0.6
    return values.astype(np.float32)[None]


@pytest.fixture(scope="module")
def game(worth):
    """Returns the classifier and its image of 8 x 8 pixels, bright on the object and dark around it."""
    image = in_pixels(np.where(OBJECT, 1, -1).astype(np.float32))
    weight = in_pixels(worth) / 4 / image
    model = classifier.wrap(lambda x: jnp.stack([(x[..., 0] * weight).sum(axis=(1, 2)), jnp.full(len(x), 3.0)], axis=1),
                            grid=(4, 4), removal=Constant(0.0))
    return model, image[..., None]


def in_pixels(patches):
    """Returns [1, 8, 8] from patches of 2 x 2 pixels."""
    return patches.reshape(1, 4, 4).repeat(2, axis=1).repeat(2, axis=2)


@jax.jit
def on_device(model, image, object_masks, attributions):
    """Computes every metric of single images that has a direction, by its key, and the counts of the segmentation."""
    target, order = jnp.zeros(1, int), ranking.order(attributions, KEY)
    curves = perturbation.curves(model, image, order)
    masks = faithfulness.sample_masks(KEY, num_players=16, num_masks=64)
    fixed = faithfulness.sample_masks(KEY, num_players=16, num_masks=64, size=8)
    read = outputs.target_class(target, "log_odds")
    (inside, _), (fixed_inside, fixed_outside) = (
        classifier.pair_values(model, image, m, read=read) for m in (masks, fixed))
    pixels = (model, image, attributions, target, KEY)
    precision = localization.segmentation_average_precision(attributions, object_masks, **WHERE)
    return {
        "deletion": perturbation.deletion(curves), "insertion": perturbation.insertion(curves),
        "aopc": perturbation.aopc(curves), "aopc_absolute": perturbation.aopc_absolute(curves),
        "lodds": perturbation.lodds(curves), "positive": perturbation.positive_perturbation(curves),
        "negative": perturbation.negative_perturbation(curves),
        "positive_label": perturbation.positive_perturbation(curves, target),
        "negative_label": perturbation.negative_perturbation(curves, target),
        "positive_pixels": pixel_perturbation.positive_perturbation_pixels(*pixels),
        "negative_pixels": pixel_perturbation.negative_perturbation_pixels(*pixels),
        "sensitivity_n": faithfulness.sensitivity_n(attributions, masks, inside),
        "sensitivity_n_fixed": faithfulness.sensitivity_n(attributions, fixed, fixed_inside),
        "faithfulness": faithfulness.faithfulness_correlation(
            attributions, fixed, jnp.exp(perturbation.target_log_probability(curves).deleted[:, 0]),
            jax.nn.sigmoid(fixed_outside)),
        "monotonicity": perturbation.monotonicity(curves),
        "road": perturbation.road(model, image, order, target)[:, 1:].mean(axis=1),
        "pointing": localization.pointing_game(attributions, object_masks, KEY, grid=(4, 4)),
        "map": precision, "map_correct": precision,
    }, localization.segmentation_counts(attributions, object_masks, **WHERE)


def measure(model, image, worth, attributions):
    """Computes every metric that has a direction, by its key."""
    values, counts = on_device(model, image, in_pixels(OBJECT), attributions)
    total, agreement = counts[0], metrics.agreement(attributions[..., None], worth[..., None])
    return values | {
        "pixel_accuracy": localization.pixel_accuracy(total), "miou": localization.mean_iou(total),
        "pixel_accuracy_correct": localization.pixel_accuracy(total), "miou_correct": localization.mean_iou(total),
        "shapley_pearson": agreement["pearson"], "shapley_spearman": agreement["spearman"],
    }


def test_the_exact_worths_are_better_than_their_reverse_in_the_direction_of_every_metric(game, worth):
    best, reverse = ({key: float(np.squeeze(value)) for key, value in measure(*game, worth, a).items()}
                     for a in (worth, -worth))
    directed = {key: metric.better for key, metric in registry.METRICS.items() if metric.better}
    assert set(directed) == set(best)
    got = {key: "higher" if best[key] > reverse[key] else "lower" if best[key] < reverse[key] else "equal"
           for key in best}
    assert got == directed


def test_metrics_without_a_direction_cannot_tell_a_map_from_its_negative(worth, rng):
    masks = np.asarray(faithfulness.sample_masks(KEY, num_players=16, num_masks=30))
    without = rng.uniform(size=(1, 30)).astype(np.float32)
    both = {"sparseness": [metrics.gini(a) for a in (worth, -worth)],
            "infidelity": [metrics.infidelity(a, masks, np.ones(1, np.float32), without, normalize=True)
                           for a in (worth, -worth)]}
    assert set(both) == {key for key, metric in registry.METRICS.items() if metric.better is None}
    for first, second in both.values():
        np.testing.assert_allclose(first, second, rtol=1e-5)


def test_public_names_are_those_of_their_functions_and_no_submodule_hides_them():
    for name in set(metrics.__all__) - {"METRICS"}:
        assert getattr(metrics, name).__name__ == name


def test_metrics_that_need_object_masks_or_ground_truth_come_with_them():
    def keys(**given):
        return {metric.key for metric in registry.select("all", **given)}

    assert keys(ground_truth=True, object_masks=True) == set(registry.METRICS)
    neither = keys(ground_truth=False, object_masks=False)
    assert keys(ground_truth=True, object_masks=False) - neither == {"shapley_pearson", "shapley_spearman"}
    assert keys(ground_truth=False, object_masks=True) - neither == {
        "pixel_accuracy", "miou", "map", "pointing", "pixel_accuracy_correct", "miou_correct", "map_correct"}


def test_unknown_metrics_and_those_without_their_data_are_refused_in_one_line():
    assert [m.key for m in registry.select(["road", "aopc", "road"], ground_truth=False, object_masks=False)] == [
        "road", "aopc"]
    with pytest.raises(ValueError, match="'insertoin'; did you mean insertion"):
        registry.select(["insertoin"], ground_truth=True, object_masks=True)
    with pytest.raises(ValueError, match="'map' needs object masks"):
        registry.select(["map"], ground_truth=True, object_masks=False)
    with pytest.raises(ValueError, match="'shapley_pearson' needs Shapley values as ground truth"):
        registry.select(["shapley_pearson"], ground_truth=False, object_masks=True)
