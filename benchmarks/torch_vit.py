"""The ViT of `shapjax.models.vit` in PyTorch, with the same weights; the PyTorch libraries are timed on it.

Written as one would write it there (fused attention, inference mode); the benchmarks check that both networks give the
same logits before they time anything.
"""

import jax
import numpy as np
import torch
from torch import nn

from shapjax.models import layers, vit


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp_in, self.mlp_out = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x, attention_mask=None):
        b, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, d))
        return x + self.mlp_out(nn.functional.gelu(self.mlp_in(self.norm2(x)), approximate="tanh"))


class TorchViT(nn.Module):
    """Images [B, C, H, W] to logits [B, K]: the sum of the patch logits."""

    def __init__(self, module: vit.ViT, params: dict):
        super().__init__()
        self.patch, self.scale, self.center = module.patch_size, layers.HEAD_SCALES[module.head_scale](
            module.num_patches), module.center
        hidden = int(module.mlp_ratio * module.width)
        channels = params["embedding"]["kernel"].shape[0] // self.patch**2
        self.embedding = nn.Linear(channels * self.patch**2, module.width)
        self.positions = nn.Parameter(torch.zeros(module.num_patches, module.width))
        self.blocks = nn.ModuleList([Block(module.width, module.heads, hidden) for _ in range(module.depth)])
        self.norm, self.head = nn.LayerNorm(module.width, eps=1e-6), nn.Linear(module.width, module.num_classes)
        self._copy(jax.tree.map(np.asarray, params))
        self.requires_grad_(False).eval()

    def forward(self, images):
        return self.patch_logits(images).sum(1)

    def patch_logits(self, images, visible=None):
        """Returns patch logits [B, N, K]; visible: bool [B, N], the patches that may be attended to, or None: all."""
        b, c, h, w = images.shape
        p = self.patch
        x = images.reshape(b, c, h // p, p, w // p, p).permute(0, 2, 4, 3, 5, 1).reshape(b, -1, p * p * c)
        x = self.embedding(x) + self.positions
        for block in self.blocks:
            x = block(x, None if visible is None else visible[:, None, None])
        patch_logits = self.head(self.norm(x)) * self.scale
        return patch_logits - patch_logits.mean(-1, keepdim=True) if self.center else patch_logits

    def _copy(self, params: dict) -> None:
        def dense(layer: nn.Linear, values: dict) -> None:
            layer.weight.data = torch.tensor(values["kernel"].T)
            layer.bias.data = torch.tensor(values["bias"])

        def norm(layer: nn.LayerNorm, values: dict) -> None:
            layer.weight.data, layer.bias.data = torch.tensor(values["scale"]), torch.tensor(values["bias"])

        dense(self.embedding, params["embedding"])
        self.positions.data = torch.tensor(params["positions"])
        for i, block in enumerate(self.blocks):
            values = jax.tree.map(lambda x, i=i: x[i], params["blocks"])
            norm(block.norm1, values["norm1"])
            norm(block.norm2, values["norm2"])
            dense(block.qkv, values["attention"]["qkv"])
            dense(block.out, values["attention"]["out"])
            dense(block.mlp_in, values["mlp_in"])
            dense(block.mlp_out, values["mlp_out"])
        norm(self.norm, params["norm"])
        dense(self.head, params["head"])
