"""Exact and estimated Shapley values of a classifier against the table of all its coalitions and other libraries."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapjax.attribution import shapley_values
from shapjax.games import classifier, removal, shapley
from shapjax.games.error_law import ErrorLaw

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import shap
    import shapiq

OUTPUTS = {"logit": lambda v: v, "probability": jax.nn.softmax, "log_probability": jax.nn.log_softmax}
KEY = jax.random.key(11)


@pytest.fixture(scope="module")
def ground_truth(coalition_game):
    """Returns float64 [B, N, K], in logits."""
    return np.stack([shapley.exact_shapley(v) for v in coalition_game.values])


def spread(values):
    return np.ptp(np.asarray(values))


# Exact


@pytest.mark.parametrize("batch_size", [50, 300])  # three passes an image, the last one partly; two images a pass
def test_exact_values_are_those_of_the_table_of_all_coalitions(coalition_game, ground_truth, batch_size):
    exact = shapley_values.exact_all(coalition_game.model, coalition_game.images, batch_size=batch_size)
    assert exact.dtype == np.float32
    np.testing.assert_allclose(exact, ground_truth, atol=2e-6 * spread(ground_truth))


@pytest.mark.parametrize("output", ["probability", "log_probability"])
def test_exact_values_of_a_target_are_those_of_its_output(coalition_game, output):
    model, images, targets, values = coalition_game
    exact = shapley_values.exact(model, images, targets, output=output)
    for b, target in enumerate(targets):
        expected = shapley.exact_shapley(np.asarray(OUTPUTS[output](values[b])))[:, target]
        np.testing.assert_allclose(exact[b], expected, atol=1e-5 * spread(expected))


def test_thousands_of_passes_do_not_add_up_to_rounding_errors():
    n, rng = 13, np.random.default_rng(0)
    worth = rng.integers(0, 9, size=n)

    def network(images):  # integers, exact in float32, far larger than what a player adds
        total = images.reshape(-1, n) @ worth
        return jnp.pad((100_000 + total * (total % 7))[:, None], ((0, 0), (0, 1)))

    model = classifier.wrap(network, grid=(1, n), removal=removal.Constant(0.0))
    total = ((np.arange(2**n)[:, None] >> np.arange(n)) & 1) @ worth
    expected = shapley.exact_shapley(100_000 + total * (total % 7))
    exact = shapley_values.exact(model, np.ones((1, 1, n, 1), np.float32), np.array([0]), batch_size=2)
    np.testing.assert_allclose(exact[0], expected, atol=2e-6)


def test_exact_values_agree_with_shapiq_and_with_shap(coalition_game):
    model, images, _, values = coalition_game
    exact = np.asarray(shapley_values.exact_all(model, images[:1]))[0]
    codes = 2 ** np.arange(8)
    # shapiq wants v(∅) = 0; shap's hidden features take the background's 0, visible ones the example's 1.
    computer = shapiq.ExactComputer(n_players=8, game=lambda masks: (values[0] - values[0, 0])[masks @ codes, 1])
    np.testing.assert_allclose(exact[:, 1], computer("SV").get_n_order_values(1), atol=1e-5)
    explainer = shap.KernelExplainer(lambda x: values[0][(x @ codes).astype(int)], np.zeros((1, 8)))
    theirs = explainer.shap_values(np.ones((1, 8)), nsamples=2**8, silent=True, l1_reg=0)  # all coalitions
    np.testing.assert_allclose(exact, theirs[0], atol=1e-5)


def test_too_many_patches_to_enumerate_are_refused_with_the_number_of_passes():
    model = classifier.wrap(lambda x: x.mean((1, 2)), grid=(3, 7), removal=removal.Constant(0.0))
    with pytest.raises(ValueError, match=r"2\^20 packed passes .* kernel_shap"):
        shapley_values.exact_all(model, np.zeros((1, 6, 7, 2), np.float32))


# Estimates


@pytest.mark.parametrize("method", [shapley_values.kernel_shap_all, shapley_values.permutation_all])
def test_rounds_go_on_until_each_image_is_precise_enough(coalition_game, ground_truth, method):
    model, images, *_ = coalition_game

    def run(tolerance, most=8192):
        return jax.device_get(method(model, images, KEY, tolerance=tolerance, round_coalitions=128,
                                     max_coalitions=most))

    loose, tight, stopped = run(0.2), run(0.02), run(1e-6, 1024)
    for estimate in (loose, tight, stopped):
        ratio = estimate.standard_errors.max((1, 2)) / np.ptp(estimate.values, axis=(1, 2))
        np.testing.assert_allclose(estimate.ratio, ratio, rtol=1e-5)
        total = coalition_game.values[:, -1] - coalition_game.values[:, 0]
        np.testing.assert_allclose(estimate.values.sum(1), total, atol=1e-5)
        assert (np.abs(estimate.values - ground_truth) < 5 * estimate.standard_errors + 1e-5).all()
    assert tight.converged.all() and (tight.ratio <= 0.02).all() and loose.converged.all()
    assert (tight.coalitions > loose.coalitions).all() and len(set(tight.coalitions)) > 1
    assert not stopped.converged.any() and 896 <= stopped.coalitions.max() <= 1026


def test_an_error_that_cannot_be_known_yet_is_not_precise(coalition_game):
    estimate = shapley_values.kernel_shap_all(coalition_game.model, coalition_game.images, KEY, tolerance=1e9,
                                              round_coalitions=8, max_coalitions=64)
    assert (estimate.coalitions >= 2 + 2 * 12).all()  # the first rounds with more pairs than the 8 players
    assert np.isfinite(estimate.standard_errors[estimate.converged]).all() and estimate.converged.any()


@pytest.mark.parametrize("method", [shapley_values.kernel_shap, shapley_values.permutation])
def test_estimates_of_a_target_are_near_the_exact_values_in_any_batch(coalition_game, ground_truth, method):
    model, images, targets, table = coalition_game
    assert np.abs(table[:, 0]).min() > 0.05  # v(∅) is not 0, so forgetting it would show
    keys = jax.random.split(KEY, 3)
    values = np.asarray(method(model, images, targets, keys))
    expected = ground_truth[np.arange(3), :, targets]
    assert values.dtype == np.float32 and values.shape == (3, 8)
    np.testing.assert_allclose(values, expected, atol=0.05 * spread(expected))
    one = method(model, images[2:], targets[2:], keys[2:], batch_size=100)
    np.testing.assert_allclose(one[0], values[2], atol=1e-5)


def test_estimates_with_another_key_differ_and_agree_with_those_of_shapiq(coalition_game):
    model, images, targets, values = coalition_game
    ours = [shapley_values.permutation(model, images[:1], targets[:1], jax.random.key(seed)) for seed in (0, 1)]
    assert np.abs(ours[0] - ours[1]).max() > 1e-6

    def game(masks):
        return (values[0] - values[0, 0])[np.atleast_2d(masks) @ 2 ** np.arange(8), targets[0]]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kernel = shapiq.KernelSHAP(n=8, random_state=0).approximate(2**8, game).get_n_order_values(1)
        orders = shapiq.PermutationSamplingSV(n=8, random_state=0).approximate(16_000, game).get_n_order_values(1)
    exact = np.asarray(shapley_values.exact(model, images[:1], targets[:1]))[0]
    np.testing.assert_allclose(kernel, exact, atol=1e-4 * spread(exact))  # with all coalitions theirs is exact
    np.testing.assert_allclose(orders, ours[0][0], atol=0.08 * spread(exact))


def test_a_dummy_gets_nothing_and_twins_the_same_within_their_errors(coalition_game):
    model, images, *_ = coalition_game
    estimate = shapley_values.kernel_shap_all(model, images, KEY, tolerance=0.02, round_coalitions=128,
                                              max_coalitions=8192)
    values, errors = estimate.values, estimate.standard_errors
    assert (np.abs(values[:, 0]) < 5 * errors[:, 0] + 1e-5).all()
    assert (np.abs(values[:, 1] - values[:, 2]) < 5 * (errors[:, 1] + errors[:, 2])).all()
    # Marginal contributions, by contrast, give a dummy exactly nothing.
    permutation = shapley_values.permutation_all(model, images, KEY, tolerance=0.02, round_coalitions=128,
                                                 max_coalitions=8192)
    np.testing.assert_allclose(permutation.values[:, 0], 0, atol=1e-6)


def test_a_constant_game_is_all_zero_at_once():
    model = classifier.wrap(lambda x: jnp.ones((len(x), 2)), grid=(2, 4), removal=removal.Constant(0.0))
    for method in (shapley_values.kernel_shap_all, shapley_values.permutation_all):
        estimate = method(model, np.zeros((1, 2, 4, 1), np.float32), KEY, round_coalitions=128, max_coalitions=8192)
        assert estimate.converged[0] and estimate.coalitions[0] < 300 and not np.asarray(estimate.values).any()


@pytest.mark.parametrize(("players", "coalitions", "count"), [(196, 2048, 5), (16, 2048, 68), (16, 30, 1), (16, 4, 1)])
def test_permutations_are_as_many_as_the_coalitions_pay_for_and_at_least_one(players, coalitions, count):
    assert shapley_values.permutation_pairs(players, coalitions) == count


# Refined


def test_phi_is_refined_for_the_target_towards_the_shapley_values(coalition_game, ground_truth):
    model, images, targets, values = coalition_game
    empty = jnp.asarray(values[0, 0], jnp.float32)  # v of no patch, the same for every image
    error = 0.3 * np.random.default_rng(0).normal(size=ground_truth.shape)
    prior = jnp.asarray(ground_truth + error - error.mean(axis=1, keepdims=True), jnp.float32)
    law = ErrorLaw(*map(np.float32, (0.3, 5.0, 1.0, 1.0)), np.float32([0]), np.float32([1]))
    own = model.replace(phi_fn=lambda _, x: prior[jnp.argmin(jnp.abs(x[:, None] - images).sum((2, 3, 4)), axis=1)],
                        coalition_fn=lambda *arguments: model.coalition_fn(*arguments) - empty, error_law=law)
    exact = np.take_along_axis(ground_truth, targets[:, None, None], axis=2)[..., 0]
    errors = [np.abs(shapley_values.refined_phi(own, images, targets, KEY, pairs=pairs) - exact).max()
              for pairs in (1, 16, 400)]
    assert errors[2] < 0.3 * errors[1] < errors[0]
    with pytest.raises(ValueError, match="is not calibrated"):
        shapley_values.refined_phi(model, images, targets, KEY)
