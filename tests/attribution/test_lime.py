"""LIME against scikit-learn with the settings of the lime package's image explainer."""

import jax
import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import pairwise_distances

from shapjax.attribution import lime
from shapjax.games import classifier


def test_coefficients_are_those_of_scikit_learn_on_the_same_samples(rng):
    masks = rng.random((200, 16)) < 0.5
    masks[0], masks[1] = True, False
    values = np.tanh(masks @ rng.normal(size=16)) + 7
    rows = masks.astype(float)
    distances = pairwise_distances(rows, rows[:1], metric="cosine").ravel()
    weights = np.sqrt(np.exp(-(distances**2) / 0.25**2))  # lime_image.LimeImageExplainer
    theirs = Ridge(alpha=1.0, fit_intercept=True).fit(rows, values, sample_weight=weights).coef_
    ours = lime.local_coefficients(masks, values.astype(np.float32), kernel_width=0.25, alpha=1.0)
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


def test_without_a_penalty_an_additive_game_gives_its_own_worths(coalition_game):
    worth = np.linspace(-1, 1, 8, dtype=np.float32)

    def both(params, images, mask):
        def read(side):
            return (side @ worth)[:, None] * images[:, 0, :1, 0] + np.arange(3)
        return read(mask), read(~mask)

    model = coalition_game.model.replace(pair_fn=both)
    out = lime.lime(model, coalition_game.images, coalition_game.targets, jax.random.key(0), coalitions=200, alpha=1e-6,
                    output="logit")
    np.testing.assert_allclose(out, worth * coalition_game.images[:, 0, :1, 0], atol=1e-4)


@pytest.mark.parametrize("image", [0, 2])
def test_samples_are_each_image_s_own_with_the_whole_and_the_empty_image_among_them(coalition_game, image):
    model, images, targets, values = coalition_game
    keys = jax.random.split(jax.random.key(3), 3)
    whole = lime.lime(model, images, targets, classifier.row_keys(keys, 3), coalitions=64)
    masks = np.array(jax.random.bernoulli(keys[image], shape=(32, 8)))  # a copy
    masks[0] = True
    masks = np.concatenate([masks, ~masks])
    probability = np.asarray(jax.nn.softmax(values[image]))[masks @ 2 ** np.arange(8), targets[image]]
    expected = lime.local_coefficients(masks, probability, kernel_width=0.25, alpha=1.0)
    np.testing.assert_allclose(whole[image], expected, atol=1e-5)
    assert whole.dtype == np.float32
