"""The settings: unknown ones are refused, impossible ones are explained."""

import pytest

from shapjax import config, models
from shapjax.errors import UserError


def resolved(**changes):
    c = config.default_config()
    c.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return config.resolve(c)


def test_the_default_config_is_valid_and_survives_json():
    c = resolved()
    config.validate(c, image_shape=(28, 28, 1), num_devices=2)
    assert config.from_dict(c.to_dict()).to_dict() == c.to_dict()


def test_what_a_checkpoint_is_too_old_for_is_as_it_was_before():
    old = config.default_config().to_dict()
    del old["model"]["layer_masking"], old["teacher_weight"]
    assert config.from_dict(old).to_dict() == config.default_config().to_dict()


def test_every_setting_is_described_with_its_reason():
    lines = config.describe().splitlines()[::2]  # each followed by its reason
    described = [line.split(" = ")[0].strip() for line in lines]
    assert sorted(described) == [key for key, _ in config.flatten(config.default_config())]


def test_an_unknown_setting_cannot_be_set():
    with pytest.raises(AttributeError):
        config.default_config().shapely_weight = 1.0


def test_a_saved_config_with_an_unknown_setting_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="did you mean 'shapley_weight'"):
        config.from_dict({"shapely_weight": 1.0})


def test_a_saved_config_with_a_wrong_type_is_refused():
    with pytest.raises(UserError, match="'steps' is 'many', expected int"):
        config.from_dict({"steps": "many"})


def test_a_variant_fills_in_the_sizes():
    m = resolved(model__variant="S/16").model
    assert (m.width, m.depth, m.heads, m.patch_size) == (384, 12, 6, 16)


@pytest.mark.parametrize(("name", "backbone", "stages"), [
    ("ResNet-50", "resnet", (3, 4, 6, 3)), ("ConvNeXt-T", "convnext", (3, 3, 9, 3))])
def test_a_variant_brings_its_backbone(name, backbone, stages):
    c = resolved(model__variant=name)
    assert (c.model.backbone, c.model.stages, c.model.patch_size) == (backbone, stages, 32)
    config.validate(c, image_shape=(224, 224, 3), num_devices=1)
    assert models.variant_of(c.model) == name


def test_an_unknown_variant_is_refused_with_those_of_all_backbones():
    with pytest.raises(UserError, match="'ResNet-19'.*Ti, S, B, L, H.*ResNet-18, ResNet-34.*ConvNeXt-T") as e:
        resolved(model__variant="ResNet-19")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__patch_size": 5}, "does not divide the image size 28x28; use one of 2, 4, 7, 14"),
        ({"model__patch_size": 28}, "makes the whole image one patch"),
        ({"model__heads": 5}, "does not divide the width 64"),
        ({"model__backbone": "resnet", "model__patch_size": 4, "model__width": 16, "model__allocation_depth": 1,
          "model__heads": 5}, "model.heads=5 does not divide the 64 channels of the last feature map"),
        ({"model__backbone": "convnext", "model__patch_size": 4, "model__width": 6, "model__allocation_depth": 1,
          "model__heads": 5}, "model.heads=5 does not divide the 24 channels of the last feature map"),
        ({"batch_size": 33}, "not divisible by the 2 devices; use 32"),
        ({"batch_size": 0}, "batch_size=0: expected at least 1"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0"),
        ({"shapley_weight": float("nan")}, "shapley_weight=nan"),
        ({"shapley_gradient": "half"}, "expected one of allocation, game, full"),
        ({"model__head_scale": "big"}, "expected one of sqrt, mean"),
        ({"warmup": 1.0}, "expected a share below 1"),
        ({"model__remat": "some"}, "expected one of none, dots, full"),
        ({"parallel": "both"}, "expected one of pmap, fsdp"),
        ({"parallel": "fsdp", "fsdp_devices": 3}, "fsdp_devices=3 does not divide the 2 devices; use one of 1, 2"),
        ({"accumulate": 5}, "batch_size=48 .*use 40"),
        ({"train_only": ("head",)}, "train_only=.*set --config.pretrained"),
        ({"teacher_weight": 0.5}, "teacher_weight=0.5.*set --config.pretrained"),
        ({"teacher_weight": 0.5, "pretrained": "weights", "new_head": True}, "teacher_weight=0.5.*no new_head"),
        ({"teacher_weight": 0.6, "pretrained": "weights"}, "expected a share of at most 0.5"),
    ],
)
def test_a_setting_that_cannot_work_is_named_with_what_would(changes, message):
    with pytest.raises(UserError, match="--config.*" + message) as e:
        config.validate(resolved(**changes), image_shape=(28, 28, 1), num_devices=2)
    assert "\n" not in str(e.value)


def test_only_settings_that_parameters_depend_on_keep_a_run_from_resuming():
    old = resolved().to_dict()
    assert config.differences(old, resolved(log_every=7, eval_every=9, keep_checkpoints=5).to_dict()) == []
    assert config.differences(old, resolved(model__width=32).to_dict()) == ["model.width: 64 -> 32"]
