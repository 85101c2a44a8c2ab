"""Attention maps, features and relevance of the vision transformer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from shapjax.attribution import attention_maps
from shapjax.games import classifier, removal
from shapjax.models import probes as model_probes
from shapjax.models import vit_relevance

SETTINGS = {"plain": dict(center=False, head_scale="mean"), "prefix": dict(class_token=True, registers=1)}
# As pretrained weights may want it.
FOREIGN = {"foreign": dict(class_token=True, activation="gelu", norm_epsilon=1e-3, input_norm=True,
                          norm_place="pooled")}


@pytest.fixture
def images(rng):
    return jnp.asarray(rng.normal(size=(2, 8, 8, 2)), jnp.float32)


@pytest.fixture(scope="module")
def probed(tiny_vit):
    """Returns the model of a setting, with its compiled probes."""
    @functools.cache
    def make(setting):
        model = tiny_vit(**(SETTINGS | FOREIGN)[setting])
        return model, {name: jax.jit(fn) for name, fn in model_probes.probes(model.module).items()}

    return make


@pytest.mark.parametrize("setting", SETTINGS | FOREIGN)
def test_logits_are_the_ordinary_ones_whatever_is_shown(probed, images, setting):
    model, probes = probed(setting)
    logits = model.apply(model.params, images).sum(axis=1)
    np.testing.assert_allclose(probes["attention_fn"](model.params, images, None)[0], logits, atol=1e-4)
    np.testing.assert_allclose(probes["features_fn"](model.params, images, None)[0], logits, atol=1e-4)


@pytest.mark.parametrize("setting", SETTINGS | FOREIGN)
def test_the_pass_that_carries_relevance_is_the_model(probed, images, setting):
    model, _ = probed(setting)
    module, params = model.module, {"params": model.params}
    tokens, _ = module.apply(params, images, method=lambda m, x: m.sequence(m.embed(x)))
    t = 4 + module.num_prefix_tokens
    patch_logits = jax.jit(functools.partial(vit_relevance.patch_logits, module))(
        model.params, tokens, jnp.zeros((2, 2, 2, t, t)))
    np.testing.assert_allclose(patch_logits, model.apply(model.params, images), atol=1e-4)


@pytest.mark.parametrize("setting", SETTINGS)
def test_maps_are_distributions_over_prefix_tokens_and_patches(probed, images, setting):
    model, probes = probed(setting)
    maps = probes["attention_fn"](model.params, images, None)[1]
    t = 4 + model.module.num_prefix_tokens
    assert maps.shape == (2, 2, 2, t, t) and maps.dtype == jnp.float32
    assert (maps > 0).all()
    np.testing.assert_allclose(maps.sum(axis=-1), 1.0, atol=1e-5)
    # Patches come last: in the first layer a changed patch moves its own row and column, and no other.
    changed = probes["attention_fn"](model.params, images.at[:, 4:, 4:].add(1.0), None)[1]
    ratio = np.log(changed[0] / maps[0])  # up to a constant a row, of the softmax
    moved = np.abs(ratio - ratio[..., :1]).max(axis=(0, 1)) > 1e-4
    assert moved[:, -1].all() and moved[-1, 1:].all() and not moved[:-1, :-1].any()


def test_maps_of_a_pair_are_of_one_side_each_and_give_its_patch_logits(probed, images):
    model, _ = probed("prefix")
    segment_ids = jnp.array([[True, False, True, False], [False, False, True, True]])

    def patch_logits_and_maps(module):
        x, attention_mask = module.sequence(module.embed(images), segment_ids)
        x, maps = module.blocks(x, attention_mask, jnp.zeros((2, 2, 2, 8, 8)))
        return module.read(x[:, -4:]), maps

    apply = jax.jit(lambda params: model.module.apply({"params": params}, method=patch_logits_and_maps))
    patch_logits, maps = apply(model.params)
    np.testing.assert_allclose(patch_logits, model.apply(model.params, images, segment_ids), atol=1e-4)
    other = np.broadcast_to((segment_ids[:, :, None] != segment_ids[:, None, :])[None, :, None], (2, 2, 2, 4, 4))
    assert (np.asarray(maps)[..., -4:, -4:][other] == 0).all()


@pytest.mark.parametrize(("name", "shape"), [("attention_fn", (2, 2, 2, 6, 6)), ("features_fn", (2, 2, 2, 16))])
def test_the_gradient_of_delta_is_the_slope_of_the_logits(probed, images, rng, name, shape):
    """It equals a finite difference in a random direction, and the returned maps contain delta."""
    model, probes = probed("prefix")
    direction = jnp.asarray(rng.normal(size=shape), jnp.float32)
    fn, zero = probes[name], jnp.zeros(shape)
    _, plain = fn(model.params, images, zero)
    logits_up, up = fn(model.params, images, 1e-2 * direction)
    logits_down, _ = fn(model.params, images, -1e-2 * direction)
    weight = jnp.arange(6.0).reshape(2, 3)
    slope = jnp.sum(weight * (logits_up - logits_down)) / 2e-2
    gradient = jax.jit(jax.grad(lambda delta: jnp.sum(weight * fn(model.params, images, delta)[0])))(zero)
    np.testing.assert_allclose(jnp.sum(gradient * direction), slope, rtol=2e-2)
    last = (slice(None),) if name == "features_fn" else (0,)  # deeper maps change with the ones before
    np.testing.assert_allclose((up - plain)[last], 1e-2 * direction[last], atol=1e-4)


def test_features_are_what_the_patch_logits_are_read_from(probed, images):
    model, probes = probed("prefix")
    _, features = probes["features_fn"](model.params, images, None)
    patch_logits = model.module.apply({"params": model.params}, features.reshape(2, 4, 16), method="read")
    np.testing.assert_allclose(patch_logits, model.apply(model.params, images), atol=1e-4)


def test_bfloat16_models_show_float32(tiny_vit, images):
    model = tiny_vit(dtype=jnp.bfloat16)
    probes = model_probes.probes(model.module)
    logits = model.apply(model.params, images).sum(axis=1)
    for name in ("attention_fn", "features_fn"):
        shown_logits, shown = jax.jit(probes[name])(model.params, images, None)
        assert shown_logits.dtype == shown.dtype == jnp.float32
        np.testing.assert_allclose(shown_logits, logits, atol=0.05 * float(jnp.abs(logits).max()))


@pytest.mark.parametrize("setting", SETTINGS | FOREIGN)
def test_relevance_is_conserved_through_all_layers(probed, images, setting):
    """N readouts start with relevance 1, and all of it arrives at the tokens that enter the first block."""
    model, _ = probed(setting)
    module = model.module
    tokens, _ = module.apply({"params": model.params}, images, method=lambda m, x: m.sequence(m.embed(x)))
    t = 4 + module.num_prefix_tokens
    delta = jnp.zeros((2, 2, 2, t, t))
    given = jnp.broadcast_to(jax.nn.one_hot(jnp.array([1, 2]), 3)[:, None], (2, 4, 3))
    (at_tokens,) = jax.jit(lambda tokens: jax.vjp(
        lambda x: vit_relevance.patch_logits(module, model.params, x, delta), tokens)[1](given))(tokens)
    np.testing.assert_allclose(at_tokens.sum(axis=(1, 2)), [4.0, 4.0], rtol=1e-3)


def test_relevance_of_an_image_does_not_depend_on_its_batch(probed, images):
    model, probes = probed("prefix")
    both = probes["relevance_fn"](model.params, images, jnp.array([1, 2]))
    beside_another = probes["relevance_fn"](model.params, images.at[0].multiply(-3.0), jnp.array([0, 2]))
    np.testing.assert_allclose(both[:, 1], beside_another[:, 1], rtol=1e-3, atol=1e-5)
    other = probes["relevance_fn"](model.params, images, jnp.array([0, 0]))
    assert np.abs(both - other).max() > 1e-2


# The method again in PyTorch, one image at a time, relevance propagated by hand from the last operation to the first.

def share_linear(x, weight, relevance):
    """Applies the z+ rule: weight [D, E]; terms x_d w_de, without those below zero."""
    terms = torch.clamp(x[:, :, None] * weight[None], min=0)
    return (terms / terms.sum(dim=1, keepdim=True) * relevance[:, None, :]).sum(dim=2)


def share_sum(a, b, relevance):
    to_a, to_b = a / (a + b) * relevance, b / (a + b) * relevance
    size_a, size_b, whole = to_a.sum().abs(), to_b.sum().abs(), relevance.sum()
    return (to_a * size_a / (size_a + size_b) * whole / to_a.sum(),
            to_b * size_b / (size_a + size_b) * whole / to_b.sum())


def reference(params, x, target, *, heads, patches, kernel, bias):
    """Returns (gradients, relevances) of the maps for tokens x [T, D] of one image, two lists of [H, T, T]."""
    def norm(x, p):
        return torch.nn.functional.layer_norm(x, x.shape[-1:], p["scale"], p["bias"], eps=1e-6)

    t, d = x.shape
    size, trace = d // heads, []
    for layer in range(2):
        p = jax.tree.map(lambda leaf, layer=layer: leaf[layer], params["blocks"])
        s = {"x": x, "y1": norm(x, p["norm1"]), "p": p}
        qkv = s["y1"] @ p["attention"]["qkv"]["kernel"] + p["attention"]["qkv"]["bias"]
        s["q"], s["k"], s["v"] = qkv.reshape(t, 3, heads, size).permute(1, 2, 0, 3)  # [H, T, size]
        s["dots"] = s["q"] @ s["k"].transpose(1, 2)
        s["map"] = torch.softmax(s["dots"] / size**0.5, dim=-1)
        s["map"].retain_grad()
        s["mixed"] = (s["map"] @ s["v"]).transpose(0, 1).reshape(t, d)
        s["attended"] = s["mixed"] @ p["attention"]["out"]["kernel"] + p["attention"]["out"]["bias"]
        s["x1"] = x + s["attended"]
        s["y2"] = norm(s["x1"], p["norm2"])
        s["hidden"] = torch.nn.functional.gelu(s["y2"] @ p["mlp_in"]["kernel"] + p["mlp_in"]["bias"],
                                               approximate="tanh")
        s["mlp"] = s["hidden"] @ p["mlp_out"]["kernel"] + p["mlp_out"]["bias"]
        x = s["x1"] + s["mlp"]
        trace.append(s)
    y = norm(x, params["norm"])
    (y[-patches:] @ kernel + bias)[:, target].sum().backward()

    with torch.no_grad():
        one_hot = torch.zeros(patches, kernel.shape[1], dtype=x.dtype)
        one_hot[:, target] = 1
        relevance = torch.zeros_like(x)
        relevance[-patches:] = share_linear(y[-patches:], kernel, one_hot)
        relevances = []
        for s in reversed(trace):
            p = s["p"]
            to_x1, r = share_sum(s["x1"], s["mlp"], relevance)
            r = share_linear(s["hidden"], p["mlp_out"]["kernel"], r)
            r = to_x1 + share_linear(s["y2"], p["mlp_in"]["kernel"], r)
            to_x, r = share_sum(s["x"], s["attended"], r)
            r = share_linear(s["mixed"], p["attention"]["out"]["kernel"], r).reshape(t, heads, size).transpose(0, 1)
            ratio = r / (s["map"] @ s["v"])
            to_map = s["map"] * (ratio @ s["v"].transpose(1, 2)) / 2
            to_v = s["v"] * (s["map"].transpose(1, 2) @ ratio) / 2
            ratio = to_map / s["dots"]
            to_q, to_k = s["q"] * (ratio @ s["k"]) / 2, s["k"] * (ratio.transpose(1, 2) @ s["q"]) / 2
            r = torch.stack([to_q, to_k, to_v]).permute(2, 0, 1, 3).reshape(t, 3 * d)
            relevance = to_x + share_linear(s["y1"], p["attention"]["qkv"]["kernel"], r)
            relevances.insert(0, to_map)
    return [s["map"].grad for s in trace], relevances


@pytest.mark.parametrize("setting", SETTINGS)
def test_relevance_is_that_of_an_independent_implementation(probed, images, setting):
    model, probes = probed(setting)
    module, n, targets = model.module, 4, np.array([1, 2])
    params = jax.tree.map(lambda leaf: torch.tensor(np.asarray(leaf, np.float64)), model.params)
    scale = n**-0.5 if module.head_scale == "sqrt" else 1 / n
    kernel, bias = params["head"]["kernel"] * scale, params["head"]["bias"] * scale
    if module.center:
        kernel, bias = kernel - kernel.mean(dim=1, keepdim=True), bias - bias.mean()
    tokens, _ = module.apply({"params": model.params}, images, method=lambda m, x: m.sequence(m.embed(x)))

    model = classifier.wrap(lambda p, x: probes["attention_fn"](p, x, None)[0], model.params, grid=(2, 2),
                            removal=removal.Constant(0.0), **probes)
    relevance = model.relevance(images, targets)
    explained = attention_maps.relevance(model, images, targets)
    for image, target in enumerate(targets):
        x = torch.tensor(np.asarray(tokens[image], np.float64), requires_grad=True)
        gradients, relevances = reference(params, x, target, heads=2, patches=n, kernel=kernel, bias=bias)
        for layer in range(2):
            theirs = relevances[layer].numpy()
            np.testing.assert_allclose(relevance[layer, image], theirs, rtol=1e-3, atol=1e-3 * np.abs(theirs).max())
        rollout = torch.eye(len(x), dtype=x.dtype)
        for gradient, r in zip(gradients, relevances, strict=True):
            rollout = rollout + torch.clamp(gradient * r, min=0).mean(dim=0) @ rollout
        theirs = rollout[-n:, -n:].mean(dim=0).numpy()
        np.testing.assert_allclose(explained[image], theirs, rtol=1e-3)
