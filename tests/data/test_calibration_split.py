"""Images for calibration: enough, not too many, of all classes, the same every time, and never trained on."""

import numpy as np
import pytest

from shapjax.data import calibration_split, pipeline
from shapjax.data.sources import ArraySource


def source_of(labels, classes):
    labels = np.asarray(labels, np.int32)
    images = np.zeros((len(labels), 2, 2, 1), np.uint8)
    return ArraySource(images, labels, tuple(map(str, range(classes))), (0.0,), (1.0,))


@pytest.mark.parametrize(("images", "count"), [(9, 0), (10, 1), (200, 20), (640, 64), (5000, 64), (20_000, 200)])
def test_a_hundredth_at_least_64_at_most_a_tenth(images, count):
    chosen = calibration_split.draw(source_of(np.arange(images) % 3, 3), seed=0)
    assert len(chosen) == len(set(chosen)) == count and (np.diff(chosen) > 0).all()


def test_every_class_is_among_them_however_rare_but_none_loses_its_only_image():
    labels = np.zeros(5000, int)
    labels[[17, 18]], labels[99] = 1, 2
    for seed in range(5):
        chosen = calibration_split.draw(source_of(labels, 3), seed=seed)
        assert np.bincount(labels[chosen], minlength=3).tolist() == [63, 1, 0]


def test_the_seed_decides():
    source = source_of(np.arange(1000) % 10, 10)
    first, again, other = (calibration_split.draw(source, seed=seed) for seed in (1, 1, 2))
    assert (first == again).all() and not np.array_equal(first, other)
    assert first.max() > 900 and first.min() < 100


@pytest.mark.parametrize("processes", [1, 3])
def test_held_out_images_are_in_no_batch_and_all_others_once_an_epoch(processes):
    source, held_out = source_of(np.arange(50) % 5, 5), [0, 7, 49]
    batches = [pipeline.TrainIterator(source, batch_size=4, seed=0, held_out=held_out, process_index=i,
                                      process_count=processes) for i in range(processes)]
    seen = np.concatenate([next(b)["index"] for _ in range(12) for b in batches])
    assert sorted(seen[:47]) == sorted(set(range(50)) - set(held_out)) and not set(held_out) & set(seen)
    with pytest.raises(Exception, match="there are 47; use"):
        pipeline.TrainIterator(source, batch_size=48, seed=0, held_out=held_out)
