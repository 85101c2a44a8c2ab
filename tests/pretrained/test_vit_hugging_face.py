"""Models that transformers saves compute the same here: features and logits, whatever the model and the file's form."""

import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file

TINY = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=12,
            patch_size=4)
OTHER = dict(hidden_size=48, num_hidden_layers=3, num_attention_heads=2, intermediate_size=96, image_size=(16, 24),
             patch_size=8, num_channels=2)
CLASSES = dict(num_labels=5)


def models_of(kind):
    """Makes a tiny model of a kind."""
    t = transformers
    if kind == "vit":
        return t.ViTForImageClassification(t.ViTConfig(**TINY, **CLASSES))
    if kind == "vit of another size":
        return t.ViTForImageClassification(t.ViTConfig(**OTHER, **CLASSES, qkv_bias=False, hidden_act="gelu_new"))
    if kind == "vit without a head":
        return t.ViTModel(t.ViTConfig(**TINY))
    if kind == "deit":
        return t.DeiTForImageClassification(t.DeiTConfig(**TINY, **CLASSES))
    if kind == "deit with its teacher":
        return t.DeiTForImageClassificationWithTeacher(t.DeiTConfig(**OTHER, **CLASSES))
    if kind == "dinov2":
        return t.Dinov2ForImageClassification(t.Dinov2Config(**TINY, **CLASSES, mlp_ratio=2))
    if kind == "dinov2 with registers":
        return t.Dinov2WithRegistersModel(t.Dinov2WithRegistersConfig(**TINY, mlp_ratio=2, num_register_tokens=3))
    if kind == "siglip":
        return t.SiglipVisionModel(t.SiglipVisionConfig(**TINY))
    if kind == "siglip with text":
        text = {key: TINY[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads",
                                           "intermediate_size")}
        return t.SiglipModel(t.SiglipConfig(vision_config=TINY, text_config=text | {"vocab_size": 8}))
    return t.SiglipForImageClassification(t.SiglipConfig(vision_config=TINY, **CLASSES))


KINDS = ("vit", "vit of another size", "vit without a head", "deit", "deit with its teacher", "dinov2",
         "dinov2 with registers", "siglip", "siglip with text", "siglip classifier")


def hidden_states(model, images):
    """Returns the last hidden states of the patches [B, N, D], by transformers."""
    tower = next((getattr(model, name) for name in ("vit", "deit", "dinov2", "vision_model") if hasattr(model, name)),
                 model)
    config = getattr(model.config, "vision_config", model.config)
    own = tuple(np.broadcast_to(config.image_size, 2)) == images.shape[1:3]
    interpolate = {} if own or "dinov2" in config.model_type else {"interpolate_pos_encoding": True}
    with torch.no_grad():
        states = tower(torch.from_numpy(images.transpose(0, 3, 1, 2)), **interpolate).last_hidden_state
    return states[:, -(images.shape[1] // config.patch_size) * (images.shape[2] // config.patch_size):]


@pytest.mark.parametrize("kind", KINDS)
def test_what_save_pretrained_writes_gives_the_same_features_and_logits(kind, tmp_path, load, randomized, pixels):
    model = randomized(models_of(kind))
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    images = pixels(*loaded.architecture.image_size, loaded.architecture.channels)
    theirs = hidden_states(model, images)
    features, logits = loaded.features_and_logits(images)
    np.testing.assert_allclose(features, theirs, atol=1e-5)
    assert loaded.report.skipped == () or kind == "siglip with text"
    head = getattr(model, "classifier", getattr(model, "cls_classifier", None))
    if head is None:
        assert loaded.architecture.num_classes is None and any("head" in new for new in loaded.report.new)
        return
    # What the head, as it is documented to be converted, makes of the patches.
    mean = theirs.mean(dim=1)
    with torch.no_grad():
        expected = head(torch.cat([mean, mean], dim=1) if kind == "dinov2" else mean)
        if kind == "siglip classifier":  # whose head reads the mean itself
            torch.testing.assert_close(expected, model(torch.from_numpy(images.transpose(0, 3, 1, 2))).logits)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert ("CLS" in str(loaded.report)) == (kind != "siglip classifier")


@pytest.mark.parametrize("size", [(8, 8), (20, 20), (8, 20)])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if "another size" not in kind and "teacher" not in kind])
def test_features_of_images_of_other_sizes_are_those_of_transformers(kind, size, tmp_path, load, randomized, pixels):
    model = randomized(models_of(kind))
    model.save_pretrained(tmp_path)
    images = pixels(*size)
    features, _ = load(tmp_path, image_shape=(*size, 3)).features_and_logits(images)
    np.testing.assert_allclose(features, hidden_states(model, images), atol=2e-5)


@pytest.mark.parametrize("kind", ["vit", "deit", "dinov2 with registers", "siglip"])
def test_the_names_inside_transformers_and_shards_give_the_same_parameters(kind, tmp_path, load, randomized):
    model = randomized(models_of(kind))
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    (tmp_path / "inner").mkdir()
    save_file(model.state_dict(), tmp_path / "inner" / "any_name.safetensors")
    (tmp_path / "inner" / "config.json").write_text((tmp_path / "whole" / "config.json").read_text())
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    expected = load(tmp_path / "whole")
    for other in ("shards", "inner", "inner/any_name.safetensors", "whole/model.safetensors"):
        other = load(tmp_path / other)
        assert other.architecture == expected.architecture
        for path, x in expected.params["blocks"]["attention"]["qkv"].items():
            np.testing.assert_array_equal(x, other.params["blocks"]["attention"]["qkv"][path])
        np.testing.assert_array_equal(expected.params["positions"], other.params["positions"])


def test_half_precision_is_read_as_the_numbers_that_it_stands_for(tmp_path, load, randomized, pixels):
    model = randomized(models_of("vit")).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    images = pixels(12, 12)
    loaded, theirs = load(tmp_path), hidden_states(model.float(), images)
    assert loaded.params["blocks"]["mlp_in"]["kernel"].dtype == np.float32
    np.testing.assert_allclose(loaded.features_and_logits(images)[0], theirs, atol=1e-5)


def test_the_settings_and_the_normalization_are_those_of_the_files(tmp_path, load):
    model = transformers.Dinov2WithRegistersForImageClassification(transformers.Dinov2WithRegistersConfig(
        **TINY, **CLASSES, mlp_ratio=2, layer_norm_eps=1e-5, hidden_act="gelu_new"))
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.4, 0.5, 0.6],
                                                                   "image_std": [0.2, 0.3, 0.1]}))
    a = load(tmp_path).architecture
    assert a.settings == dict(
        backbone="vit", patch_size=4, width=32, depth=2, heads=4, mlp_ratio=2.0, class_token=True, registers=4,
        activation="gelu_tanh", norm_epsilon=1e-5, input_norm=False, norm_place="token", layer_scale=True,
        head_scale="mean", center=False)
    assert (a.layout, a.image_size, a.num_classes) == ("Hugging Face DINOv2 with registers", (12, 12), 5)
    assert a.mean == (0.4, 0.5, 0.6) and a.std == (0.2, 0.3, 0.1)
