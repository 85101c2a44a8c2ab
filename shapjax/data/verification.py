"""Finds, before a run, the images that cannot be read."""

import concurrent.futures
import os
from collections.abc import Callable, Iterator
from typing import BinaryIO, TypeVar

import numpy as np
import tqdm

from shapjax.data import images
from shapjax.data.encoded import Records
from shapjax.errors import UserError

CORRUPT = ("fail", "skip")  # on an image that cannot be read: end the run, or leave the image out
_BLOCK = 64  # images that a thread takes at a time
_SHOWN = 3  # unreadable images that are named

T = TypeVar("T")


def readable(records: Records, *, corrupt: str) -> tuple[np.ndarray, np.ndarray]:
    """Opens every image, with a progress bar.

    Args:
      records: of images.
      corrupt: "skip" decodes every image, so that none fails later, leaves out those that cannot be read, and prints
        their number and the first names. "fail" raises instead, after a quicker look (`images.check`).

    Returns:
      the positions of readable images, int64 [n], ascending, and their upright (width, height), int [n, 2].

    Raises:
      UserError: on images that cannot be read, if they are not to be skipped, or if there are no others.
    """
    def look(indices: np.ndarray) -> list[tuple[int, int] | Exception]:
        return [_size_or_error(example.image, thorough=corrupt == "skip") for example in records.examples(indices)]

    found = [result for results in in_threads(look, len(records), desc="looking at images") for result in results]
    bad = [i for i, result in enumerate(found) if isinstance(result, Exception)]
    if bad and (corrupt == "fail" or len(bad) == len(records)):
        first = images.unreadable(records.name(bad[0]), found[bad[0]])
        others = f" ({len(bad)} such images)" if len(bad) > 1 else ""
        raise UserError(f"{first}{others}, or leave such images out with --config.data.corrupt=skip"
                        if corrupt == "fail" else f"none of the {len(bad)} images can be read; {first}")
    if bad:
        names = ", ".join(map(records.name, bad[:_SHOWN])) + (", …" if len(bad) > _SHOWN else "")
        print(f"left out {len(bad)} of {len(records)} images, which cannot be read: {names}")
    kept = np.setdiff1d(np.arange(len(records)), bad)
    return kept, np.array([found[i] for i in kept])


def _size_or_error(file: str | BinaryIO, *, thorough: bool) -> tuple[int, int] | Exception:
    """Returns the (width, height) of an image, or the error that reading it raises."""
    try:
        return images.check(file, thorough=thorough)
    except Exception as error:  # on damaged files decoders raise nearly anything
        return error


def in_threads(fn: Callable[[np.ndarray], T], count: int, *, desc: str) -> Iterator[T]:
    """Yields fn(positions) of blocks of 0 … count-1, in order, from one thread a core; shows a bar if it takes long."""
    blocks = np.split(np.arange(count), np.arange(_BLOCK, count, _BLOCK))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool, \
            tqdm.tqdm(total=count, desc=desc, unit="image", delay=1, mininterval=0.5) as bar:
        try:
            for block, result in zip(blocks, pool.map(fn, blocks), strict=True):
                bar.update(len(block))
                yield result
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
