"""A loaded model: explanations and coalition values, whatever the batch size, and mistakes told in one line."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from scipy import special

import shapjax
from shapjax import attribution, config, games
from shapjax.errors import UserError
from shapjax.export.calibration import Calibration
from shapjax.games.error_law import ErrorLaw
from shapjax.model import SelfExplainingModel, load
from shapjax.training.meta import Meta


@pytest.fixture(scope="module")
def model(tiny_vit):
    tiny = tiny_vit(registers=1)
    settings = config.default_config()
    config.set_model(settings, {"patch_size": 4, "width": 16, "depth": 2, "heads": 2, "registers": 1, "remat": "none",
                                "mlp_ratio": float(tiny.module.mlp_ratio)})
    meta = Meta(config=settings, class_names=("a", "b", "c"), image_shape=(8, 8, 2), mean=(0.2, 0.5), std=(0.3, 0.4))
    return SelfExplainingModel(tiny.module, tiny.params, meta, step=7, directory="run")


@pytest.fixture(scope="module")
def calibrated(model):
    law = ErrorLaw(*map(np.float32, (0.3, 5.0, 0.5, 1.0)), np.float32([0, 1]), np.float32([1, 1]))
    return model.calibrated(Calibration(law=law, step=7, params="", images=16, held_out=True))


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, size=(4, 8, 8, 2), dtype=np.uint8)


@pytest.fixture
def masks(rng):
    return rng.random((4, 5, 4)) < 0.5


def test_an_explanation_adds_up_to_the_prediction_it_explains(model, images):
    e = model.explain(images)
    assert e.logits.shape == e.probabilities.shape == (4, 3) and e.shapley.shape == (4, 2, 2, 3)
    assert {e.logits.dtype, e.shapley.dtype, e.probabilities.dtype} == {np.dtype(np.float32)}
    np.testing.assert_allclose(e.shapley.sum(axis=(1, 2)), e.logits, atol=1e-5)
    np.testing.assert_allclose(e.probabilities, special.softmax(e.logits, axis=1), atol=1e-6)


def test_a_model_whose_logits_are_not_finite_explains_nothing(model, tiny_vit, images):
    params = jax.tree.map(lambda x: x.at[...].set(np.nan), tiny_vit(registers=1).params)
    broken = SelfExplainingModel(tiny_vit(registers=1).module, params, model.meta, step=7, directory="run")
    with pytest.raises(UserError, match="logits are not finite for 4 of 4 images"):
        broken.explain(images)


def test_an_explanation_is_the_models_patch_logits_on_the_normalized_image_in_reading_order(model, tiny_vit, images):
    tiny = tiny_vit(registers=1)
    normalized = ((images / 255 - [0.2, 0.5]) / [0.3, 0.4]).astype(np.float32)
    expected = np.asarray(tiny.apply(tiny.params, normalized)).reshape(4, 2, 2, 3)
    np.testing.assert_allclose(model.explain(images).shapley, expected, atol=1e-4)


def test_integers_whose_range_cannot_be_known_are_no_pixels(model, images):
    classifier = model.classifier
    np.testing.assert_allclose(classifier.logits(images), classifier.logits(images / 255), atol=1e-4)
    with pytest.raises(ValueError, match=r"the images are int32, expected uint8, or floats in \[0, 1\]"):
        classifier.logits(images.astype(np.int32))


def test_targets_may_be_the_names_of_a_models_classes(model, images):
    by_name = attribution.phi(model.classifier, images, ["c", "a", "b", "b"])
    np.testing.assert_array_equal(by_name, attribution.phi(model.classifier, images, [2, 0, 1, 1]))


def test_64_bit_numbers_change_no_explanation(calibrated, images):
    def explained():
        e = calibrated.explain(images, pairs=5)
        maps = [fn(calibrated.classifier, images / 255, [0, 1, 2, 0]) for fn in (
            attribution.relevance, attribution.rollout)]
        return e.logits, e.shapley, e.standard_error, *map(np.asarray, maps)

    usual = explained()
    with jax.enable_x64(True):
        for ours, theirs in zip(explained(), usual, strict=True):
            assert ours.dtype == np.float32
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_all_patches_are_worth_the_prediction_and_none_is_worth_zero(model, images):
    masks = np.stack([np.ones((4, 4), bool), np.zeros((4, 4), bool)], axis=1)
    values = model.coalition_values(images, masks)
    np.testing.assert_allclose(values[:, 0], model.explain(images).logits, atol=1e-5)
    assert (values[:, 1] == 0).all()


def test_coalition_values_do_not_see_hidden_patches(model, images, rng):
    masks = np.array([[[True, False, False, True]]] * 4)  # the upper left and the lower right patch
    other = images.copy()
    other[:, :4, 4:], other[:, 4:, :4] = rng.integers(0, 256, size=(2, 4, 4, 4, 2))
    np.testing.assert_array_equal(model.coalition_values(images, masks), model.coalition_values(other, masks))
    assert np.abs(model.explain(images).logits - model.explain(other).logits).max() > 1e-2


def test_pair_values_are_those_of_coalitions_and_complements(model, images, masks):
    values, complements = model.pair_values(images, masks)
    np.testing.assert_array_equal(values, model.coalition_values(images, masks))
    np.testing.assert_allclose(complements, model.coalition_values(images, ~masks), atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_results_do_not_depend_on_the_batch_size(model, images, masks, batch_size):
    small, large = (model.explain(images, batch_size=b) for b in (batch_size, 256))
    np.testing.assert_allclose(small.shapley, large.shapley, atol=1e-5)
    small, large = (model.coalition_values(images, masks, batch_size=b) for b in (batch_size, 256))
    assert small.shape == (4, 5, 3)
    np.testing.assert_allclose(small, large, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_in_zero_to_one_are_the_same_images_as_bytes(model, images, dtype):
    floats = (images / 255).astype(dtype)
    np.testing.assert_allclose(model.explain(floats).shapley, model.explain(images).shapley, atol=1e-4)


def test_players_are_the_patches(model):
    assert (model.num_players, model.grid, model.step) == (4, (2, 2), 7)


@pytest.mark.parametrize(("bad", "message"), [
    (np.zeros((8, 8, 2), np.uint8), r"expected \[B, 8, 8, 2\]"),
    (np.zeros((0, 8, 8, 2), np.uint8), "B of at least 1"),
    (np.zeros((1, 8, 8, 3), np.uint8), r"are \[1, 8, 8, 3\]"),
    (np.zeros((1, 2, 8, 8), np.uint8), r"are \[1, 2, 8, 8\]"),
    (np.zeros((1, 8, 8, 2), np.int64), "is int64 from 0 to 0, expected uint8"),
    (np.full((1, 8, 8, 2), 1.01), r"to 1.01.*floats in \[0, 1\]"),
    (np.full((1, 8, 8, 2), -0.1), r"floats in \[0, 1\]"),
    (np.full((1, 8, 8, 2), np.nan), r"floats in \[0, 1\]"),
])
def test_images_that_do_not_fit_are_refused_in_one_line(model, bad, message):
    with pytest.raises(UserError, match=message) as e:
        model.coalition_values(bad, np.ones((len(bad), 1, 4), bool))
    assert "\n" not in str(e.value)


def test_what_was_given_stays_with_the_explanation(calibrated, images):
    e = calibrated.explain(images)
    np.testing.assert_array_equal(e.images, images)
    assert e.names[3] == "image 3" and set(e.changes) == {"as given"} and e.class_names == ("a", "b", "c")
    one = calibrated.explain(images[2])  # [H, W, C]
    np.testing.assert_allclose(one.shapley[0], e.shapley[2], atol=1e-5)
    floats = calibrated.explain([images[0] / 255, images[1]])
    np.testing.assert_allclose(floats.shapley, e.shapley[:2], atol=1e-4)


def test_a_model_says_what_it_is(model, calibrated):
    assert repr(model) == (f"shapjax model of run, step 7: vit, {sum(x.size for x in jax.tree.leaves(model.params)):,} "
                           "parameters; images 8x8x2, 2x2 patches, 3 classes (a, b, c); not evaluated; not calibrated")
    assert repr(calibrated).endswith("; calibrated")


def test_a_batch_of_no_images_is_refused(model, images):
    with pytest.raises(UserError, match="batch_size is 0"):
        model.explain(images, batch_size=0)


@pytest.mark.parametrize("bad", [np.ones((4, 5, 4), np.float32), np.ones((4, 5, 3), bool), np.ones((3, 5, 4), bool),
                                 np.ones((4, 4), bool), np.ones((4, 0, 4), bool), np.ones((4, 5, 2, 2), bool)])
def test_masks_that_do_not_fit_are_refused_in_one_line(model, images, bad):
    with pytest.raises(UserError, match=r"expected bool \[4, M, 4\]") as e:
        model.coalition_values(images, bad)
    assert "\n" not in str(e.value)


def test_an_export_loads_as_the_same_model(model, images, tmp_path):
    files = model.export(tmp_path / "exported", platforms=None)
    assert set(files) == {"model.safetensors", "README.md", "config.json"}
    again = load(tmp_path / "exported")
    np.testing.assert_array_equal(again.explain(images).shapley, model.explain(images).shapley)
    assert (again.class_names, again.step) == (model.class_names, 7)
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "README.md").write_text("mine")
    with pytest.raises(UserError, match="README.md of something else"):
        model.export(taken)


def test_all_public_names_are_there():
    assert set(shapjax.__all__) <= set(dir(shapjax))
    for name in shapjax.__all__:
        assert getattr(shapjax, name) is not None, name
    with pytest.raises(AttributeError, match="no attribute 'explain'"):
        shapjax.explain  # noqa: B018
    assert callable(shapjax.attribution.kernel_shap) and callable(shapjax.metrics.deletion)
    assert callable(shapjax.games.wrap) and callable(shapjax.evaluation.compare) and shapjax.load is load


def test_importing_the_package_imports_nothing_heavy():
    code = "import shapjax, sys; sys.exit(' '.join({'jax', 'flax', 'orbax', 'scipy'} & set(sys.modules)) or 0)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert not result.returncode, result.stderr


def test_without_a_calibration_values_have_no_errors_and_cannot_be_refined(model, images):
    e = model.explain(images)
    assert e.standard_error is None and e.freedom is None and (e.pairs == 0).all()
    for call in (e.interval, e.sign_is_certain, lambda: e.largest_error, lambda: model.explain(images, pairs=4),
                 lambda: model.explain(images, tolerance=0.1)):
        with pytest.raises(UserError, match="not calibrated.*run python -m shapjax eval on it"):
            call()


def test_a_calibrated_model_gives_the_same_values_with_their_errors(model, calibrated, images):
    e, plain = calibrated.explain(images), model.explain(images)
    np.testing.assert_array_equal(e.logits, plain.logits)
    np.testing.assert_allclose(e.shapley, plain.shapley, atol=1e-5)
    assert e.standard_error.shape == e.shapley.shape and (e.standard_error > 0).all() and e.freedom.shape == (4,)
    low, high = e.interval(0.5)
    np.testing.assert_allclose((low + high) / 2, e.shapley, atol=1e-5)
    np.testing.assert_allclose((high - low) / 2, special.stdtrit(5, 0.75) * e.standard_error, rtol=1e-4)
    wide_low, wide_high = e.interval(0.99)
    np.testing.assert_array_equal(e.sign_is_certain(0.99), wide_low * wide_high > 0)
    assert e.sign_is_certain(0.99).sum() < e.sign_is_certain(0.01).sum()


def exact_values(model, images):
    """Returns the Shapley values by enumeration, [B, gh, gw, K]."""
    masks = np.broadcast_to(np.arange(16)[:, None] >> np.arange(4) & 1 == 1, (len(images), 16, 4))
    values = model.coalition_values(images, masks)
    return np.stack([games.exact_shapley(v) for v in values]).reshape(len(images), 2, 2, -1)


def test_pairs_make_values_better_and_efficiency_stays(calibrated, images):
    exact = exact_values(calibrated, images)
    errors = []
    for pairs in (0, 8, 400):
        e = calibrated.explain(images, pairs=pairs)
        assert (e.pairs == pairs).all()
        np.testing.assert_allclose(e.shapley.sum(axis=(1, 2)), e.logits, atol=1e-4)
        errors.append(np.abs(e.shapley - exact).max())
    assert errors[2] < errors[1] < errors[0] and errors[2] < 0.1 * errors[0]


def test_refined_values_do_not_depend_on_the_batch_size_and_follow_the_seed(calibrated, images):
    one, other = (calibrated.explain(images, pairs=5, batch_size=b) for b in (3, 256))
    np.testing.assert_allclose(one.shapley, other.shapley, atol=1e-4)
    np.testing.assert_allclose(one.standard_error, other.standard_error, rtol=1e-3)
    assert np.abs(calibrated.explain(images, pairs=5, seed=1).shapley - other.shapley).max() > 1e-3


def test_a_tolerance_takes_as_many_pairs_as_it_needs_and_no_more(calibrated, images):
    before = calibrated.explain(images).largest_error
    tolerance = float(np.sort(before)[1:3].mean())  # two images are precise enough at once
    e = calibrated.explain(images, tolerance=tolerance, max_pairs=64)
    assert ((e.pairs == 0) == (before <= tolerance)).all() and (e.pairs == 0).sum() == 2
    assert (e.largest_error <= tolerance).all()
    for i in np.flatnonzero(e.pairs):
        assert calibrated.explain(images, tolerance=tolerance, max_pairs=int(e.pairs[i])).pairs[i] == e.pairs[i]


def test_a_tolerance_that_is_not_reached_says_what_was(calibrated, images):
    with pytest.warns(UserWarning, match="4 of 4 images have larger errors than tolerance=1e-06 after 6 pairs, of up"):
        e = calibrated.explain(images, tolerance=1e-6, max_pairs=6)
    assert (e.pairs == 6).all()


@pytest.mark.parametrize(("arguments", "message"), [
    ({"pairs": -1}, "pairs is -1, expected a whole number from 0 to 65,536"), ({"pairs": 2.0}, "pairs is 2.0"),
    ({"pairs": 10**7}, "65,536"), ({"tolerance": 0.0}, "a positive fraction"), ({"tolerance": -0.1}, "a positive"),
    ({"tolerance": float("nan")}, "a positive"), ({"tolerance": 0.1, "pairs": 3}, "and no pairs"),
    ({"tolerance": 0.1, "max_pairs": 0}, "max_pairs is 0, expected a whole number from 1 to 65,536"),
])
def test_numbers_of_pairs_that_cannot_be_are_refused(calibrated, images, arguments, message):
    with pytest.raises(UserError, match=message):
        calibrated.explain(images, **arguments)


def test_levels_are_shares(calibrated, images):
    for level in (0.0, 1.0, 95):
        with pytest.raises(UserError, match=f"level is {level}"):
            calibrated.explain(images).interval(level)
