"""The Gini index: from 0 for equal shares to (N-1)/N for a single one, whatever the scale, sign or order."""

import numpy as np
import pytest

from shapjax.metrics import sparseness


def gini(*values):
    return float(sparseness.gini(np.float32([values]))[0])


def test_its_ends():
    assert gini(2, 2, -2, 2) == pytest.approx(0, abs=1e-6)
    assert gini(0, 0, 3, 0) == pytest.approx(3 / 4)
    assert gini(0, 0, 0, 0) == 0


def test_it_is_half_the_relative_mean_absolute_difference(rng):
    values = rng.normal(size=(4, 12)).astype(np.float32)
    size = abs(values.astype(np.float64))
    pairs = abs(size[:, :, None] - size[:, None, :]).mean(axis=(1, 2)) / (2 * size.mean(axis=1))
    np.testing.assert_allclose(sparseness.gini(values), pairs, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_does_not_matter(rng, scale):
    values = rng.normal(size=(4, 12)).astype(np.float32)
    np.testing.assert_allclose(sparseness.gini(values * np.float32(scale)), sparseness.gini(values), rtol=1e-5)
