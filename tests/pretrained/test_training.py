"""Training from weights: one part alone is trained, the weights' predictions teach, a stopped run goes on."""

import shutil

import jax
import numpy as np
import pytest

from shapjax import config
from shapjax.errors import UserError
from shapjax.export import read
from shapjax.pretrained import loading
from shapjax.pretrained.settings import complete
from shapjax.training import loop

SHORT = {"optim.batch_size": 16, "optim.steps": 4, "run.eval_every": 2, "shapley.num_pairs": 0}


@pytest.fixture(scope="module")
def weights(tmp_path_factory, write_vit):
    """Returns a directory with a tiny ViT for ten classes of gray images 28x28."""
    directory = tmp_path_factory.mktemp("weights")
    write_vit(directory, classes=10, channels=1)
    return directory


def train(workdir, weights, **changes):
    """Trains a run as the command does; returns what it printed, and the parameters for inference."""
    c = config.default_config()
    c.update_from_flattened_dict({"pretrained": str(weights)} | SHORT | changes)
    c, said = loop.resolve(complete(c, workdir)), []

    def load_pretrained(module, meta):
        return loading.load(c.pretrained, module, image_shape=meta.image_shape,
                            class_names=meta.class_names, new_head=False)[0]

    loop.train(c, workdir, load_pretrained=load_pretrained, say=said.append)
    params, meta, _ = read.read_model(workdir)
    return said, params, load_pretrained(read.build(meta), meta)


@pytest.mark.slow
def test_a_run_of_one_part_leaves_the_others_as_they_are(weights, tmp_path):
    with pytest.raises(UserError, match="--config.optim.train_only.*no part 'hed'; it has .*head"):
        train(tmp_path, weights, **{"optim.train_only": ("hed",)})
    _, params, given = train(tmp_path, weights, **{"optim.train_only": ("head",), "optim.steps": 2})
    assert np.abs(params.pop("head")["kernel"] - given.pop("head")["kernel"]).max() > 1e-4
    jax.tree.map(np.testing.assert_array_equal, params, given)


@pytest.mark.slow
def test_a_run_that_learns_from_a_teacher_goes_on_as_if_never_stopped(weights, tmp_path):
    changes = {"shapley.teacher_weight": 0.5}
    _, whole, given = train(tmp_path / "whole", weights, **changes)
    assert np.abs(whole["head"]["kernel"] - given["head"]["kernel"]).max() > 1e-4
    shutil.copytree(tmp_path / "whole", tmp_path / "halves")
    shutil.rmtree(tmp_path / "halves" / "checkpoints" / "4")
    said, halves, _ = train(tmp_path / "halves", weights, **changes)
    assert said[1:] == [f"resuming {tmp_path / 'halves'} at step 2"]
    jax.tree.map(np.testing.assert_array_equal, whole, halves)
