"""The methods by name: those that a model can run, the cost of an explanation, mistakes told in one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapjax import attribution
from shapjax.attribution import registry
from shapjax.games import classifier, removal

SHAPE = (8, 8, 1)


@pytest.fixture(scope="module")
def plain():
    """Returns a classifier that offers its logits only: 16 patches of 2x2 pixels."""
    return classifier.wrap(lambda w, x: x.reshape(len(x), -1) @ w, jnp.ones((64, 512)) * jnp.arange(512), grid=(4, 4),
                           removal=removal.Constant())


@pytest.mark.parametrize("key", ["random", "gradient", "input_x_gradient", "smoothgrad", "integrated_gradients",
                                 "leave_one_out", "include_one", "rise", "lime", "kernel_shap", "permutation"])
def test_every_method_that_needs_logits_only_explains_any_classifier(plain, key):
    method = registry.METHODS[key]
    options = {"coalitions": 64} if method.sampled else {}
    images = jax.random.uniform(jax.random.key(0), (2, 8, 8, 1))
    values = method.fn(plain, images, jnp.array([0, 2]), jax.random.key(1), batch_size=16, **options)
    assert values.shape == (2, 16) and jnp.isfinite(values).all()


@pytest.mark.parametrize("key", registry.METHODS)
def test_every_method_refuses_arguments_that_do_not_fit(plain, key):
    """The message is one line, and comes before the question whether the model has the functions that it needs."""
    method, images, targets = registry.METHODS[key], jnp.zeros((2, 8, 8, 1)), jnp.zeros(2, int)
    keys = jax.random.split(jax.random.key(0), 2)
    sampled = [(images, targets, keys, {"coalitions": 5}, "5 coalitions"),
               (images, targets, keys[:1], {}, "expected one jax.random.key")] if method.sampled else []
    for x, y, k, options, message in [
            (images[0], targets, keys, {}, r"images have shape \(8, 8, 1\)"),
            (images, targets[:1], keys, {}, r"targets have shape \(1,\), expected \(2\)"),
            (images, targets, keys, {"batch_size": 0}, "batch_size is 0"), *sampled]:
        with pytest.raises(ValueError, match=message) as e:
            method.fn(plain, x, y, k, **options)
        assert "\n" not in str(e.value)


def test_a_method_is_a_function_of_the_package_and_no_submodule_hides_it():
    for key, method in registry.METHODS.items():
        fn, name = (method.fn.func, "refined_phi") if key.startswith("phi_") else (method.fn, key)
        assert getattr(attribution, name) is fn
    assert all(callable(getattr(attribution, name)) for name in attribution.__all__ if name != "METHODS")


def test_a_plain_classifier_is_not_asked_for_phi_attention_or_features(plain):
    keys = {method.key for method in registry.select("all", plain, SHAPE)}
    assert keys == set(registry.METHODS) - {
        "phi", "phi_8", "phi_32", "attention", "rollout", "gradient_rollout", "relevance", "gradcam"}
    with pytest.raises(ValueError, match="'rollout' needs attention_fn, which this model does not have: choose among"):
        registry.select(["rollout"], plain, SHAPE)


def test_enumeration_is_not_done_unasked_beyond_16_patches_nor_at_all_beyond_20(plain):
    asked = {method.key for method in registry.select("all", plain, SHAPE)}
    finer = {method.key for method in registry.select("all", plain.replace(grid=(4, 5)), SHAPE)}
    assert finer == asked - {"exact"} != asked
    assert [m.key for m in registry.select(["exact"], plain.replace(grid=(4, 5)), SHAPE)] == ["exact"]
    with pytest.raises(ValueError, match=r"2\^24 packed passes.*kernel_shap"):
        registry.select(["exact"], plain.replace(grid=(5, 5)), SHAPE)


def test_of_a_larger_model_nothing_is_enumerated_unasked(plain):
    def larger(w, x):
        return plain.logits_fn(w, x) + jnp.sum(jnp.ones((4000, 4000)) @ jnp.ones(4000))

    assert registry.enumerates_unasked(plain, SHAPE)
    model = plain.replace(logits_fn=larger)
    assert not registry.enumerates_unasked(model, SHAPE)
    assert "exact" not in {method.key for method in registry.select("all", model, SHAPE)}
    assert [m.key for m in registry.select(["exact"], model, SHAPE)] == ["exact"]


def test_names_are_kept_in_order_once_and_unknown_ones_refused_with_the_near_ones(plain):
    assert [m.key for m in registry.select(["rise", "lime", "rise"], plain, SHAPE)] == ["rise", "lime"]
    with pytest.raises(ValueError, match="'smoothgrat'; did you mean smoothgrad"):
        registry.select(["smoothgrat"], plain, SHAPE)
    with pytest.raises(ValueError, match="there are phi, phi_8, phi_32, exact"):
        registry.select(["xyz"], plain, SHAPE)


def test_costs_count_passes_of_packed_pairs_once_and_of_painted_pairs_twice(plain):
    image = jnp.ones((8, 8, 1))

    def passes(key, model):
        return registry.passes(registry.METHODS[key], model, image, coalitions=64)

    # Sums over pixels and coalitions cost a little beside a model as small as this one.
    assert passes("random", plain) == 0
    assert passes("gradient", plain) == pytest.approx(2, abs=0.1)
    assert passes("leave_one_out", plain) == 17
    assert passes("rise", plain) == pytest.approx(64, rel=0.05)
    packed = plain.replace(pair_passes=1, pair_fn=lambda w, x, mask: 2 * (plain.logits_fn(w, x),))
    assert passes("rise", packed) == pytest.approx(32, rel=0.05)
    assert passes("exact", plain) == pytest.approx(2**16, rel=0.1)
    assert passes("exact", packed) == pytest.approx(2**15, rel=0.2)


def test_of_a_model_without_products_the_passes_are_unknown(plain):
    model = plain.replace(logits_fn=lambda w, x: x.sum(axis=(1, 2)) * jnp.arange(3.0))
    image = jnp.zeros(SHAPE)
    assert np.isnan(registry.passes(registry.METHODS["rise"], model, image, coalitions=64))
