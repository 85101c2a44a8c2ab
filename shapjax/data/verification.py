"""Finds, before a run, the images that cannot be read."""

import concurrent.futures
import os
from collections.abc import Callable, Iterator
from typing import BinaryIO, TypeVar

import numpy as np
import tqdm

from shapjax.data import images, opening
from shapjax.data.encoded import Records
from shapjax.errors import UserError, few, printable

CORRUPT = ("fail", "skip")  # on an image that cannot be read: end the run, or leave the image out
_BLOCK = 64  # images that a thread takes at a time

T = TypeVar("T")


def readable(records: Records, *, corrupt: str) -> dict[int, tuple[int, int]]:
    """Opens every image, with a progress bar.

    Args:
      records: of images.
      corrupt: "skip" decodes every image, so that none fails later, leaves out those that cannot be read, and prints
        their number and the first names. "fail" raises instead, after a quicker look (`images.check`).

    Returns:
      {position: upright (width, height)} of the readable images, in order.

    Raises:
      UserError: on images that cannot be read, if they are not to be skipped, or if there are no others.
    """
    def look(indices: np.ndarray) -> list[tuple[int, int] | Exception]:
        return [size_or_error(example.image, thorough=corrupt == "skip") for example in records.examples(indices)]

    found = [result for results in in_threads(look, len(records), desc="looking at images") for result in results]
    bad = [i for i, result in enumerate(found) if isinstance(result, Exception)]
    if bad and (corrupt == "fail" or len(bad) == len(records)):
        first = opening.unreadable(records.name(bad[0]), found[bad[0]])
        others = f" ({len(bad)} such images)" if len(bad) > 1 else ""
        raise UserError(f"{first}{others}, or leave such images out with --config.data.corrupt=skip"
                        if corrupt == "fail" else f"none of the {len(bad)} images can be read; {first}")
    if bad:
        names = few([records.name(i) for i in bad])
        print(printable(f"left out {len(bad)} of {len(records)} images, which cannot be read: {names}"))
    return {i: result for i, result in enumerate(found) if not isinstance(result, Exception)}


def size_or_error(file: str | BinaryIO, *, thorough: bool) -> tuple[int, int] | Exception:
    """Returns the (width, height) of an image, or the error that reading it raises."""
    try:
        return images.check(file, thorough=thorough)
    except Exception as error:  # on damaged files decoders raise nearly anything
        return error


def in_threads(fn: Callable[[np.ndarray], T], count: int, *, desc: str) -> Iterator[T]:
    """Yields fn(positions) of blocks of 0 … count-1, in order, from one thread a core; shows a bar if it takes long."""
    blocks = np.split(np.arange(count), np.arange(_BLOCK, count, _BLOCK))
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    try:
        with tqdm.tqdm(total=count, desc=desc, unit="image", delay=1, mininterval=0.5) as bar:
            for block, result in zip(blocks, pool.map(fn, blocks), strict=True):
                bar.update(len(block))
                yield result
    finally:
        pool.shutdown(cancel_futures=True)  # after an error, what has not begun is dropped
