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


def test_evaluation_shows_the_chosen_images_in_the_chosen_order():
    source = make_source(10)
    batches = list(evaluation_batches(source, batch_size=2, indices=[7, 0, 3]))
    assert [batch["index"][batch["valid"]].tolist() for batch in batches] == [[7, 0], [3]]
    np.testing.assert_array_equal(batches[0]["image"], source.images[[7, 0]])
    assert list(evaluation_batches(source, batch_size=2, indices=[])) == []


@pytest.mark.parametrize("options, message", [
    ({"batch_size": 0}, "batch_size 0"),
    ({"batch_size": 2, "indices": [0, 10]}, "no image 10; the source has images 0 to 9"),
    ({"batch_size": 2, "indices": [-1]}, "no image -1"),
])
def test_evaluation_options_that_cannot_work_are_refused_at_once(options, message):
    with pytest.raises(UserError, match=message):
        evaluation_batches(make_source(10), **options)


@pytest.mark.parametrize("n, process_count", [(24, 2), (25, 3), (1, 4), (13, 4)])
def test_processes_share_the_evaluation_and_make_equally_many_batches(n, process_count):
    source, chosen = make_source(30), list(range(n))[::-1]
    parts = [list(evaluation_batches(source, batch_size=3, indices=chosen, process_index=i,
                                     process_count=process_count, threads=2)) for i in range(process_count)]
    assert {len(part) for part in parts} == {-(-n // (3 * process_count))}
    joined = {key: np.concatenate([batch[key] for step in zip(*parts, strict=True) for batch in step])
              for key in parts[0][0]}
    assert joined["index"][joined["valid"]].tolist() == chosen
    assert (joined["index"][~joined["valid"]] == chosen[-1]).all()
    np.testing.assert_array_equal(joined["image"], source.images[joined["index"]])
