"""The joint training step in PyTorch, as one would write it there: one whole pass, two masked passes, AdamW.

`python -m benchmarks` times it beside `shapjax.training.step`. The network is `benchmarks.torch_vit.TorchViT` with the
same weights; given the same coalitions, loss and gradients are those of `shapjax.training.loss` (a test compares them).
Masked images are passes in which hidden patches are no keys of the attention, which is how PyTorch's users hide tokens.
"""

import numpy as np
import torch
from torch import nn

from benchmarks.torch_vit import TorchViT
from shapjax.games.shapley import kernel_size_probabilities
from shapjax.training.loss import MIN_VARIANCE


def sample_coalitions(batch_size: int, num_players: int) -> torch.Tensor:
    """Draws a coalition an image from the Shapley kernel, bool [B, N]."""
    probabilities = torch.tensor(kernel_size_probabilities(num_players))
    size_B = 1 + torch.multinomial(probabilities, batch_size, replacement=True)
    rank_BN = torch.rand(batch_size, num_players).argsort(-1)
    return rank_BN < size_B[:, None]


def joint_loss(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, mask_BN: torch.Tensor, *, weight: float,
               masked_weight: float) -> torch.Tensor:
    """Computes the joint loss with one coalition pair an image; its Shapley task moves no totals and no v(S) + v(S^c).

    Args:
      model: (images, visible patches bool [B, N] or None) -> patch logits [B, N, K].
      images: float32 [B, C, H, W], normalized.
      labels: int64 [B].
      mask_BN: bool [B, N], the coalition; True = visible.
      weight, masked_weight: of the Shapley task and of the classification of coalitions.
    """
    phi_BNK = model(images, None).float()
    values = []
    for side_BN in (mask_BN, ~mask_BN):
        patch_logits_BNK = model(images, side_BN).float()
        values.append(torch.where(side_BN[..., None], patch_logits_BNK, 0).sum(1))
    value_B2K = torch.stack(values, dim=1)
    loss = nn.functional.cross_entropy(phi_BNK.sum(1), labels)
    loss_masked = nn.functional.cross_entropy(value_B2K.flatten(0, 1), labels.repeat_interleave(2))

    mean_B1K, middle_B1K = phi_BNK.mean(1, keepdim=True), value_B2K.mean(1, keepdim=True)
    phi_BNK = phi_BNK - mean_B1K + mean_B1K.detach()
    moved_B2K = value_B2K - middle_B1K + middle_B1K.detach()
    side_B2N = torch.stack([mask_BN, ~mask_BN], dim=1).float()
    variance = value_B2K.detach().flatten(0, 1).var(dim=0, unbiased=False).mean().clamp_min(MIN_VARIANCE)
    loss_shapley = (moved_B2K - side_B2N @ phi_BNK).square().mean() / variance
    return loss + masked_weight * loss_masked + weight * loss_shapley


class JointStep:
    """Takes training steps of a ViT on batches that stay the same.

    Args:
      module, params: of `shapjax.models.vit`; the weights are copied.
      images: float32 [B, H, W, C], normalized.
      labels: int [B].
      coalitions: False classifies whole images only.
      dtype: "float32", or "bfloat16": `torch.autocast`.
      compiled: by `torch.compile`, else eager.
    """

    def __init__(self, module, params, images: np.ndarray, labels: np.ndarray, *, coalitions: bool, dtype: str,
                 compiled: bool):
        self.model = TorchViT(module, params).requires_grad_(True).train()
        self.coalitions, self.dtype, self.num_players = coalitions, dtype, module.num_patches
        self.images = torch.tensor(np.moveaxis(images, -1, 1).copy())
        self.labels = torch.tensor(labels, dtype=torch.int64)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, betas=(0.9, 0.99), fused=True)
        self._patch_logits = torch.compile(self.model.patch_logits) if compiled else self.model.patch_logits

    def __call__(self) -> float:
        """Takes a step; returns the loss before it."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == "bfloat16"):
            if self.coalitions:
                mask_BN = sample_coalitions(len(self.images), self.num_players)
                loss = joint_loss(self._patch_logits, self.images, self.labels, mask_BN, weight=16.0, masked_weight=1.0)
            else:
                loss = nn.functional.cross_entropy(self._patch_logits(self.images, None).sum(1), self.labels)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()
