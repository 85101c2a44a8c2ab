"""Segmentation metrics against scikit-learn, upsampling against torch, constant maps, missing labels and objects."""

import functools

import jax
import numpy as np
import pytest
import torch
from sklearn import metrics as reference

from shapjax.metrics import localization

GRID, SIZE = (3, 4), (14, 20)
SHAPES = dict(grid=GRID, image_size=SIZE)
KEY = jax.random.key(0)
counts_of = functools.partial(localization.segmentation_counts, **SHAPES, batch_size=2)
precision_of = functools.partial(localization.segmentation_average_precision, **SHAPES, batch_size=2)


@pytest.fixture
def attributions(rng):
    return rng.normal(size=(5, 12)).astype(np.float32)


@pytest.fixture
def masks(rng):
    return rng.integers(-1, 2, size=(5, *SIZE)).astype(np.int8)  # a third is not labeled


@pytest.fixture
def maps(attributions):
    """Returns maps in [0, 1], float32 [5, H, W], by torch."""
    maps = torch.nn.functional.interpolate(torch.tensor(attributions).reshape(5, 1, *GRID), SIZE, mode="bilinear")
    maps = maps[:, 0].numpy()
    low, high = maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)
    return (maps - low) / (high - low)


def test_upsampling_is_that_of_torch(attributions):
    expected = torch.nn.functional.interpolate(torch.tensor(attributions).reshape(5, 1, *GRID), SIZE, mode="bilinear")
    got = localization.upsample(attributions, GRID, SIZE, num_images=5)
    np.testing.assert_allclose(got, expected[:, 0], atol=1e-5)


def test_counts_agree_with_scikit_learn_on_the_labeled_pixels(attributions, masks, maps):
    counts = counts_of(attributions, masks)
    for b in range(5):
        labeled = masks[b] >= 0
        label, predicted = masks[b][labeled], (maps[b] > maps[b].mean())[labeled]
        assert counts[b, 1] == labeled.sum()
        assert localization.pixel_accuracy(counts[b]) == pytest.approx(reference.accuracy_score(label, predicted))
        iou = reference.jaccard_score(label, predicted, average=None)
        np.testing.assert_allclose(counts[b, 2:4] / counts[b, 4:6], iou, rtol=1e-6)


def test_a_dataset_is_one_large_image(attributions, masks, maps):
    total = np.sum(counts_of(attributions, masks), axis=0)
    labeled = masks >= 0
    label = masks[labeled]
    predicted = (maps > maps.mean(axis=(1, 2), keepdims=True))[labeled]
    assert localization.pixel_accuracy(total) == pytest.approx(reference.accuracy_score(label, predicted))
    assert localization.mean_iou(total) == pytest.approx(reference.jaccard_score(label, predicted, average="macro"))


def test_a_selection_of_images_counts_alone(attributions, masks):
    where = np.array([True, False, True, False, False])
    counts = np.asarray(counts_of(attributions, masks))
    np.testing.assert_array_equal(counts[where], counts_of(attributions[where], masks[where]))
    part, all_images = counts[where].sum(axis=0), counts.sum(axis=0)
    assert localization.mean_iou(part) != localization.mean_iou(all_images)


def test_average_precision_is_over_background_and_foreground_scores(attributions, masks, maps):
    expected = []
    for mask, scaled in zip(masks, maps, strict=True):
        labeled = mask >= 0
        label = np.concatenate([mask[labeled] == 0, mask[labeled] == 1])
        expected.append(reference.average_precision_score(
            label, np.concatenate([1 - scaled[labeled], scaled[labeled]])))
    np.testing.assert_allclose(precision_of(attributions, masks), expected, rtol=1e-4)


def test_average_precision_with_ties_agrees_with_scikit_learn(rng):
    scores = rng.integers(0, 5, size=(6, 40)).astype(np.float32) / 4  # 0 and 1 among them
    positive = rng.random((6, 40)) < 0.4
    positive[5] = False
    expected = [reference.average_precision_score(p, s) for p, s in zip(positive[:5], scores[:5], strict=True)]
    np.testing.assert_allclose(
        jax.vmap(localization.average_precision)(scores, positive, ~positive), [*expected, np.nan], rtol=1e-5)


def test_a_perfect_map_is_perfect():
    attributions = np.zeros((1, 12), np.float32)
    attributions[0, [5, 6]] = 1
    exact = dict(grid=GRID, image_size=GRID)  # a pixel a patch: nothing between
    counts = localization.segmentation_counts(attributions, attributions.reshape(1, *GRID) > 0, **exact)
    assert localization.pixel_accuracy(counts) == localization.mean_iou(counts) == 1
    inverse = localization.segmentation_counts(-attributions, attributions.reshape(1, *GRID) > 0, **exact)
    assert localization.pixel_accuracy(inverse) == localization.mean_iou(inverse) == 0


def test_a_constant_map_is_background_and_no_label_no_precision(masks):
    masks[1] = -1
    counts = counts_of(np.full((5, 12), 0.3, np.float32), masks)
    np.testing.assert_array_equal(counts[:, 3], 0)
    np.testing.assert_array_equal(counts[:, 0], (masks == 0).sum(axis=(1, 2)))
    precision = precision_of(np.full((5, 12), 0.3, np.float32), masks)
    for b in (0, 2, 3, 4):  # every pixel is background with score 1
        labeled = masks[b][masks[b] >= 0]
        positive, score = np.concatenate([labeled == 0, labeled == 1]), np.repeat([1, 0], labeled.size)
        assert precision[b] == pytest.approx(reference.average_precision_score(positive, score))
    assert np.isnan(precision[1])


@pytest.mark.parametrize("side", [7, 14])
def test_every_constant_map_is_background_at_the_sizes_of_use(side, rng):
    constants = np.concatenate([rng.normal(size=38), [0.1, 1 / 3]]).astype(np.float32)
    maps = np.repeat(constants[:, None], side * side, axis=1)
    at_size = dict(grid=(side, side), image_size=(224, 224))
    counts = localization.segmentation_counts(maps, np.ones((40, 224, 224), np.int8), **at_size)
    np.testing.assert_array_equal(counts[:, 3], 0)
    assert (np.ptp(localization.upsample(maps, (side, side), (224, 224), num_images=40), axis=(1, 2)) == 0).all()


def test_bool_masks_and_those_of_0_and_255_are_the_same(attributions, masks):
    for got in (counts_of(attributions, masks > 0), counts_of(attributions, (255 * (masks > 0)).astype(np.uint8))):
        np.testing.assert_array_equal(got, counts_of(attributions, (masks > 0).astype(int)))


def test_the_largest_patch_must_touch_the_object():
    attributions = np.tile(np.arange(12, dtype=np.float32), (4, 1))  # the last patch: rows from 10, columns from 15
    masks = np.zeros((4, *SIZE), bool)
    masks[0, 10, 15] = masks[1, 9, 15] = masks[2, 10, 14] = True
    hits = localization.pointing_game(attributions, masks, KEY, grid=GRID)
    np.testing.assert_array_equal(hits, [1, 0, 0, np.nan])


def test_a_tied_pointer_points_at_random():
    masks = np.zeros((900, 3, 4), bool)
    masks[:, 0, :] = True  # four of twelve patches
    hits = localization.pointing_game(np.zeros((900, 12), np.float32), masks, KEY, grid=GRID)
    assert np.mean(hits) == pytest.approx(1 / 3, abs=0.05)


def test_masks_of_another_size_are_refused_with_both_sizes(attributions, masks):
    with pytest.raises(ValueError, match=r"object masks have shape \(5, 14, 20\), expected \(5, 28, 20\)"):
        localization.segmentation_counts(attributions, masks, grid=GRID, image_size=(28, 20))
    with pytest.raises(ValueError, match=r"object masks have shape \(4, 14, 20\), expected \(5, 14, 20\)"):
        localization.segmentation_average_precision(attributions, masks[:4], **SHAPES)
    with pytest.raises(ValueError, match=r"attributions have shape \(5, 11\), expected \(5, 12\)"):
        localization.segmentation_counts(attributions[:, :11], masks, **SHAPES)
    with pytest.raises(ValueError, match=r"attributions have shape \(5, 12\), expected \(4, 12\)"):
        localization.pointing_game(attributions, masks[:4], KEY, grid=GRID)
