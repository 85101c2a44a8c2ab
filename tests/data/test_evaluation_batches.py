"""Evaluation batches: every image once, in order, on any number of processes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shapjax.data.pipeline import evaluation_batches
from shapjax.data.sources import ArraySource
from shapjax.errors import UserError


def make_source(n):
    rng = np.random.default_rng(0)
    return ArraySource(rng.integers(1, 256, (n, 2, 2, 1), np.uint8), (np.arange(n) % 3).astype(np.int32),
                       ("a", "b", "c"), (0.5,), (0.25,), rng.random((n, 2, 2)) < 0.5)


@given(n=st.integers(1, 1100), batch_size=st.sampled_from([1, 7, 1000, 1024]))
@settings(max_examples=25, deadline=None)
def test_evaluation_shows_every_image_once_in_order(n, batch_size):
    source = make_source(n)
    batches = list(evaluation_batches(source, batch_size=batch_size))
    assert len(batches) == -(-n // batch_size)
    for batch in batches:
        assert {key: (value.shape, value.dtype.name) for key, value in batch.items()} == {
            "image": ((batch_size, 2, 2, 1), "uint8"), "label": ((batch_size,), "int32"),
            "index": ((batch_size,), "int32"), "valid": ((batch_size,), "bool"),
            "object_mask": ((batch_size, 2, 2), "bool")}
    joined = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
    valid = joined.pop("valid")
    np.testing.assert_array_equal(joined["index"][valid], np.arange(n))
    np.testing.assert_array_equal(joined["image"][valid], source.images)
    np.testing.assert_array_equal(joined["label"][valid], source.labels)
    np.testing.assert_array_equal(joined["object_mask"][valid], source.object_masks)
    assert not valid[n:].any()
    assert (joined["index"][n:] == n - 1).all()  # filled with the last image


def test_an_evaluation_batch_without_images_is_refused_at_once():
    with pytest.raises(UserError, match="batch_size 0"):
        evaluation_batches(make_source(10), batch_size=0)


@pytest.mark.parametrize("n, process_count", [(24, 2), (25, 3), (1, 4), (13, 4)])
def test_processes_share_the_evaluation_and_make_equally_many_batches(n, process_count):
    source = make_source(n)
    parts = [list(evaluation_batches(source, batch_size=3, process_index=i, process_count=process_count, threads=2))
             for i in range(process_count)]
    assert {len(part) for part in parts} == {-(-n // (3 * process_count))}
    joined = {key: np.concatenate([batch[key] for step in zip(*parts, strict=True) for batch in step])
              for key in parts[0][0]}
    assert joined["index"][joined["valid"]].tolist() == list(range(n))
    assert (joined["index"][~joined["valid"]] == n - 1).all()
    np.testing.assert_array_equal(joined["image"], source.images[joined["index"]])
