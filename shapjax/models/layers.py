"""What the backbones share: products and norms of tokens, the voting head, what is kept for the backward pass."""

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
# What of a block is kept for the backward pass; the rest is computed again.
REMAT_POLICIES = {"none": None, "dots": jax.checkpoint_policies.dots_saveable,
                  "full": jax.checkpoint_policies.nothing_saveable}
# Of an MLP: GELU (Hendrycks and Gimpel 2016) by its tanh approximation, exactly, or as x·σ(1.702 x).
ACTIVATIONS = {"gelu_tanh": nn.gelu, "gelu": lambda x: nn.gelu(x, approximate=False),
               "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x)}
NORM_PLACES = ("token", "pooled")  # of the last norm: on each token, or as if on the mean of the tokens


class PatchGrid:
    """The players of a backbone with an `image_size` (height, width) and a `patch_size`, in pixels."""

    has_allocation = False  # whether phi differs from the votes, see `shapjax.models.allocation`

    @property
    def voter(self) -> nn.Module:
        """The backbone without what only phi needs: the totals of its votes are those of phi, for less work."""
        return self

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def num_patches(self) -> int:
        """N, the number of players."""
        return self.grid[0] * self.grid[1]

    def require_size(self, images: chex.Array) -> None:
        """UserError unless images are [B, H, W, C] of the model's size."""
        if images.ndim != 4 or images.shape[1:3] != tuple(self.image_size):
            raise UserError(f"the model takes images [B, {self.image_size[0]}, {self.image_size[1]}, C], got "
                            f"{list(images.shape)}")


class TokenDense(nn.Dense):
    """`nn.Dense` on [B, T, D] as one product of B·T rows.

    The gradient of the kernel then contracts one axis instead of two, which is half again as fast on a CPU.

    The logical axis "rows" says that rows stay on the devices that hold them, whatever the weights are split over; it
    means nothing until a layout gives it a meaning (`nn.logical_axis_rules`).
    """

    def __call__(self, x_BTD: chex.Array) -> chex.Array:
        x = nn.with_logical_constraint(x_BTD.reshape(-1, x_BTD.shape[-1]), ("rows", None))
        y = nn.with_logical_constraint(super().__call__(x), ("rows", None))
        return y.reshape(*x_BTD.shape[:-1], -1)


class PatchHead(TokenDense):
    """The linear layer that reads a patch's votes off its token, with all that follows it.

    Attributes:
      features: K.
      scale: a key of `HEAD_SCALES`.
      center: let each patch's votes sum to zero over the classes. Probabilities do not change; without it the game has
        a part common to all classes that no label ever fixes.
    """

    scale: str = "sqrt"
    center: bool = True

    def __call__(self, x_BTD: chex.Array, num_patches: int) -> chex.Array:
        """Votes float32 [B, T, K] of tokens [B, T, D], which are all or some of the N = num_patches of an image."""
        return self.follow(super().__call__(x_BTD).astype(jnp.float32), num_patches)

    def follow(self, x: chex.Array, num_patches: int) -> chex.Array:
        """What comes after the product with the kernel [..., K]: scale and centering, both linear."""
        x = x * HEAD_SCALES[self.scale](num_patches)
        return x - jnp.mean(x, axis=-1, keepdims=True) if self.center else x


class PooledNorm(nn.Module):
    """Layer norm of the tokens' mean, shared out to the tokens: the mean of the results is LayerNorm(mean of tokens).

    A classifier that pools, then normalizes, then multiplies by its head has no votes to read off as it stands; but
    LayerNorm(m) = γ (m - mean(m)) / σ(m) + β is linear in m once σ(m) is known, so that each token is divided by the
    spread of the mean of the tokens it is with. Tokens of two segment_ids do not see each other here either.
    """

    epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BTD: chex.Array, segment_ids: chex.Array | None = None) -> chex.Array:
        """[B, T, D] -> [B, T, D]; segment_ids bool [B, T] or None, one side."""
        d = x_BTD.shape[-1]
        scale_D = self.param("scale", nn.initializers.ones, (d,))
        bias_D = self.param("bias", nn.initializers.zeros, (d,))
        x = x_BTD.astype(jnp.float32)
        x = x - jnp.mean(x, axis=-1, keepdims=True)
        member_BTG = jnp.ones((*x.shape[:2], 1)) if segment_ids is None else jax.nn.one_hot(segment_ids.astype(jnp.int32), 2)
        count_BG1 = jnp.maximum(member_BTG.sum(axis=1), 1)[..., None]
        pooled_BGD = jnp.einsum("btg,btd->bgd", member_BTG, x) / count_BG1
        variance_BG = jnp.mean(jnp.square(pooled_BGD), axis=-1)
        factor_BT = jnp.einsum("btg,bg->bt", member_BTG, jax.lax.rsqrt(variance_BG + self.epsilon))
        return (x * factor_BT[..., None] * scale_D + bias_D).astype(self.dtype)


def final_norm(place: str, *, epsilon: float, dtype: jnp.dtype) -> nn.Module:
    """The norm before the head, (tokens [B, T, D], segment_ids) -> [B, T, D]; place is one of `NORM_PLACES`."""
    return (PooledNorm if place == "pooled" else TokenNorm)(epsilon=epsilon, dtype=dtype)


class TokenNorm(nn.LayerNorm):
    """`nn.LayerNorm` with the arguments of `PooledNorm`: what tokens a token is with does not matter to it."""

    def __call__(self, x_BTD: chex.Array, segment_ids: chex.Array | None = None) -> chex.Array:
        return super().__call__(x_BTD)
