"""Training batches: epochs cover the source exactly, on any number of processes, and a stream can be resumed."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shapjax.data.pipeline import TrainIterator
from shapjax.data.sources import ArraySource
from shapjax.errors import UserError


def make_source(n, *, height=6, width=5, channels=1):
    images = np.random.default_rng(0).integers(1, 256, (n, height, width, channels), dtype=np.uint8)
    return ArraySource(images, (np.arange(n) % 3).astype(np.int32), ("a", "b", "c"), (0.5,), (0.25,))


def make_decoder(n):
    """Returns a source whose images show their position and crop."""

    class Decoder:
        class_names, image_shape, mean, std, crops_on_read = ("a", "b"), (1, 5, 1), (0.5,), (0.25,), True

        def __len__(self):
            return n

        def read(self, indices, crops=None):
            crops = np.full((len(indices), 4), 0, np.float32) if crops is None else crops
            pixels = np.concatenate([indices[:, None], 100 * crops], axis=1).astype(np.uint8)
            return {"image": pixels.reshape(-1, 1, 5, 1), "label": (indices % 2).astype(np.int32),
                    "object_mask": np.ones((len(indices), 1, 5), bool)}

    return Decoder()


def take(iterator, count):
    return list(itertools.islice(iterator, count))


def stream(source, batches, **options):
    """Returns the first `batches` batches, joined."""
    drawn = take(TrainIterator(source, **{"seed": 0} | options), batches)
    return {key: np.concatenate([batch[key] for batch in drawn]) for key in drawn[0]}


def assert_same(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for key in batch:
            np.testing.assert_array_equal(batch[key], other[key])


def test_a_batch_holds_images_with_their_labels_and_positions():
    source = make_source(12, channels=3)
    batch = next(TrainIterator(source, batch_size=8, seed=0))
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


def test_the_seed_decides_the_order():
    source = make_source(40)
    first, again, other = (take(TrainIterator(source, batch_size=8, seed=seed), 15)
                           for seed in (3, 3, 4))
    assert_same(first, again)
    assert not any((a["index"] == b["index"]).all() for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("n, per_process", [(24, 4), (25, 4), (26, 8), (23, 1)])
def test_three_processes_together_make_the_batches_of_one(n, per_process):
    """The batches of three processes, joined in their order, equal those of a single process.

    An epoch is then covered exactly once, also if 3 does not divide n.
    """
    source = make_source(n)
    options = {"seed": 1}
    alone = take(TrainIterator(source, batch_size=3 * per_process, **options), 30)
    options |= {"batch_size": per_process, "process_count": 3}
    parts = [take(TrainIterator(source, process_index=i, **options), 30) for i in range(3)]
    joined = [{key: np.concatenate([part[key] for part in step]) for key in step[0]}
              for step in zip(*parts, strict=True)]
    assert_same(joined, alone)
    epoch = np.concatenate([batch["index"] for batch in joined])[:n]
    assert sorted(epoch) == list(range(n))


@pytest.mark.parametrize("steps_before", [0, 1, 7, 10])
def test_a_resumed_iterator_continues_with_the_very_next_batch(steps_before):
    source = make_source(30)
    options = {"batch_size": 7, "seed": 2}
    original = TrainIterator(source, **options)
    take(original, steps_before)
    state = json.loads(json.dumps(original.get_state()))
    rest = take(original, 12)

    resumed = TrainIterator(source, **options)
    resumed.set_state(state)
    assert_same(take(resumed, 12), rest)

    take(resumed, 3)  # also an iterator that has already run, and has read ahead
    resumed.set_state(state)
    assert_same(take(resumed, 12), rest)


def test_a_run_can_be_resumed_on_another_number_of_processes():
    source = make_source(30)
    options = {"seed": 2}
    alone = TrainIterator(source, batch_size=6, **options)
    take(alone, 8)
    state, following = alone.get_state(), next(alone)
    for i in range(2):
        half = TrainIterator(source, batch_size=3, process_index=i, process_count=2, **options)
        half.set_state(state)
        np.testing.assert_array_equal(next(half)["image"], following["image"][3 * i : 3 * i + 3])


@pytest.mark.parametrize("change, message", [
    ({"batch_size": 5}, "global_batch_size: 6 -> 5"),
    ({"batch_size": 6, "process_count": 2}, "global_batch_size: 6 -> 12"),
    ({"seed": 5}, "seed: 2 -> 5"),
])
def test_a_state_of_other_batches_is_refused(change, message):
    state = TrainIterator(make_source(30), batch_size=6, seed=2).get_state()
    other = TrainIterator(make_source(30), **{"batch_size": 6, "seed": 2} | change)
    with pytest.raises(UserError, match=message):
        other.set_state(state)


def test_a_state_of_another_source_or_version_is_refused():
    iterator = TrainIterator(make_source(30), batch_size=6, seed=2)
    with pytest.raises(UserError, match="images: 30 -> 29"):
        TrainIterator(make_source(29), batch_size=6, seed=2).set_state(iterator.get_state())
    with pytest.raises(UserError, match="fields next_index, expected global_batch_size, images, seed, step"):
        iterator.set_state({"next_index": 3})


def test_threads_give_the_batches_of_one_thread_and_carry_its_state_on():
    options = {"batch_size": 8, "seed": 3, "crop_area": 0.3}
    alone = TrainIterator(make_decoder(50), **options)
    expected = take(alone, 12)
    many = TrainIterator(make_decoder(50), **options, threads=4)
    assert_same(take(many, 7), expected[:7])
    state = json.loads(json.dumps(many.get_state()))
    assert type(take(many, 1)[0]["image"]) is np.ndarray
    alone.set_state(state)
    assert_same(take(alone, 5), expected[7:])
    many.set_state(state)  # after it has read ahead
    assert_same(take(many, 5), expected[7:])
    many.close()


def test_an_error_in_reading_reaches_the_one_who_asks():
    source = make_decoder(20)
    source.read = lambda indices, crops=None: (_ for _ in ()).throw(UserError("the image 3.jpg is damaged"))
    with pytest.raises(UserError, match="3.jpg is damaged"):
        next(TrainIterator(source, batch_size=4, seed=0))


def test_crops_have_the_asked_areas_and_aspects_and_change_from_epoch_to_epoch():
    drawn = stream(make_decoder(200), 50, batch_size=8, crop_area=0.4)
    area, aspect, y, x = drawn["image"][:, 0, 1:, 0].T / 100
    assert 0.39 <= area.min() < 0.45 and 0.95 < area.max() <= 1 and abs(area.mean() - 0.7) < 0.03
    assert 0.74 <= aspect.min() < 0.78 and 1.28 < aspect.max() <= 1.34 and abs(np.log(aspect + 0.005).mean()) < 0.03
    assert abs(y.mean() - 0.5) < 0.05 and abs(x.mean() - 0.5) < 0.05 and abs(np.corrcoef(x, y)[0, 1]) < 0.15
    first, second = (dict(zip(drawn["index"][part].tolist(), area[part], strict=True))
                     for part in (slice(200), slice(200, 400)))
    assert sum(first[i] == second[i] for i in first) < 20


def test_without_crops_the_source_reads_its_standard_cut():
    drawn = stream(make_decoder(20), 5, batch_size=4)
    assert (drawn["image"][:, 0, 1:] == 0).all() and drawn.keys() == {"image", "label", "index"}
    drawn = stream(make_source(20), 5, batch_size=4, crop_area=0.2)  # cropped on the device
    np.testing.assert_array_equal(drawn["image"], make_source(20).images[drawn["index"]])


@given(before=st.integers(0, 6))
@settings(max_examples=10, deadline=None)
def test_placing_ahead_changes_neither_the_batches_nor_what_is_resumed(before):
    source = make_source(30)
    expected = [batch["index"].tolist() for batch in take(TrainIterator(source, batch_size=7, seed=2), before + 4)]

    def placed():
        return TrainIterator(source, batch_size=7, seed=2, place=lambda batch: batch["index"].tolist())

    original = placed()
    assert take(original, before) == expected[:before]
    state = json.loads(json.dumps(original.get_state()))
    assert state["step"] == before
    resumed = placed()
    resumed.set_state(state)
    assert take(resumed, 4) == take(original, 4) == expected[before:]
    resumed.set_state(state)  # drops what was placed ahead
    assert take(resumed, 2) == expected[before : before + 2]
    original.close()
    assert original.get_state()["step"] == before + 4


def test_two_batches_are_placed_ahead():
    placed = []
    iterator = TrainIterator(make_source(30), batch_size=5, seed=0, place=placed.append)
    take(iterator, 4)
    assert len(placed) == 4 + 2


@pytest.mark.parametrize("options, message", [
    ({"batch_size": 0}, "batch_size 0 .* use a batch_size of at least 1"),
    ({"batch_size": -3}, "batch_size -3 .* use a batch_size of at least 1"),
    ({"batch_size": 21}, "but there are 20; use a batch_size of at least 1 and at most 20"),
    ({"batch_size": 7, "process_count": 3}, "takes 21 images a step, but there are 20; .* at most 6"),
])
def test_training_options_that_cannot_work_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        TrainIterator(make_source(20), **{"batch_size": 4, "seed": 0} | options)
