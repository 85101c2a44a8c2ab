"""The base of convolutional backbones, and the game that they play.

A convolution cannot drop pixels. So a hidden patch is 0 at the input, which after normalization is the mean color, and
0 in every feature map, exactly as what lies beyond the border of the image (Balasubramanian and Feizi 2023,
arXiv 2211.14646, fill maps from visible neighbors instead). Its cell of the last feature map adds no logits,

    v(S) = Σ_{n∈S} patch_logits(x_S)_n,    v(∅) = 0,    v(all) = f(x),

so efficiency is exact, as it is for tokens that are dropped: v(∅) is a sum over nothing, not the logits of a blank
image. A coalition and its complement are two images, so a pair costs two passes, run as one batch.
"""

import chex
import jax.numpy as jnp
from flax import struct

from shapjax.games.removal import hidden_pixels
from shapjax.models.backbone import Backbone


class LayerMask(struct.PyTreeNode):
    """Sets hidden patches to 0 in a map [B, h, w, D] of any size.

    Attributes:
      mask: bool [B, N], True = visible; None: nothing is hidden.
      grid: (gh, gw), gh·gw = N.
    """

    mask: chex.Array | None
    grid: tuple[int, int] = struct.field(pytree_node=False)

    def __call__(self, x: chex.Array) -> chex.Array:
        if self.mask is None:
            return x
        return jnp.where(hidden_pixels(self.mask, self.grid, x.shape[1:3]), 0, x)


class MaskedConvBackbone(Backbone):
    """A backbone whose last feature map has one cell a patch: `patch_size` is its stride.

    A subclass defines `feature_map` instead of `features` and `segment_patch_logits`.
    """

    pair_passes = 2

    def feature_map(self, images: chex.Array, layer_mask: LayerMask) -> chex.Array:
        """Returns the last feature map, [B, gh, gw, D] in `dtype`, of images [B, H, W, C], hidden pixels being 0.

        Every map that a convolution of more than one cell sees is passed through layer_mask before.
        """
        raise NotImplementedError

    def features(self, images: chex.Array, mask: chex.Array | None = None) -> chex.Array:
        """Returns the cells of the last feature map [B, N, D]; only the patches of mask, bool [B, N], are visible."""
        self.require_size(images)
        layer_mask = LayerMask(mask, self.grid)
        features = self.feature_map(layer_mask(images.astype(self.dtype)), layer_mask)
        return features.reshape(-1, self.num_patches, features.shape[-1])

    def visible_patch_logits(self, images: chex.Array, mask: chex.Array) -> chex.Array:
        """Returns patch logits float32 [B, N, K] with only the patches of mask, bool [B, N], visible.

        The logits of hidden patches mean nothing.
        """
        return self.read(self.features(images, mask), mask)

    def segment_patch_logits(self, images: chex.Array, segment_ids: chex.Array) -> chex.Array:
        both = self.visible_patch_logits(jnp.concatenate([images, images]),
                                         jnp.concatenate([segment_ids, ~segment_ids]))
        return jnp.where(segment_ids[..., None], *jnp.split(both, 2))
