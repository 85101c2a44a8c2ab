"""Settings become a module, or are refused with a message that says why."""

import json

import pytest

from shapjax import config, models


def build(changes, *, image_shape=(24, 24, 2)):
    c = config.default_config()
    config.set_model(c, changes)
    return models.build(config.model_settings(c), image_shape=image_shape, num_classes=7)


def test_build_follows_the_settings_and_the_images():
    module = build({"width": 32, "class_token": True, "dtype": "bfloat16"}, image_shape=(28, 14, 1))
    assert (module.grid, module.num_patches, module.num_classes) == ((4, 2), 8, 7)
    assert (module.width, module.class_token, module.dtype) == (32, True, "bfloat16")


RESNET = {"backbone": "resnet", "patch_size": 8, "stages": (0, 1, 1)}
CONVNEXT = {"backbone": "convnext", "patch_size": 8, "stages": (1, 1, 1)}


@pytest.mark.parametrize(("changes", "message"), [
    ({"backbone": "vgg"}, "backbone=vgg: expected one of vit, resnet, convnext"),
    ({"dtype": "float16"}, "dtype=float16: expected one of auto, float32, bfloat16"),
    ({"remat": "half"}, "remat=half: expected one of auto, none, dots, full"),
    ({"activation": "relu"}, "activation=relu: expected one of gelu_tanh, gelu, quick_gelu"),
    ({"norm_place": "last"}, "norm_place=last: expected one of token, pooled"),
    ({"head_scale": "sum"}, "head_scale=sum: expected one of sqrt, mean"),
    ({"patch_size": 5}, "patch_size=5 does not divide the image size 24x24; use one of 2, 3, 4, 6, 8, 12"),
    ({"patch_size": 24}, "patch_size=24 makes the whole image one patch; use a smaller one"),
    ({"patch_size": 8, "width": 10}, "heads=4 does not divide the width 10"),
    (RESNET | {"patch_size": 4}, r"patch_size=4 with stages=\(0, 1, 1\): expected 2·.* = 8 pixels, or 16 as published"),
    (RESNET | {"stages": (1, 0, 1)}, r"stages=\(1, 0, 1\): expected at least one block a stage, or 0 in the first"),
    (RESNET | {"stages": ()}, r"stages=\(\): expected at least one block a stage"),
    (RESNET | {"stages": (0,)}, None),
    (CONVNEXT | {"patch_size": 6}, r"patch_size=6 with stages=\(1, 1, 1\): expected a multiple of .* = 4 pixels"),
    (CONVNEXT | {"stages": (0, 1)}, r"stages=\(0, 1\): expected at least one block a stage"),
    (CONVNEXT | {"stages": ()}, r"stages=\(\): expected at least one block a stage"),
])
def test_impossible_settings_are_refused_with_key_value_and_what_would_work(changes, message):
    with pytest.raises(ValueError, match=message and f"^{message}") as e:
        build(changes)
    assert type(e.value) is ValueError and "\n" not in str(e.value)


@pytest.mark.parametrize("name", ["XL/16", "S", "S/", "S/16/2", "s/16", "S16", "ResNet-51", ""])
def test_an_unknown_variant_is_refused_with_the_known_ones(name):
    with pytest.raises(ValueError, match=rf"^variant={name}: expected one of Ti, S, B, L, H .*ResNet-50.*ConvNeXt-T"):
        models.variant(name)


@pytest.mark.parametrize("name", ["B/8", "ResNet-34", "ConvNeXt-T"])
def test_a_variant_is_settings_that_a_module_can_be_built_from_and_told_by(name):
    settings = models.variant(name)
    module = build(settings, image_shape=(64, 64, 3))
    assert all(getattr(module, key) == value for key, value in settings.items() if key != "backbone")
    assert models.variant_of(settings) == name
    assert models.variant_of(settings | {"width": 65}) is None


def test_stages_survive_json():
    c = config.default_config()
    config.set_model(c, RESNET)
    again = config.from_dict(json.loads(json.dumps(c.to_dict())))
    assert models.build(config.model_settings(again), image_shape=(16, 16, 1), num_classes=2).stages == (0, 1, 1)
