"""The settings: unknown ones are refused, impossible ones are explained."""

import pytest

from shapjax import config
from shapjax.errors import UserError


def changed(**changes):
    c = config.default_config()
    c.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return c


def test_the_default_config_is_valid_and_survives_json():
    c = config.default_config()
    config.validate(c)
    assert config.from_dict(c.to_dict()).to_dict() == c.to_dict()


def test_a_setting_that_a_checkpoint_lacks_has_its_default():
    old = config.default_config().to_dict()
    del old["loaded"]["batch_norm"], old["shapley"]["teacher_weight"]
    assert config.from_dict(old).to_dict() == config.default_config().to_dict()


def test_every_setting_that_a_person_sets_is_described_with_its_reason():
    lines = config.describe().splitlines()[::2]  # each followed by its reason
    described = [line.split(" = ")[0].strip() for line in lines]
    settings = [key for key in config.flatten(config.default_config()) if not key.startswith("loaded.")]
    assert sorted(described) == sorted(settings) and len(settings) <= 60


def test_an_unknown_setting_cannot_be_set():
    with pytest.raises(AttributeError):
        config.default_config().shapley.wight = 1.0


def test_a_saved_config_with_an_unknown_setting_is_refused():
    with pytest.raises(UserError, match="'shapley.wieght' is unknown to this version of shapjax: use the one that"):
        config.from_dict({"shapley": {"wieght": 1.0}})


def test_a_saved_config_with_a_wrong_type_is_refused():
    with pytest.raises(UserError, match="'optim.steps' is 'many', expected int"):
        config.from_dict({"optim": {"steps": "many"}})


def test_model_settings_go_to_their_groups_and_come_back_together():
    c = config.default_config()
    config.set_model(c, {"width": 96, "center": False})
    assert (c.model.width, c.loaded.center) == (96, False)
    settings = config.model_settings(c)
    assert (settings["width"], settings["center"]) == (96, False)
    with pytest.raises(TypeError):
        config.set_model(c, {"width": "wide"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim__batch_size": 0}, "optim.batch_size=0: expected at least 1"),
        ({"optim__steps": -1}, "optim.steps=-1: expected at least 1"),
        ({"optim__learning_rate": -1.0}, "optim.learning_rate=-1.0"),
        ({"shapley__weight": float("nan")}, "shapley.weight=nan"),
        ({"shapley__num_pairs": -1}, "shapley.num_pairs=-1"),
        ({"optim__steps": 10**20}, "optim.steps=1.*expected a number below 2147483648"),
        ({"data__image_size": -1}, "data.image_size=-1: expected a finite number of at least 0"),
        ({"data__cache_gib": -1.0}, "data.cache_gib=-1.0: expected a finite number of at least 0"),
        ({"data__threads": 0}, "data.threads=0: expected at least 1"),
        ({"seed": -1}, "seed=-1: expected a finite number of at least 0"),
        ({"seed": 2**31}, "seed=2147483648: expected a number below"),
        ({"optim__warmup": 1.0}, "expected a share below 1"),
        ({"shapley__start": 1.0}, "expected a share below 1"),
        ({"optim__train_only": ("head",)}, "train_only=.*set --config.pretrained"),
        ({"shapley__teacher_weight": 0.5}, "teacher_weight=0.5.*set --config.pretrained"),
        ({"shapley__teacher_weight": 0.5, "pretrained": "weights", "new_head": True}, "teacher_weight=.*no new_head"),
        ({"shapley__teacher_weight": 0.6, "pretrained": "weights"}, "expected a share of at most 0.5"),
    ],
)
def test_a_setting_that_cannot_work_is_named_with_what_would(changes, message):
    with pytest.raises(UserError, match="--config.*" + message) as e:
        config.validate(changed(**changes))
    assert "\n" not in str(e.value)


def test_only_settings_that_parameters_depend_on_keep_a_run_from_resuming():
    old = config.default_config()
    assert config.differences(old, changed(run__log_every=7, run__eval_every=9, run__keep_checkpoints=5)) == []
    assert config.differences(old, changed(model__width=32)) == ["model.width: 64 -> 32"]
