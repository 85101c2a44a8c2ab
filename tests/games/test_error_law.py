"""Errors by the law are as large as it says, grow with what the pairs contradict, and scale with the game."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from shapjax.games import error_law, shapley
from shapjax.games.error_law import ErrorLaw, Refined

N, K = 8, 3
LAW = ErrorLaw(*map(np.float32, (0.3, 6.0, 0.5, 1.5)), np.float32([0, 1]), np.float32([1, 1]))
refine = jax.jit(jax.vmap(error_law.refine, in_axes=(None, 0, 0, 0, 0)))


def drawn(law, *, games, m, seed=0):
    """Draws games from the law: priors, masks, differences, totals and Shapley values."""
    rng = np.random.default_rng(seed)
    keys = jax.random.split(jax.random.key(seed), games)
    masks = np.array(jax.vmap(lambda key: shapley.sample_coalitions(key, num_players=N, num_pairs=m))(keys))
    prior = rng.normal(size=(games, N, K))
    square = (prior**2).mean(axis=2)
    unit = square.mean(axis=1)[:, None]
    share = (law.floor + square / unit) / (law.floor + 1)
    tau = law.scale * np.sqrt(law.freedom / rng.chisquare(law.freedom, (games, 1, K)) * unit[..., None])
    delta = tau * np.sqrt(share)[..., None] * rng.normal(size=(games, N, K))
    delta -= (share / share.sum(axis=1, keepdims=True))[..., None] * delta.sum(axis=1, keepdims=True)
    truth = prior + delta
    codes = (masks == masks[..., -1:]) @ 2 ** np.arange(N)
    noise = np.take_along_axis(rng.normal(size=(games, 2**N, K)), codes[..., None], axis=1)
    differences = np.where(masks, 1, -1) @ truth + np.sqrt(law.ridge) * tau * noise * np.where(masks[..., -1:], 1, -1)
    return prior, masks, differences, truth.sum(axis=1), truth


@pytest.mark.parametrize("m", [0, 4, 16])
def test_intervals_of_games_drawn_from_the_law_hold(m):
    *arrays, truth = drawn(LAW, games=1500, m=m)
    got = refine(LAW, *arrays)
    z = np.abs(truth - got.values) / got.standard_errors
    for level in (0.5, 0.8, 0.95):
        inside = z < stats.t.ppf((1 + level) / 2, got.freedom)[:, None, None]
        assert inside.mean() == pytest.approx(level, abs=0.015)


def test_without_pairs_the_prior_stays_and_patches_with_larger_values_have_larger_errors():
    prior, masks, differences, totals, _ = drawn(LAW, games=1, m=0)
    got = refine(LAW, prior, masks, differences, prior.sum(axis=1))
    np.testing.assert_allclose(got.values, prior, atol=1e-5)
    order = np.argsort((prior[0] ** 2).mean(axis=1))
    assert (np.diff(got.standard_errors[0, order], axis=0) > 0).all() and got.freedom[0] == 6


def test_a_factor_belongs_to_its_budget_and_is_interpolated_between():
    arrays = drawn(LAW, games=3, m=8)[:4]
    law = LAW._replace(factors=np.float32([1, 3]))
    for m, factor in ((0, 1.0), (8, 3.0)):
        few = (arrays[0], arrays[1][:, :m], arrays[2][:, :m], arrays[3])
        ratio = refine(law, *few).standard_errors / refine(LAW, *few).standard_errors
        np.testing.assert_allclose(ratio, factor, rtol=1e-5)
    few = (arrays[0], arrays[1][:, :3], arrays[2][:, :3], arrays[3])
    ratio = refine(law, *few).standard_errors / refine(LAW, *few).standard_errors
    np.testing.assert_allclose(ratio, 1 + 2 * np.log1p(3 / 8) / np.log(2), rtol=1e-4)


@pytest.mark.parametrize("taken", [0, 3, 8])
def test_the_first_pairs_alone_are_as_if_there_were_no_others(taken):
    prior, masks, differences, totals, _ = drawn(LAW, games=2, m=8)
    law = LAW._replace(factors=np.float32([1, 3]))
    some = jax.vmap(lambda *game: error_law.refine(law, *game, taken=taken))(prior, masks, differences, totals)
    alone = refine(law, prior, masks[:, :taken], differences[:, :taken], totals)
    for a, b in zip(some, alone, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_pairs_that_contradict_the_prior_make_its_errors_larger():
    prior, masks, differences, totals, _ = drawn(LAW, games=4, m=6)
    signs = np.where(masks, 1, -1)
    agreeing = signs @ (prior + ((totals - prior.sum(axis=1)) / N)[:, None])
    far = agreeing + 5 * (differences - agreeing)
    near, farther = (refine(LAW, prior, masks, d, totals) for d in (agreeing, far))
    assert (farther.standard_errors > near.standard_errors).all()


@given(st.sampled_from([1e-3, 1.0, 1e3]), st.sampled_from([0, 5]))
def test_values_and_errors_are_in_the_units_of_the_game(scale, m):
    prior, masks, differences, totals, _ = drawn(LAW, games=1, m=m)
    one, other = refine(LAW, prior, masks, differences, totals), refine(
        LAW, scale * prior, masks, scale * differences, scale * totals)
    np.testing.assert_allclose(other.values, scale * one.values, rtol=1e-3, atol=1e-4 * scale)
    np.testing.assert_allclose(other.standard_errors, scale * one.standard_errors, rtol=1e-3)


def test_a_prior_of_zeros_is_no_division_by_zero():
    got = refine(LAW, np.zeros((1, N, K)), np.ones((1, 2, N), bool), np.zeros((1, 2, K)), np.zeros((1, K)))
    assert np.isfinite(got.values).all() and np.isfinite(got.standard_errors).all()


def test_a_law_goes_through_json_and_anything_else_is_refused():
    values = json.loads(json.dumps(LAW.to_dict()))
    for a, b in zip(ErrorLaw.from_dict(values), LAW, strict=True):
        np.testing.assert_array_equal(a, b)
    for wrong in ({}, [], values | {"more": 1}, values | {"scale": "x"}, values | {"scale": [1]},
                  values | {"ridge": float("nan")}, values | {"ridge": -1}, values | {"factors": [1]},
                  values | {"budgets": [1, 0]}, values | {"budgets": [], "factors": []}):
        with pytest.raises(ValueError):
            ErrorLaw.from_dict(wrong)


def test_an_interval_is_students_of_the_level_around_the_values():
    rng = np.random.default_rng(0)
    of_classes = Refined(rng.normal(size=(2, 4, 3)), rng.random((2, 4, 3)), np.array([3.0, 9.0]))
    low, high = of_classes.interval(0.8)
    np.testing.assert_allclose((low + high) / 2, of_classes.values, atol=1e-9)
    for ends in jax.tree.map(jnp.asarray, of_classes).interval():
        assert type(ends) is np.ndarray and ends.dtype == np.float64
    np.testing.assert_allclose(high - low, 2 * stats.t.ppf(0.9, [3, 9])[:, None, None] * of_classes.standard_errors)
    of_one = Refined(*(x[..., 0] for x in of_classes[:2]), of_classes.freedom)
    np.testing.assert_allclose(of_one.half_width(0.8), of_classes.half_width(0.8)[..., 0])
    np.testing.assert_allclose(of_one._replace(freedom=9.0).half_width(0.8)[1], of_one.half_width(0.8)[1])
