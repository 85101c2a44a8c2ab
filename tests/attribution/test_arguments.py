"""Arguments that do not fit are refused in one line, whatever the method."""

import jax
import numpy as np
import pytest

from shapjax.attribution import baseline, lime, occlusion, rise, shapley_values
from shapjax.errors import UserError

SAMPLED = [rise.rise, lime.lime, shapley_values.kernel_shap, shapley_values.permutation]
METHODS = [*SAMPLED, occlusion.leave_one_out, occlusion.include_one, shapley_values.exact]
KEY = jax.random.key(0)


@pytest.mark.parametrize("method", [*METHODS, baseline.phi, baseline.random])
@pytest.mark.parametrize(("change", "message"), [
    ({"images": np.zeros((0, 2, 4, 1), np.float32)}, r"images are \[0, 2, 4, 1\]"),
    ({"images": np.zeros((2, 4, 1), np.float32)}, r"images are \[2, 4, 1\]"),
    ({"targets": np.array([1])}, r"targets are int\d+ \[1\], expected .* int \[3\]"),
    ({"targets": np.zeros(3)}, r"targets are float"),
    ({"batch_size": 0}, "batch_size is 0"),
])
def test_images_targets_and_batch_size_must_fit(coalition_game, method, change, message):
    model, images, targets, _ = coalition_game
    arguments = {"images": images, "targets": targets, "key": KEY} | change
    with pytest.raises(UserError, match=message) as e:
        method(model, **arguments)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("method", METHODS)
def test_an_output_must_exist(coalition_game, method):
    with pytest.raises(UserError, match="output is 'odds', expected one of logit, probability"):
        method(*coalition_game[:3], KEY, output="odds")


@pytest.mark.parametrize("method", SAMPLED)
def test_coalitions_are_even_and_keys_typed_and_one_for_all_or_for_each(coalition_game, method):
    with pytest.raises(UserError, match="5 coalitions"):
        method(*coalition_game[:3], KEY, coalitions=5)
    with pytest.raises(UserError, match="key is .* expected one"):
        method(*coalition_game[:3], jax.random.split(KEY, 2))
    with pytest.raises(UserError, match="key is uint32"):
        method(*coalition_game[:3], jax.random.PRNGKey(0))
