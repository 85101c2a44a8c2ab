"""A vision transformer whose head gives every patch its Shapley value for every class.

Pre-norm ViT (Dosovitskiy et al. 2021) without pooling: the linear head acts on each patch token, and the class scores
are the sum of these votes. Attention can be restricted to tokens of the same side, which is how coalitions are
evaluated (see `shapjax.coalitions`). No training code here.
"""

import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from shapjax.errors import UserError

# Fixed factor on the votes, by N. It decides how far a step of the head's weights moves the logits: 1/√N learns fastest
# from scratch; with 1/N the sum of the votes is the usual mean-pooled classifier.
HEAD_SCALES = {"sqrt": lambda n: n**-0.5, "mean": lambda n: 1.0 / n}
# "zero" starts from the game v = 0.
HEAD_INITS = {"zero": nn.initializers.zeros, "default": nn.initializers.lecun_normal()}

# Width, depth, heads (Dosovitskiy et al. 2021, table 1; Ti and S as in Touvron et al. 2021).
VARIANTS = {"Ti": (192, 12, 3), "S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16)}


def variant(name: str) -> dict[str, int]:
    """Sizes of a named variant such as "S/16".

    Returns:
      a dict with width, depth, heads and patch_size, to be passed on to `ViT`.

    Raises:
      UserError: if the name is not Ti, S, B or L, a slash and a patch size.
    """
    match = re.fullmatch(r"(\w+)/(\d+)", name)
    if not match or match[1] not in VARIANTS:
        raise UserError(f"model variant {name!r} is unknown; use one of {', '.join(VARIANTS)} with a patch size, "
                        'such as "S/16", or leave it empty and set width, depth, heads and patch_size')
    width, depth, heads = VARIANTS[match[1]]
    return dict(width=width, depth=depth, heads=heads, patch_size=int(match[2]))


class Attention(nn.Module):
    """Multi-head self-attention, optionally within groups of tokens."""

    heads: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BTD: chex.Array, allowed_BTT: chex.Array | None) -> chex.Array:
        b, t, d = x_BTD.shape
        qkv = nn.Dense(3 * d, dtype=self.dtype, name="qkv")(x_BTD)
        q, k, v = jnp.moveaxis(qkv.reshape(b, t, 3, self.heads, d // self.heads), 2, 0)
        mask = None if allowed_BTT is None else allowed_BTT[:, None]
        y = jax.nn.dot_product_attention(q, k, v, mask=mask)
        return nn.Dense(d, dtype=self.dtype, name="out")(y.reshape(b, t, d))


class Block(nn.Module):
    """A pre-norm transformer block; the form that `nn.scan` wants: (carry, broadcast) -> (carry, None)."""

    heads: int
    mlp_ratio: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BTD: chex.Array, allowed_BTT: chex.Array | None) -> tuple[chex.Array, None]:
        d = x_BTD.shape[-1]
        y = nn.LayerNorm(dtype=self.dtype, name="norm1")(x_BTD)
        x_BTD = x_BTD + Attention(self.heads, self.dtype, name="attention")(y, allowed_BTT)
        y = nn.LayerNorm(dtype=self.dtype, name="norm2")(x_BTD)
        y = nn.gelu(nn.Dense(int(self.mlp_ratio * d), dtype=self.dtype, name="mlp_in")(y))
        return x_BTD + nn.Dense(d, dtype=self.dtype, name="mlp_out")(y), None


class ViT(nn.Module):
    """Images to per-patch, per-class votes.

    Attributes:
      num_classes: K.
      image_size: (height, width) in pixels.
      patch_size: side of a square patch in pixels; divides both sides of the image.
      width, depth, heads, mlp_ratio: D, number of blocks, attention heads H, hidden width of the MLP over D.
      class_token: adds a CLS token that does not vote.
      registers: number of register tokens that do not vote (Darcet et al. 2024).
      head_scale, head_init: keys of `HEAD_SCALES` and `HEAD_INITS`.
      center_votes: let each patch's votes sum to zero over the classes. Probabilities do not change; without it the
        game has a part common to all classes that no label ever fixes.
      dtype: of the computation; parameters are float32, votes are returned in float32.
      remat: keep only the matrix products of a block for the backward pass and recompute the rest.
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
    head_scale: str = "sqrt"
    head_init: str = "zero"
    center_votes: bool = True
    dtype: jnp.dtype = jnp.float32
    remat: bool = True

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def num_patches(self) -> int:
        """N, the number of players."""
        return self.grid[0] * self.grid[1]

    def setup(self):
        n, silent = self.num_patches, self.registers + int(self.class_token)
        self.embedding = nn.Dense(self.width, dtype=self.dtype)
        self.positions = self.param("positions", nn.initializers.normal(0.02), (n, self.width))
        if silent:
            self.silent_tokens = self.param("silent_tokens", nn.initializers.normal(0.02), (silent, self.width))
        # One compiled block for all layers: compiles in constant time, and keeps XLA from fusing the residual stream
        # of all layers into each gradient, which on CPU more than halves the time of a step.
        policy = jax.checkpoint_policies.dots_saveable
        block = nn.remat(Block, policy=policy, prevent_cse=False) if self.remat else Block
        self.blocks = nn.scan(block, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=nn.broadcast,
                              length=self.depth)(self.heads, self.mlp_ratio, self.dtype)
        self.norm = nn.LayerNorm(dtype=self.dtype)
        self.head = nn.Dense(self.num_classes, dtype=self.dtype, kernel_init=HEAD_INITS[self.head_init])

    def embed(self, images: chex.Array) -> chex.Array:
        """Patch tokens with their positions: float [B, H, W, C] -> [B, N, D]."""
        b, (gh, gw), p = images.shape[0], self.grid, self.patch_size
        if images.ndim != 4 or images.shape[1:3] != (gh * p, gw * p):
            raise UserError(f"the model takes images [B, {gh * p}, {gw * p}, C], got {list(images.shape)}")
        # A convolution with stride p, written as one matrix product: patches as rows of p·p·C pixels.
        x = images.astype(self.dtype).reshape(b, gh, p, gw, p, -1).transpose(0, 1, 3, 2, 4, 5)
        return self.embedding(x.reshape(b, gh * gw, -1)) + self.positions.astype(self.dtype)

    def votes(self, tokens: chex.Array, sides: chex.Array | None = None) -> chex.Array:
        """Votes of any set of patch tokens.

        Args:
          tokens: [B, T, D] from `embed`, all of them or only the visible ones.
          sides: bool [B, T] or None. Tokens attend to tokens of the same side only; tokens that do not vote get one
            copy a side, so each side computes what it would compute alone.

        Returns:
          float32 [B, T, K].
        """
        b, t, _ = tokens.shape
        silent = self.registers + int(self.class_token)
        allowed_BTT = None
        copies = 1 if sides is None else 2
        if silent:
            silent_BSD = jnp.broadcast_to(self.silent_tokens.astype(self.dtype), (b, silent, self.width))
            tokens = jnp.concatenate([silent_BSD] * copies + [tokens], axis=1)
        if sides is not None:
            group = jnp.repeat(jnp.array([False, True]), silent)
            sides = jnp.concatenate([jnp.broadcast_to(group, (b, copies * silent)), sides], axis=1)
            allowed_BTT = sides[:, :, None] == sides[:, None, :]
        x, _ = self.blocks(tokens, allowed_BTT)
        votes_BTK = self.head(self.norm(x[:, -t:])).astype(jnp.float32) * HEAD_SCALES[self.head_scale](self.num_patches)
        return votes_BTK - jnp.mean(votes_BTK, axis=-1, keepdims=True) if self.center_votes else votes_BTK

    def __call__(self, images: chex.Array, sides: chex.Array | None = None) -> chex.Array:
        """Votes phi of all patches.

        Args:
          images: float [B, H, W, C], normalised.
          sides: bool [B, N] or None: which side of a coalition pair each patch is on. With sides, phi_n is the vote
            of patch n in the game where only its own side is visible.

        Returns:
          float32 [B, N, K]. Without sides, phi is the Shapley estimate and its sum over N the logits.

        Raises:
          UserError: if the images are not of the model's size.
        """
        return self.votes(self.embed(images), sides)
