"""The curve of KernelSHAP's R² uses as many coalitions as it says, and phi has the right place on it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapjax.evaluation import sample_efficiency
from shapjax.evaluation.keys import image_keys
from shapjax.games import classifier, removal, shapley

PLAYERS, BUDGETS = 9, (16, 18, 64, 400)


@pytest.fixture(scope="module")
def nine():
    """Returns a game of 9 players and 2 classes, images, and v of all coalitions [n, 512, 2]; v(∅) is not 0."""
    rng = np.random.default_rng(0)
    weights = {"inner": rng.normal(size=(PLAYERS, 12)), "outer": rng.normal(size=(12, 2)), "bias": rng.normal(size=12)}
    weights = {name: x.astype(np.float32) for name, x in weights.items()}

    def logits_fn(params, images):
        return jnp.tanh(images.reshape(len(images), PLAYERS) @ params["inner"] + params["bias"]) @ params["outer"] + 3.0

    images = rng.uniform(size=(4, 3, 3, 1)).astype(np.float32)
    masks = np.arange(2**PLAYERS)[:, None] >> np.arange(PLAYERS) & 1 == 1
    x = np.where(masks, images.reshape(4, 1, PLAYERS), 0.0)
    values = np.tanh(x @ weights["inner"] + weights["bias"]) @ weights["outer"] + 3.0
    exact = np.stack([shapley.exact_shapley(v) for v in values])
    return classifier.wrap(logits_fn, weights, grid=(3, 3), removal=removal.Constant(0.0)), images, values, exact


def kernel_shap(masks, values):
    """Solves least squares over pairs of one image, with a fixed total; written anew."""
    codes = masks @ 2 ** np.arange(PLAYERS)
    total = values[-1] - values[0]
    y = values[codes] - values[2**PLAYERS - 1 - codes]
    x = np.where(masks, 1.0, -1.0)
    free = x[:, 1:] - x[:, :1]  # phi_0 = total - Σ of the others
    others = np.linalg.lstsq(free, y - x[:, :1] * total, rcond=None)[0]
    return np.concatenate([total - others.sum(axis=0, keepdims=True), others])


def r2(estimates, exact):
    means = exact.mean(axis=(1, 2), keepdims=True)
    return np.mean(1 - ((estimates - exact) ** 2).sum((1, 2)) / ((exact - means) ** 2).sum((1, 2)))


@pytest.fixture(scope="module")
def found(nine):
    """Returns the curve for a model whose phi has barely the R² of 64 coalitions."""
    model, images, values, exact = nine
    keys = image_keys("sample_efficiency", len(images), seed=3)
    masks = [np.asarray(shapley.sample_coalitions(key, num_players=PLAYERS, num_pairs=200)) for key in keys]
    expected = {budget: r2(np.stack([kernel_shap(m[: budget // 2], v) for m, v in zip(masks, values, strict=True)]),
                           exact) for budget in (64, 400)}
    phi = jnp.asarray(exact + np.sqrt(1 - expected[64] + 1e-3) * np.std(exact, axis=(1, 2), keepdims=True) * np.sign(
        np.random.default_rng(1).normal(size=exact.shape)), jnp.float32)
    model = model.replace(phi_fn=lambda params, images: phi[jnp.argmin(  # each image's own, on whichever device
        jnp.abs(images.reshape(len(images), 1, -1) - nine[1].reshape(1, 4, -1)).sum(-1), axis=1)])
    return sample_efficiency.budget_to_reach(model, images, exact, budgets=BUDGETS, batch_size=32, seed=3), expected


def test_the_curve_is_that_of_regressions_on_the_coalitions_paid_for(found):
    result, expected = found
    curve = {point["coalitions"]: point["r2"] for point in result["kernel_shap"]}
    assert [curve[64], curve[400]] == pytest.approx([expected[64], expected[400]], abs=1e-4)
    assert curve[18] < 0.9 < curve[64] < 0.995 < curve[400]  # 9 pairs leave some directions to the ridge


def test_a_budget_of_as_many_pairs_as_patches_is_kept_and_of_fewer_left_out(found):
    assert [point["coalitions"] for point in found[0]["kernel_shap"]] == [18, 64, 400]


def test_the_budget_that_reaches_phi_is_the_smallest_that_is_as_good(found):
    result, expected = found
    assert 0.9 < result["phi_r2"] < expected[64] and result["reached_at"] == 64


def test_a_model_without_phi_has_a_curve_alone_and_a_better_phi_is_never_reached(nine, monkeypatch):
    model, images, _, exact = nine
    monkeypatch.setattr(sample_efficiency, "OverImages", lambda fn, block: lambda model, images, *keys: (
        np.stack([exact * 1.1] * len(BUDGETS[1:]), axis=1) if keys else exact))
    alone = sample_efficiency.budget_to_reach(model, images, exact, budgets=BUDGETS)
    assert len(alone["kernel_shap"]) == 3 and alone["phi_r2"] is None and alone["reached_at"] is None
    better = sample_efficiency.budget_to_reach(model.replace(phi_fn=jax.numpy.sum), images, exact, budgets=BUDGETS)
    assert better["phi_r2"] == pytest.approx(1) and better["reached_at"] is None
