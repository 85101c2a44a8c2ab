"""Methods and metrics give the same for images and targets of every kind, or one line; with 64-bit numbers too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapjax import attribution, games, metrics
from shapjax.errors import UserError
from shapjax.games.error_law import ErrorLaw

B, K, N, L, H = 4, 3, 4, 2, 2
KEY, ORDER = jax.random.key(3), np.tile(np.arange(N, dtype=np.int32), (B, 1))
PIXELS = np.random.default_rng(0).integers(0, 200, size=(B, 6, 8, 3))  # every kind of number holds them exactly
IMAGES, TARGETS = PIXELS.astype(np.float32), np.array([2, 0, 1, 1], np.int32)
NAMES = ("cat", "dog", "eel")

IMAGE_KINDS = {
    "float16": PIXELS.astype(np.float16), "bfloat16": jnp.asarray(PIXELS, jnp.bfloat16), "list": list(IMAGES),
    "float64": PIXELS.astype(np.float64),
    "strided": np.moveaxis(np.ascontiguousarray(np.moveaxis(IMAGES, -1, 1)), 1, -1),
}
TARGET_KINDS = {
    "list": TARGETS.tolist(), "tuple": tuple(TARGETS), "int8": TARGETS.astype(np.int8), "jax": jnp.asarray(TARGETS),
    "uint64": TARGETS.astype(np.uint64), "one-hot": np.eye(K)[TARGETS], "names": [NAMES[t] for t in TARGETS],
}


@pytest.fixture(scope="module")
def model():
    """Returns a classifier that has all that methods need; black is not a number that half precision holds."""
    rng = np.random.default_rng(1)
    shapes = {"inner": (6 * 8 * 3, 5), "outer": (5, K), "scores": (L, 1, H, N, N), "attention": (L, H, N, N, K),
              "relevance": (K, L, H, N, N), "features": (3 * 4 * 3, K)}
    params = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}

    def logits_fn(p, x):
        return jnp.tanh((x / 200.0).reshape(len(x), -1) @ p["inner"] / 4) @ p["outer"]

    def attention_fn(p, x, delta):
        maps = jax.nn.softmax(p["scores"] * (x / 200.0).mean(axis=(1, 2, 3))[:, None, None, None])
        maps = maps if delta is None else maps + delta
        return jnp.einsum("lbhts,lhtsk->bk", maps, p["attention"]), maps

    def features_fn(p, x, delta):
        features = (x / 200.0)[:, ::2, ::2]
        features = features if delta is None else features + delta
        return jnp.tanh(features).reshape(len(x), -1) @ p["features"], features

    law = ErrorLaw(*map(np.float32, (0.3, 5.0, 1.0, 1.0)), np.float32([0]), np.float32([1]))
    return games.wrap(
        logits_fn, params, grid=(2, 2), removal=games.Constant(0.3), error_law=law, class_names=NAMES,
        phi_fn=lambda p, x: logits_fn(p, x)[:, None] * jnp.arange(N, dtype=jnp.float32)[:, None] / 6,
        attention_fn=attention_fn, features_fn=features_fn,
        relevance_fn=lambda p, x, targets: jnp.moveaxis(p["relevance"][targets], 0, 1))


def explaining(method):
    options = {"coalitions": 16} if method.sampled else {}
    return lambda model, images, targets: method.fn(model, images, targets, KEY, batch_size=8, **options)


def of_curves(metric):
    return lambda model, images, targets: metric(metrics.curves(model, images, ORDER, batch_size=8), targets)


MAPS = np.random.default_rng(2).normal(size=(B, N)).astype(np.float32)
CALLS = {key: explaining(method) for key, method in attribution.METHODS.items()} | {
    fn.__name__: of_curves(fn) for fn in (metrics.deletion, metrics.insertion, metrics.aopc, metrics.aopc_absolute,
                                          metrics.lodds, metrics.monotonicity, metrics.positive_perturbation,
                                          metrics.negative_perturbation)} | {
    "refine": lambda model, images, targets: games.refine(model, images, targets, KEY, pairs=4).values,
    "road": lambda model, images, targets: metrics.road(model, images, ORDER, targets),
    "random_removal": lambda model, images, targets: metrics.random_removal(model, images, targets, KEY),
    "positive_pixels": lambda model, images, targets: metrics.positive_perturbation_pixels(
        model, images, MAPS, targets, KEY),
    "negative_pixels": lambda model, images, targets: metrics.negative_perturbation_pixels(
        model, images, MAPS, targets, KEY),
}
TRACED = {name: call for name, call in CALLS.items() if name != "refine"}  # which is not to be traced
TAKE_INTEGERS = {"random", "phi", "attention", "rollout", "gradient_rollout", "relevance", "gradcam"}  # paint nothing


@jax.jit
def everything(model, images, targets):
    return {name: call(model, images, targets) for name, call in TRACED.items()}


@pytest.fixture(scope="module")
def expected(model):
    """Returns what every call gives for float32 and int32; those that could be anything are told apart."""
    found = jax.device_get(everything(model, IMAGES, TARGETS))
    assert all(np.isfinite(x).all() and x.dtype == np.float32 for x in found.values())
    other = jax.device_get(everything(model, IMAGES, (TARGETS + 1) % K))
    alike = {name for name in TRACED if np.allclose(found[name], other[name])}
    assert alike == {"random", "attention", "rollout"} or alike == {"random", "attention", "rollout", "monotonicity"}
    return found


@pytest.mark.parametrize("name", CALLS)
def test_images_and_targets_of_every_kind_are_explained_and_scored_alike(model, expected, name):
    call = CALLS[name]
    usual = call(model, IMAGES, TARGETS)
    if name in expected:
        np.testing.assert_allclose(usual, expected[name], rtol=1e-4, atol=1e-5)
    for kind, images in IMAGE_KINDS.items():
        np.testing.assert_array_equal(call(model, images, TARGETS), usual, err_msg=kind)
    for kind, targets in TARGET_KINDS.items():
        if kind == "names" and name in {fn.__name__ for fn in (
                metrics.deletion, metrics.insertion, metrics.aopc, metrics.aopc_absolute, metrics.lodds,
                metrics.monotonicity, metrics.positive_perturbation, metrics.negative_perturbation)}:
            with pytest.raises(UserError, match="are names, and the model has no class names: give class numbers"):
                call(model, IMAGES, targets)  # a function of curves has no model to ask
        else:
            np.testing.assert_array_equal(call(model, IMAGES, targets), usual, err_msg=kind)
    wrong = [(IMAGES, [0, -1, 0, 0], "-1 of row 1 is no class"), (IMAGES, [0, 0, K, 0], "3 of row 2 is no class"),
             (IMAGES, np.full(B, 255, np.uint8), "255 of row 0 is no class"), (IMAGES, [0, 0], r"have shape \(2,\)"),
             (np.moveaxis(IMAGES, -1, 1), TARGETS, "which is channels first")]
    bytes_ = PIXELS.astype(np.uint8)
    if name in TAKE_INTEGERS:
        np.testing.assert_allclose(call(model, bytes_, TARGETS), usual, rtol=1e-5, atol=1e-6)
    else:
        wrong.append((bytes_, TARGETS, "the images are uint8, expected floats in the units that the model takes"))
    for images, targets, message in wrong:
        with pytest.raises(ValueError, match=message) as error:
            call(model, images, targets)
        assert "\n" not in str(error.value)


def test_inside_of_jit_a_target_that_is_no_class_gives_nan_and_the_others_stay(model, expected):
    targets = np.array([-1, K, 255, TARGETS[3]], np.int32)
    for name, values in jax.device_get(everything(model, IMAGES, targets)).items():
        assert np.isnan(values[:3]).all(), name
        np.testing.assert_allclose(values[3], expected[name][3], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_64_bit_numbers_change_nothing(model, expected):
    """The program is traced anew, with what it draws: other types would draw other coalitions."""
    estimates = jax.jit(lambda model, images: [
        fn(model, images, KEY, batch_size=8, round_coalitions=32, max_coalitions=32)
        for fn in (attribution.kernel_shap_all, attribution.permutation_all)] + [attribution.exact_all(model, images)])
    usual = jax.device_get(estimates(model, IMAGES)), games.refine(model, IMAGES, TARGETS, KEY, pairs=4)
    with jax.enable_x64(True):
        found = jax.device_get(everything(model, IMAGES.astype(np.float64), TARGETS.astype(np.int64)))
        also = jax.device_get(estimates(model, IMAGES)), games.refine(model, IMAGES, TARGETS, KEY, pairs=4)
    for name, values in found.items():
        assert values.dtype == np.float32, name
        np.testing.assert_allclose(values, expected[name], rtol=1e-3, atol=1e-4, err_msg=name)
    for ours, theirs in zip(jax.tree.leaves(also), jax.tree.leaves(usual), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
