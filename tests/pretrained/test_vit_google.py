"""Models under the names of Google's .npz files compute the same here; Flax's own modules are the reference."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import traverse_util

from shapjax.pretrained.positions import sincos

WIDTH, HEADS, PATCH, DEPTH, CLASSES = 24, 3, 4, 2, 5


class Encoder(nn.Module):
    """The encoder, with the numbers that vision_transformer or big_vision give the parts of a block."""

    numbers: tuple[int, int, int, int]

    @nn.compact
    def __call__(self, x):
        norm1, attention, norm2, mlp = self.numbers
        for i in range(DEPTH):
            name = f"encoderblock_{i}"
            y = nn.LayerNorm(name=f"{name}/LayerNorm_{norm1}")(x)
            y = nn.MultiHeadDotProductAttention(HEADS, name=f"{name}/MultiHeadDotProductAttention_{attention}")(y, y)
            x = x + y
            y = nn.LayerNorm(name=f"{name}/LayerNorm_{norm2}")(x)
            y = nn.gelu(nn.Dense(40, name=f"{name}/MlpBlock_{mlp}/Dense_0")(y))
            x = x + nn.Dense(WIDTH, name=f"{name}/MlpBlock_{mlp}/Dense_1")(y)
        return nn.LayerNorm(name="encoder_norm")(x)


class GoogleViT(nn.Module):
    """vision_transformer's (positions also of CLS) or big_vision's (positions of the patches only)."""

    big_vision: bool
    cls: bool

    @nn.compact
    def __call__(self, images):
        b = len(images)
        x = nn.Conv(WIDTH, (PATCH, PATCH), (PATCH, PATCH), padding="VALID", name="embedding")(images)
        x, normal = x.reshape(b, -1, WIDTH), nn.initializers.normal(1.0)
        if self.big_vision:
            x = x + self.param("pos_embedding", normal, (1, x.shape[1], WIDTH))
        if self.cls:
            x = jnp.concatenate([jnp.tile(self.param("cls", normal, (1, 1, WIDTH)), (b, 1, 1)), x], axis=1)
        if not self.big_vision:
            x = x + self.param("Transformer/posembed_input/pos_embedding", normal, (1, x.shape[1], WIDTH))
        x = Encoder((0, 0, 1, 0) if self.big_vision else (0, 1, 2, 3), name="Transformer")(x)
        x = x[:, int(self.cls):]
        return x, nn.Dense(CLASSES, name="head")(x.mean(axis=1))


def reference(images, rng, **settings):
    """Returns the tensors by name, the patches after the norm, and the logits."""
    module = GoogleViT(**settings)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape, scale=0.3), jnp.float32),
                          jax.eval_shape(module.init, jax.random.key(0), images)["params"])
    features, logits = jax.jit(module.apply)({"params": params}, images)
    return {"/".join(path): np.asarray(x) for path, x in traverse_util.flatten_dict(params).items()}, features, logits


def stacked(tensors):
    """Returns the tensors as big_vision's scan over blocks stores them."""
    first = {name for name in tensors if "encoderblock_0/" in name}
    rest = {name: x for name, x in tensors.items() if "encoderblock_" not in name}
    return rest | {name.replace("encoderblock_0/", "encoderblock/"): np.stack(
        [tensors[name.replace("encoderblock_0/", f"encoderblock_{i}/")] for i in range(DEPTH)]) for name in first}


@pytest.mark.parametrize(("settings", "saved"), [
    (dict(big_vision=False, cls=True), "as they are"),
    (dict(big_vision=True, cls=False), "prefixed and stacked"),
])
def test_a_model_under_googles_names_gives_the_same_features_and_logits(settings, saved, tmp_path, load, pixels, rng):
    images = pixels(12, 12)
    tensors, features, logits = reference(images, rng, **settings)
    if saved != "as they are":
        tensors = {f"params/img/{name}": x for name, x in stacked(tensors).items()} | {"params/t": np.ones(1)}
    np.savez(tmp_path / "model.npz", **tensors)
    loaded = load(tmp_path / "model.npz")
    assert loaded.architecture.settings["heads"] == HEADS and loaded.architecture.mean == (0.5, 0.5, 0.5)
    assert loaded.report.skipped == ()
    ours = loaded.features_and_logits(images)
    np.testing.assert_allclose(ours[0], features, atol=1e-5)
    np.testing.assert_allclose(ours[1], logits, atol=1e-5)
    assert ("CLS" in str(loaded.report)) == settings["cls"]


def test_a_head_behind_what_is_not_linear_is_left_out(tmp_path, load, pixels, rng):
    tensors, *_ = reference(pixels(8, 8), rng, big_vision=False, cls=True)
    tensors |= {"pre_logits/kernel": np.ones((WIDTH, WIDTH)), "pre_logits/bias": np.ones(WIDTH)}
    np.savez(tmp_path / "model.npz", **tensors)
    loaded = load(tmp_path / "model.npz")
    assert loaded.architecture.num_classes is None and "follows pre_logits" in str(loaded.report)


def test_positions_that_are_not_stored_are_the_fixed_ones(tmp_path, load, pixels, rng):
    tensors, *_ = reference(pixels(8, 8), rng, big_vision=True, cls=False)
    del tensors["pos_embedding"]
    np.savez(tmp_path / "model.npz", **tensors)
    loaded = load(tmp_path / "model.npz", image_shape=(12, 8, 3))
    np.testing.assert_array_equal(loaded.params["positions"], sincos((3, 2), WIDTH))
    x, y = 1, 2  # of the last patch
    frequencies = 10_000.0 ** -np.linspace(0, 1, WIDTH // 4)
    np.testing.assert_allclose(loaded.params["positions"][-1], np.concatenate(
        [np.sin(x * frequencies), np.cos(x * frequencies), np.sin(y * frequencies), np.cos(y * frequencies)]),
        atol=1e-6)


def test_bfloat16_which_numpy_stores_as_raw_bytes_is_read(tmp_path, load, pixels, rng):
    tensors, *_ = reference(pixels(8, 8), rng, big_vision=True, cls=False)
    np.savez(tmp_path / "model.npz", **{name: x.astype(ml_dtypes.bfloat16) for name, x in tensors.items()})
    kernel = load(tmp_path / "model.npz").params["head"]["kernel"]
    np.testing.assert_array_equal(kernel, tensors["head/kernel"].astype(ml_dtypes.bfloat16).astype(np.float32))
