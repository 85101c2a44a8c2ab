"""Batches for training (endless, shuffled, resumable) and for evaluation (every image once).

Training draws from one global stream: epoch after epoch, each a fresh permutation of the source, cut into
batches that may straddle two epochs. Processes take the batches in turn, so that a step's global batch (the
processes' batches in process order) is the same array whether 1 process makes it or 100.
"""

import functools
from collections.abc import Iterator, Sequence

import grain
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from shapjax.data.sources import Source
from shapjax.errors import UserError

# One background thread reads ahead. More would only contend for the interpreter lock: a batch is read and
# augmented by a handful of array operations.
_READ_AHEAD = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
_ENDLESS = 2**62


def train_iterator(source: Source, *, batch_size: int, seed: int, max_shift: int,
                   process_index: int = 0, process_count: int = 1) -> grain.DatasetIterator:
    """An endless iterator of training batches, read ahead on a background thread.

    Yields {"image": uint8 [b,H,W,C], "label": int32 [b], "index": int32 [b]} with b = batch_size; `index` is
    the image's position in the source. Every epoch shows each image exactly once over all processes together,
    whether or not their number divides the source: what is left of an epoch is dealt out along with the first
    images of the next one, nothing is dropped. Order and shifts are fixed by (seed, epoch).

    `get_state()` is a small JSON-able dict; `set_state()` continues with the very next batch. A state carries
    over to another number of processes as long as batch_size * process_count stays the same.

    Args:
      source: what to read.
      batch_size: images a batch and process.
      seed: non-negative.
      max_shift: images move by a random integer vector in [-max_shift, max_shift]^2 pixels, black moving in.
      process_index, process_count: which part of each step's global batch is this process's.

    Raises:
      UserError: batch_size < 1 or a global batch larger than the source; a negative seed; max_shift not in
        [0, min(H, W)).
    """
    n = len(source)
    _check_batch_size(batch_size)
    if batch_size * process_count > n:
        raise UserError(f"batch_size {batch_size} on {process_count} process(es) takes "
                        f"{batch_size * process_count} images a step, but the source has {n}; "
                        f"use a batch_size of at most {n // process_count}")
    if seed < 0:
        raise UserError(f"seed {seed} is negative; use 0 or more")
    if not 0 <= max_shift < min(source.image_shape[:2]):
        raise UserError(f"max_shift {max_shift} is not between 0 and {min(source.image_shape[:2]) - 1}, "
                        f"the images being {source.image_shape[0]}x{source.image_shape[1]}")
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index {process_index} is not in [0, {process_count})")

    # grain's own shuffle maps one index at a time, which costs more than all the rest of a batch; whole
    # epochs are drawn instead. A batch touches two epochs at most.
    @functools.lru_cache(maxsize=2)
    def draw_epoch(epoch: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([seed, epoch])
        return rng.permutation(n), rng.integers(-max_shift, max_shift, (n, 2), endpoint=True)

    def read_batch(number: int) -> dict[str, np.ndarray]:
        epoch, start = divmod(number * batch_size, n)
        order, shifts = draw_epoch(epoch)
        order, shifts = order[start : start + batch_size], shifts[start : start + batch_size]
        if missing := batch_size - len(order):
            next_order, next_shifts = draw_epoch(epoch + 1)
            order = np.concatenate([order, next_order[:missing]])
            shifts = np.concatenate([shifts, next_shifts[:missing]])
        batch = source.read(order)
        return {**batch, "image": shift_images(batch["image"], shifts), "index": order.astype(np.int32)}

    numbers = grain.MapDataset.range(_ENDLESS)[process_index::process_count]
    return iter(numbers.map(read_batch).to_iter_dataset(_READ_AHEAD))


def evaluation_batches(source: Source, *, batch_size: int,
                       indices: Sequence[int] | np.ndarray | None = None) -> Iterator[dict[str, np.ndarray]]:
    """Every image of the source once, in order, or those at `indices` (int [n]), in the order given.

    Yields {"image": uint8 [b,H,W,C], "label": int32 [b], "index": int32 [b], "valid": bool [b]} with
    b = batch_size. The last batch is filled up with copies of its last image, which are not `valid`: so all
    batches have one shape, and the filling is a real image, on which no model yields NaN.

    Raises:
      UserError: batch_size < 1, or an index outside the source.
    """
    _check_batch_size(batch_size)
    indices = np.arange(len(source)) if indices is None else np.asarray(indices, np.int64)
    outside = indices[(indices < 0) | (indices >= len(source))]
    if outside.size:
        raise UserError(f"there is no image {outside[0]}; the source has images 0 to {len(source) - 1}")

    def batches():
        for start in range(0, len(indices), batch_size):
            chosen = indices[start : start + batch_size]
            valid = np.arange(batch_size) < len(chosen)
            chosen = np.pad(chosen, (0, batch_size - len(chosen)), mode="edge")
            yield {**source.read(chosen), "index": chosen.astype(np.int32), "valid": valid}

    return batches()


def shift_images(images: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Moves each image down by shifts[b, 0] and right by shifts[b, 1] pixels; black (0) moves in.

    `images` is uint8 [B,H,W,C], `shifts` int [B,2]; returns a new array like `images`.
    """
    count, height, width, channels = images.shape
    margin = int(np.abs(shifts).max(initial=0))
    canvas = np.zeros((count, height + 2 * margin, width + 2 * margin, channels), images.dtype)
    canvas[:, margin : margin + height, margin : margin + width] = images
    # windows[b, y, x] is the window of image b's canvas whose corner is (y, x), without a copy.
    windows = sliding_window_view(canvas, (height, width, channels), axis=(1, 2, 3))[:, :, :, 0]
    return windows[np.arange(count), margin - shifts[:, 0], margin - shifts[:, 1]]


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise UserError(f"batch_size {batch_size} is not positive; use 1 or more")
