"""The base of all backbones: the grid of patches, the head, and the explainer head if there is one."""

from collections.abc import Callable

import chex
import flax.linen as nn
import jax.numpy as jnp

from shapjax.models.explainer_head import ExplainerHead
from shapjax.models.layers import PatchHead


class Backbone(nn.Module):
    """Images to a value for every patch and class; patches are the players of the game.

    The head gives each patch its *patch logits*; their sum over the patches is the prediction. Without an explainer
    head phi is the patch logits. With one, phi adds to them what `ExplainerHead` returns, which changes no sum.

    A subclass defines `features`, `segment_patch_logits`, and `setup`, which calls `setup_heads` and sets `norm` to a
    `layers.final_norm`. It extends `check`.

    Attributes:
      num_classes: K.
      image_size: (height, width) in pixels.
      patch_size: side of a square patch in pixels; divides both sides of the image.
      explainer_depth: transformer blocks of the explainer head; 0: there is none.
      head_scale, center: of the heads, see `layers.PatchHead`.
      dtype: of the computation. Parameters are float32; the last norm and the heads compute in float32.
      dot_general: of the products of tokens with kernels, as of `nn.Dense`; None: `lax.dot_general`.
      remat: key of `blocks.REMAT_POLICIES`: the part of a block that is computed again for the gradient.
    """

    num_classes: int
    image_size: tuple[int, int]
    patch_size: int
    explainer_depth: int = 0
    head_scale: str = "sqrt"
    center: bool = True
    dtype: jnp.dtype = jnp.float32
    dot_general: Callable | None = None
    remat: str = "full"

    pair_passes = 1  # forward passes that a coalition and its complement cost

    @property
    def grid(self) -> tuple[int, int]:
        """Returns the numbers of patches down and across."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def num_patches(self) -> int:
        """Returns N, the number of players."""
        return self.grid[0] * self.grid[1]

    @property
    def has_explainer(self) -> bool:
        """Returns True if phi differs from the patch logits."""
        return self.explainer_depth > 0

    @property
    def without_explainer(self) -> nn.Module:
        """Returns this module without its explainer head: less work, the same totals."""
        return self.clone(explainer_depth=0)

    def check(self) -> None:
        """Raises ValueError, "key=value …", if there can be no module of these sizes."""
        (height, width), p = self.image_size, self.patch_size
        if height % p or width % p:
            fitting = [side for side in range(2, min(height, width)) if height % side == 0 == width % side]
            advice = f"use one of {', '.join(map(str, fitting))}" if fitting else "resize the images (data.image_size)"
            raise ValueError(f"patch_size={p} does not divide the image size {height}x{width}; {advice}")
        if self.num_patches < 2:
            raise ValueError(f"patch_size={p} makes the whole image one patch; use a smaller one")

    def features(self, images: chex.Array) -> chex.Array:
        """Returns the last features of the patches, [B, N, D] in `dtype`, of images float [B, H, W, C]."""
        raise NotImplementedError

    def segment_patch_logits(self, images: chex.Array, segment_ids: chex.Array) -> chex.Array:
        """Returns patch logits float32 [B, N, K], each in the game where only its own segment is visible."""
        raise NotImplementedError

    def setup_heads(self) -> None:
        """Makes the head and the explainer head; raises as `check`."""
        self.check()
        self.head = PatchHead(self.num_classes, scale=self.head_scale, center=self.center)
        self.explainer = None
        if self.has_explainer:
            self.explainer = ExplainerHead(self.num_classes, self.explainer_depth, scale=self.head_scale,
                                           center=self.center, dtype=self.dtype, dot_general=self.dot_general,
                                           remat=self.remat)

    def require_size(self, images: chex.Array) -> None:
        """Raises ValueError unless images are [B, H, W, C] of the model's size."""
        if images.ndim != 4 or images.shape[1:3] != tuple(self.image_size):
            raise ValueError(f"the model takes images [B, {self.image_size[0]}, {self.image_size[1]}, C], got "
                             f"{list(images.shape)}")

    def read(self, features: chex.Array, segment_ids: chex.Array | None = None) -> chex.Array:
        """Returns the patch logits float32 [B, T, K] of features [B, T, D], of all patches or of some.

        Args:
          features: as of `features`.
          segment_ids: bool [B, T] or None; a pooled norm (`layers.PooledNorm`) pools each segment apart.
        """
        return self.head(self.norm(features, segment_ids), self.num_patches)

    def patch_logits_and_features(self, images: chex.Array, delta: chex.Array | None = None
                                  ) -> tuple[chex.Array, chex.Array]:
        """Returns patch logits of whole images, and the features that the head reads them from.

        Args:
          images: as in `__call__`.
          delta: float32 [B, gh, gw, D] or None, added to the features, whose gradient is then that of delta.

        Returns:
          float32 [B, N, K] and float32 [B, gh, gw, D].
        """
        features_BND = self.features(images)
        b, n, d = features_BND.shape
        features = features_BND.astype(jnp.float32).reshape(b, *self.grid, d)
        features = features if delta is None else features + delta
        return self.read(features.reshape(b, n, d).astype(self.dtype)), features

    def __call__(self, images: chex.Array, segment_ids: chex.Array | None = None) -> chex.Array:
        """Computes phi, or the patch logits of a coalition pair.

        Args:
          images: float [B, H, W, C], normalized.
          segment_ids: bool [B, N] or None: the segment of a coalition pair that each patch is in.

        Returns:
          float32 [B, N, K]. Without segment_ids: phi, the Shapley estimate; its sum over N is the prediction. With
          segment_ids: patch logits, each in the game where only its own segment is visible; no explainer head.

        Raises:
          ValueError: if the images are not of the model's size.
        """
        if segment_ids is not None:
            return self.segment_patch_logits(images, segment_ids)
        features_BND = self.features(images)
        patch_logits_BNK = self.read(features_BND)
        return patch_logits_BNK + self.explainer(features_BND) if self.has_explainer else patch_logits_BNK
