"""A vision transformer whose head gives every patch its Shapley value for every class.

Pre-norm ViT (Dosovitskiy et al. 2021) without pooling: the linear head acts on each patch token, and the class scores
are the sum of these votes. Attention can be restricted to tokens of the same side, which is how coalitions are
evaluated (see `shapjax.coalitions`). No training code here.
"""

import re
from typing import Any

import chex
import flax.linen as nn
import jax.numpy as jnp

from shapjax.errors import UserError
from shapjax.models.layers import HEAD_INITS, PatchGrid, PatchHead, TokenDense, final_norm
from shapjax.models.transformer import transformer_blocks

# Width, depth, heads (Dosovitskiy et al. 2021, table 1; Ti and S as in Touvron et al. 2021).
VARIANTS = {"Ti": (192, 12, 3), "S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16),
            "H": (1280, 32, 16)}


def variant(name: str) -> dict[str, int]:
    """Sizes of a named variant such as "S/16".

    Returns:
      a dict with width, depth, heads and patch_size, to be passed on to `ViT`.

    Raises:
      UserError: if the name is not Ti, S, B, L or H, a slash and a patch size.
    """
    match = re.fullmatch(r"(\w+)/(\d+)", name)
    if not match or match[1] not in VARIANTS:
        raise UserError(f"model variant {name!r} is unknown; use one of {', '.join(VARIANTS)} with a patch size, "
                        'such as "S/16", or leave it empty and set width, depth, heads and patch_size')
    width, depth, heads = VARIANTS[match[1]]
    return dict(width=width, depth=depth, heads=heads, patch_size=int(match[2]))


class ViT(PatchGrid, nn.Module):
    """Images to per-patch, per-class votes.

    Attributes:
      num_classes: K.
      image_size: (height, width) in pixels.
      patch_size: side of a square patch in pixels; divides both segment_ids of the image.
      width, depth, heads, mlp_ratio: D, number of blocks, attention heads H, hidden width of the MLP over D.
      class_token: adds a CLS token that does not vote.
      registers: number of register tokens that do not vote (Darcet et al. 2024).
      activation: of the MLPs, a key of `ACTIVATIONS`.
      norm_epsilon: of all layer norms.
      input_norm: a layer norm before the first block.
      norm_place: of the last layer norm, one of `NORM_PLACES`.
      head_scale, head_init, center_votes: of the head, see `PatchHead` and `HEAD_INITS`.
      dtype: of the computation; parameters are float32, votes are returned in float32.
      remat: key of `REMAT_POLICIES`: keep all of a block for the backward pass, its matrix products, or nothing.
    """

    num_classes: int
    image_size: tuple[int, int]
    patch_size: int
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
    head_scale: str = "sqrt"
    head_init: str = "zero"
    center_votes: bool = True
    dtype: jnp.dtype = jnp.float32
    remat: str = "full"

    pair_passes = 1  # forward passes that a coalition and its complement cost: they are packed

    @staticmethod
    def fault(sizes: Any) -> str | None:
        """What is wrong with the sizes of a module, or of the settings for one, if anything: "model.KEY=VALUE …"."""
        if sizes.width % sizes.heads:
            return f"model.heads={sizes.heads} does not divide the width {sizes.width}"
        return None

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens that do not vote; they come before the patches."""
        return self.registers + int(self.class_token)

    def setup(self):
        self.embedding = TokenDense(self.width, dtype=self.dtype)
        self.positions = self.param("positions", nn.initializers.normal(0.02), (self.num_patches, self.width))
        if self.num_prefix_tokens:
            shape = (self.num_prefix_tokens, self.width)
            self.prefix_tokens = self.param("prefix_tokens", nn.initializers.normal(0.02), shape)
        self.blocks = transformer_blocks(self.depth, self.heads, self.mlp_ratio, self.activation, self.norm_epsilon,
                                         dtype=self.dtype, remat=self.remat)
        if self.input_norm:
            self.norm_in = nn.LayerNorm(self.norm_epsilon, dtype=self.dtype)
        self.norm = final_norm(self.norm_place, epsilon=self.norm_epsilon, dtype=self.dtype)
        self.head = PatchHead(self.num_classes, dtype=self.dtype, kernel_init=HEAD_INITS[self.head_init],
                               scale=self.head_scale, center=self.center_votes)

    def embed(self, images: chex.Array) -> chex.Array:
        """Patch tokens with their positions: float [B, H, W, C] -> [B, N, D]."""
        b, (gh, gw), p = images.shape[0], self.grid, self.patch_size
        self.require_size(images)
        # A convolution with stride p, written as one matrix product: patches as rows of p·p·C pixels.
        x = images.astype(self.dtype).reshape(b, gh, p, gw, p, -1).transpose(0, 1, 3, 2, 4, 5)
        return self.embedding(x.reshape(b, gh * gw, -1)) + self.positions.astype(self.dtype)

    def patch_logits(self, tokens: chex.Array, segment_ids: chex.Array | None = None) -> chex.Array:
        """Votes of any set of patch tokens.

        Args:
          tokens: [B, T, D] from `embed`, all of them or only the visible ones.
          segment_ids: bool [B, T] or None. Tokens attend to tokens of the same side only; tokens that do not vote get one
            copy a side, so each side computes what it would compute alone.

        Returns:
          float32 [B, T, K].
        """
        t = tokens.shape[1]
        x, _ = self.blocks(*self.sequence(tokens, segment_ids), None)
        return self.read(x[:, -t:], segment_ids)

    def sequence(self, tokens: chex.Array, segment_ids: chex.Array | None = None) -> tuple[chex.Array, chex.Array | None]:
        """What the blocks take: silent and patch tokens [B, T, D], and who attends to whom, bool [B, T, T] or None."""
        b, silent = tokens.shape[0], self.num_prefix_tokens
        copies = 1 if segment_ids is None else 2
        if silent:
            silent_BSD = jnp.broadcast_to(self.prefix_tokens.astype(self.dtype), (b, silent, self.width))
            tokens = jnp.concatenate([silent_BSD] * copies + [tokens], axis=1)
        if self.input_norm:
            tokens = self.norm_in(tokens)
        if segment_ids is None:
            return tokens, None
        group = jnp.repeat(jnp.array([False, True]), silent)
        segment_ids = jnp.concatenate([jnp.broadcast_to(group, (b, copies * silent)), segment_ids], axis=1)
        return tokens, segment_ids[:, :, None] == segment_ids[:, None, :]

    def read(self, x: chex.Array, segment_ids: chex.Array | None = None) -> chex.Array:
        """Votes float32 [B, T, K] of patch tokens [B, T, D] as the last block leaves them; segment_ids as of `votes`."""
        return self.head(self.norm(x, segment_ids), self.num_patches)

    def patch_logits_and_attention(self, images: chex.Array, delta: chex.Array | None = None
                            ) -> tuple[chex.Array, chex.Array]:
        """Votes of whole images, and the attention maps they come from.

        Args:
          images: as in `__call__`.
          delta: float32 [L, B, H, T, T] or None, added to the maps: a gradient with respect to it is that of the maps.

        Returns:
          float32 [B, N, K], and the maps after the softmax and delta, float32 [L, B, H, T, T]: L blocks, H heads, row
          t what token t attends to; the T tokens are the silent ones, then the patches.
        """
        x, _ = self.sequence(self.embed(images))
        if delta is None:
            b, t, _ = x.shape
            delta = jnp.zeros((self.depth, b, self.heads, t, t))
        x, maps_LBHTT = self.blocks(x, None, delta)
        return self.read(x[:, -self.num_patches:]), maps_LBHTT

    def patch_logits_and_features(self, images: chex.Array, delta: chex.Array | None = None
                           ) -> tuple[chex.Array, chex.Array]:
        """Votes of whole images, and the last block's patch tokens, before the final norm, that they are read from.

        Args:
          images: as in `__call__`.
          delta: float32 [B, gh, gw, D] or None, added to the features.

        Returns:
          float32 [B, N, K] and float32 [B, gh, gw, D].
        """
        x, _ = self.blocks(*self.sequence(self.embed(images)), None)
        features = x[:, -self.num_patches:].astype(jnp.float32).reshape(-1, *self.grid, self.width)
        features = features if delta is None else features + delta
        return self.read(features.reshape(-1, self.num_patches, self.width).astype(self.dtype)), features

    def __call__(self, images: chex.Array, segment_ids: chex.Array | None = None) -> chex.Array:
        """Votes phi of all patches.

        Args:
          images: float [B, H, W, C], normalized.
          segment_ids: bool [B, N] or None: which side of a coalition pair each patch is on. With segment_ids, phi_n is the vote
            of patch n in the game where only its own side is visible.

        Returns:
          float32 [B, N, K]. Without segment_ids, phi is the Shapley estimate and its sum over N the logits.

        Raises:
          UserError: if the images are not of the model's size.
        """
        return self.patch_logits(self.embed(images), segment_ids)
