"""What a model takes and returns: made uniform, or refused in one line that says what to do."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapjax import attribution, games
from shapjax.games import contract
from tests.games.conftest import IMAGES, NAMES, PIXELS, B, K, network, refused, wrapped

# Images

KINDS = {
    "float64": PIXELS.astype(np.float64), "float16": PIXELS.astype(np.float16),
    "bfloat16": jnp.asarray(PIXELS, jnp.bfloat16), "big-endian": IMAGES.astype(">f4"), "list": list(IMAGES),
    "list of jax": [jnp.asarray(x) for x in IMAGES],
    "strided": np.moveaxis(np.ascontiguousarray(np.moveaxis(IMAGES, -1, 1)), 1, -1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_floats_of_any_width_and_layout_become_float32(kind):
    images = contract.as_images(KINDS[kind], (2, 2))
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_allclose(wrapped(network).logits(KINDS[kind]), network(IMAGES), rtol=1e-5)


def test_integers_stay_what_they_are_for_models_that_take_them():
    assert contract.as_images(PIXELS.astype(np.uint8)).dtype == np.uint8
    kinds = []
    wrapped(lambda x: kinds.append(x.dtype) or network(x)).logits(PIXELS.astype(np.uint8))
    assert kinds == [np.uint8]


@pytest.mark.parametrize(("images", "message"), [
    (IMAGES[0], r"images have shape (6, 8, 3), expected (any, any, any, any)"),
    (np.moveaxis(IMAGES, -1, 1), "shape (3, 3, 6, 8), which is channels first, expected [B, H, W, C]: give "),
    (np.moveaxis(IMAGES, -1, 1)[:, :1], "shape (3, 1, 6, 8), which is channels first"),
    ([IMAGES[0], IMAGES[1][:2]], "the images are of different shapes"),
    (IMAGES.astype(complex), "the images are complex128"), (IMAGES.astype(str), "the images are <U"),
])
def test_images_that_are_none_are_refused(images, message):
    with pytest.raises(ValueError) as error:
        contract.as_images(images, (2, 2))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_few_rows_of_many_channels_are_no_channels_first():
    signal = np.zeros((2, 1, 16, 9), np.float32)
    assert contract.as_images(signal, (1, 4)).shape == signal.shape
    assert contract.as_images(np.zeros((2, 4, 4, 9)), (2, 2)).shape == (2, 4, 4, 9)
    assert contract.as_images(np.zeros((2, 3, 16, 4)), (3, 4)).shape == (2, 3, 16, 4)


# Targets

TARGETS = np.array([2, 0, 3])
ONE_HOT = np.eye(K)[TARGETS]
SAME = [TARGETS.tolist(), tuple(TARGETS), jnp.asarray(TARGETS), [jnp.int32(t) for t in TARGETS], ONE_HOT,
        ONE_HOT.astype(bool), ONE_HOT.astype(int).tolist(), jnp.asarray(ONE_HOT), ["eel", "cat", "fox"],
        np.array(["eel", "cat", "fox"]), np.array(["eel", "cat", "fox"], object),
        *(TARGETS.astype(kind) for kind in ("int8", "uint8", "int16", "uint16", "int64", "uint64", ">i4"))]


@pytest.mark.parametrize("targets", SAME, ids=range(len(SAME)))
def test_targets_of_any_kind_become_class_numbers(targets):
    found = contract.as_targets(targets, K, num_images=B, class_names=NAMES)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, TARGETS)


@pytest.mark.parametrize(("targets", "message"), [
    ([0, -1, 0], "target -1 of row 1 is no class: expected 0 to 3"), ([0, 1, 4], "target 4 of row 2 is no class"),
    (np.array([255, 0, 0], np.uint8), "target 255 of row 0"), (np.array([0, 2**63 + 1, 0], np.uint64), "of row 1"),
    (ONE_HOT * 0.9, "row 0 of the targets [3, 4] is not one-hot"), (ONE_HOT * 0, "row 0 of the targets [3, 4] is not"),
    (["cat", "dgo", "eel"], "there is no class 'dgo'; did you mean dog"),
])
def test_outside_of_jit_what_is_no_class_is_refused(targets, message):
    assert message in refused(contract.as_targets, targets, K, num_images=B, class_names=NAMES)


@pytest.mark.parametrize(("targets", "message"), [
    ([0, 1], r"targets have shape \(2,\), expected \(3\)"), (2, r"targets have shape \(\)"),
    (ONE_HOT[:, :3], r"targets have shape \(3, 3\), expected \(3\)"), (ONE_HOT[:2], r"targets have shape \(2, 4\)"),
    ([0.0, 1.0, 2.0], r"the targets are float64, expected class numbers, int \[3\]"), ([True, False, True], "are bool"),
])
def test_targets_of_other_shapes_and_types_are_refused(targets, message):
    with pytest.raises(ValueError, match=message):
        contract.as_targets(targets, K, num_images=B)


def test_names_need_a_model_that_has_as_many():
    assert "and the model has no class names" in refused(contract.as_targets, ["cat"], K)
    assert "the model has 3 class names for 4 classes" in refused(
        contract.as_targets, ["cat"], K, class_names=NAMES[:3])


@pytest.mark.parametrize("kind", ["int8", "uint8", "int32"])
def test_inside_of_jit_what_is_no_class_is_marked(kind):
    mark = jax.jit(lambda targets: contract.as_targets(targets, 200))
    given = np.array([255, 7, 200, 199]).astype(kind)  # -1, 7, -56, -57 of one byte
    expected = {"int8": [contract.NO_CLASS, 7] + 2 * [contract.NO_CLASS]}.get(kind, [
        contract.NO_CLASS, 7, contract.NO_CLASS, 199])
    np.testing.assert_array_equal(mark(given), expected)
    rows = jax.jit(lambda rows: contract.as_targets(rows, K))(np.array([[0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]]))
    np.testing.assert_array_equal(rows, [1, contract.NO_CLASS, contract.NO_CLASS])


# What a model returns


OTHERS = [
    (lambda x: (network(x), x), "returns tuple, expected logits, one float array [B, K]; entry [0] is float32 [3, 4]: "
                                "wrap lambda p, x: f(p, x)[0]"),
    (lambda x: {"features": x[:, 0, 0], "logits": network(x)}, "entry ['logits'] is float32 [3, 4]: wrap lambda p, x"),
    (lambda x: types.SimpleNamespace(hidden=x, logits=network(x)), "entry .logits is float32 [3, 4]"),
    (lambda x: [x, None], "returns list, expected logits, one float array [B, K]; none of its entries is that: [0] "),
    (lambda x: None, "returns NoneType"),
    (lambda x: network(x)[:, 0], "float32 [3] for 3 images, expected logits, float [3, K] with K of at least 2: one "),
    (lambda x: network(x)[:, :1], "wrap lambda p, x: jnp.pad(f(p, x), ((0, 0), (1, 0)))"),
    (lambda x: network(x)[:, :, None, None], "float32 [3, 4, 1, 1] for 3 images, expected logits, float [3, K] with K "
                                             "of at least 2: wrap lambda p, x: f(p, x).reshape(len(x), -1)"),
    (lambda x: x, "float32 [3, 6, 8, 3] for 3 images, expected logits"),
    (lambda x: network(x).mean(axis=0), "float32 [4] for 3 images"),
    (lambda x: network(x).T, "float32 [4, 3] for 3 images"),
    (lambda x: jnp.argmax(network(x), axis=1), "int32 [3] for 3 images, expected logits, float [3, K] with K of at "
                                               "least 2: take the scores before"),
]


@pytest.mark.parametrize(("fn", "message"), OTHERS, ids=range(len(OTHERS)))
def test_what_is_no_logits_is_refused_with_how_to_take_them(fn, message):
    for call in (lambda model: contract.num_classes(model, IMAGES), lambda model: model.logits(IMAGES),
                 lambda model: games.values(model, IMAGES, jnp.ones((1, 4), bool), read=games.all_classes()),
                 lambda model: model.check(IMAGES)):
        assert message in refused(call, wrapped(fn))


def test_the_advice_for_one_logit_makes_it_two_classes():
    logits = np.asarray(wrapped(lambda x: jnp.pad(network(x)[:, :1], ((0, 0), (1, 0)))).logits(IMAGES))
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], network(IMAGES)[:, 0], rtol=1e-6)


def test_half_precision_becomes_float32():
    for kind in (jnp.float16, jnp.bfloat16):
        model = wrapped(lambda x, kind=kind: network(x).astype(kind))
        assert model.logits(IMAGES).dtype == model.pair_logits(IMAGES, jnp.ones((B, 4), bool))[0].dtype == np.float32


def test_functions_of_pairs_coalitions_features_and_attention_are_held_to_the_same():
    model, mask = wrapped(network), jnp.ones((B, 4), bool)
    for field, call in {"coalition_fn": lambda m: m.coalition_logits(IMAGES, mask),
                        "pair_fn": lambda m: m.pair_logits(IMAGES, mask), "features_fn": lambda m: m.features(IMAGES),
                        "attention_fn": lambda m: m.attention(IMAGES)}.items():
        def one(params, x, *others, field=field):
            logits = network(x)[:, :1]
            return logits if field == "coalition_fn" else (logits, logits)

        assert "float32 [3, 1]" in refused(call, model.replace(**{field: one}))


def broken(x):
    return jnp.dot(x, jnp.ones((7, 4)))


@pytest.mark.parametrize("fn", [broken, lambda x: network(np.asarray(x)), lambda x: x if x.sum() > 0 else -x])
def test_a_model_that_fails_or_cannot_be_traced_is_told_in_a_line_with_its_cause(fn):
    assert "the model fails on images float32 [3, 6, 8, 3] (" in refused(contract.num_classes, wrapped(fn), IMAGES)


# Wrapping


@pytest.mark.parametrize(("removal", "message"), [
    (0.0, "removal is 0.0, expected a function (images, hidden) -> images, such as"),
    (lambda x, hidden: jnp.float32(0), "the removal returns shape () for images of (3, 6, 8, 3)")])
def test_a_removal_is_a_function_that_returns_images(removal, message):
    with pytest.raises(ValueError) as error:
        games.wrap(network, grid=(2, 2), removal=removal).check(IMAGES)
    assert message in str(error.value)


@pytest.mark.parametrize("grid", [4, (4,), (0, 2), (2.0, 2), "22", None])
def test_a_grid_is_two_counts(grid):
    with pytest.raises(ValueError, match="expected the numbers of patches down and across"):
        games.wrap(network, grid=grid, removal=games.Constant(0.0))


def test_a_grid_finer_than_the_pixels_is_refused():
    with pytest.raises(ValueError, match="has no 9 x 2 patches: use a coarser grid"):
        games.wrap(network, grid=(9, 2), removal=games.Constant(0.0)).check(IMAGES)


def test_there_are_as_many_class_names_as_logits():
    assert "returns 4 logits and has 3 class names" in refused(wrapped(network, class_names=NAMES[:3]).check, IMAGES)


def test_floats_outside_of_the_range_that_a_model_is_known_to_take_are_refused():
    model, key = wrapped(network).replace(pixel_range=(0.0, 1.0)), jax.random.key(0)
    for call in (lambda x: games.refine(model, x, [0, 1, 2], key), model.check,
                 lambda x: attribution.rise(model, x, [0, 1, 2], key, coalitions=2)):
        call(IMAGES / 255)
        for images in (IMAGES, IMAGES / 255 - 0.5, IMAGES / np.where(IMAGES > 190, np.nan, 255)):
            assert "expected floats in [0, 1], or uint8" in refused(call, images)
    enclosed = jnp.asarray(IMAGES / 255)
    jax.jit(lambda key: attribution.rise(model, enclosed, [0, 1, 2], key, coalitions=2))(key)
    jax.jit(lambda x: attribution.gradient(model, x, jnp.array([0, 1, 2]), key))(IMAGES)  # values cannot be looked at


@pytest.mark.parametrize("pixel_range", [(1, 0), (0, 0)])
def test_a_range_is_two_ordered_numbers(pixel_range):
    assert hash(wrapped(network, pixel_range=[0, 1]).pixel_range) == hash((0.0, 1.0))
    with pytest.raises(ValueError, match=r"expected \(low, high\)"):
        wrapped(network, pixel_range=pixel_range)


def test_what_load_returns_is_taken_as_the_classifier_in_it():
    loaded, key = types.SimpleNamespace(classifier=wrapped(network)), jax.random.key(0)
    for call in (lambda model: games.refine(model, IMAGES, [0, 1, 2], key, pairs=2).values,
                 lambda model: attribution.rise(model, IMAGES, [0, 1, 2], key, coalitions=2)):
        np.testing.assert_array_equal(call(loaded), call(loaded.classifier))
        assert "the model is function, expected what shapjax.load or games.wrap returns" in refused(call, network)


@pytest.mark.parametrize("key", [0, np.zeros(2, np.uint32)])
def test_a_key_is_one_of_jax(key):
    with pytest.raises(ValueError, match=r"expected one jax.random.key\(seed\)"):
        attribution.rise(wrapped(network), IMAGES, [0, 1, 2], key, coalitions=2)
