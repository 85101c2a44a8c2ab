"""Any function of images is a classifier in one line; many coalitions are a loop over single ones."""

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import special

from shapjax.games import classifier, outputs
from shapjax.games.removal import Constant, Noise

GRID, B, K = (2, 3), 3, 4
HOW = dict(grid=GRID, removal=Constant(0.0))


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).uniform(size=(B, 4, 6, 1)), jnp.float32)


@pytest.fixture(scope="module")
def weights():
    return jnp.asarray(np.random.default_rng(1).normal(size=(24, K)), jnp.float32)


def network(weights, images):
    return jnp.tanh(images.reshape(len(images), -1)) @ weights


@pytest.fixture(scope="module")
def model(weights):
    return classifier.wrap(network, weights, **HOW)


def of_flax_linen(weights):
    module = flax.linen.Sequential([lambda x: jnp.tanh(x.reshape(len(x), -1)), flax.linen.Dense(K)])
    variables = {"params": {"layers_1": {"kernel": weights, "bias": jnp.zeros(K)}}}
    return classifier.wrap(module.apply, variables, **HOW)


def of_flax_nnx(weights):
    class Net(nnx.Module):
        def __init__(self):
            self.kernel = nnx.Param(weights)

        def __call__(self, images):
            return network(self.kernel[...], images)

    graph, state = nnx.split(Net())
    return classifier.wrap(lambda s, x: nnx.merge(graph, s)(x), state, **HOW)


def of_a_plain_function(weights):
    return classifier.wrap(lambda x: network(weights, x), **HOW)


@pytest.mark.parametrize("make", [of_flax_linen, of_flax_nnx, of_a_plain_function])
def test_any_function_is_wrapped_in_a_line(make, weights, images):
    model = make(weights)
    mask = jnp.asarray([[1, 0, 1, 0, 0, 1], [0, 0, 0, 0, 0, 1], [1, 1, 1, 1, 1, 1]], bool)
    logits, (inside, outside) = jax.jit(
        lambda model, images: (model.logits(images), model.pair_logits(images, mask)))(model, images)
    np.testing.assert_allclose(logits, network(weights, images), atol=1e-6)
    visible = np.repeat(np.repeat(np.asarray(mask).reshape(B, *GRID), 2, axis=1), 2, axis=2)[..., None]
    np.testing.assert_allclose(inside, network(weights, images * visible), atol=1e-6)
    np.testing.assert_allclose(outside, network(weights, images * ~visible), atol=1e-6)
    assert model.num_players == 6 and model.pair_passes == 2


def test_another_removal_takes_the_place_of_a_model_s_own(model, images):
    noise, nothing = Noise(seed=4), jnp.zeros((B, 6), bool)
    painted = classifier.painted(model, noise)
    expected = model.logits(noise(images, jnp.ones((B, 4, 6, 1), bool)))
    np.testing.assert_allclose(painted.coalition_logits(images, nothing), expected, atol=1e-6)
    np.testing.assert_allclose(painted.pair_logits(images, ~nothing)[1], expected, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 5, 100])
@pytest.mark.parametrize("shared", [True, False])
def test_many_coalitions_are_a_loop_over_single_ones(model, images, batch_size, shared):
    rng = np.random.default_rng(2)
    masks = rng.random((4, 6) if shared else (B, 4, 6)) < 0.5
    targets = jnp.asarray([2, 0, 3])
    single = jax.jit(lambda b, mask: model.coalition_logits(images[b][None], mask[None])[0])
    expected = np.stack([[single(b, mask) for mask in (masks if shared else masks[b])] for b in range(B)])
    without = np.stack([[single(b, ~mask) for mask in (masks if shared else masks[b])] for b in range(B)])
    everything = classifier.values(
        model, images, jnp.asarray(masks), read=outputs.all_classes(), batch_size=batch_size)
    np.testing.assert_allclose(everything, expected, atol=1e-5)
    read = outputs.target_class(targets, "log_probability")
    inside, outside = classifier.pair_values(model, images, jnp.asarray(masks), read=read, batch_size=batch_size)
    for got, logits in ((inside, expected), (outside, without)):
        np.testing.assert_allclose(got, np.asarray(jax.nn.log_softmax(logits))[np.arange(B), :, targets], atol=1e-5)


def test_passes_are_as_large_as_is_said_and_pairs_are_packed_where_they_can_be(model, images):
    sizes = []

    def pair_fn(weights, images, mask):
        sizes.append(len(images))
        return model.pair_logits(images, mask)

    packed = classifier.wrap(network, model.params, pair_fn=pair_fn, pair_passes=1, **HOW)
    masks = jnp.asarray(np.random.default_rng(3).random((4, 6)) < 0.5)
    got = classifier.pair_values(packed, images, masks, read=outputs.all_classes(), batch_size=5)
    assert set(sizes) == {4}  # 12 rows, in three passes
    for ours, naive in zip(
            got, classifier.pair_values(model, images, masks, read=outputs.all_classes()), strict=True):
        np.testing.assert_allclose(ours, naive, atol=1e-6)


@pytest.mark.parametrize("margin", [0.0, 3.0, 16.0, 18.0, 40.0, 300.0])
def test_log_odds_are_exact_where_probabilities_are_rounded_to_0_or_1(margin):
    logits, image = jnp.asarray([[margin, 0.0, -1.0]]), jnp.zeros(1, int)
    rest = np.array([[0.0, -1.0], [margin, -1.0], [margin, 0.0]])
    expected = np.float64(logits[0]) - special.logsumexp(rest, axis=1)
    np.testing.assert_allclose(outputs.all_classes("log_odds")(logits, image)[0], expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(outputs.target_class(jnp.ones(1, int), "log_odds")(logits, image), expected[1:2],
                               rtol=1e-6, atol=1e-6)


def test_outputs_that_do_not_exist_are_refused():
    for reader in (outputs.all_classes, lambda output: outputs.target_class(jnp.zeros(1, int), output)):
        with pytest.raises(ValueError, match="output is 'odds', expected one of logit, probability"):
            reader("odds")


def test_a_target_beyond_the_classes_is_nan_under_jit():
    logits = jnp.asarray([[1.0, 2.0], [1.0, 2.0]])
    got = jax.jit(lambda t: outputs.target_class(t)(logits, jnp.arange(2)))(jnp.asarray([1, 2]))
    np.testing.assert_array_equal(got, [2.0, np.nan])


def test_outputs_are_logits_probabilities_and_their_logarithms():
    logits, image = jnp.asarray([[0.0, 1.0, 3.0], [2.0, 2.0, -1.0]]), jnp.asarray([1, 0])
    targets = jnp.asarray([1, 2])
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for output, values in (("logit", np.asarray(logits)), ("probability", p), ("log_probability", np.log(p)),
                           ("log_odds", np.log(p / (1 - p)))):
        np.testing.assert_allclose(outputs.all_classes(output)(logits, image), values, atol=1e-6)
        np.testing.assert_allclose(
            outputs.target_class(targets, output)(logits, image), [values[0, 2], values[1, 1]], atol=1e-6)


def test_new_parameters_do_not_trace_again(images, weights):
    traces = []

    def counted(weights, images):
        traces.append(1)
        return network(weights, images)

    model = classifier.wrap(counted, weights, **HOW)
    run = jax.jit(lambda model, images: model.logits(images))
    first = run(model, images)
    second = run(model.replace(params=2 * weights), images)
    assert len(traces) == 1
    np.testing.assert_allclose(second, 2 * first, rtol=1e-5)


def test_gradients_pass_through_to_images_and_parameters(model, images, weights):
    by_model = jax.grad(lambda model: model.logits(images).sum())(model)
    np.testing.assert_allclose(by_model.params, jax.grad(lambda w: network(w, images).sum())(weights), rtol=1e-5)
    assert jax.grad(lambda x: model.logits(x).sum())(images).shape == images.shape


def test_one_key_becomes_one_an_image_and_keys_stay_as_they_are():
    key = jax.random.key(0)
    keys = classifier.row_keys(key, 4)
    assert keys.shape == (4,) and len({tuple(data) for data in np.asarray(jax.random.key_data(keys))}) == 4
    assert (classifier.row_keys(key, 6)[:4] == keys).all()
    assert classifier.row_keys(keys[2:], 2) is not None and (classifier.row_keys(keys[2:], 2) == keys[2:]).all()


@pytest.mark.parametrize(("field", "call"), [
    ("phi_fn", lambda m, x: m.phi(x)), ("attention_fn", lambda m, x: m.attention(x)),
    ("features_fn", lambda m, x: m.features(x)), ("relevance_fn", lambda m, x: m.relevance(x, jnp.zeros(B, int)))])
def test_what_a_model_does_not_offer_is_said_with_its_name(model, images, field, call):
    with pytest.raises(ValueError, match=f"choose another method, or give {field}"):
        call(model, images)


def test_fields_and_readouts_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="no field 'vote_fn'; it has .*phi_fn"):
        classifier.wrap(network, vote_fn=network, **HOW)
    with pytest.raises(ValueError, match="attention_readout is 'cls', expected one of patches, class_token"):
        classifier.wrap(network, attention_readout="cls", **HOW)


def test_there_is_one_way_to_hide_a_patch(model, images):
    with pytest.raises(ValueError, match="give either removal"):
        classifier.wrap(network, grid=GRID)
    with pytest.raises(ValueError, match="give either removal"):
        classifier.wrap(network, coalition_fn=model.coalition_fn, **HOW)
    own = classifier.wrap(network, model.params, grid=GRID, coalition_fn=model.coalition_fn)
    mask = jnp.asarray(np.random.default_rng(4).random((B, 6)) < 0.5)
    for ours, expected in zip(own.pair_logits(images, mask), model.pair_logits(images, mask), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_the_batch_size_bounds_the_memory():
    weights = jnp.ones((64, 512))
    model = classifier.wrap(lambda w, x: jnp.tanh(x.reshape(len(x), -1) @ w)[:, :3], weights, grid=(4, 4),
                            removal=Constant())
    images, masks = jnp.ones((6, 8, 8, 1)), jnp.tri(16, dtype=bool)

    def peak(batch_size):
        read = outputs.all_classes()
        compiled = jax.jit(lambda model, images: classifier.pair_values(
            model, images, masks, read=read, batch_size=batch_size)).lower(model, images).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert peak(8) < peak(96) / 4


@pytest.mark.parametrize("n", [5, 40])
def test_each_distinct_coalition_is_evaluated_once(n):
    rng, rows = np.random.default_rng(0), []
    weights = jnp.asarray(rng.normal(size=(n, 3)), jnp.float32)

    def coalition_fn(params, images, mask):
        jax.debug.callback(lambda x, mask: rows.extend(zip(x.tolist(), map(bytes, mask), strict=True)),
                           images[:, 0, 0, 0], mask)
        return images[:, 0, 0] * jnp.tanh(mask @ weights)

    model = classifier.wrap(None, coalition_fn=coalition_fn, grid=(1, n))
    images = jnp.asarray([1.0, 2.0, 3.0])[:, None, None, None] * jnp.ones((3, 2, n, 1))
    some = rng.random((4, n)) < 0.5
    masks = np.concatenate([some, some[:2], ~some[1:3], np.zeros((1, n), bool), np.ones((1, n), bool)])
    masks = np.stack([rng.permutation(masks) for _ in range(3)])

    def expected(masks):
        return np.asarray(images)[:, :1, 0] * np.tanh(masks @ weights)

    got = classifier.values(model, images, masks, read=outputs.all_classes(), batch_size=4)
    jax.effects_barrier()
    np.testing.assert_allclose(got, expected(masks), atol=1e-6)
    distinct = {(i + 1.0, bytes(mask)) for i in range(3) for mask in masks[i]}
    assert set(rows) == distinct and len(distinct) <= len(rows) < len(distinct) + 4  # the last pass is filled up
    del rows[:]
    got = classifier.pair_values(model, images, masks, read=outputs.all_classes(), batch_size=8)
    jax.effects_barrier()
    np.testing.assert_allclose(got[0], expected(masks), atol=1e-6)
    np.testing.assert_allclose(got[1], expected(~masks), atol=1e-6)
    distinct |= {(image, bytes(np.frombuffer(mask, bool) ^ True)) for image, mask in distinct}
    assert set(rows) == distinct and len(distinct) <= len(rows) < len(distinct) + 8
    shared = classifier.pair_values(model, images, masks[0], read=outputs.all_classes(), batch_size=8)
    np.testing.assert_allclose(shared[1], expected(~masks[0]), atol=1e-6)


@pytest.mark.parametrize("masks", [np.ones((2, 4), int), np.ones((0, 4), bool), np.ones(4, bool), [[1, 0, 0, 1]]])
def test_masks_that_are_none_are_refused(masks):
    model = classifier.wrap(lambda x: x[:, 0, :2, 0], grid=(2, 2), removal=Constant())
    for evaluate in (classifier.values, classifier.pair_values):
        with pytest.raises(ValueError, match=r"expected bool \[B, M, N\] or \[M, N\], M of at least 1"):
            evaluate(model, jnp.ones((3, 4, 4, 1)), masks, read=outputs.all_classes())
        evaluate(model, jnp.ones((3, 4, 4, 1)), [[True, False, False, True]], read=outputs.all_classes())


def test_as_many_players_as_pixels_are_not_compared():
    model = classifier.wrap(lambda x: x.sum(axis=(1, 2)), grid=(112, 112), removal=Constant())
    program = jax.make_jaxpr(lambda masks: classifier.values(
        model, jnp.ones((2, 112, 112, 3)), masks, read=outputs.all_classes()))(jnp.ones((3, 112 * 112), bool))
    assert "sort[" not in str(program)
