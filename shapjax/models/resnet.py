"""A residual network whose last feature map casts the votes: one cell a patch, the patches being the players.

He et al. 2016, as published (a 7x7 stem and max pooling, basic or bottleneck blocks) or in a small form for small
images: a 3x3 stem that keeps their size, or a 4x4 stem that halves it, so that most of the work is done on smaller maps
of more channels, which a processor multiplies faster. The game is that of `shapjax.models.painted`. No training code
here.

Norms take no statistics over the batch: in training these would mix whole and partly hidden images, and a coalition's
value would depend on the others in its batch. To train from scratch there are "group", GroupNorm (Wu and He 2018),
whose statistics over the map let every patch change every vote a little, and "cell", LayerNorm over the channels of
each cell (Ba et al. 2016), where a patch changes only the votes whose receptive field holds it. "affine" is what a
batch norm is once its statistics are fixed, a scale and a bias a channel: for pretrained weights, whose running
statistics are folded into it. It normalizes nothing, so a network that starts from scratch does not learn with it.
"""

from typing import Any

import chex
import flax.linen as nn
import jax.numpy as jnp

from shapjax.models.layers import REMAT_POLICIES
from shapjax.models.masked_conv import LayerMask, PaintedBackbone

GROUP = 16  # channels that GroupNorm takes together
STEM_STRIDES = {"3x3": 1, "4x4": 2, "7x7": 4}  # the last 2 of the convolution times 2 of the pooling
EXPANSION = 4  # channels of a bottleneck block's output over those of its 3x3 convolution

_PUBLISHED = {"18": ((2, 2, 2, 2), False), "34": ((3, 4, 6, 3), False), "50": ((3, 4, 6, 3), True)}
VARIANTS = {f"ResNet-{name}": dict(stem="7x7", width=64, stages=stages, bottleneck=bottleneck, patch_size=32)
            for name, (stages, bottleneck) in _PUBLISHED.items()}


class Affine(nn.Module):
    """x·scale + bias, each one number a channel: a batch norm whose statistics are fixed."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: chex.Array) -> chex.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return x * scale.astype(self.dtype) + bias.astype(self.dtype)


NORMS = {"group": lambda dtype, name: nn.GroupNorm(num_groups=None, group_size=GROUP, dtype=dtype, name=name),
         "cell": lambda dtype, name: nn.LayerNorm(dtype=dtype, name=name),
         "affine": lambda dtype, name: Affine(dtype, name=name)}


class ResidualBlock(nn.Module):
    """Convolutions beside the identity, or beside a 1x1 convolution where the shape changes.

    Attributes:
      width: channels of its 3x3 convolutions.
      stride: of the first 3x3 convolution, or of the 1x1 before it.
      bottleneck: one 3x3 convolution between two 1x1, the last widening `EXPANSION` times; else two 3x3.
      stride_in_1x1, norm, stem: as of `ResNet`.
    """

    width: int
    stride: int
    bottleneck: bool
    stride_in_1x1: bool
    norm: str
    stem: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: chex.Array, shown: LayerMask) -> chex.Array:
        w, s = self.width, self.stride
        convolutions = [(w, 3, s), (w, 3, 1)]  # channels, side of the kernel, stride
        if self.bottleneck:
            first, second = (s, 1) if self.stride_in_1x1 else (1, s)
            convolutions = [(w, 1, first), (w, 3, second), (EXPANSION * w, 1, 1)]
        y = x
        for number, (channels, size, stride) in enumerate(convolutions, start=1):
            y = _convolution(channels, size, stride, self.stem, self.dtype, f"conv{number}")(y)
            y = NORMS[self.norm](self.dtype, f"norm{number}")(y)
            y = shown(nn.relu(y)) if number < len(convolutions) else y
        if x.shape != y.shape:
            x = _convolution(y.shape[-1], 1, s, self.stem, self.dtype, "conv_skip")(x)
            x = NORMS[self.norm](self.dtype, "norm_skip")(x)
        return shown(nn.relu(x + y))


class ResNet(PaintedBackbone):
    """A residual network as a `PaintedBackbone`.

    Attributes:
      stem: "3x3", of stride 1; "4x4", of stride 2; or "7x7", of stride 2 and followed by 3x3 max pooling of stride 2.
      width: channels of the stem and of the first stage's 3x3 convolutions; each further stage doubles them and halves
        the map, so that patch_size is the stem's stride (1, 2 or 4) times 2^(stages - 1).
      stages: residual blocks of each stage; 0 for the first leaves only the change of width and size to the next.
      bottleneck: blocks of 1x1, 3x3, 1x1 convolutions (ResNet-50), else of two 3x3.
      stride_in_1x1: of bottleneck blocks, the stride in the first 1x1 convolution, as first published; else in the 3x3
        ("v1.5"), as in nearly all weights.
      norm: a key of `NORMS`.
      the others as of `PaintedBackbone`.
    """

    stem: str = "3x3"
    width: int = 32
    stages: tuple[int, ...] = (1, 1, 1)
    bottleneck: bool = False
    stride_in_1x1: bool = False
    norm: str = "group"

    variants = VARIANTS

    @staticmethod
    def fault(sizes: Any) -> str | None:
        stages, stride = tuple(sizes.stages), STEM_STRIDES[sizes.stem]
        if not stages or any(count < bool(stage) for stage, count in enumerate(stages)):
            return f"model.stages={stages}: expected at least one block a stage, or 0 in the first of several"
        if stride * 2 ** (len(stages) - 1) != sizes.patch_size:
            return (f"model.stages={stages} with model.patch_size={sizes.patch_size}: expected patches of "
                    f"{stride}·2^(stages - 1) = {stride * 2 ** (len(stages) - 1)} pixels with model.stem={sizes.stem}")
        if sizes.norm == "group" and sizes.width % GROUP:
            return f"model.width={sizes.width}: expected a multiple of {GROUP}, which are normalized together"
        channels = sizes.width * 2 ** (len(stages) - 1) * (EXPANSION if sizes.bottleneck else 1)
        return PaintedBackbone.heads_fault(sizes, channels)

    def setup(self):
        self.head, self.allocation = self.patch_head(), self.allocation_head()
        stride = min(2, STEM_STRIDES[self.stem])
        self.stem_conv = _convolution(self.width, int(self.stem[0]), stride, self.stem, self.dtype, "stem")
        # Of a flat patch its brightness is all there is; a norm of each cell here would take it away.
        self.stem_norm = NORMS["affine" if self.norm == "cell" else self.norm](self.dtype, None)
        policy = REMAT_POLICIES[self.remat]
        block = nn.remat(ResidualBlock, policy=policy) if policy else ResidualBlock
        self.blocks = [
            block(self.width * 2**stage, 2 if stage and not number else 1, self.bottleneck, self.stride_in_1x1,
                  self.norm, self.stem, self.dtype, name=f"stage{stage}_block{number}")
            for stage, count in enumerate(self.stages) for number in range(count)]

    def feature_maps(self, images: chex.Array, shown: LayerMask) -> list[chex.Array]:
        x = shown(nn.relu(self.stem_norm(self.stem_conv(images))))
        if self.stem == "7x7":
            x = shown(nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1))))
        maps = [x]
        for block in self.blocks:
            maps.append(block(maps[-1], shown))
        # Of the blocks those of the last stage: the others of a published network are wide and many.
        return [x, *maps[-self.stages[-1]:]]


def _convolution(channels: int, size: int, stride: int, stem: str, dtype: jnp.dtype, name: str | None) -> nn.Conv:
    # Both segment_ids are padded alike in the published form; in the small forms 3x3 of stride 2 pads only the far side.
    padding = size // 2 if stem == "7x7" else "SAME"
    return nn.Conv(channels, (size, size), (stride, stride), padding, use_bias=False, dtype=dtype, name=name)
