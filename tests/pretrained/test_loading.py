"""Loading weights: kept and new heads, other images, weights that do not fit, the report."""

import re

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from shapjax import config, models
from shapjax.errors import UserError
from shapjax.models import vit
from shapjax.pretrained import loading

PATCHES = "vit.embeddings.patch_embeddings.projection.weight"


@pytest.fixture
def weights(tmp_path, write_vit):
    """Returns a directory with the weights of a tiny ViT: 3 classes, images 28x28x3, patches of 14."""
    write_vit(tmp_path / "weights")
    return tmp_path / "weights"


def changed(weights, change):
    """Writes the weights again, changed."""
    file = weights / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def test_the_head_is_kept_as_it_is_and_the_report_counts(weights, load):
    loaded = load(weights)
    numbers = sum(x.size for x in load_file(weights / "model.safetensors").values())
    assert loaded.report.num_parameters == numbers - 16  # the position of CLS is added to CLS
    assert loaded.report.num_tensors == 24 and loaded.report.new == () == loaded.report.skipped
    text = str(loaded.report)
    assert f"{weights}: Hugging Face ViT, 24 tensors, {numbers - 16:,} parameters" in text
    assert "head was trained on the CLS token" in text


def test_another_number_of_classes_takes_a_new_head(weights, load):
    with pytest.raises(UserError, match="is for 3 classes, the dataset has 7; set --config.new_head=True"):
        load(weights, num_classes=7)
    loaded = load(weights, num_classes=7, new_head=True)
    assert loaded.report.new == ("head (119 parameters)",) and "CLS" not in str(loaded.report)
    assert loaded.report.num_tensors == 22 and loaded.report.ignored == ("classifier.bias", "classifier.weight")


def test_a_new_head_can_be_made_for_the_same_number_of_classes(weights, load):
    assert "head" in load(weights, new_head=True).report.new[0]


def test_other_tensors_are_named(weights, load):
    changed(weights, lambda x: x.update({"vit.pooler.dense.weight": np.ones(3, np.float32), "ema.decay": np.ones(1)}))
    report = load(weights).report
    assert report.ignored == ("vit.pooler.dense.weight",) and report.skipped == ("ema.decay",)
    assert "skipped, unknown: ema.decay" in str(report)


def test_positions_are_interpolated_to_the_images_grid(weights, load, pixels):
    loaded = load(weights, image_shape=(42, 56, 3))
    assert loaded.params["positions"].shape == (12, 16)
    assert "positions interpolated from 2x2 to 3x4" in str(loaded.report)
    assert loaded.features_and_logits(pixels(42, 56))[0].shape == (2, 12, 16)


def test_gray_images_give_what_repeating_their_channel_gives(weights, load, pixels):
    gray = pixels(28, 28, 1)
    once, thrice = load(weights, image_shape=(28, 28, 1)), load(weights)
    np.testing.assert_allclose(once.features_and_logits(gray)[1],
                               thrice.features_and_logits(np.repeat(gray, 3, axis=-1))[1], atol=1e-5)
    assert "images are gray: kernel summed over its 3 channels" in str(once.report)


def test_images_with_more_channels_than_the_weights_are_refused(tmp_path, write_vit, load):
    write_vit(tmp_path / "gray", channels=1)
    with pytest.raises(UserError, match=r"do not fit images of 3 channels: embedding/kernel is \[196, 16\] instead of "
                                        r"\[588, 16\]"):
        load(tmp_path / "gray", image_shape=(28, 28, 3))


def test_missing_tensors_are_named_and_counted(weights, load):
    changed(weights, lambda x: [x.pop(name) for name in list(x) if "encoder.layer.0.output" in name or "layernorm_" in
                                name])
    with pytest.raises(UserError, match="look like Hugging Face ViT but lack 6 of its tensors: .*, .* and 3 more"):
        load(weights)


def test_a_block_that_is_missing_is_found(tmp_path, write_vit, load):
    write_vit(tmp_path, depth=3)
    changed(tmp_path, lambda x: [x.pop(name) for name in list(x) if "layer.1." in name])
    with pytest.raises(UserError, match="lack 16 of its tensors: vit.encoder.layer.1."):
        load(tmp_path)


@pytest.mark.parametrize(("name", "shape"), [
    ("vit.encoder.layer.0.attention.attention.key.weight", (8, 16)),
    ("vit.encoder.layer.0.output.dense.bias", (1,)),
    ("vit.layernorm.weight", ()),
    ("classifier.weight", (3, 15)),
    ("vit.embeddings.cls_token", (1, 1, 8)),
    ("vit.encoder.layer.1.layernorm_after.bias", (17,)),
])
def test_tensors_that_do_not_fit_the_others_are_named(name, shape, tmp_path, write_vit, load):
    write_vit(tmp_path, depth=2)
    changed(tmp_path, lambda x: x.update({name: np.ones(shape, np.float32)}))
    with pytest.raises(UserError, match=re.escape(f"{name} is {list(shape)}")):
        load(tmp_path)


def test_numbers_that_are_not_finite_are_refused(weights, load):
    changed(weights, lambda x: x[PATCHES].__setitem__((0, 0, 0, 0), np.nan))
    with pytest.raises(UserError, match="not finite, for embedding/kernel"):
        load(weights)


def test_an_activation_that_we_do_not_have_is_refused(tmp_path, write_vit, load):
    write_vit(tmp_path, hidden_act="relu")
    with pytest.raises(UserError, match="hidden_act 'relu'; expected one of gelu"):
        load(tmp_path)


def test_tensors_of_no_known_model_are_refused(tmp_path):
    save_file({"layers.0.w": np.ones(2), "layers.1.w": np.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="are of no known model .*layers.0.w, layers.1.w.*docs/models.md"):
        loading.describe(str(tmp_path))


@pytest.mark.parametrize(("changes", "expected"), [
    (dict(width=24), r"blocks/attention/out/bias is \[1, 16\] instead of \[1, 24\], .* and \d+ more"),
    (dict(depth=2), r"is \[1, 16\] instead of \[2, 16\]"),
    (dict(class_token=False), "prefix_tokens is new"),
    (dict(heads=4), "heads is 2 instead of 4"),
    (dict(activation="quick_gelu"), "activation is gelu instead of quick_gelu"),
])
def test_a_model_that_the_weights_are_not_of_is_refused_with_what_disagrees(changes, expected, weights):
    settings = dict(num_classes=3, image_size=(28, 28), patch_size=14, width=16, depth=1, heads=2, mlp_ratio=2.0,
                    class_token=True, activation="gelu", norm_epsilon=1e-12)
    with pytest.raises(UserError, match=f"are of another model: .*{expected}") as e:
        loading.load(str(weights), vit.ViT(**(settings | changes)), image_shape=(28, 28, 3), class_names="abc",
                     new_head=False)
    assert "\n" not in str(e.value)


def test_weights_for_another_backbone_are_refused(weights):
    c = config.default_config()
    config.set_model(c, {"backbone": "resnet", "patch_size": 4, "stages": (1, 1)})
    module = models.build(config.model_settings(c), image_shape=(28, 28, 3), num_classes=3)
    with pytest.raises(UserError, match="backbone is vit instead of resnet"):
        loading.load(str(weights), module, image_shape=(28, 28, 3), class_names="abc", new_head=False)
