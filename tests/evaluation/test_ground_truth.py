"""Ground truth is right, has random numbers of its own, and reports its cost."""

import time

import jax.numpy as jnp
import numpy as np
import pytest

from shapjax.attribution import shapley_values
from shapjax.evaluation import ground_truth
from shapjax.evaluation.files import Cache
from shapjax.evaluation.keys import image_keys
from shapjax.games import classifier, removal


def of_grid(*grid):
    """Returns a model of these patches, and the shape of its images."""
    model = classifier.wrap(lambda x: x[:, :2, :, 0] @ np.ones(28), grid=grid, removal=removal.Constant(0.0))
    return model, (28, 28, 1)


def test_auto_enumerates_as_long_as_that_takes_seconds():
    kinds = [ground_truth.resolve("auto", *of_grid(*grid)) for grid in ((2, 2), (4, 4), (17, 1), (14, 14))]
    assert kinds == ["exact"] * 2 + ["kernel_shap"] * 2
    assert [ground_truth.resolve(kind, *of_grid(2, 2)) for kind in ("kernel_shap", "none")] == ["kernel_shap", "none"]


@pytest.mark.parametrize(("kind", "message"), [("exakt", "'exakt' is unknown.*auto, exact, kernel_shap, none"),
                                               ("exact", "196")])
def test_ground_truth_that_there_cannot_be_is_refused(kind, message):
    with pytest.raises(ValueError, match=message):
        ground_truth.resolve(kind, *of_grid(14, 14))


def test_exact_ground_truth_is_that_of_every_coalition(game):
    truth = ground_truth.compute(game.model, game.images, kind="exact", batch_size=3, progress=False)
    np.testing.assert_allclose(truth.values, game.exact, atol=1e-5)
    assert truth.kind == "exact" and (truth.coalitions == 16).all()
    assert (truth.standard_errors == 0).all() and (truth.ratio == 0).all()


def nine_players(rng):
    """Returns a game of 9 players; estimates from few coalitions are far from exact."""
    weights = {"inner": rng.normal(size=(9, 12)), "outer": rng.normal(size=(12, 2))}
    weights = {name: x.astype(np.float32) for name, x in weights.items()}
    model = classifier.wrap(lambda p, x: jnp.tanh(2 * x.reshape(len(x), 9) @ p["inner"]) @ p["outer"], weights,
                            grid=(3, 3), removal=removal.Constant(0.0))
    return model, rng.uniform(size=(6, 3, 3, 1)).astype(np.float32)


def test_estimated_ground_truth_and_the_method_kernel_shap_do_not_share_their_errors(rng, monkeypatch):
    """If both drew the same coalitions they would be the same estimate, with a correlation of 1."""
    for name in ("max_coalitions", "round_coalitions"):
        monkeypatch.setitem(ground_truth.LIMITS, name, 32)
    model, images = nine_players(rng)
    truth = ground_truth.compute(model, images, kind="kernel_shap", progress=False)
    exact = ground_truth.compute(model, images, kind="exact", progress=False)
    assert (truth.standard_errors > 0).all() and (truth.ratio > 0).all() and (truth.coalitions == 34).all()

    explained = shapley_values.kernel_shap(model, images, np.zeros(6, np.int32), image_keys("explanation", 6, seed=0),
                                           coalitions=32)
    errors = [values - exact.values[:, :, 0] for values in (truth.values[:, :, 0], explained)]
    assert min(np.abs(error).max() for error in errors) > 0.1
    assert abs(np.corrcoef(*(np.ravel(error) for error in errors))[0, 1]) < 0.5


def test_seconds_do_not_count_compilation(game):
    def slow_to_trace(params, images):
        time.sleep(0.4)
        return images.reshape(images.shape[0], -1)[:, :3]

    model = classifier.wrap(slow_to_trace, {}, grid=(2, 2), removal=removal.Constant(0.0))
    truth = ground_truth.compute(model, game.images, kind="exact", progress=False)
    assert 0 < truth.seconds * len(game.images) < 0.4


def test_ground_truth_is_remembered_for_the_same_question_only(game, tmp_path, monkeypatch):
    computed = []

    def compute(model, images, *, kind, **options):
        computed.append(kind)
        values = np.random.default_rng(len(computed)).normal(size=(len(images), 4, 3)).astype(np.float32)
        return ground_truth.GroundTruth(kind, values, values / 100, values[:, 0, 0], np.arange(len(images)), 0.5)

    monkeypatch.setattr(ground_truth, "compute", compute)

    def ask(images=game.images, kind="exact", seed=0, **options):
        cache = Cache(tmp_path, game.model, images, **options)
        before = len(computed)
        truth = ground_truth.remembered(cache, "ground_truth", game.model, images, kind=kind, seed=seed, progress=False)
        return truth, len(computed) > before

    first, is_new = ask()
    assert is_new
    again, is_new = ask(seed=1)  # enumeration draws nothing
    assert not is_new and again.kind == "exact" and again.seconds == first.seconds
    for name in ("values", "standard_errors", "ratio", "coalitions"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))
    assert ask(fresh=True)[1] and ask(images=game.images[::-1].copy())[1]
    assert ask(kind="kernel_shap")[1] and not ask(kind="kernel_shap")[1] and ask(kind="kernel_shap", seed=1)[1]
