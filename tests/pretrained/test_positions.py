"""Positions on another grid."""

import numpy as np
import pytest
import torch

from shapjax.pretrained.positions import grid_of, interpolate


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("new", [(4, 4), (9, 9), (3, 8), (2, 3)])
def test_positions_are_interpolated_as_torch_does(new, antialias, rng):
    positions = rng.normal(size=(6 * 6, 5)).astype(np.float32)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(positions.reshape(1, 6, 6, 5).transpose(0, 3, 1, 2)), size=new, mode="bicubic",
        antialias=antialias)
    np.testing.assert_allclose(interpolate(positions, (6, 6), new, antialias=antialias),
                               theirs[0].permute(1, 2, 0).reshape(-1, 5), atol=1e-5)


def test_on_the_same_grid_positions_stay_as_they_are(rng):
    positions = rng.normal(size=(6, 5)).astype(np.float32)
    assert interpolate(positions, (2, 3), (2, 3), antialias=False) is positions


@pytest.mark.parametrize(("rows", "prefix_tokens", "grid", "expected"), [
    (197, 1, None, (1, (14, 14))),  # CLS
    (198, 2, None, (2, (14, 14))),  # CLS, distillation
    (196, 5, None, (0, (14, 14))),  # CLS, 4 registers, positions of the patches only
    (197, 5, None, (1, (14, 14))),  # the same, and of CLS
    (25, 1, (4, 6), (1, (4, 6))),
    (24, 1, (4, 6), (0, (4, 6))),
    (50, 1, (4, 6), (1, (7, 7))),  # the config is of another size
    (24, 1, None, None),
])
def test_the_grid_is_told_from_the_number_of_positions(rows, prefix_tokens, grid, expected):
    assert grid_of(rows, prefix_tokens=prefix_tokens, grid=grid) == expected
