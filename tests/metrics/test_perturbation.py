"""Curves against a loop over single coalitions, and every metric against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from shapjax.games import classifier
from shapjax.games.removal import Constant, NoisyLinear, hidden_pixels
from shapjax.metrics import perturbation

N = 5  # q·N is 0.5, 1 … 4.5: every other one is a half


@pytest.fixture
def hand_made(rng):
    """Returns curves of 7 images without a model, logits of 3 classes."""
    inserted = rng.normal(size=(7, N + 1, 3), scale=2).astype(np.float32)
    deleted = rng.normal(size=(7, N + 1, 3), scale=2).astype(np.float32)
    deleted[:, 0], deleted[:, -1] = inserted[:, -1], inserted[:, 0]  # the whole and the empty image
    return perturbation.Curves(jnp.asarray(inserted), jnp.asarray(deleted))


@pytest.fixture
def probabilities(hand_made):
    """Returns p_ŷ of both curves, [7, N + 1] each."""
    winner = np.argmax(hand_made.deleted[:, 0], axis=-1)
    return [softmax(np.float64(logits), axis=-1)[np.arange(7), :, winner] for logits in hand_made]


@pytest.mark.parametrize("batch_size", [7, 256])
def test_both_curves_equal_a_loop_over_single_coalitions(example, example_order, batch_size):
    curves = perturbation.curves(example.model, example.images, example_order, batch_size=batch_size)
    single = jax.jit(lambda model, images, mask: model.coalition_logits(images, mask))
    for k in range(17):
        first = np.zeros((6, 16), bool)
        for image, patches in enumerate(np.asarray(example_order)[:, :k]):
            first[image, patches] = True
        np.testing.assert_allclose(curves.inserted[:, k], single(example.model, example.images, first), atol=2e-5)
        np.testing.assert_allclose(curves.deleted[:, k], single(example.model, example.images, ~first), atol=2e-5)


def test_known_logits_of_whole_and_empty_images_are_taken_and_not_evaluated_again(
        example, example_order, example_curves, monkeypatch):
    evaluated, pair_values = [], classifier.pair_values
    monkeypatch.setattr(classifier, "pair_values", lambda *args, **kw: evaluated.append(args[2]) or pair_values(
        *args, **kw))
    whole, empty = np.full((6, 3), 7, np.float32), np.full((6, 3), 8, np.float32)
    # Beneath the compiled program, so that it is traced anew.
    found = perturbation.curves.__wrapped__(example.model, example.images, example_order, ends=(whole, empty))
    assert [masks.shape for masks in evaluated] == [(6, 15, 16)]
    np.testing.assert_array_equal(found.inserted[:, [0, -1]], np.stack([empty, whole], axis=1))
    np.testing.assert_array_equal(found.deleted[:, [0, -1]], np.stack([whole, empty], axis=1))
    for new, old in zip(found, example_curves, strict=True):
        np.testing.assert_allclose(new[:, 1:-1], old[:, 1:-1], atol=2e-5)


def test_curves_of_a_single_patch_are_their_ends():
    model = classifier.wrap(lambda x: jnp.stack([x.sum((1, 2, 3)), jnp.zeros(len(x))], axis=1), grid=(1, 1),
                            removal=Constant(0.0))
    images, order = np.ones((2, 4, 4, 1), np.float32), np.zeros((2, 1), int)
    found = perturbation.curves(model, images, order)
    np.testing.assert_array_equal(found.deleted[..., 0], [[16, 0]] * 2)
    known = perturbation.curves(model, images, order, ends=(found.deleted[:, 0], found.deleted[:, 1]))
    np.testing.assert_array_equal(known.inserted[..., 0], [[0, 16]] * 2)


@pytest.mark.parametrize("metric", ["correct_without", "road"])
def test_the_known_logits_of_the_image_are_its_prediction(example, example_order, metric):
    fn, args = getattr(perturbation, metric), (example.model, example.images, example_order, np.ones(6, int))
    whole = np.eye(3, dtype=np.float32)[[1, 0, 1, 2, 1, 0]]
    found = fn(*args, whole=whole)
    np.testing.assert_array_equal(found[:, 0], [1, 0, 1, 0, 1, 0])
    np.testing.assert_array_equal(found[:, 1:], fn(*args)[:, 1:])


def test_in_reverse_insertion_is_deletion_and_positive_is_negative(example, example_order, example_curves):
    back = perturbation.curves(example.model, example.images, example_order[:, ::-1])
    np.testing.assert_allclose(
        perturbation.insertion(back), perturbation.deletion(example_curves), atol=1e-5)
    np.testing.assert_allclose(
        perturbation.positive_perturbation(back, example.targets),
        perturbation.negative_perturbation(example_curves, example.targets), atol=1e-4)


@pytest.mark.parametrize(("num_players", "counts"), [
    (4, [0, 0, 1, 1, 2, 2, 2, 3, 3, 4]), (5, [0, 1, 1, 2, 2, 3, 3, 4, 4, 5]),
    (16, [0, 2, 3, 5, 6, 8, 10, 11, 13, 14]), (196, [0, 20, 39, 59, 78, 98, 118, 137, 157, 176])])
def test_fractions_are_rounded_to_whole_patches_halves_up(num_players, counts):
    np.testing.assert_array_equal(perturbation.removed_counts(num_players), counts)


def test_areas_are_trapezoids_over_the_fraction(hand_made, probabilities):
    for auc, p in zip((perturbation.insertion, perturbation.deletion), probabilities, strict=True):
        np.testing.assert_allclose(auc(hand_made), np.trapezoid(p, np.arange(N + 1) / N, axis=1), atol=1e-6)


def test_a_constant_probability_is_its_own_area():
    curves = perturbation.Curves(*[jnp.log(jnp.broadcast_to(jnp.array([0.7, 0.3]), (1, N + 1, 2)))] * 2)
    assert perturbation.insertion(curves)[0] == pytest.approx(0.7)
    assert perturbation.deletion(curves)[0] == pytest.approx(0.7)
    assert perturbation.aopc(curves)[0] == pytest.approx(0, abs=1e-7)


def test_aopc_and_lodds_are_means_over_the_fractions(hand_made, probabilities):
    p = probabilities[1]
    q = perturbation.removed_counts(N)[1:]
    whole = np.exp(perturbation.target_log_probability(hand_made).deleted[:, 0])
    np.testing.assert_allclose(whole, p[:, 0], atol=1e-6)
    np.testing.assert_allclose(perturbation.aopc(hand_made), np.mean(p[:, :1] - p[:, q], axis=1), atol=1e-6)
    np.testing.assert_allclose(
        perturbation.aopc_absolute(hand_made), np.mean(abs(p[:, :1] - p[:, q]), axis=1), atol=1e-6)
    np.testing.assert_allclose(
        perturbation.lodds(hand_made), np.mean(np.log(p[:, q] / p[:, :1]), axis=1), atol=1e-5)


def test_lodds_is_finite_where_the_probability_underflows():
    deleted = jnp.zeros((1, N + 1, 2)).at[0, 1:, 0].set(-300)
    assert perturbation.lodds(perturbation.Curves(deleted, deleted))[0] == pytest.approx(-300 + np.log(2), rel=1e-5)


def test_another_target_is_the_same_as_renaming_the_classes(hand_made):
    targets = np.array([0, 1, 2, 0, 1, 2, 0])
    for metric in (perturbation.insertion, perturbation.aopc, perturbation.lodds):
        rolled = np.concatenate([
            metric(jax.tree.map(lambda logits, t=t: jnp.roll(logits, -t, axis=-1), hand_made), jnp.zeros(7, int))[None]
            for t in range(3)])
        np.testing.assert_allclose(metric(hand_made, targets), rolled[targets, np.arange(7)], rtol=1e-5)


@pytest.mark.parametrize("labels", [None, np.array([0, 1, 2, 0, 1, 2, 0])])
def test_perturbation_areas_average_to_the_area_under_the_accuracy(hand_made, labels):
    correct = np.argmax(hand_made.deleted[:, 0], axis=-1) if labels is None else labels
    counts = perturbation.removed_counts(N)
    positive = [np.mean(np.argmax(hand_made.deleted[:, k], axis=-1) == correct) for k in counts]
    negative = [np.mean(np.argmax(hand_made.inserted[:, N - k], axis=-1) == correct) for k in counts]
    fractions = np.arange(10) / 10
    assert np.mean(perturbation.positive_perturbation(hand_made, labels)) == pytest.approx(
        100 * np.trapezoid(positive, fractions), rel=1e-5)
    assert np.mean(perturbation.negative_perturbation(hand_made, labels)) == pytest.approx(
        100 * np.trapezoid(negative, fractions), rel=1e-5)


def test_an_image_that_stays_correct_has_an_area_of_90():
    assert perturbation.accuracy_area(np.ones((1, 10), bool))[0] == pytest.approx(90)


def test_predictions_without_patches_are_those_of_the_deletion_curve(example, example_order, example_curves):
    predicted = np.argmax(example_curves.deleted[:, perturbation.removed_counts(16)], axis=-1)
    assert len(np.unique(predicted)) > 1
    for label in np.unique(predicted):
        labels = np.full(len(predicted), label)
        correct = perturbation.correct_without(example.model, example.images, example_order, labels)
        np.testing.assert_array_equal(correct, predicted == label)


def test_an_order_of_other_patches_is_refused(example):
    with pytest.raises(ValueError, match=r"orders have shape \(6, 9\), expected \(6, 16\)"):
        perturbation.curves(example.model, example.images, np.zeros((6, 9), int))


# Monotonicity


def of_probabilities(*deleted):
    """Returns the metric of class 0 of two, from p without the first 0 … N patches of the order."""
    p = jnp.asarray([deleted], jnp.float32)
    logits = jnp.log(jnp.stack([p, 1 - p], axis=-1))
    return perturbation.Curves(logits[:, ::-1], logits)


@pytest.mark.parametrize(("deleted", "monotone"), [
    ((0.9, 0.7, 0.5, 0.2), 1),  # read from the right: 0.5, 0.7, 0.9
    ((0.9, 0.9, 0.5, 0.2), 1),  # staying level is no fall
    ((0.9, 0.5, 0.7, 0.2), 0),
    ((0.8, 0.9, 0.5, 0.2), 0),  # the most important patch lowers it
    ((0.9, 0.7, 0.5, 0.6), 1),  # the value of no patches at all does not count
])
def test_falls_count_from_one_visible_patch_on(deleted, monotone):
    assert perturbation.monotonicity(of_probabilities(*deleted), jnp.zeros(1, int))[0] == monotone


def test_the_target_is_the_predicted_class_unless_given():
    rising = of_probabilities(0.1, 0.3, 0.5, 0.8)
    assert perturbation.monotonicity(rising)[0] == 1  # class 1 is predicted, and falls as 0 rises
    assert perturbation.monotonicity(rising, np.zeros(1, int))[0] == 0


# ROAD


def test_removed_patches_are_imputed_then_classified(example, example_order):
    imputation = NoisyLinear(noise=0.5, seed=3)
    got = perturbation.road(
        example.model, example.images, example_order, example.targets, batch_size=16, imputation=imputation)
    assert got.shape == (6, 10) and got.dtype == np.float32
    rank = np.argsort(np.asarray(example_order), axis=1)
    impute = jax.jit(imputation)
    for i, count in enumerate(perturbation.removed_counts(16)):
        images = impute(example.images, hidden_pixels(rank >= count, (4, 4), (4, 4)))
        right = np.argmax(example.model.logits(images), axis=-1) == example.targets
        np.testing.assert_array_equal(got[:, i], right)


def test_road_without_removal_is_the_accuracy(example, example_order):
    predictions = np.argmax(example.model.logits(example.images), axis=-1)
    assert (perturbation.road(example.model, example.images, example_order, predictions)[:, 0] == 1).all()
    assert (perturbation.road(example.model, example.images, example_order, (predictions + 1) % 3)[:, 0] == 0).all()


# Random removal


def test_the_right_number_of_patches_goes_each_as_often():
    """Class 1 is predicted while patch 0 is visible: the accuracy is the share of visible patches."""
    model = classifier.wrap(lambda x: jnp.stack([jnp.full(len(x), 0.5), x[:, 0, 0, 0]], axis=1), grid=(4, 4),
                            removal=Constant(0.0))
    correct = perturbation.random_removal(
        model, jnp.ones((2000, 4, 4, 1)), jnp.ones(2000, int), jax.random.key(0))
    assert correct.shape == (2000, 10)
    np.testing.assert_allclose(correct.mean(axis=0), 1 - perturbation.removed_counts(16) / 16, atol=0.03)
    assert (np.diff(correct, axis=1) <= 0).all()  # nested: what has gone stays away


def test_an_image_loses_the_same_patches_in_any_batch(example):
    keys = classifier.row_keys(jax.random.key(1), 6)
    whole = perturbation.random_removal(example.model, example.images, example.targets, jax.random.key(1))
    part = perturbation.random_removal(example.model, example.images[3:], example.targets[3:], keys[3:])
    np.testing.assert_array_equal(whole[3:], part)
