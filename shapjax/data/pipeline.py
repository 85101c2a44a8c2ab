"""Batches for training (endless, shuffled, resumable) and for evaluation (every image once), read ahead of their use.

Training draws from one global stream: epoch after epoch, each a fresh permutation of the source, cut into batches that
may straddle two epochs. Processes take the batches in turn, so that a step's global batch (the processes' batches in
process order) is the same array whether 1 process makes it or 100.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from shapjax.data.sources import ArraySource, Source
from shapjax.errors import UserError

_ENDLESS = 2**62
_READ_AHEAD = 4  # batches; more where more threads read


class TrainIterator:
    """An endless iterator of training batches, made by `train_iterator`.

    The stream is fixed, so its state is a position alone, whichever threads and processes read it.
    """

    def __init__(self, read_batch: Callable[[int], dict[str, np.ndarray]], conditions: dict[str, int], *, threads: int,
                 workers: int, process_index: int, process_count: int):
        self._read_batch, self._conditions, self._threads, self._workers = read_batch, conditions, threads, workers
        self._process_index, self._process_count = process_index, process_count
        self._step, self._batches = 0, None

    def __iter__(self) -> "TrainIterator":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        if self._batches is None:
            self._batches = self._start()
        batch = next(self._batches)
        self._step += 1
        return {key: np.asarray(array) for key, array in batch.items()}  # a plain view of what is in shared memory

    def _start(self) -> grain.DatasetIterator:
        """Starts reading ahead, from the current position on."""
        first = self._step * self._process_count + self._process_index
        numbers = grain.MapDataset.range(_ENDLESS)[first :: self._process_count]
        batches = numbers.map(self._read_batch).to_iter_dataset(_read_options(self._threads))
        if self._workers:
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()  # grain's processes read flags, also where absl has not parsed any
            batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=self._workers))
        return iter(batches)

    def get_state(self) -> dict[str, int]:
        """Returns the position in the stream (steps done) and what defines the stream; JSON-able."""
        return {"step": self._step, **self._conditions}

    def set_state(self, state: dict[str, int]) -> None:
        """Continues after the step at which `get_state()` gave `state`.

        Raises:
          UserError: if it is the state of another stream; names the differences.
        """
        if state.keys() != self.get_state().keys():
            raise UserError(f"the checkpoint's position in the data has the fields {', '.join(sorted(state))}, "
                            f"expected {', '.join(sorted(self.get_state()))}: another version of shapjax wrote it; "
                            "train anew")
        differing = [f"{key}: {state[key]} -> {value}" for key, value in self._conditions.items()
                     if state[key] != value]
        if differing:
            raise UserError(f"the checkpoint's position in the data is in other batches ({'; '.join(differing)}; "
                            "global_batch_size is batch_size x processes); resume with the same, or train anew")
        self.close()
        self._step = state["step"]

    def close(self) -> None:
        """Stops the threads and processes that read ahead; the next batch starts them again."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None


def train_iterator(source: Source, *, batch_size: int, seed: int, crop_area: float = 1.0, threads: int = 1,
                   workers: int = 0, process_index: int = 0, process_count: int = 1) -> TrainIterator:
    """Returns an endless iterator of training batches, read ahead by threads or processes.

    It yields {"image": uint8 [b,H,W,C], "label": int32 [b], "index": int32 [b]} with b = batch_size; `index` is the
    image's position in the source. In every epoch all processes together yield each image exactly once, whether or not
    their number divides the source: the last images of an epoch share a batch with the first of the next one, and none
    is dropped. Order and crops depend on (seed, epoch) alone.

    `get_state()` returns a small JSON-able dict; `set_state()` continues with the very next batch. A state stays valid
    with other threads and workers, and with another number of processes if batch_size * process_count is the same.

    Args:
      source: of the training images. One thread reads a source in memory, whatever `threads` is: more would only
        contend for the interpreter lock, and a worker process would need a copy. Workers need a source that can be
        pickled.
      batch_size: images a batch and process.
      seed: non-negative.
      crop_area: for sources with `crops_on_read`: each image is read as a random crop of between this share of its area
        and all of it, aspect ratio log-uniform in [3/4, 4/3] (Szegedy et al. 2015); 1: no crops. The images of other
        sources are cropped on the device (`shapjax.data.augmentation`).
      threads: that read and decode, each a batch of its own; in each worker process if there are any.
      workers: processes that read and decode; 0: the threads of this one.
      process_index, process_count: the part of each step's global batch that this process reads.

    Raises:
      UserError: on batch_size < 1, a global batch larger than the source, a negative seed, crop_area not in (0, 1],
        threads < 1, workers < 0.
    """
    n = len(source)
    _check_shares(batch_size, process_index, process_count)
    if batch_size * process_count > n:
        raise UserError(f"batch_size {batch_size} on {process_count} process(es) takes "
                        f"{batch_size * process_count} images a step, but the source has {n}; "
                        f"use a batch_size of at most {n // process_count}")
    if seed < 0:
        raise UserError(f"seed {seed} is negative; use 0 or more")
    if not 0 < crop_area <= 1:
        raise UserError(f"crop_area {crop_area} is not a share of the image's area; use more than 0 and at most 1")
    if threads < 1:
        raise UserError(f"threads {threads} is not positive; use 1 or more")
    if workers < 0:
        raise UserError(f"workers {workers} is negative; use 0 (threads of this process) or more")
    if isinstance(source, ArraySource):
        threads, workers = 1, 0
    if not source.crops_on_read:
        crop_area = 1.0
    return TrainIterator(
        _ReadBatch(source, batch_size, seed, crop_area), threads=threads, workers=workers,
        conditions={"global_batch_size": batch_size * process_count, "seed": seed, "images": n},
        process_index=process_index, process_count=process_count)


@dataclasses.dataclass(frozen=True)
class _ReadBatch:
    """Reads the batch of a given number in the global stream; it is pickled for worker processes."""

    source: Source
    batch_size: int
    seed: int
    crop_area: float

    def __call__(self, number: int) -> dict[str, np.ndarray]:
        epoch, start = divmod(number * self.batch_size, len(self.source))
        order, crops = self._draws(epoch, start, self.batch_size)
        if missing := self.batch_size - len(order):
            next_order, next_crops = self._draws(epoch + 1, 0, missing)
            order, crops = np.concatenate([order, next_order]), np.concatenate([crops, next_crops])
        batch = self.source.read(order, crops) if self.crop_area < 1 else self.source.read(order)
        return {"image": batch["image"], "label": batch["label"], "index": order.astype(np.int32)}

    def _draws(self, epoch: int, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns a part of the order and crops of an epoch."""
        order, crops = _draw_epoch(len(self.source), self.seed, epoch, self.crop_area)
        return order[start : start + count], crops[start : start + count]


# grain's own shuffle maps one index at a time, which costs more than all the rest of a batch; whole epochs are drawn
# instead. A batch touches two epochs at most.
@functools.lru_cache(maxsize=2)
def _draw_epoch(n: int, seed: int, epoch: int, crop_area: float) -> tuple[np.ndarray, np.ndarray]:
    """Draws the order of an epoch's images, int [n], and crops, float32 [n, 4]: share of the area, aspect, y, x."""
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(n)
    if crop_area == 1:
        return order, np.broadcast_to(np.asarray([1, 1, 0, 0], np.float32), (n, 4))
    crops = rng.random((n, 4), np.float32)
    crops[:, 0] = crop_area + (1 - crop_area) * crops[:, 0]
    crops[:, 1] = np.exp(np.log(4 / 3) * (2 * crops[:, 1] - 1))
    return order, crops


def to_device(iterator: TrainIterator, place: Callable[[dict[str, np.ndarray]], Any], *, depth: int = 2
              ) -> "PlacedIterator":
    """Returns an iterator of the batches as device arrays, which places `depth` of them ahead of their use.

    Args:
      iterator: of host batches; it must not be used elsewhere from now on.
      place: host batch -> device arrays, without waiting for the transfer, like `jax.device_put`.
      depth: batches that wait on the device.
    """
    return PlacedIterator(iterator, place, depth)


class PlacedIterator:
    """Device batches, made by `to_device`; the state is that of the last batch handed out, not of the last one read."""

    def __init__(self, iterator: TrainIterator, place: Callable[[dict[str, np.ndarray]], Any], depth: int):
        self._iterator, self._place, self._depth = iterator, place, depth
        self._ahead = collections.deque()  # pairs of a placed batch and the iterator's state after it
        self._state = iterator.get_state()

    def __iter__(self) -> "PlacedIterator":
        return self

    def __next__(self) -> Any:
        while len(self._ahead) <= self._depth:
            self._ahead.append((self._place(next(self._iterator)), self._iterator.get_state()))
        batch, self._state = self._ahead.popleft()
        return batch

    def get_state(self) -> dict[str, int]:
        """Returns the state, see `TrainIterator.get_state`."""
        return self._state

    def set_state(self, state: dict[str, int]) -> None:
        """Continues from a state, see `TrainIterator.set_state`."""
        self._iterator.set_state(state)
        self._state = state
        self._ahead.clear()

    def close(self) -> None:
        """Stops reading ahead, see `TrainIterator.close`, and drops the batches that were placed ahead."""
        self.set_state(self._state)


def evaluation_batches(source: Source, *, batch_size: int, indices: Sequence[int] | np.ndarray | None = None,
                       threads: int = 1, process_index: int = 0, process_count: int = 1
                       ) -> Iterator[dict[str, np.ndarray]]:
    """Yields every image of a source once, in order, or those at `indices`, in the order given.

    A batch is what the source reads (image uint8 [b,H,W,C], label int32 [b], for some sources object_mask) and
    {"index": int32 [b], "valid": bool [b]} with b = batch_size. The last batches are filled up with copies of the last
    image, which are not `valid`: all batches have one shape, all processes have equally many, and no model gives NaN on
    the copies, as it might on zeros.

    Args:
      source: of the images.
      batch_size: images a batch and process.
      indices: int [n], positions in the source; None: all.
      threads: that read and decode ahead, each a batch of its own.
      process_index, process_count: the part of every global batch that this process reads, in process order.

    Raises:
      UserError: on batch_size < 1, or an index outside the source.
    """
    _check_shares(batch_size, process_index, process_count)
    indices = np.arange(len(source)) if indices is None else np.asarray(indices, np.int64)
    outside = indices[(indices < 0) | (indices >= len(source))]
    if outside.size:
        raise UserError(f"there is no image {outside[0]}; the source has images 0 to {len(source) - 1}")
    if not indices.size:
        return iter(())
    steps = -(-len(indices) // (batch_size * process_count))
    places = np.arange(steps * process_count * batch_size).reshape(steps, process_count, batch_size)[:, process_index]
    chosen = indices[np.minimum(places, len(indices) - 1)]

    def read_batch(step: int) -> dict[str, np.ndarray]:
        return {**source.read(chosen[step]), "index": chosen[step].astype(np.int32),
                "valid": places[step] < len(indices)}

    return iter(grain.MapDataset.range(steps).map(read_batch).to_iter_dataset(_read_options(threads)))


def _read_options(threads: int) -> grain.ReadOptions:
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(_READ_AHEAD, threads + 1))


def _check_shares(batch_size: int, process_index: int, process_count: int) -> None:
    """Raises on an impossible batch size (UserError) or process index (ValueError)."""
    if batch_size < 1:
        raise UserError(f"batch_size {batch_size} is not positive; use 1 or more")
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index {process_index} is not in [0, {process_count})")
