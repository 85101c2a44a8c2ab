"""Shared by tests of models: a small network, wrapped; images; a call that is refused."""

import numpy as np
import pytest

from shapjax import games
from shapjax.errors import UserError

B, K = 3, 4
PIXELS = np.random.default_rng(0).integers(0, 200, size=(B, 6, 8, 3))  # every kind of number holds them exactly
IMAGES = PIXELS.astype(np.float32)
WEIGHTS = np.random.default_rng(1).normal(size=(3, K)).astype(np.float32)
NAMES = ("cat", "dog", "eel", "fox")


def network(x):
    return x.mean(axis=(1, 2)) @ WEIGHTS / 100


def wrapped(fn, params=None, **options):
    return games.wrap(fn, params, grid=(2, 2), removal=games.Constant(0.0), **options)


def refused(call, *arguments, **options):
    """Returns the one line that a call is refused with."""
    with pytest.raises(UserError) as error:
        call(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)
