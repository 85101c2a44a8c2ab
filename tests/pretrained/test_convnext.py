"""ConvNeXt of Hugging Face and timm computes the same here: features, and logits from the pooled norm."""

import json
import re

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from shapjax import models
from shapjax.errors import UserError
from shapjax.models import convnext
from shapjax.pretrained import loading

TINY = dict(hidden_sizes=[8, 16], depths=[1, 2], num_stages=2, num_labels=5)
SIZE = (16, 24, 3)  # 2 x 3 cells


@pytest.fixture(scope="module")
def classifier(randomized):
    """Returns classifier(**config), which makes a ConvNeXt of transformers with random parameters."""
    return lambda **config: randomized(transformers.ConvNextForImageClassification(
        transformers.ConvNextConfig(**TINY | config)))


def in_timm(tensors):
    """Returns the tensors of a ConvNextForImageClassification under timm's names."""
    def renamed(name):
        name = name.replace("classifier.", "head.fc.").removeprefix("convnext.")
        name = name.replace("embeddings.patch_embeddings", "stem.0").replace("embeddings.layernorm", "stem.1")
        name = re.sub(r"^layernorm", "head.norm", name).removeprefix("encoder.")
        name = name.replace("downsampling_layer", "downsample").replace("layers", "blocks").replace("dwconv", "conv_dw")
        name = name.replace("pwconv", "mlp.fc").replace("layer_scale_parameter", "gamma")
        return name.replace("layernorm", "norm")

    return {renamed(name): x for name, x in tensors.items()}


@pytest.mark.parametrize("changes", [
    {}, {"hidden_act": "gelu_new", "layer_norm_eps": 0.1, "patch_size": 2, "image_size": 8, "num_channels": 2}])
def test_features_and_logits_are_those_of_transformers(changes, tmp_path, load, classifier, pixels):
    model = classifier(**changes)
    model.save_pretrained(tmp_path)
    size = tuple(side * changes.get("patch_size", 4) // 4 for side in SIZE[:2]) + (changes.get("num_channels", 3),)
    loaded, images = load(tmp_path, image_shape=size), pixels(*size)
    features, ours = loaded.features_and_logits(images)
    with torch.no_grad():
        images = torch.from_numpy(images.transpose(0, 3, 1, 2))
        theirs = model.convnext(images).last_hidden_state.permute(0, 2, 3, 1).numpy()
        logits = model(images).logits.numpy()
    np.testing.assert_allclose(features, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())
    np.testing.assert_allclose(ours, logits, rtol=1e-5, atol=1e-5 * np.abs(logits).max())
    assert loaded.module.grid == (2, 3)
    assert (loaded.report.skipped, loaded.report.ignored, loaded.report.new) == ((), (), ())


def test_the_settings_are_those_of_the_files(tmp_path, load, classifier):
    classifier().save_pretrained(tmp_path)
    a = load(tmp_path, image_shape=SIZE).architecture
    assert (a.layout, a.image_size, a.num_classes, a.channels) == ("Hugging Face ConvNeXt", None, 5, 3)
    assert a.settings == dict(
        backbone="convnext", patch_size=8, width=8, stages=(1, 2), mlp_ratio=4.0, activation="gelu",
        norm_epsilon=1e-12, norm_place="pooled", head_scale="mean", center=False)


@pytest.mark.parametrize("convolutions", [False, True])
def test_timms_names_give_the_same_parameters(convolutions, tmp_path, load, classifier):
    classifier().save_pretrained(tmp_path)
    expected = load(tmp_path, image_shape=SIZE)
    tensors = in_timm(load_file(tmp_path / "model.safetensors"))
    if convolutions:  # in place of Linear layers, as timm's small models have them
        tensors = {name: x[:, :, None, None] if x.ndim == 2 and ".mlp." in name else x for name, x in tensors.items()}
    (tmp_path / "timm").mkdir()
    save_file({name: x.contiguous() for name, x in tensors.items()}, tmp_path / "timm" / "model.safetensors")
    (tmp_path / "timm" / "config.json").write_text(json.dumps({"architecture": "convnext_tiny", "pretrained_cfg": {
        "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.1]}}))
    other = load(tmp_path / "timm", image_shape=SIZE)
    assert (other.architecture.layout, other.architecture.std) == ("timm ConvNeXt", (0.2, 0.3, 0.1))
    assert other.architecture.settings == expected.architecture.settings | {"norm_epsilon": 1e-6}
    jax.tree.map(np.testing.assert_array_equal, other.params, expected.params)


def test_without_a_layer_scale_it_is_one_and_without_a_classifier_the_head_is_new(tmp_path, load, classifier):
    classifier(layer_scale_init_value=0.0).convnext.save_pretrained(tmp_path)
    loaded = load(tmp_path, image_shape=SIZE)
    np.testing.assert_array_equal(loaded.params["stage1_blocks"]["layer_scale"], np.ones((2, 16)))
    assert loaded.architecture.num_classes is None
    assert [new.partition(" ")[0] for new in loaded.report.new] == ["head"]


def test_the_published_sizes_are_recognized_as_their_variants():
    for name, sizes in convnext.VARIANTS.items():
        assert models.variant_of(sizes | {"backbone": "convnext", "norm_place": "pooled"}) == name


@pytest.mark.parametrize(("change", "message"), [
    (lambda t: t.pop("stages.1.blocks.1.mlp.fc2.bias"), r"lack 1 of its tensors: stages.1.blocks.1.mlp.fc2.bias"),
    (lambda t: t.update({"stages.0.blocks.0.mlp.grn.weight": torch.ones(4)}), "lacks: stages.0.blocks.0.mlp.grn"),
    (lambda t: t.update({"stages.1.blocks.0.conv_dw.weight": torch.ones(16, 1, 3, 3)}),
     r"conv_dw.weight is \[16, 1, 3, 3\] where stage1_blocks/depthwise/kernel needs \[7, 7, 16\]"),
    (lambda t: t.pop("stem.1.weight"), "lack 1 of its tensors: stem.1.weight"),
])
def test_what_is_no_plain_convnext_is_refused_with_the_tensors_that_disagree(change, message, tmp_path, classifier):
    tensors = in_timm(classifier().state_dict())
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=message) as e:
        loading.describe(str(tmp_path))
    assert "\n" not in str(e.value)
