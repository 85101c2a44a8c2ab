"""RISE against its expectation, LIME against scikit-learn, occlusion against the table of all coalitions."""

import jax
import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import pairwise_distances

from shapjax.attribution import perturbation
from shapjax.games import classifier

ALONE = 2 ** np.arange(8)  # codes of the coalitions of one player
READ = {"logit": lambda v: v, "probability": jax.nn.softmax, "log_probability": jax.nn.log_softmax}


# RISE


def test_importance_is_the_mean_output_over_the_coalitions_with_the_patch(coalition_game):
    model, images, targets, values = coalition_game
    probability = np.stack([np.asarray(jax.nn.softmax(values[b]))[:, targets[b]] for b in range(3)])
    member = (np.arange(256)[:, None] >> np.arange(8)) & 1  # [code, player]
    expected = probability @ member / 128
    out = perturbation.rise(model, images, targets, jax.random.key(0), coalitions=4096)
    np.testing.assert_allclose(out, expected, atol=5 * probability.std() * np.sqrt(2 / 4096))
    assert out.dtype == np.float32


def test_a_constant_output_gives_every_patch_that_constant(coalition_game):
    model = coalition_game.model.replace(pair_fn=lambda params, images, mask: (images[:, 0, :3, 0] * 0 + 1.5,) * 2)
    out = perturbation.rise(model, coalition_game.images, coalition_game.targets, jax.random.key(1), coalitions=10,
                    output="logit")
    np.testing.assert_allclose(out, 1.5, rtol=1e-6)  # each patch is visible in exactly half of the masks


def test_each_image_has_masks_of_its_own_key_whatever_the_batch(coalition_game):
    model, images, targets, _ = coalition_game
    keys = jax.random.split(jax.random.key(0), 3)
    whole = perturbation.rise(model, images, targets, keys, coalitions=64)
    one = perturbation.rise(model, images[1:2], targets[1:2], keys[1:2], coalitions=64, batch_size=7)
    np.testing.assert_allclose(one[0], whole[1], rtol=1e-5)
    same_image = perturbation.rise(model, images[[0, 0]], targets[[0, 0]], keys[:2], coalitions=64)
    assert np.abs(same_image[0] - same_image[1]).max() > 1e-3


# LIME


def test_coefficients_are_those_of_scikit_learn_on_the_same_samples(rng):
    masks = rng.random((200, 16)) < 0.5
    masks[0], masks[1] = True, False
    values = np.tanh(masks @ rng.normal(size=16)) + 7
    rows = masks.astype(float)
    distances = pairwise_distances(rows, rows[:1], metric="cosine").ravel()
    weights = np.sqrt(np.exp(-(distances**2) / 0.25**2))  # lime_image.LimeImageExplainer
    theirs = Ridge(alpha=1.0, fit_intercept=True).fit(rows, values, sample_weight=weights).coef_
    ours = perturbation.local_coefficients(masks, values.astype(np.float32), kernel_width=0.25, alpha=1.0)
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


def test_without_a_penalty_an_additive_game_gives_its_own_worths(coalition_game):
    worth = np.linspace(-1, 1, 8, dtype=np.float32)

    def both(params, images, mask):
        def read(side):
            return (side @ worth)[:, None] * images[:, 0, :1, 0] + np.arange(3)
        return read(mask), read(~mask)

    model = coalition_game.model.replace(pair_fn=both)
    out = perturbation.lime(model, coalition_game.images, coalition_game.targets, jax.random.key(0), coalitions=200,
                            alpha=1e-6, output="logit")
    np.testing.assert_allclose(out, worth * coalition_game.images[:, 0, :1, 0], atol=1e-4)


@pytest.mark.parametrize("image", [0, 2])
def test_samples_are_each_image_s_own_with_the_whole_and_the_empty_image_among_them(coalition_game, image):
    model, images, targets, values = coalition_game
    keys = jax.random.split(jax.random.key(3), 3)
    whole = perturbation.lime(model, images, targets, classifier.row_keys(keys, 3), coalitions=64)
    masks = np.array(jax.random.bernoulli(keys[image], shape=(32, 8)))  # a copy
    masks[0] = True
    masks = np.concatenate([masks, ~masks])
    probability = np.asarray(jax.nn.softmax(values[image]))[masks @ 2 ** np.arange(8), targets[image]]
    expected = perturbation.local_coefficients(masks, probability, kernel_width=0.25, alpha=1.0)
    np.testing.assert_allclose(whole[image], expected, atol=1e-5)
    assert whole.dtype == np.float32


# Occlusion


@pytest.mark.parametrize(("output", "batch_size"), [("logit", 256), ("probability", 4), ("log_probability", 9)])
def test_occlusion_is_the_difference_that_one_patch_makes(coalition_game, output, batch_size):
    model, images, targets, values = coalition_game
    v = np.stack([np.asarray(READ[output](values[b]))[:, targets[b]] for b in range(3)])
    out = perturbation.leave_one_out(model, images, targets, batch_size=batch_size, output=output)
    np.testing.assert_allclose(out, v[:, [255]] - v[:, 255 - ALONE], atol=2e-6)
    shown = perturbation.include_one(model, images, targets, batch_size=batch_size, output=output)
    np.testing.assert_allclose(shown, v[:, ALONE] - v[:, [0]], atol=2e-6)
