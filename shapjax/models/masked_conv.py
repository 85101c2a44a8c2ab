"""What convolutional backbones share: a game of painted patches, whose votes are read off the last feature map.

The game of an image: a hidden patch is painted over at the input, and its cell of the last feature map casts no vote,

    v(S) = Σ_{n∈S} phi(paint(x, S))_n,    v(∅) = 0,    v(all) = f(x),

so that efficiency is exact, as it is for tokens that are dropped: v(∅) is a sum over nothing, not the logits of a blank
image. A visible cell still sees the paint around it, and a map's cell sees more than its own patch; with layer masking
what is hidden is, like what lies beyond the border, 0 in every layer. A coalition and its complement are two
images, so a pair costs two passes; they are run as one batch.

The votes of a whole image may be moved between its patches before they are phi, see `shapjax.models.allocation`.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import chex
import flax.linen as nn
import jax.numpy as jnp
from flax import struct

from shapjax import effects
from shapjax.errors import UserError
from shapjax.games.removal import Blur, Constant, Removal, hidden_pixels
from shapjax.models.explainer_head import AllocationHead
from shapjax.models.layers import HEAD_INITS, PatchGrid, PatchHead


class LayerMask(struct.PyTreeNode):
    """Sets to 0 what is hidden, in a map [B, h, w, D] of any size.

    Attributes:
      visible: bool [B, N]; None: nothing is hidden.
      grid: (gh, gw), gh·gw = N.
    """

    visible: chex.Array | None
    grid: tuple[int, int] = struct.field(pytree_node=False)

    def __call__(self, x: chex.Array) -> chex.Array:
        if self.visible is None:
            return x
        return jnp.where(hidden_pixels(self.visible, self.grid, x.shape[1:3]), 0, x)


def _black(mean: Sequence[float], std: Sequence[float]) -> Constant:
    return Constant(tuple(-m / s for m, s in zip(mean, std, strict=True)))


# What hidden patches look like, (mean, std) -> Removal of images that were normalized with them: the mean color, which
# then is 0; black; or what is left of the image when it is blurred, so that hidden pixels matter a little.
PAINTINGS = {"mean": lambda mean, std: Constant(0.0), "zero": _black, "blur": lambda mean, std: Blur()}


class PaintedBackbone(PatchGrid, nn.Module):
    """Images to per-patch, per-class votes, by a feature map of one cell a patch.

    A backbone is a subclass that defines `setup`, with `head` and `allocation` in it, from `patch_head` and
    `allocation_head`, `feature_maps`, `fault` and `variants`.

    Attributes:
      num_classes: K.
      image_size: (height, width) in pixels.
      patch_size: side of a patch and stride of the last feature map; divides both segment_ids of the image.
      removal: what hidden patches look like, in the units of the images that the model takes.
      layer_masking: hidden patches are 0 in every feature map too, as what lies beyond the border is (Balasubramanian
        and Feizi 2023, arXiv 2211.14646, who fill them from visible neighbors instead).
      head_scale, head_init, center_votes, dtype, remat: as of `vit.ViT`.
      allocation_depth: blocks of the `AllocationHead`; 0: there is none, and phi is the votes.
      allocation_reach: of the effects on each other's votes that this head predicts, in patches; 0: none.
      heads, mlp_ratio, activation, norm_epsilon: of these blocks, as of `vit.ViT`.
    """

    num_classes: int
    image_size: tuple[int, int]
    patch_size: int
    removal: Removal = Constant(0.0)
    layer_masking: bool = False
    allocation_depth: int = 0
    allocation_reach: int = 2
    heads: int = 4
    mlp_ratio: float = 4.0
    activation: str = "gelu_tanh"
    norm_epsilon: float = 1e-6
    head_scale: str = "sqrt"
    head_init: str = "zero"
    center_votes: bool = True
    dtype: jnp.dtype = jnp.float32
    remat: str = "none"

    pair_passes = 2  # forward passes that a coalition and its complement cost
    variants: ClassVar[dict[str, dict[str, Any]]] = {}  # sizes by name

    @staticmethod
    def fault(sizes: Any) -> str | None:
        """What is wrong with the sizes of a backbone, if anything: "model.KEY=VALUE: expected …".

        Args:
          sizes: a module of the class, or the settings (`config.model`) that one is to be built from.
        """
        raise NotImplementedError

    def feature_maps(self, images: chex.Array, shown: LayerMask) -> list[chex.Array]:
        """[B, H, W, C] -> [B, h, w, D] each, in the dtype of the computation; of the last, h, w are the grid.

        The last casts the votes. The others are what an `AllocationHead` should see besides. shown is to be applied
        to every map that a convolution of more than one cell sees.
        """
        raise NotImplementedError

    def last_norm(self, cells_BND: chex.Array, mask_BN: chex.Array | None) -> chex.Array:
        """What lies between the feature map and the head; mask says which cells vote, None: all."""
        return cells_BND

    def patch_head(self) -> PatchHead:
        """The head, for `setup`.

        Raises:
          UserError: if the sizes cannot be.
        """
        if fault := self.fault(self):
            raise UserError(fault)
        return PatchHead(self.num_classes, dtype=self.dtype, kernel_init=HEAD_INITS[self.head_init],
                          scale=self.head_scale, center=self.center_votes)

    @staticmethod
    def heads_fault(sizes: Any, channels: int) -> str | None:
        """As `fault`, of the heads of the allocation head, whose tokens have the channels of the last feature map."""
        if sizes.allocation_depth and channels % sizes.heads:
            return (f"model.heads={sizes.heads} does not divide the {channels} channels of the last feature map, which "
                    f"the allocation head of model.allocation_depth={sizes.allocation_depth} attends over")
        return None

    @property
    def has_allocation(self) -> bool:
        return self.allocation_depth > 0

    @property
    def voter(self) -> nn.Module:
        return self.clone(allocation_depth=0)

    def allocation_head(self) -> AllocationHead | None:
        """What moves votes between patches, if anything does, for `setup`."""
        if not self.has_allocation:
            return None
        return AllocationHead(self.num_classes, self.grid, self.allocation_depth, self.allocation_reach, self.heads,
                              self.mlp_ratio, self.activation, self.norm_epsilon, self.head_scale, self.center_votes,
                              self.dtype)

    def features(self, images: chex.Array) -> chex.Array:
        """The last feature map [B, gh, gw, D] of images [B, H, W, C]."""
        return self._maps(images)[-1]

    def _maps(self, images: chex.Array, visible: chex.Array | None = None) -> list[chex.Array]:
        self.require_size(images)
        return self.feature_maps(images.astype(self.dtype), LayerMask(visible, self.grid))

    def read(self, features: chex.Array, mask: chex.Array | None = None) -> chex.Array:
        """Votes float32 [B, N, K] of a last feature map; of the patches of mask, bool [B, N], if not of all."""
        cells = features.reshape(features.shape[0], self.num_patches, -1)  # of any batch, a symbol too
        return self.head(self.last_norm(cells, mask), self.num_patches)

    def phi_and_parts(self, images: chex.Array) -> tuple[chex.Array, chex.Array, chex.Array | None]:
        """Of whole images: phi and its own part, float32 [B, N, K], and effects on other votes (`shapjax.effects`).

        Without an allocation head both are the votes, and there are no effects: None.
        """
        maps = self._maps(images)
        patch_logits_BNK = self.read(maps[-1])
        if self.allocation is None:
            return patch_logits_BNK, patch_logits_BNK, None
        said = self.allocation(maps)
        moves_BNK = said.own + said.rest
        if said.effects is not None:
            moves_BNK += effects.on_others(said.effects) / 2
        phi_BNK = patch_logits_BNK + moves_BNK - jnp.mean(moves_BNK, axis=1, keepdims=True)
        return phi_BNK, patch_logits_BNK + said.own, said.effects

    def visible_patch_logits(self, images: chex.Array, mask: chex.Array) -> chex.Array:
        """Votes float32 [B, N, K] when only the patches of mask, bool [B, N], are seen; the others' mean nothing."""
        hidden = hidden_pixels(mask, self.grid, self.image_size)
        maps = self._maps(self.removal(images, hidden), mask if self.layer_masking else None)
        return self.read(maps[-1], mask)

    def patch_logits_and_features(self, images: chex.Array, delta: chex.Array | None = None
                           ) -> tuple[chex.Array, chex.Array]:
        """Votes of whole images float32 [B, N, K], and the feature map [B, gh, gw, D], delta added to it if given."""
        features = self.features(images)
        features = features if delta is None else features + delta.astype(features.dtype)
        return self.read(features), features.astype(jnp.float32)

    def __call__(self, images: chex.Array, segment_ids: chex.Array | None = None) -> chex.Array:
        """Votes phi of all patches; arguments, result and errors as of `vit.ViT`."""
        if segment_ids is None:
            return self.phi_and_parts(images)[0]
        both = self.visible_patch_logits(jnp.concatenate([images, images]), jnp.concatenate([segment_ids, ~segment_ids]))
        return jnp.where(segment_ids[..., None], *jnp.split(both, 2))
