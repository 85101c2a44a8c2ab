"""Pipelines: epochs cover the source exactly, on any number of processes; evaluation misses nothing."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shapjax.data.pipeline import evaluation_batches, shift_images, train_iterator
from shapjax.data.sources import ArraySource
from shapjax.errors import UserError


def make_source(n, *, height=6, width=5, channels=1):
    images = np.random.default_rng(0).integers(1, 256, (n, height, width, channels), dtype=np.uint8)
    return ArraySource(images, (np.arange(n) % 3).astype(np.int32), ("a", "b", "c"), (0.5,), (0.25,))


def take(iterator, count):
    return list(itertools.islice(iterator, count))


def stream(source, batches, **options):
    """The first `batches` batches, joined."""
    drawn = take(train_iterator(source, **{"seed": 0, "max_shift": 0} | options), batches)
    return {key: np.concatenate([batch[key] for batch in drawn]) for key in drawn[0]}


def assert_same(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for key in batch:
            np.testing.assert_array_equal(batch[key], other[key])


def test_a_batch_holds_images_with_their_labels_and_positions():
    source = make_source(12, channels=3)
    batch = next(train_iterator(source, batch_size=8, seed=0, max_shift=0))
    assert {key: (value.shape, value.dtype.name) for key, value in batch.items()} == {
        "image": ((8, 6, 5, 3), "uint8"), "label": ((8,), "int32"), "index": ((8,), "int32")}
    np.testing.assert_array_equal(batch["image"], source.images[batch["index"]])
    np.testing.assert_array_equal(batch["label"], source.labels[batch["index"]])


@pytest.mark.parametrize("batch_size", [1, 4, 7, 20])
def test_every_epoch_shows_each_image_once_even_where_batches_straddle_epochs(batch_size):
    epochs = 7
    drawn = stream(make_source(20), 20 * epochs // batch_size, batch_size=batch_size)["index"]
    assert len(drawn) == 20 * epochs
    assert (np.sort(drawn.reshape(epochs, 20)) == np.arange(20)).all()


def test_every_epoch_has_a_new_order():
    orders = stream(make_source(20), 20, batch_size=4)["index"].reshape(4, 20)
    assert len({tuple(order) for order in orders}) == 4
    assert tuple(range(20)) not in {tuple(order) for order in orders}


def test_the_seed_decides_the_order_and_the_shifts():
    source = make_source(40)
    first, again, other = (take(train_iterator(source, batch_size=8, seed=seed, max_shift=2), 15)
                           for seed in (3, 3, 4))
    assert_same(first, again)
    assert not any((a["index"] == b["index"]).all() for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("n, per_process", [(24, 4), (25, 4), (26, 8), (23, 1)])
def test_three_processes_together_make_the_batches_of_one(n, per_process):
    """The processes' batches, joined in process order, are the single process's: same images, same shifts.

    So an epoch is covered exactly once also where 3 does not divide n.
    """
    source = make_source(n)
    options = {"seed": 1, "max_shift": 2}
    alone = take(train_iterator(source, batch_size=3 * per_process, **options), 30)
    options |= {"batch_size": per_process, "process_count": 3}
    parts = [take(train_iterator(source, process_index=i, **options), 30) for i in range(3)]
    joined = [{key: np.concatenate([part[key] for part in step]) for key in step[0]}
              for step in zip(*parts, strict=True)]
    assert_same(joined, alone)
    epoch = np.concatenate([batch["index"] for batch in joined])[:n]
    assert sorted(epoch) == list(range(n))


@pytest.mark.parametrize("steps_before", [0, 1, 7, 10])
def test_a_resumed_iterator_continues_with_the_very_next_batch(steps_before):
    source = make_source(30)
    options = {"batch_size": 7, "seed": 2, "max_shift": 1}
    original = train_iterator(source, **options)
    take(original, steps_before)
    state = json.loads(json.dumps(original.get_state()))
    rest = take(original, 12)

    resumed = train_iterator(source, **options)
    resumed.set_state(state)
    assert_same(take(resumed, 12), rest)

    take(resumed, 3)  # also an iterator that has already run, and has read ahead
    resumed.set_state(state)
    assert_same(take(resumed, 12), rest)


def test_a_run_can_be_resumed_on_another_number_of_processes():
    source = make_source(30)
    options = {"seed": 2, "max_shift": 1}
    alone = train_iterator(source, batch_size=6, **options)
    take(alone, 8)
    state, following = alone.get_state(), next(alone)
    for i in range(2):
        half = train_iterator(source, batch_size=3, process_index=i, process_count=2, **options)
        half.set_state(state)
        np.testing.assert_array_equal(next(half)["image"], following["image"][3 * i : 3 * i + 3])


def test_without_shifts_the_images_are_untouched():
    source = make_source(20)
    drawn = stream(source, 15, batch_size=4, max_shift=0)
    np.testing.assert_array_equal(drawn["image"], source.images[drawn["index"]])


def zero_filled_roll(image, dy, dx):
    moved = np.roll(image, (dy, dx), (0, 1))
    moved[:max(dy, 0)] = 0
    moved[len(moved) + min(dy, 0):] = 0
    moved[:, :max(dx, 0)] = 0
    moved[:, moved.shape[1] + min(dx, 0):] = 0
    return moved


def test_each_training_image_is_its_original_moved_within_range_and_all_moves_occur():
    source = make_source(40)
    drawn = stream(source, 50, batch_size=8, max_shift=2)
    moves = list(itertools.product(range(-2, 3), repeat=2))
    seen = {}
    for image, index in zip(drawn["image"], drawn["index"], strict=True):
        fits = [move for move in moves if (zero_filled_roll(source.images[index], *move) == image).all()]
        assert len(fits) == 1
        seen[fits[0]] = seen.get(fits[0], 0) + 1
    assert len(seen) == 25
    assert max(seen.values()) < 4 * 400 / 25  # 400 draws over 25 moves: none is favoured


def test_an_image_moves_differently_from_epoch_to_epoch():
    source = make_source(20)
    drawn = stream(source, 20, batch_size=10, max_shift=2)
    assert len({image.tobytes() for image in drawn["image"][drawn["index"] == 3]}) > 1


def test_positive_shifts_move_down_and_right():
    image = np.zeros((1, 4, 4, 1), np.uint8)
    image[0, 1, 1] = 9
    moved = shift_images(image, np.array([[2, 1]]))
    assert np.argwhere(moved[0, :, :, 0]).tolist() == [[3, 2]]
    assert image.sum() == 9 and image[0, 1, 1] == 9


@given(data=st.data(), margin=st.integers(0, 4), channels=st.sampled_from([1, 3]))
@settings(max_examples=30, deadline=None)
def test_shifting_is_a_roll_that_fills_with_black(data, margin, channels):
    images = make_source(3, channels=channels).images
    move = st.tuples(st.integers(-margin, margin), st.integers(-margin, margin))
    shifts = np.array(data.draw(st.lists(move, min_size=3, max_size=3)))
    expected = [zero_filled_roll(image, *shift) for image, shift in zip(images, shifts, strict=True)]
    np.testing.assert_array_equal(shift_images(images, shifts), expected)


@pytest.mark.parametrize("options, message", [
    ({"batch_size": 0}, "batch_size 0 is not positive"),
    ({"batch_size": -3}, "batch_size -3 is not positive"),
    ({"batch_size": 21}, "but the source has 20; use a batch_size of at most 20"),
    ({"batch_size": 7, "process_count": 3}, "takes 21 images a step, but the source has 20; .* at most 6"),
    ({"seed": -1}, "seed -1 is negative"),
    ({"max_shift": -1}, "max_shift -1 is not between 0 and 4"),
    ({"max_shift": 5}, "max_shift 5 is not between 0 and 4"),
])
def test_training_options_that_cannot_work_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        train_iterator(make_source(20), **{"batch_size": 4, "seed": 0, "max_shift": 0} | options)


def test_a_process_outside_the_group_is_refused():
    with pytest.raises(ValueError, match="process_index 2"):
        train_iterator(make_source(20), batch_size=4, seed=0, max_shift=0, process_index=2, process_count=2)


@given(n=st.integers(1, 1100), batch_size=st.sampled_from([1, 7, 1000, 1024]))
@settings(max_examples=25, deadline=None)
def test_evaluation_shows_every_image_once_in_order(n, batch_size):
    source = make_source(n, height=2, width=2)
    batches = list(evaluation_batches(source, batch_size=batch_size))
    assert len(batches) == -(-n // batch_size)
    for batch in batches:
        assert {key: (value.shape, value.dtype.name) for key, value in batch.items()} == {
            "image": ((batch_size, 2, 2, 1), "uint8"), "label": ((batch_size,), "int32"),
            "index": ((batch_size,), "int32"), "valid": ((batch_size,), "bool")}
    joined = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
    valid = joined.pop("valid")
    np.testing.assert_array_equal(joined["index"][valid], np.arange(n))
    np.testing.assert_array_equal(joined["image"][valid], source.images)
    np.testing.assert_array_equal(joined["label"][valid], source.labels)
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
