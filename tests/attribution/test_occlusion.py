"""Occlusion against the table of all coalitions."""

import jax
import numpy as np
import pytest

from shapjax.attribution import occlusion

ALONE = 2 ** np.arange(8)  # codes of the coalitions of one player
READ = {"logit": lambda v: v, "probability": jax.nn.softmax, "log_probability": jax.nn.log_softmax}


@pytest.mark.parametrize(("output", "batch_size"), [("logit", 256), ("probability", 4), ("log_probability", 9)])
def test_occlusion_is_the_difference_that_one_patch_makes(coalition_game, output, batch_size):
    model, images, targets, values = coalition_game
    v = np.stack([np.asarray(READ[output](values[b]))[:, targets[b]] for b in range(3)])
    out = occlusion.leave_one_out(model, images, targets, batch_size=batch_size, output=output)
    np.testing.assert_allclose(out, v[:, [255]] - v[:, 255 - ALONE], atol=2e-6)
    shown = occlusion.include_one(model, images, targets, batch_size=batch_size, output=output)
    np.testing.assert_allclose(shown, v[:, ALONE] - v[:, [0]], atol=2e-6)
