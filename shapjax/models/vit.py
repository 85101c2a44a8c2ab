"""A vision transformer whose head gives every patch its logits for every class.

Pre-norm ViT (Dosovitskiy et al. 2021) without pooling: the linear head acts on each patch token, and the class scores
are the sum over the patches. Attention can be restricted to tokens of the same segment, which is how coalitions are
evaluated (see `shapjax.games.coalitions`). No training code here.
"""

import re

import chex
import flax.linen as nn
import jax.numpy as jnp

from shapjax.models.backbone import Backbone
from shapjax.models.blocks import Blocks
from shapjax.models.layers import TokenDense, final_norm
from shapjax.models.transformer import Block

# Width, depth, heads (Dosovitskiy et al. 2021, table 1; Ti and S as in Touvron et al. 2021).
VARIANTS = {"Ti": (192, 12, 3), "S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16),
            "H": (1280, 32, 16)}


def variant(name: str) -> dict[str, int] | None:
    """Returns width, depth, heads and patch_size of a variant such as "S/16", None if there is none of this name."""
    match = re.fullmatch(r"(\w+)/(\d+)", name)
    if not match or match[1] not in VARIANTS:
        return None
    width, depth, heads = VARIANTS[match[1]]
    return dict(width=width, depth=depth, heads=heads, patch_size=int(match[2]))


class ViT(Backbone):
    """A vision transformer as a `Backbone`.

    Attributes:
      width, depth, heads, mlp_ratio: D, number of blocks, attention heads H, hidden width of the MLP over D.
      class_token: adds a CLS token, which has no logits.
      registers: number of register tokens, which have no logits (Darcet et al. 2024).
      activation: of the MLPs, a key of `layers.ACTIVATIONS`.
      norm_epsilon: of all layer norms.
      input_norm: adds a layer norm before the first block.
      norm_place: of the last layer norm, one of `layers.NORM_PLACES`.
      layer_scale: multiplies each channel of what a block's attention and MLP add by a parameter (Touvron et al. 2021).
      the others as of `Backbone`.
    """

    width: int = 64
    depth: int = 3
    heads: int = 4
    mlp_ratio: float = 4.0
    class_token: bool = False
    registers: int = 0
    activation: str = "gelu_tanh"
    norm_epsilon: float = 1e-6
    input_norm: bool = False
    norm_place: str = "token"
    layer_scale: bool = False

    @property
    def num_prefix_tokens(self) -> int:
        """Returns the number of prefix tokens, which have no logits: CLS, registers."""
        return self.registers + int(self.class_token)

    def check(self) -> None:
        super().check()
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads} does not divide the width {self.width}")

    def setup(self):
        self.embedding = TokenDense(self.width, dtype=self.dtype, dot_general=self.dot_general)
        self.positions = self.param("positions", nn.initializers.normal(0.02), (self.num_patches, self.width))
        if self.num_prefix_tokens:
            shape = (self.num_prefix_tokens, self.width)
            self.prefix_tokens = self.param("prefix_tokens", nn.initializers.normal(0.02), shape)
        settings = dict(heads=self.heads, mlp_ratio=self.mlp_ratio, activation=self.activation,
                        norm_epsilon=self.norm_epsilon, layer_scale=self.layer_scale, dtype=self.dtype,
                        dot_general=self.dot_general)
        self.blocks = Blocks(Block, settings, self.depth, self.remat)
        if self.input_norm:
            self.norm_in = nn.LayerNorm(self.norm_epsilon, dtype=self.dtype)
        self.norm = final_norm(self.norm_place, epsilon=self.norm_epsilon)
        self.setup_heads()

    def embed(self, images: chex.Array) -> chex.Array:
        """Returns patch tokens with their positions, [B, N, D], of images float [B, H, W, C]."""
        b, (gh, gw), p = images.shape[0], self.grid, self.patch_size
        self.require_size(images)
        # A convolution with stride p, written as one matrix product: patches as rows of p·p·C pixels.
        x = images.astype(self.dtype).reshape(b, gh, p, gw, p, -1).transpose(0, 1, 3, 2, 4, 5)
        return self.embedding(x.reshape(b, gh * gw, -1)) + self.positions.astype(self.dtype)

    def sequence(self, tokens: chex.Array, segment_ids: chex.Array | None = None
                 ) -> tuple[chex.Array, chex.Array | None]:
        """Returns the inputs of the blocks: prefix and patch tokens, and the attention mask.

        Args:
          tokens: [B, T, D] from `embed`, all of them or only the visible ones.
          segment_ids: bool [B, T] or None. Each of the two segments gets prefix tokens of its own.

        Returns:
          [B, P + T, D], and bool [B, P + T, P + T] or None.
        """
        b, prefix = tokens.shape[0], self.num_prefix_tokens
        copies = 1 if segment_ids is None else 2
        if prefix:
            prefix_BPD = jnp.broadcast_to(self.prefix_tokens.astype(self.dtype), (b, prefix, self.width))
            tokens = jnp.concatenate([prefix_BPD] * copies + [tokens], axis=1)
        if self.input_norm:
            tokens = self.norm_in(tokens)
        if segment_ids is None:
            return tokens, None
        prefix_ids = jnp.broadcast_to(jnp.repeat(jnp.array([False, True]), prefix), (b, copies * prefix))
        segment_ids = jnp.concatenate([prefix_ids, segment_ids], axis=1)
        return tokens, segment_ids[:, :, None] == segment_ids[:, None, :]

    def patch_logits(self, tokens: chex.Array, segment_ids: chex.Array | None = None) -> chex.Array:
        """Returns the patch logits of any set of patch tokens.

        Args:
          tokens: [B, T, D] from `embed`, all of them or only the visible ones.
          segment_ids: bool [B, T] or None. Tokens attend to tokens of the same segment only, so each segment gives
            the result that it would give alone.

        Returns:
          float32 [B, T, K].
        """
        x, _ = self.blocks(*self.sequence(tokens, segment_ids), None)
        return self.read(x[:, -tokens.shape[1]:], segment_ids)

    def patch_logits_and_attention(self, images: chex.Array, delta: chex.Array | None = None
                                   ) -> tuple[chex.Array, chex.Array]:
        """Returns patch logits of whole images, and the attention maps of all blocks.

        Args:
          images: as in `__call__`.
          delta: float32 [L, B, H, T, T] or None, added to the maps, whose gradient is then that of delta.

        Returns:
          float32 [B, N, K], and the maps after the softmax and delta, float32 [L, B, H, T, T]: L blocks, H heads, row
          t the weights of the tokens that t attends to; the T tokens are the prefix tokens, then the patches.
        """
        x, _ = self.sequence(self.embed(images))
        if delta is None:
            b, t, _ = x.shape
            delta = jnp.zeros((self.depth, b, self.heads, t, t), jnp.float32)
        x, maps_LBHTT = self.blocks(x, None, delta)
        return self.read(x[:, -self.num_patches:]), maps_LBHTT

    def features(self, images: chex.Array) -> chex.Array:
        x, _ = self.blocks(*self.sequence(self.embed(images)), None)
        return x[:, -self.num_patches:]

    def segment_patch_logits(self, images: chex.Array, segment_ids: chex.Array) -> chex.Array:
        return self.patch_logits(self.embed(images), segment_ids)
