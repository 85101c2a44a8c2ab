"""Prefixes that training frameworks put before the names of tensors are stripped, or refused."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from shapjax.errors import UserError


@pytest.fixture
def weights(tmp_path, write_vit):
    write_vit(tmp_path / "weights")
    return tmp_path / "weights"


def renamed(weights, *prefixes, others=()):
    """Writes the tensors again under each prefix."""
    file = weights / "model.safetensors"
    tensors = load_file(file)
    save_file({prefix + name: x for prefix in prefixes for name, x in tensors.items()}
              | {name: np.ones(2, np.float32) for name in others}, file)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "backbone.", "model.module.", "ema_model.",
                                    "module._orig_mod."])
def test_one_is_stripped_and_said(prefix, weights, load):
    expected = load(weights).params
    renamed(weights, prefix, others=["optimizer.step"])
    loaded = load(weights)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, expected)
    assert f"the prefix '{prefix}' of the names is stripped, 1 tensors without it are left out" in str(loaded.report)


def test_two_models_in_one_file_are_refused(weights, load):
    renamed(weights, "model.", "ema.")
    with pytest.raises(UserError, match="hold several models, under (model., ema.|ema., model.); keep the tens"):
        load(weights)


def test_a_prefix_of_no_framework_is_no_known_model(weights, load):
    renamed(weights, "mine.")
    with pytest.raises(UserError, match="are of no known model .*mine"):
        load(weights)
