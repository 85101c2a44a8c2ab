"""A residual network whose last feature map casts the votes: one cell a patch, the patches being the players.

He et al. 2016, with the stride in the first convolution of a block and GroupNorm (Wu and He 2018) in place of batch
statistics, which would differ between whole and partly hidden images. No training code here.

The game: a hidden patch is painted with the dataset's mean colour, 0 after normalisation, and its cell casts no vote.
So v(∅) = 0 and efficiency is exact, as for tokens; but a cell sees its surroundings, painted or not. A coalition and
its complement are two images, so a pair costs two passes.
"""

import chex
import flax.linen as nn
import jax.numpy as jnp

from shapjax.errors import UserError
from shapjax.models.layers import HEAD_INITS, REMAT_POLICIES, VotingHead

GROUP = 16  # channels that GroupNorm takes together


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside the identity, or beside a 1x1 convolution where the shape changes."""

    width: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: chex.Array) -> chex.Array:
        strides = (self.stride, self.stride)
        y = nn.Conv(self.width, (3, 3), strides, use_bias=False, dtype=self.dtype, name="conv1")(x)
        y = nn.relu(_norm(self.dtype, "norm1")(y))
        y = nn.Conv(self.width, (3, 3), use_bias=False, dtype=self.dtype, name="conv2")(y)
        y = _norm(self.dtype, "norm2")(y)
        if x.shape != y.shape:
            x = nn.Conv(self.width, (1, 1), strides, use_bias=False, dtype=self.dtype, name="conv_skip")(x)
            x = _norm(self.dtype, "norm_skip")(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Images to per-patch, per-class votes.

    Attributes:
      num_classes: K.
      image_size: (height, width) in pixels.
      patch_size: side of a patch and stride of the last feature map, 2^(stages - 1); divides both sides of the image.
      width: channels of the first stage; each further stage doubles them and halves the map.
      stages: residual blocks of each stage; 0 leaves only the change of width and size to the next.
      head_scale, head_init, center_votes, dtype, remat: as of `vit.ViT`.
    """

    num_classes: int
    image_size: tuple[int, int]
    patch_size: int
    width: int = 32
    stages: tuple[int, ...] = (1, 1, 1)
    head_scale: str = "sqrt"
    head_init: str = "zero"
    center_votes: bool = True
    dtype: jnp.dtype = jnp.float32
    remat: str = "none"

    pair_passes = 2  # forward passes that a coalition and its complement cost

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def num_patches(self) -> int:
        """N, the number of players."""
        return self.grid[0] * self.grid[1]

    def setup(self):
        if 2 ** (len(self.stages) - 1) != self.patch_size:
            raise UserError(f"a ResNet of {len(self.stages)} stages has patches of {2 ** (len(self.stages) - 1)} "
                            f"pixels, not {self.patch_size}; set model.patch_size or model.stages")
        policy = REMAT_POLICIES[self.remat]
        block = nn.remat(ResidualBlock, policy=policy) if policy else ResidualBlock
        self.stem = nn.Conv(self.width, (3, 3), use_bias=False, dtype=self.dtype)
        self.stem_norm = _norm(self.dtype, None)
        self.blocks = [
            block(self.width * 2**stage, 2 if stage and not number else 1, self.dtype,
                  name=f"stage{stage}_block{number}")
            for stage, count in enumerate(self.stages) for number in range(count)]
        self.head = VotingHead(self.num_classes, dtype=self.dtype, kernel_init=HEAD_INITS[self.head_init],
                               scale=self.head_scale, center=self.center_votes)

    def features(self, images: chex.Array) -> chex.Array:
        """The last feature map [B, gh, gw, D] of images [B, H, W, C]."""
        if images.ndim != 4 or images.shape[1:3] != tuple(self.image_size):
            raise UserError(f"the model takes images [B, {self.image_size[0]}, {self.image_size[1]}, C], got "
                            f"{list(images.shape)}")
        x = nn.relu(self.stem_norm(self.stem(images.astype(self.dtype))))
        for block in self.blocks:
            x = block(x)
        return x

    def read(self, features: chex.Array) -> chex.Array:
        """Votes float32 [B, N, K] of the last feature map."""
        cells = features.reshape(features.shape[0], self.num_patches, -1)  # of any batch, a symbol too
        return self.head(cells, self.num_patches)

    def visible_votes(self, images: chex.Array, mask: chex.Array) -> chex.Array:
        """Votes float32 [B, N, K] when only the patches of mask, bool [B, N], are seen; the others' mean nothing."""
        seen = mask.reshape(len(mask), *self.grid)
        seen = jnp.repeat(jnp.repeat(seen, self.patch_size, axis=1), self.patch_size, axis=2)
        return self.read(self.features(jnp.where(seen[..., None], images, 0)))

    def votes_and_features(self, images: chex.Array, delta: chex.Array | None = None
                           ) -> tuple[chex.Array, chex.Array]:
        """Votes of whole images float32 [B, N, K], and the feature map [B, gh, gw, D], delta added to it if given."""
        features = self.features(images)
        features = features if delta is None else features + delta.astype(features.dtype)
        return self.read(features), features.astype(jnp.float32)

    def __call__(self, images: chex.Array, sides: chex.Array | None = None) -> chex.Array:
        """Votes phi of all patches; arguments, result and errors as of `vit.ViT`."""
        if sides is None:
            return self.read(self.features(images))
        both = self.visible_votes(jnp.concatenate([images, images]), jnp.concatenate([sides, ~sides]))
        return jnp.where(sides[..., None], *jnp.split(both, 2))


def _norm(dtype: jnp.dtype, name: str | None) -> nn.GroupNorm:
    return nn.GroupNorm(num_groups=None, group_size=GROUP, dtype=dtype, name=name)
