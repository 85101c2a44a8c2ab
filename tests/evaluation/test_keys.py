"""Every use of random numbers and every image has keys of its own."""

from typing import get_args

import jax
import numpy as np

from shapjax.evaluation.keys import Use, image_keys
from shapjax.games.classifier import row_keys


def test_no_two_uses_images_or_seeds_share_a_key():
    keys = [image_keys(use, 3, seed=seed) for use in get_args(Use) for seed in (0, 1)]
    keys += [row_keys(jax.random.key(seed), 3) for seed in (0, 1)]  # of a person who calls a method with the seed
    data = np.concatenate([jax.random.key_data(x) for x in keys])
    assert len({tuple(row) for row in data.tolist()}) == len(data) == 3 * 2 * (len(get_args(Use)) + 1)


def test_an_images_key_does_not_depend_on_how_many_there_are():
    few, many = (jax.random.key_data(image_keys("ties", n, seed=0)) for n in (2, 5))
    np.testing.assert_array_equal(few, many[:2])
