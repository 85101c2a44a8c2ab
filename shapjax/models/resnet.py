"""A residual network with a head on each cell of its last feature map, one cell a patch.

It has two forms, told apart by the patch size: as published (He et al. 2016; a 7x7 stem and max pooling), and one for
small images, whose 4x4 stem halves them. Its game is that of `shapjax.models.masked_conv`. No training code here.

Norms take no statistics over the batch: in training these would mix whole and partly hidden images, and a coalition's
value would depend on the others in its batch. From scratch it has LayerNorm over the channels of each cell (Ba et al.
2016), with which a patch changes only the logits of patches whose receptive field holds it. Pretrained weights bring
batch norms whose statistics are fixed: a scale and a bias a channel. That normalizes nothing, so a network does not
learn with it from scratch.
"""

import chex
import flax.linen as nn
import jax.numpy as jnp

from shapjax.models.blocks import REMAT_POLICIES
from shapjax.models.masked_conv import LayerMask, MaskedConvBackbone

EXPANSION = 4  # channels of a bottleneck block's output over those of its 3x3 convolution

_PUBLISHED = {"18": ((2, 2, 2, 2), False), "34": ((3, 4, 6, 3), False), "50": ((3, 4, 6, 3), True)}
VARIANTS = {f"ResNet-{name}": dict(width=64, stages=stages, bottleneck=bottleneck, patch_size=32)
            for name, (stages, bottleneck) in _PUBLISHED.items()}


class Affine(nn.Module):
    """Computes x·scale + bias, each one number a channel: a batch norm whose statistics are fixed."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: chex.Array) -> chex.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return x * scale.astype(self.dtype) + bias.astype(self.dtype)


class ResidualBlock(nn.Module):
    """Convolutions beside the identity, or beside a 1x1 convolution where the shape changes.

    Attributes:
      width: channels of its 3x3 convolutions.
      stride: of the first 3x3 convolution, or of the 1x1 before it.
      bottleneck: one 3x3 convolution between two 1x1, the last widening `EXPANSION` times; else two 3x3.
      stride_in_1x1, batch_norm, published: as of `ResNet`.
    """

    width: int
    stride: int
    bottleneck: bool
    stride_in_1x1: bool
    batch_norm: bool
    published: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: chex.Array, layer_mask: LayerMask) -> chex.Array:
        w, s = self.width, self.stride
        convolutions = [(w, 3, s), (w, 3, 1)]  # channels, side of the kernel, stride
        if self.bottleneck:
            first, second = (s, 1) if self.stride_in_1x1 else (1, s)
            convolutions = [(w, 1, first), (w, 3, second), (EXPANSION * w, 1, 1)]
        y = x
        for number, (channels, size, stride) in enumerate(convolutions, start=1):
            y = _convolution(channels, size, stride, self.published, self.dtype, f"conv{number}")(y)
            y = self._norm(f"norm{number}")(y)
            y = layer_mask(nn.relu(y)) if number < len(convolutions) else y
        if x.shape != y.shape:
            x = _convolution(y.shape[-1], 1, s, self.published, self.dtype, "conv_skip")(x)
            x = self._norm("norm_skip")(x)
        return layer_mask(nn.relu(x + y))

    def _norm(self, name: str) -> nn.Module:
        return Affine(self.dtype, name=name) if self.batch_norm else nn.LayerNorm(dtype=self.dtype, name=name)


class ResNet(MaskedConvBackbone):
    """A residual network as a `MaskedConvBackbone`.

    Attributes:
      width: channels of the stem and of the first stage's 3x3 convolutions; each further stage doubles them and halves
        the map.
      stages: residual blocks of each stage; 0 for the first leaves only the change of width and size to the next. With
        a patch_size of 4·2^(stages - 1) the network is the published form, with 2·2^(stages - 1) the small one.
      bottleneck: blocks of 1x1, 3x3, 1x1 convolutions (ResNet-50), else of two 3x3.
      stride_in_1x1: of bottleneck blocks, the stride in the first 1x1 convolution, as first published; else in the 3x3
        ("v1.5"), as in nearly all weights.
      batch_norm: pretrained batch norms, as a scale and a bias a channel; else norms of each cell.
      the others as of `Backbone`.
    """

    width: int = 32
    stages: tuple[int, ...] = (1, 1, 1)
    bottleneck: bool = False
    stride_in_1x1: bool = False
    batch_norm: bool = False

    @property
    def published(self) -> bool:
        """Returns True for a 7x7 stem with 3x3 max pooling, both of stride 2; False for a 4x4 stem of stride 2."""
        return self.patch_size == 4 * 2 ** (len(self.stages) - 1)

    def check(self) -> None:
        super().check()
        stages = tuple(self.stages)
        if not stages or any(count < bool(stage) for stage, count in enumerate(stages)):
            raise ValueError(f"stages={stages}: expected at least one block a stage, or 0 in the first of several")
        if not self.published and self.patch_size != (small := 2 * 2 ** (len(stages) - 1)):
            raise ValueError(f"patch_size={self.patch_size} with stages={stages}: expected 2·2^(stages - 1) = {small} "
                             f"pixels, or {2 * small} as published")

    def setup(self):
        self.setup_heads()
        self.stem = _convolution(self.width, 7 if self.published else 4, 2, self.published, self.dtype)
        # A flat patch has only its brightness; a norm of each cell would remove it here.
        self.stem_norm = Affine(self.dtype)
        policy = REMAT_POLICIES[self.remat]
        block = nn.remat(ResidualBlock, policy=policy) if policy else ResidualBlock
        self.blocks = [
            block(self.width * 2**stage, 2 if stage and not number else 1, self.bottleneck, self.stride_in_1x1,
                  self.batch_norm, self.published, self.dtype, name=f"stage{stage}_block{number}")
            for stage, count in enumerate(self.stages) for number in range(count)]

    def feature_map(self, images: chex.Array, layer_mask: LayerMask) -> chex.Array:
        x = layer_mask(nn.relu(self.stem_norm(self.stem(images))))
        if self.published:
            x = layer_mask(nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1))))
        for block in self.blocks:
            x = block(x, layer_mask)
        return x

    def read(self, features: chex.Array, segment_ids: chex.Array | None = None) -> chex.Array:
        return self.head(features, self.num_patches)  # no norm comes before the head


def _convolution(channels: int, size: int, stride: int, published: bool, dtype: jnp.dtype, name: str | None = None
                 ) -> nn.Conv:
    # The published form is padded alike on all borders; in the small form a 3x3 of stride 2 only on the far ones.
    padding = size // 2 if published else "SAME"
    return nn.Conv(channels, (size, size), (stride, stride), padding, use_bias=False, dtype=dtype, name=name)
