"""Residual networks of Hugging Face and timm compute the same here, features and logits, with batch norms folded in."""

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
from shapjax.pretrained import loading

BASIC = dict(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="basic")
BOTTLENECK = dict(embedding_size=8, hidden_sizes=[32, 64, 128], depths=[2, 1, 1], layer_type="bottleneck")
KINDS = {"basic": BASIC, "bottleneck": BOTTLENECK, "v1": BOTTLENECK | {"downsample_in_bottleneck": True},
         "gray": BASIC | {"num_channels": 1}}


@pytest.fixture(scope="module")
def classifier(randomized):
    """Returns classifier(**config), which makes a ResNet of transformers with random parameters and statistics."""

    def make(**config):
        model = randomized(transformers.ResNetForImageClassification(transformers.ResNetConfig(**config, num_labels=5)))
        generator = torch.Generator().manual_seed(1)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator))
            if name.endswith("running_var"):
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
        return model

    return make


def size_of(config):
    """Returns the shape of an image of 2 x 3 cells."""
    stride = 4 * 2 ** (len(config["depths"]) - 1)
    return 2 * stride, 3 * stride, config.get("num_channels", 3)


def expected_of(model, images):
    """Returns the last feature map [B, gh, gw, D] and the logits [B, K], by transformers."""
    with torch.no_grad():
        images = torch.from_numpy(images.transpose(0, 3, 1, 2))
        return model.resnet(images).last_hidden_state.permute(0, 2, 3, 1).numpy(), model(images).logits.numpy()


def in_timm(tensors):
    """Returns the tensors of a ResNetForImageClassification under timm's names."""
    def renamed(name):
        name = name.replace("classifier.1.", "fc.").removeprefix("resnet.")
        name = name.replace("embedder.embedder.convolution", "conv1").replace("embedder.embedder.normalization", "bn1")
        name = re.sub(r"encoder\.stages\.(\d+)\.layers\.", lambda m: f"layer{int(m[1]) + 1}.", name)
        name = name.replace("shortcut.convolution", "downsample.0").replace("shortcut.normalization", "downsample.1")
        name = re.sub(r"layer\.(\d)\.convolution", lambda m: f"conv{int(m[1]) + 1}", name)
        return re.sub(r"layer\.(\d)\.normalization", lambda m: f"bn{int(m[1]) + 1}", name)

    return {renamed(name): x for name, x in tensors.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_features_and_logits_are_those_of_transformers(kind, tmp_path, load, classifier, pixels):
    model, size = classifier(**KINDS[kind]), size_of(KINDS[kind])
    model.save_pretrained(tmp_path)
    loaded, images = load(tmp_path, image_shape=size), pixels(*size)
    assert loaded.architecture.layout == "Hugging Face ResNet" and loaded.architecture.num_classes == 5
    assert loaded.module.stride_in_1x1 == (kind == "v1") and loaded.module.grid == (2, 3)
    (features, logits), (their_features, their_logits) = loaded.features_and_logits(images), expected_of(model, images)
    np.testing.assert_allclose(features, their_features, rtol=1e-5, atol=1e-5 * np.abs(their_features).max())
    np.testing.assert_allclose(logits, their_logits, rtol=1e-5, atol=1e-5 * np.abs(their_logits).max())
    assert loaded.report.skipped == () and loaded.report.new == ()
    assert all(name.endswith("num_batches_tracked") for name in loaded.report.ignored)


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_timms_names_give_the_same_parameters(kind, tmp_path, load, classifier):
    classifier(**KINDS[kind]).save_pretrained(tmp_path)
    expected = load(tmp_path, image_shape=size_of(KINDS[kind]))
    (tmp_path / "timm").mkdir()
    save_file(in_timm(load_file(tmp_path / "model.safetensors")), tmp_path / "timm" / "model.safetensors")
    (tmp_path / "timm" / "config.json").write_text(json.dumps(
        {"architecture": "resnet50", "pretrained_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.1]}}))
    other = load(tmp_path / "timm", image_shape=size_of(KINDS[kind]))
    assert (other.architecture.layout, other.architecture.mean) == ("timm ResNet", (0.4, 0.5, 0.6))
    assert other.architecture.settings == expected.architecture.settings
    jax.tree.map(np.testing.assert_array_equal, other.params, expected.params)


def test_a_model_without_a_classifier_gets_a_new_head(tmp_path, load, classifier):
    classifier(**BASIC).resnet.save_pretrained(tmp_path)
    loaded = load(tmp_path, image_shape=size_of(BASIC))
    assert loaded.architecture.num_classes is None and "head_scale" not in loaded.architecture.settings
    assert [new.partition(" ")[0] for new in loaded.report.new] == ["head"]


def test_the_published_sizes_are_recognized_as_their_variants(tmp_path):
    with torch.device("meta"):  # shapes alone
        model = transformers.ResNetForImageClassification(transformers.ResNetConfig())
    save_file({name: torch.zeros(x.shape, dtype=torch.float16) for name, x in model.state_dict().items()},
              tmp_path / "model.safetensors")
    assert models.variant_of(loading.describe(str(tmp_path)).settings) == "ResNet-50"


@pytest.mark.parametrize(("change", "message"), [
    (lambda t: t.pop("layer2.0.bn1.running_var"), "lack 1 of its tensors: layer2.0.bn1.running_var"),
    (lambda t: t.update({"conv1.weight": torch.ones(8, 3, 3, 3)}),
     r"conv1.weight is \[8, 3, 3, 3\] where stem/kernel needs \[7, 7, 3, 8\]"),
    (lambda t: t.pop("conv1.weight"), "lack .* of its tensors: conv1.weight"),
    (lambda t: t.update({"layer1.0.se.fc1.weight": torch.ones(2)}), "this model lacks: layer1.0.se.fc1.weight"),
    (lambda t: t.update({"layer2.0.conv2.weight": torch.ones(16, 1, 3, 3)}),
     r"is \[16, 1, 3, 3\] where .*conv2/kernel needs \[3, 3, 16, 16\]"),
    (lambda t: t.update({"fc.weight": torch.ones(5, 7)}), r"fc.weight is \[5, 7\] where head/kernel needs \[16, 5\]"),
])
def test_what_is_no_plain_resnet_is_refused_with_the_tensors_that_disagree(change, message, tmp_path, classifier):
    tensors = in_timm(classifier(**BASIC).state_dict())
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=message) as e:
        loading.describe(str(tmp_path))
    assert "\n" not in str(e.value)


def test_a_stride_in_the_first_stage_is_refused(tmp_path, classifier):
    classifier(**BASIC, downsample_in_first_stage=True).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="downsample_in_first_stage"):
        loading.describe(str(tmp_path))
