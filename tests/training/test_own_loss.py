"""The task of the own parts of Shapley values: votes averaged over contexts."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapjax.games import coalitions, shapley
from shapjax.training import loss as losses
from tests.conftest import every_pair, random_values


@pytest.fixture
def images(rng):
    return rng.normal(size=(6, 5, 3)).astype(np.float32)


def context_means(toy, images, *, sizes):
    """[B, 5, 3]: each patch's vote, averaged over all contexts of a size, then over the sizes, one pass a context."""
    means = np.zeros((len(images), 5, 3))
    for n in range(5):
        others = [m for m in range(5) if m != n]
        for size in sizes:
            contexts = [sorted((n, *rest)) for rest in itertools.combinations(others, size - 1)]
            votes = [np.asarray(toy.apply(toy.params, images[:, context]))[:, context.index(n)] for context in contexts]
            means[:, n] += np.mean(votes, axis=0) / len(sizes)
    return means


def test_over_all_coalitions_the_mean_vote_over_contexts_is_the_minimum_of_the_own_task(toy, images):
    masks = jnp.repeat(every_pair(5)[1], 6, axis=0)
    votes = coalitions.pair_patch_logits(functools.partial(toy.apply, toy.params), images, masks)
    own = jnp.asarray(context_means(toy, images, sizes=range(1, 5)), jnp.float32)

    @jax.jit
    @jax.value_and_grad
    def task(own):
        return losses.own_loss(own, masks, votes)

    loss, gradient = task(own)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)
    assert 0.05 < loss < task(toy.apply(toy.params, images))[0]  # what the context changes; the votes of the whole miss
    assert np.abs(task(own.at[2, 3, 1].add(0.1))[1][2, 3, 1]) > 1e-4


def test_own_part_and_effect_on_the_votes_of_others_make_the_shapley_value(toy, images):
    def votes(members):
        """Votes in the coalition [B, 5, 3], zero of those who are not in it."""
        found = np.zeros((6, 5, 3))
        if members:
            found[:, members] = toy.apply(toy.params, images[:, members])
        return found

    spill = np.zeros((6, 5, 3))
    for n in range(5):
        others = [m for m in range(5) if m != n]
        for size in range(5):
            contexts = list(itertools.combinations(others, size))
            for context in map(list, contexts):
                change = (votes(sorted([*context, n])) - votes(context))[:, context].sum(axis=1)
                spill[:, n] += change / len(contexts) / 5
    values = np.stack([votes([n for n in range(5) if code >> n & 1]).sum(axis=1) for code in range(32)])
    exact = np.moveaxis(shapley.exact_shapley(values), 0, 1)
    assert np.abs(spill).max() > 0.1
    np.testing.assert_allclose(context_means(toy, images, sizes=range(1, 6)) + spill, exact, atol=1e-5)


def test_the_own_task_does_not_move_the_votes_of_coalitions_and_is_in_units_of_them(rng):
    own, masks, *_ = random_values(rng)
    votes = jnp.asarray(rng.normal(size=(3, 4, 5, 2)), jnp.float32)
    assert not jax.grad(lambda votes: losses.own_loss(own, masks, votes))(votes).any()
    assert losses.own_loss(jnp.zeros_like(own), masks, votes) == pytest.approx(1)
    assert losses.own_loss(7 * own, masks, 7 * votes) == pytest.approx(float(losses.own_loss(own, masks, votes)))


def test_the_own_task_of_shares_of_a_batch_is_that_of_the_whole(rng):
    own, masks, *_ = random_values(rng, b=4)
    votes = jnp.asarray(rng.normal(size=(4, 4, 5, 2)), jnp.float32)
    shares = jax.vmap(lambda *x: losses.own_loss(*x, axis_name="devices"), axis_name="devices")(
        *(x.reshape(2, 2, *x.shape[1:]) for x in (own, masks, votes)))
    assert shares.mean() == pytest.approx(float(losses.own_loss(own, masks, votes)), rel=1e-5)
