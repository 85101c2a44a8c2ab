"""Infidelity is the mean squared difference, and its normalized form does not know of units."""

import jax
import numpy as np
import pytest

from shapjax.metrics import correlation, infidelity


@pytest.fixture
def game(rng):
    """Attributions [3, 6], masks [40, 6], p(x) and p(x without S)."""
    masks = np.asarray(correlation.sample_masks(jax.random.key(0), num_players=6, num_masks=40))
    return [np.float32(x) if x.dtype != bool else x for x in (
        rng.normal(size=(3, 6)), masks, rng.uniform(size=3), rng.uniform(size=(3, 40)))]


def test_it_is_the_mean_squared_difference_between_sum_and_drop(game):
    attributions, masks, full, without = game
    expected = [np.mean([(a[s].sum() - (f - w[i])) ** 2 for i, s in enumerate(masks)])
                for a, f, w in zip(attributions, full, without, strict=True)]
    np.testing.assert_allclose(infidelity.infidelity(*game), expected, rtol=1e-5)


def test_what_an_additive_game_loses_is_explained_by_its_summands(game):
    attributions, masks, full, _ = game
    without = full[:, None] - attributions @ masks.T.astype(np.float32)
    np.testing.assert_allclose(infidelity.infidelity(attributions, masks, full, without), 0, atol=1e-10)


def test_normalized_it_is_the_smallest_over_all_scales(game):
    attributions, *rest = game
    best = infidelity.infidelity(attributions, *rest, normalize=True)
    scales = np.linspace(-1, 1, 201)[:, None, None]
    by_scale = np.stack([infidelity.infidelity(np.float32(s * attributions), *rest) for s in scales])
    assert (best <= by_scale.min(axis=0) + 1e-6).all()
    np.testing.assert_allclose(best, by_scale.min(axis=0), atol=1e-3)
    np.testing.assert_allclose(infidelity.infidelity(-7 * attributions, *rest, normalize=True), best, rtol=1e-4)


def test_attributions_of_nothing_normalize_to_nothing(game):
    attributions, masks, full, without = game
    nothing = infidelity.infidelity(0 * attributions, masks, full, without, normalize=True)
    np.testing.assert_allclose(nothing, np.mean((full[:, None] - without) ** 2, axis=1), rtol=1e-5)
