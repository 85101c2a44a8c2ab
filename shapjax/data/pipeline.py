"""Batches for training (endless, shuffled, resumable) and for evaluation (every image once), read ahead of their use.

Training draws from one global stream: epoch after epoch, each a fresh permutation of the source, cut into batches that
may straddle two epochs. Processes take the batches in turn, so that a step's global batch (the processes' batches in
process order) is the same array whether 1 process makes it or 100.
"""

import collections
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import numpy as np

from shapjax.data.sources import ArraySource, Source
from shapjax.errors import UserError

_ENDLESS = 2**62
_READ_AHEAD = 4  # batches; more where more threads read
_PLACED_AHEAD = 2  # batches


class TrainIterator(Iterator):
    """An endless iterator of training batches, read ahead by threads.

    It yields {"image": uint8 [b,H,W,C], "label": int32 [b], "index": int32 [b]} with b = batch_size; `index` is the
    image's position in the source. In every epoch all processes together yield each image but those held out exactly
    once, whether or not the batches come out even: the last images of an epoch share a batch with the first of the next
    one, and none is dropped. Order and crops depend on (seed, epoch) alone.

    The stream is fixed, so its state is a position alone: that of the last batch handed out, whichever threads read,
    and however many batches are read and placed ahead. A state stays valid with another number of processes if
    batch_size * process_count is the same.

    Attributes:
      waited: when the last batch was asked for and when it was there, by `time.monotonic`.
    """

    def __init__(self, source: Source, *, batch_size: int, seed: int, crop_area: float = 1.0, threads: int = 1,
                 held_out: Sequence[int] = (), process_index: int = 0, process_count: int = 1,
                 place: Callable[[dict[str, np.ndarray]], Any] = lambda batch: batch):
        """Starts at the first batch; nothing is read before it is asked for.

        Args:
          source: of the training images. One thread reads a source in memory, whatever `threads` is: more would only
            contend for the interpreter lock.
          batch_size: images a batch and process.
          seed: non-negative.
          crop_area: for sources with `crops_on_read`: each image is read as a random crop of between this share of its
            area and all of it, in (0, 1], aspect ratio log-uniform in [3/4, 4/3] (Szegedy et al. 2015); 1: no crops.
            The images of other sources are cropped on the device (`shapjax.data.augmentation`).
          threads: that read and decode, each a batch of its own.
          held_out: positions in the source of images that are never read.
          process_index, process_count: the part of each step's global batch that this process reads.
          place: makes what is handed out of a batch, device arrays for instance, a few batches ahead; it should not
            wait.

        Raises:
          UserError: on batch_size < 1, or a global batch larger than the images.
        """
        self._positions = np.setdiff1d(np.arange(len(source)), held_out)
        most = len(self._positions) // process_count
        if not 1 <= batch_size <= most:
            raise UserError(f"batch_size {batch_size} on {process_count} process(es) takes "
                            f"{batch_size * process_count} images a step, but there are {len(self._positions)}; "
                            f"use a batch_size of at least 1 and at most {most}")
        self._source, self._batch_size, self._seed, self._place = source, batch_size, seed, place
        self._crop_area = crop_area if source.crops_on_read else 1.0
        self._threads = 1 if isinstance(source, ArraySource) else threads
        self._process_index, self._process_count = process_index, process_count
        self._step, self._batches, self._placed = 0, None, collections.deque()
        self.waited = 0.0, 0.0

    def __next__(self) -> Any:
        asked = time.monotonic()
        if self._batches is None:
            first = self._step * self._process_count + self._process_index
            numbers = grain.MapDataset.range(_ENDLESS)[first :: self._process_count]
            self._batches = iter(numbers.map(self._read_batch).to_iter_dataset(_read_options(self._threads)))
        while len(self._placed) <= _PLACED_AHEAD:
            self._placed.append(self._place(next(self._batches)))
        self._step, self.waited = self._step + 1, (asked, time.monotonic())
        return self._placed.popleft()

    def _read_batch(self, number: int) -> dict[str, np.ndarray]:
        """Reads the batch of this number in the global stream."""
        epoch, start = divmod(number * self._batch_size, len(self._positions))
        order, crops = self._draws(epoch, start, self._batch_size)
        if missing := self._batch_size - len(order):
            next_order, next_crops = self._draws(epoch + 1, 0, missing)
            order, crops = np.concatenate([order, next_order]), np.concatenate([crops, next_crops])
        batch = self._source.read(order, crops) if self._crop_area < 1 else self._source.read(order)
        return {"image": batch["image"], "label": batch["label"], "index": order.astype(np.int32)}

    def _draws(self, epoch: int, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns a part of the positions and crops of an epoch."""
        order, crops = _draw_epoch(len(self._positions), self._seed, epoch, self._crop_area)
        return self._positions[order[start : start + count]], crops[start : start + count]

    def get_state(self) -> dict[str, int]:
        """Returns the position in the stream (steps done) and what defines the stream; JSON-able."""
        return {"step": self._step, "global_batch_size": self._batch_size * self._process_count, "seed": self._seed,
                "images": len(self._positions)}

    def set_state(self, state: dict[str, int]) -> None:
        """Continues after the step at which `get_state()` gave `state`, with the very next batch.

        Raises:
          UserError: if it is the state of another stream; names the differences.
        """
        own = self.get_state()
        if state.keys() != own.keys():
            raise UserError(f"the checkpoint's position in the data has the fields {', '.join(sorted(state))}, "
                            f"expected {', '.join(sorted(own))}: another version of shapjax wrote it; train anew")
        differing = [f"{key}: {state[key]} -> {own[key]}" for key in own if key != "step" and state[key] != own[key]]
        if differing:
            raise UserError(f"the checkpoint's position in the data is in other batches ({'; '.join(differing)}; "
                            "global_batch_size is batch_size x processes); resume with the same, or train anew")
        self.close()
        self._step = state["step"]

    def close(self) -> None:
        """Stops reading ahead and drops what was placed ahead; the next batch starts it again, where the last ended."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None
        self._placed.clear()


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


def evaluation_batches(source: Source, *, batch_size: int, threads: int = 1, process_index: int = 0,
                       process_count: int = 1) -> Iterator[dict[str, np.ndarray]]:
    """Yields every image of a source once, in order.

    A batch is what the source reads (image uint8 [b,H,W,C], label int32 [b], for some sources object_mask) and
    {"index": int32 [b], "valid": bool [b]} with b = batch_size. The last batches are filled up with copies of the last
    image, which are not `valid`: all batches have one shape, all processes have equally many, and no model gives NaN on
    the copies, as it might on zeros.

    Args:
      source: of the images.
      batch_size: images a batch and process.
      threads: that read and decode ahead, each a batch of its own.
      process_index, process_count: the part of every global batch that this process reads, in process order.

    Raises:
      UserError: on batch_size < 1.
    """
    if batch_size < 1:
        raise UserError(f"batch_size {batch_size} is not positive; use 1 or more")
    steps = -(-len(source) // (batch_size * process_count))
    places = np.arange(steps * process_count * batch_size).reshape(steps, process_count, batch_size)[:, process_index]
    chosen = np.minimum(places, len(source) - 1)

    def read_batch(step: int) -> dict[str, np.ndarray]:
        return {**source.read(chosen[step]), "index": chosen[step].astype(np.int32),
                "valid": places[step] < len(source)}

    return iter(grain.MapDataset.range(steps).map(read_batch).to_iter_dataset(_read_options(threads)))


def _read_options(threads: int) -> grain.ReadOptions:
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(_READ_AHEAD, threads + 1))
