"""Models under timm's names compute the same here. timm's forward pass is written out below, after its code."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from shapjax.errors import UserError

WIDTH, HEADS, PATCH, CLASSES = 24, 3, 4, 5


class Block(nn.Module):
    """Pre-norm block with one product for queries, keys and values."""

    def __init__(self, *, qkv_bias, layer_scale):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(WIDTH, eps=1e-6) for _ in range(2))
        self.attn, self.mlp = nn.Module(), nn.Module()
        self.attn.qkv, self.attn.proj = nn.Linear(WIDTH, 3 * WIDTH, bias=qkv_bias), nn.Linear(WIDTH, WIDTH)
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(WIDTH, 40), nn.Linear(40, WIDTH)
        if layer_scale:
            self.ls1, self.ls2 = nn.Module(), nn.Module()
            self.ls1.gamma, self.ls2.gamma = (nn.Parameter(torch.ones(WIDTH)) for _ in range(2))

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.attn.qkv(self.norm1(x)).reshape(b, t, 3, HEADS, d // HEADS).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, d)
        x = x + self.attn.proj(y) * (self.ls1.gamma if hasattr(self, "ls1") else 1)
        y = self.mlp.fc2(nn.functional.gelu(self.mlp.fc1(self.norm2(x))))
        return x + y * (self.ls2.gamma if hasattr(self, "ls2") else 1)


class TimmViT(nn.Module):
    """timm's VisionTransformer, without the parts that are not tested.

    pool: "token" or "avg", of the patches; fc_norm: the last norm after pooling; embed_prefix: positions are also of
    the tokens before the patches.
    """

    def __init__(self, *, pool="token", fc_norm=False, cls=True, dist=False, registers=0, embed_prefix=True,
                 pre_norm=False, qkv_bias=True, layer_scale=False, grid=(3, 3)):
        super().__init__()
        self.pool, self.embed_prefix = pool, embed_prefix
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=not pre_norm)
        for name, count in (("cls_token", cls), ("dist_token", dist), ("reg_token", registers)):
            if count:
                setattr(self, name, nn.Parameter(torch.zeros(1, int(count), WIDTH)))
        self.prefix = int(cls) + int(dist) + registers
        self.pos_embed = nn.Parameter(torch.zeros(1, grid[0] * grid[1] + embed_prefix * self.prefix, WIDTH))
        if pre_norm:
            self.norm_pre = nn.LayerNorm(WIDTH, eps=1e-6)
        self.blocks = nn.ModuleList(Block(qkv_bias=qkv_bias, layer_scale=layer_scale) for _ in range(2))
        setattr(self, "fc_norm" if fc_norm else "norm", nn.LayerNorm(WIDTH, eps=1e-6))
        self.head = nn.Linear(WIDTH, CLASSES)
        if dist:
            self.head_dist = nn.Linear(WIDTH, CLASSES)

    def forward(self, images):
        x = self.patch_embed.proj(images).flatten(2).transpose(1, 2)
        tokens = [getattr(self, name).expand(len(x), -1, -1) for name in ("cls_token", "dist_token", "reg_token")
                  if hasattr(self, name)]
        x = torch.cat([*tokens, x], 1) + self.pos_embed if self.embed_prefix else torch.cat(
            [*tokens, x + self.pos_embed], 1)
        x = self.norm_pre(x) if hasattr(self, "norm_pre") else x
        for block in self.blocks:
            x = block(x)
        return x[:, self.prefix:]

    def classify(self, patches):
        """Returns the logits that our head should give; for pool "avg" they are timm's."""
        if hasattr(self, "fc_norm"):
            return self.head(self.fc_norm(patches.mean(1)) if self.pool == "avg" else self.fc_norm(patches).mean(1))
        return self.head(self.norm(patches).mean(1))


MODELS = {
    "CLS": dict(),
    "CLS, distilled": dict(dist=True),
    "CLS, registers, positions of patches only": dict(registers=4, embed_prefix=False, layer_scale=True),
    "CLS with a pre-norm, no bias": dict(pre_norm=True, qkv_bias=False),
    "mean-pooled": dict(pool="avg", cls=False, qkv_bias=False, layer_scale=True),
    "mean-pooled, fc_norm": dict(pool="avg", fc_norm=True),
    "mean-pooled, fc_norm, registers": dict(pool="avg", fc_norm=True, cls=False, registers=2, layer_scale=True),
    "mean-pooled, grid not square": dict(pool="avg", cls=False, registers=1, grid=(2, 4)),
}


def save(path, model, **config):
    """Writes the model's tensors and timm's config.json."""
    path.mkdir()
    save_file(model.state_dict(), path / "model.safetensors")
    config = {"architecture": "vit_of_a_test", "num_classes": CLASSES, "model_args": {"num_heads": HEADS}} | config
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("name", MODELS)
def test_a_model_under_timms_names_gives_the_same_logits(name, tmp_path, load, randomized, pixels):
    model, grid = randomized(TimmViT(**MODELS[name])), MODELS[name].get("grid", (3, 3))
    size = [3, grid[0] * PATCH, grid[1] * PATCH]
    loaded = load(save(tmp_path / "model", model, global_pool=model.pool, pretrained_cfg={
        "input_size": size, "mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3]}))
    images = pixels(*size[1:])
    with torch.no_grad():
        patches = model(torch.from_numpy(images.transpose(0, 3, 1, 2)))
        expected = model.classify(patches)
        normed = (model.fc_norm if hasattr(model, "fc_norm") else model.norm)(patches)
    features, logits = loaded.features_and_logits(images)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    if loaded.module.norm_place == "token":
        np.testing.assert_allclose(features, normed, atol=1e-5)
    assert loaded.report.skipped == () and (loaded.architecture.mean, loaded.architecture.std) == (
        (0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    assert ("CLS" in str(loaded.report)) == (model.pool == "token")


def test_without_a_config_tensors_tell_what_they_can(tmp_path, load, randomized):
    model = randomized(TimmViT(pool="avg", fc_norm=True, cls=False))
    path = save(tmp_path / "model", model)
    path = (path / "model.safetensors").rename(tmp_path / "alone.safetensors")
    with pytest.raises(UserError, match="do not tell how many attention heads"):
        load(path)


@pytest.mark.parametrize(("architecture", "settings"), [
    ("vit_base_patch16_gap_224", {"heads": 16}),
    ("vit_base_patch16_clip_quickgelu_224", {"activation": "quick_gelu", "norm_epsilon": 1e-5, "heads": 1}),
    ("vit_so400m_patch16_siglip_gap_256", {"activation": "gelu_tanh"}),
])
def test_what_no_tensor_tells_comes_from_the_name(architecture, settings, tmp_path, load, monkeypatch):
    monkeypatch.setattr(f"{__name__}.WIDTH", 64)
    model = TimmViT(pool="avg", cls=False)
    loaded = load(save(tmp_path / "model", model, architecture=architecture, model_args={}))
    assert {key: loaded.architecture.settings[key] for key in settings} == settings


def test_what_this_vit_does_not_have_is_refused(tmp_path, load):
    model = TimmViT()
    model.blocks[0].attn.q_norm = nn.LayerNorm(8)
    with pytest.raises(UserError, match="their blocks have tensors that this model lacks: blocks.0.attn.q_norm.bias"):
        load(save(tmp_path / "norms", model))
    with pytest.raises(UserError, match="norms follow the attention"):
        load(save(tmp_path / "order", TimmViT(), architecture="vit_base_patch16_rpn_224"))
    model = TimmViT()
    model.fc_norm = nn.LayerNorm(WIDTH)
    with pytest.raises(UserError, match="both norm and fc_norm"):
        load(save(tmp_path / "both", model))


def test_a_head_that_pools_by_attention_is_left_out_and_the_report_says_so(tmp_path, load):
    model = TimmViT(cls=False)
    model.attn_pool = nn.Linear(WIDTH, WIDTH)
    loaded = load(save(tmp_path / "model", model, global_pool="map"))
    assert loaded.architecture.num_classes is None and loaded.report.skipped == ()
    assert "the head follows pooling by map and is left out" in str(loaded.report)
    assert {"attn_pool.weight", "head.weight"} <= set(loaded.report.ignored)
