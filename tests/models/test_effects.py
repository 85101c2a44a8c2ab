"""Effects of patches on each other's votes: beside sums over all pairs of patches, and what they are in a game."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapjax import effects
from shapjax.games import shapley
from shapjax.training import loss as losses
from tests.conftest import every_pair

GRID, N, K = (2, 3), 6, 2


def pairs_of(windows, grid):
    """t [B, m, n, K] of windows of effects, pair by pair."""
    (height, width), r = grid, windows.shape[3] // 2
    t = np.zeros((len(windows), height * width, height * width, windows.shape[-1]))
    for (m, (y, x)), (n, (y2, x2)) in itertools.product(enumerate(np.ndindex(grid)), repeat=2):
        if m != n and max(abs(y2 - y), abs(x2 - x)) <= r:
            t[:, m, n] = windows[:, y, x, r + y2 - y, r + x2 - x]
    return t


@pytest.fixture(params=[1, 2, 4])
def windows(request, rng):
    side = 2 * request.param + 1
    return rng.normal(size=(3, *GRID, side, side, K)).astype(np.float32)


def test_on_others_is_the_sum_over_all_other_votes(windows):
    np.testing.assert_allclose(effects.on_others(jnp.asarray(windows)), pairs_of(windows, GRID).sum(axis=1), atol=1e-5)


def test_in_context_is_the_sum_over_who_is_seen_and_has_mean_zero(windows):
    masks = np.asarray(jnp.repeat(every_pair(N)[1], 3, axis=0))
    changes = effects.in_context(jnp.asarray(windows), jnp.asarray(masks))
    seen = masks[..., :, None] == masks[..., None, :]
    # A context of c patches has c - 1 of the 5 others: on average over c = 1 … 5 two of them.
    expected = np.einsum("bpmn,bmnk->bpmk", seen - 2 / 5, pairs_of(windows, GRID))
    np.testing.assert_allclose(changes, expected, atol=1e-5)
    mean = jnp.mean(shapley.context_weights(jnp.asarray(masks))[..., None] * changes, axis=1)
    np.testing.assert_allclose(mean, 0, atol=1e-4)
    assert np.abs(changes).max() > 0.5


def test_of_votes_linear_in_who_is_seen_own_parts_and_half_the_effects_make_the_shapley_value(rng):
    t = jnp.asarray(rng.normal(size=(1, *GRID, 5, 5, K)), jnp.float32)
    own = jnp.asarray(rng.normal(size=(1, N, K)), jnp.float32)
    masks = every_pair(N)[1]
    votes = own[:, None] + effects.in_context(t, masks)
    task = jax.jit(lambda own, t: losses.own_loss(own, masks, votes, effects.in_context(t, masks)))
    assert task(own, t) < 1e-10 < 1e-2 < task(own, 0 * t)

    # The game of these votes, of coalitions of 0 … 6 patches, and its Shapley values by enumeration.
    members = (np.arange(2**N)[:, None] >> np.arange(N) & 1).astype(float)
    pairwise = pairs_of(np.asarray(t), GRID)[0]
    each = own[0] + np.einsum("sn,mnk->smk", members - 2 / 5, pairwise)
    exact = shapley.exact_shapley(np.einsum("sm,smk->sk", members, each))
    # Of all contexts, those of 6 patches too, the others are on average 1/2 seen and not 2/5.
    mean_vote = own[0] + pairwise.sum(axis=1) * (1 / 2 - 2 / 5)
    np.testing.assert_allclose(mean_vote + effects.on_others(t)[0] / 2, exact, atol=1e-5)
