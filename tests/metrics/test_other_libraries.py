"""The same results as Quantus and Captum on one network, where they define the same; the relation where they do not.

Every patch is one pixel, so that Quantus' pixels are our players; removed pixels are black in both.
"""

import jax
import numpy as np
import pytest
import quantus
import torch
from captum.metrics import infidelity as captum_infidelity

from shapjax.games import classifier, outputs
from shapjax.games.removal import NoisyLinear
from shapjax.metrics import faithfulness, perturbation, ranking, sparseness

QUIET = dict(disable_warnings=True, display_progressbar=False)
BLACK = dict(perturb_baseline=0.0, **QUIET)  # its "black" is the least pixel of each image
pair_values = jax.jit(classifier.pair_values, static_argnames="read")


@pytest.fixture(scope="module")
def network(example):
    """Returns the example's network in torch: images [B, 1, 4, 4] -> logits [B, 3]."""
    weights = {name: torch.tensor(np.asarray(value)) for name, value in example.model.params.items()}

    class Network(torch.nn.Module):
        def forward(self, images):
            return torch.tanh(images.flatten(1) @ weights["first"] + weights["bias"]) @ weights["second"]

    network = Network().eval()
    with torch.no_grad():
        np.testing.assert_allclose(
            network(torch.tensor(channel_first(example.images))), example.model.logits(example.images), atol=1e-5)
    return network


def channel_first(images):
    return np.moveaxis(images, -1, 1).copy()


def ask(metric, network, example, attributions=None, **settings):
    """Computes a Quantus metric of the example's attributions."""
    attributions = example.attributions if attributions is None else attributions
    return np.asarray(metric(
        model=network, x_batch=channel_first(example.images), y_batch=example.targets,
        a_batch=attributions.reshape(-1, 1, 4, 4).copy(), channel_first=True, **settings))


@pytest.fixture(scope="module")
def pairs(example):
    """Returns (masks [B, M, 16]) -> p_target of whole images, of the coalitions, and of their complements."""
    def run(masks):
        p = [jax.nn.softmax(logits)[np.arange(6)[:, None], np.arange(logits.shape[1]), example.targets[:, None]]
             for logits in pair_values(example.model, example.images, masks, read=outputs.all_classes())]
        full = jax.nn.softmax(example.model.logits(example.images))[np.arange(6), example.targets]
        return full, *p

    return run


def test_faithfulness_correlation_is_that_of_quantus_on_the_same_subsets(example, network, pairs):
    runs, size = 30, 5
    np.random.seed(7)
    removed = np.zeros((6, runs, 16), bool)
    for run in range(runs):  # the draws that Quantus makes, in its order
        for image in range(6):
            removed[image, run, np.random.choice(16, size, replace=False)] = True
    np.random.seed(7)
    metric = quantus.FaithfulnessCorrelation(
        nr_runs=runs, subset_size=size, normalise=False, return_aggregate=False, **BLACK)
    theirs = ask(metric, network, example, softmax=True)
    full, _, without = pairs(removed)
    ours = faithfulness.faithfulness_correlation(example.attributions, removed, full, without)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_the_deletion_curve_is_pixel_flipping_with_the_whole_image_in_front(example, network, example_curves):
    theirs = ask(quantus.PixelFlipping(features_in_step=1, normalise=False, **BLACK), network, example, softmax=True)
    p = np.exp(perturbation.target_log_probability(example_curves, example.targets).deleted)
    np.testing.assert_allclose(p[:, 1:], theirs, atol=1e-5)
    # Theirs is per step and begins with one pixel gone; ours per fraction, from the whole image.
    auc = (np.trapezoid(theirs, axis=1) + (p[:, 0] + theirs[:, 0]) / 2) / 16
    np.testing.assert_allclose(perturbation.deletion(example_curves, example.targets), auc, atol=1e-5)


def test_sparseness_is_that_of_quantus(example, network):
    theirs = ask(quantus.Sparseness(**QUIET), network, example)
    np.testing.assert_allclose(sparseness.gini(example.attributions), theirs, atol=1e-5)


def test_monotonicity_is_that_of_quantus_if_its_pixels_are_revealed(example, network):
    """Quantus's own baselines put black on black, so that nothing is revealed and every image is monotone."""
    whole = channel_first(example.images).reshape(6, 16)

    def reveal(arr, indices, **_):
        arr = arr.copy()
        np.put_along_axis(arr, indices, np.take_along_axis(whole, indices, axis=1), axis=1)
        return arr

    p = np.asarray(jax.nn.softmax(example.model.logits(example.images)))[np.arange(6), example.targets]
    alone = np.stack([np.asarray(jax.nn.softmax(example.model.coalition_logits(
        example.images, np.tile(np.arange(16) == n, (6, 1)))))[np.arange(6), example.targets] for n in range(16)])
    for attributions in (example.attributions, np.float32(alone.T - p[:, None])):
        curves = perturbation.curves(
            example.model, example.images, ranking.order(attributions, jax.random.key(0)))
        theirs = ask(quantus.Monotonicity(perturb_func=reveal, normalise=False, **QUIET), network, example,
                     attributions, softmax=True)
        np.testing.assert_array_equal(perturbation.monotonicity(curves, example.targets), theirs)
    assert ask(quantus.Monotonicity(normalise=False, **BLACK), network, example).all()


def test_infidelity_is_that_of_quantus_on_its_growing_blocks(example, network, pairs):
    """Quantus never puts a block back: with blocks of one pixel it removes the first 1 … 16 pixels. Its attributions
    are multiplied by the change of the pixel, ours are the worth of the pixel."""
    theirs = ask(quantus.Infidelity(perturb_patch_sizes=[1], n_perturb_samples=1, **BLACK), network, example,
                 softmax=True)
    removed = np.tile(np.tri(16, dtype=bool), (6, 1, 1))
    full, _, without = pairs(removed)
    worth = example.attributions * example.images.reshape(6, 16)
    np.testing.assert_allclose(faithfulness.infidelity(worth, removed, full, without), theirs, rtol=1e-3)


@pytest.mark.parametrize("normalize", [False, True])
def test_infidelity_is_that_of_captum_on_the_same_subsets(example, network, pairs, normalize):
    removed = np.asarray(faithfulness.sample_masks(jax.random.key(2), num_players=16, num_masks=12))
    whole = torch.tensor(channel_first(example.images))
    draws = iter(np.repeat(removed, 6, axis=0).reshape(12, 6, 1, 4, 4))

    def perturb(images):  # one sample of each image at a time
        change = torch.tensor(next(draws)) * images
        return change, images - change

    def probability(images, targets):
        return torch.softmax(network(images), dim=1).gather(1, targets[:, None])[:, 0]

    theirs = captum_infidelity(
        probability, perturb, whole, torch.tensor(example.attributions.reshape(6, 1, 4, 4)),
        additional_forward_args=torch.tensor(example.targets), n_perturb_samples=12, max_examples_per_batch=6,
        normalize=normalize)
    full, _, without = pairs(np.tile(removed, (6, 1, 1)))
    worth = example.attributions * example.images.reshape(6, 16)
    np.testing.assert_allclose(
        faithfulness.infidelity(worth, removed, full, without, normalize=normalize), theirs, rtol=1e-3)


def test_noisy_linear_imputation_is_that_of_quantus(rng):
    images = rng.uniform(size=(3, 6, 7, 2)).astype(np.float32)
    hidden = rng.random((3, 6, 7)) < np.array([0.2, 0.6, 0.95])[:, None, None]
    hidden[:, 2, 3] = False
    hidden[:, 0, 0] = True
    ours = jax.jit(NoisyLinear(noise=0.0))(images, hidden[..., None])
    for image, mask, got in zip(images, hidden, np.asarray(ours), strict=True):
        theirs = quantus.functions.perturb_func.noisy_linear_imputation(
            np.moveaxis(image, -1, 0).astype(np.float64), np.flatnonzero(mask), noise=0.0)
        np.testing.assert_allclose(np.moveaxis(got, -1, 0), theirs, atol=2e-4)


def test_road_is_that_of_quantus_at_the_same_numbers_of_pixels(example, network, example_order):
    """Quantus rounds down: 16 pixels are asked for by the percentages that give our numbers."""
    counts = perturbation.removed_counts(16)[1:]
    percentages = [int(np.ceil(100 * count / 16)) for count in counts]
    metric = quantus.ROAD(percentages=percentages, noise=0.0, normalise=False, **QUIET)
    metric(model=network, x_batch=channel_first(example.images), y_batch=example.targets,
           a_batch=example.attributions.reshape(-1, 1, 4, 4).copy(), channel_first=True)
    ours = perturbation.road(example.model, example.images, example_order, example.targets,
                             imputation=NoisyLinear(noise=0.0))
    np.testing.assert_allclose(ours[:, 1:].mean(axis=0), [metric.evaluation_scores[p] for p in percentages], atol=1e-6)
