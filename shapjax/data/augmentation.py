"""Random changes of training images, on the device: shift, flip, crop, RandAugment, color, erasing, MixUp, CutMix.

An example's changes depend on its own key alone, so a run does not depend on how a batch is split over devices. MixUp
and CutMix pair the neighbors 2i and 2i + 1 of a batch, and need an even number of images on every device.

dm-pix 0.4 has only the flip and the cut of the shift; both cost the same and are one line here too. It has no resized
crop, erasing, RandAugment or mixing. It adds brightness, scales contrast about each channel's mean, and takes the
saturation of HSV.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from shapjax.data.rand_augment import luminance, rand_augment
from shapjax.errors import UserError

# Added to the number of an operation, which is folded into an example's key: the draws differ from those of others that
# fold the same key, and a new operation does not change the draws of the old ones.
_TAG = 0x41554700


class AugmentSettings(NamedTuple):
    """Settings of the changes, which are applied in this order. The defaults turn all of them off.

    Attributes:
      crop_area: random-resized crop of between this share and all of the area; 1: off.
      max_shift: moves by up to this many pixels each way; black moves in.
      flip: left-right, half of the images.
      rand_augment: RandAugment operations an image.
      rand_magnitude: of these, at most 10.
      color_jitter: factors of brightness, contrast and saturation lie in 1 ± this, at most 1.
      erase: probability of erasing a rectangle.
      mixup: parameter of MixUp's Beta distribution.
      cutmix: parameter of CutMix's; with both, each pair of images gets one of the two, with equal chances.
    """

    crop_area: float = 1.0
    max_shift: int = 0
    flip: bool = False
    rand_augment: int = 0
    rand_magnitude: float = 9.0
    color_jitter: float = 0.0
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0


def settings(config: Mapping[str, Any], *, crops_on_read: bool, image_shape: tuple[int, int, int],
             device_batch: int) -> AugmentSettings:
    """Checks the settings of a config's `augment` group.

    Args:
      config: its keys are the fields of `AugmentSettings`.
      crops_on_read: the source cuts the random crops when it decodes, so none are cut here.
      image_shape: (H, W, C).
      device_batch: images a device and step.

    Returns:
      the settings for `augment`.

    Raises:
      UserError: on a value out of range, or an odd number of images a device where they are mixed in pairs.
    """
    s = AugmentSettings(**config)
    side = min(image_shape[:2])
    ranges = {"crop_area": (0.01, 1), "max_shift": (0, side - 1), "rand_augment": (0, 16), "rand_magnitude": (0, 10),
              "color_jitter": (0, 1), "erase": (0, 1), "mixup": (0, 100), "cutmix": (0, 100)}
    for name, (low, high) in ranges.items():
        if not low <= (value := getattr(s, name)) <= high:
            raise UserError(f"--config.augment.{name}={value}: expected {low} to {high} for images of "
                            f"{image_shape[0]}x{image_shape[1]}")
    if (s.mixup or s.cutmix) and device_batch % 2:
        raise UserError(f"--config.augment.{'mixup' if s.mixup else 'cutmix'} mixes neighbors in pairs, but a device "
                        f"has {device_batch} images a step; use a batch_size that gives each an even number, or 0")
    return s._replace(crop_area=1.0) if crops_on_read else s


def augment(images: chex.Array, labels: chex.Array, keys: chex.Array, *, num_classes: int, settings: AugmentSettings
            ) -> tuple[chex.Array, chex.Array]:
    """Changes a batch at random.

    Args:
      images: uint8 [B, H, W, C]; C = 3 is RGB.
      labels: int32 [B].
      keys: PRNG keys [B], one an example.
      num_classes: K.
      settings: the changes.

    Returns:
      images [B, H, W, C] for `preprocessing.normalize`: uint8, or with `color_jitter` or `mixup` float32 in [0, 1]; and
      targets float32 [B, K], the probabilities of the classes.

    Raises:
      ValueError: if images are mixed in pairs and B is odd.
    """
    s = settings
    on_image = [  # the numbers must not change: the draws depend on them
        (s.crop_area < 1, 0, lambda image, key: random_crop(image, key, min_area=s.crop_area)),
        (s.max_shift > 0, 1, lambda image, key: random_shift(image, key, max_shift=s.max_shift)),
        (s.flip, 2, random_flip),
        (s.rand_augment > 0, 3, lambda image, key: rand_augment(
            image, key, operations=s.rand_augment, magnitude=s.rand_magnitude)),
        (s.color_jitter > 0, 4, lambda image, key: color_jitter(image, key, strength=s.color_jitter)),
        (s.erase > 0, 5, lambda image, key: random_erase(image, key, probability=s.erase))]
    for on, number, change in on_image:
        if on:
            images = jax.vmap(change)(images, _fold(keys, number))
    targets = jax.nn.one_hot(labels, num_classes)
    if s.mixup or s.cutmix:
        images, targets = mix(images, targets, _fold(keys, 6), mixup=s.mixup, cutmix=s.cutmix)
    return images, targets


def _fold(keys: chex.Array, number: int) -> chex.Array:
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, _TAG + number)


def random_crop(image: chex.Array, key: chex.PRNGKey, *, min_area: float) -> chex.Array:
    """Cuts out a random part of an image and resizes it to the whole (Szegedy et al. 2015), bilinear.

    Its area is uniform between `min_area` of the image and all of it, its aspect log-uniform in [3/4, 4/3] times the
    image's; a side that would be too long is cut to the image.

    Args:
      image: uint8 [H, W, C].
      key: PRNG key.
      min_area: share of the image's area.

    Returns:
      uint8 [H, W, C].
    """
    area_key, aspect_key, place_key = jax.random.split(key, 3)
    area = jax.random.uniform(area_key, minval=min_area, maxval=1.0)
    aspect = jnp.exp(jax.random.uniform(aspect_key, minval=np.log(3 / 4), maxval=np.log(4 / 3)))
    size = jnp.minimum(jnp.sqrt(area * jnp.stack([1 / aspect, aspect])), 1.0)  # share of height and width
    start = jax.random.uniform(place_key, (2,)) * (1 - size) * jnp.asarray(image.shape[:2], jnp.float32)
    cut = jax.image.scale_and_translate(image.astype(jnp.float32), image.shape, (0, 1), 1 / size, -start / size,
                                        method="linear")
    return jnp.round(cut).astype(jnp.uint8)


def random_shift(image: chex.Array, key: chex.PRNGKey, *, max_shift: int) -> chex.Array:
    """Moves an image [H, W, C] by a uniform integer vector in [-max_shift, max_shift]^2 pixels; black (0) moves in."""
    moved = jnp.pad(image, ((max_shift, max_shift), (max_shift, max_shift), (0, 0)))
    y, x = jax.random.randint(key, (2,), 0, 2 * max_shift + 1)
    return jax.lax.dynamic_slice(moved, (y, x, 0), image.shape)


def random_flip(image: chex.Array, key: chex.PRNGKey) -> chex.Array:
    """Mirrors an image [H, W, C] left for right, half of the time."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def color_jitter(image: chex.Array, key: chex.PRNGKey, *, strength: float) -> chex.Array:
    """Multiplies brightness, then contrast, then saturation by a uniform factor in 1 ± strength.

    The blends are those of torchvision's ColorJitter: with black, with the mean luminance, with each pixel's luminance.

    Args:
      image: uint8 [H, W, C]; C = 3 is RGB.
      key: PRNG key.
      strength: at most 1.

    Returns:
      float32 [H, W, C] in [0, 1].
    """
    pixels = image.astype(jnp.float32)
    brightness, contrast, saturation = jax.random.uniform(key, (3,), minval=1 - strength, maxval=1 + strength)
    pixels = jnp.clip(brightness * pixels, 0, 255)
    mean = luminance(pixels).mean()
    pixels = jnp.clip(mean + contrast * (pixels - mean), 0, 255)
    gray = luminance(pixels)
    return jnp.clip(gray + saturation * (pixels - gray), 0, 255) / 255


def random_erase(image: chex.Array, key: chex.PRNGKey, *, probability: float) -> chex.Array:
    """Turns a rectangle of the image into noise, with some probability (Zhong et al. 2020, arXiv 1708.04896).

    Its area is uniform in 2 to 40 % of the image, its aspect log-uniform in [0.3, 1/0.3]; a side that would be too long
    is cut to the image.

    Args:
      image: uint8 [H, W, C], or float32 in [0, 1].
      key: PRNG key.
      probability: of a rectangle.

    Returns:
      as `image`.
    """
    chance_key, area_key, aspect_key, place_key, noise_key = jax.random.split(key, 5)
    area = jax.random.uniform(area_key, minval=0.02, maxval=0.4)
    aspect = jnp.exp(jax.random.uniform(aspect_key, minval=np.log(0.3), maxval=-np.log(0.3)))
    size = jnp.minimum(jnp.sqrt(area * jnp.stack([1 / aspect, aspect])), 1.0)
    start = jax.random.uniform(place_key, (2,)) * (1 - size)
    inside = _rectangle(start, start + size, image.shape[:2]) & jax.random.bernoulli(chance_key, probability)
    words = jax.random.bits(noise_key, (-(-image.size // 4),), jnp.uint32)  # a quarter of the cost of drawing bytes
    noise = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(-1)[: image.size].reshape(image.shape)
    if image.dtype != jnp.uint8:
        noise = noise.astype(image.dtype) / 255
    return jnp.where(inside[..., None], noise, image)


def mix(images: chex.Array, targets: chex.Array, keys: chex.Array, *, mixup: float, cutmix: float
        ) -> tuple[chex.Array, chex.Array]:
    """Applies MixUp (Zhang et al. 2018, arXiv 1710.09412) and CutMix (Yun et al. 2019, arXiv 1905.04899) to neighbors.

    MixUp makes λ·own + (1 - λ)·other of the images 2i and 2i + 1 and of their targets. CutMix swaps a rectangle, whose
    area is the share 1 - λ, and mixes the targets like MixUp. λ is drawn from Beta(a, a) with the key of image 2i.

    Args:
      images: uint8 [B, H, W, C], or float32 in [0, 1].
      targets: float32 [B, K].
      keys: PRNG keys [B].
      mixup, cutmix: a of each; 0: off; at least one of them is on.

    Returns:
      images, float32 in [0, 1] with MixUp and else as given; targets float32 [B, K].

    Raises:
      ValueError: if B is odd.
    """
    if len(images) % 2:
        raise ValueError(f"{len(images)} images cannot be mixed in pairs; give every device an even number")
    if mixup and images.dtype == jnp.uint8:
        images = images.astype(jnp.float32) / 255

    def of_pair(pair, pair_targets, key):
        choice_key, mixup_key, cutmix_key = jax.random.split(key, 3)
        others, mixed, lam = pair[::-1], pair, 1.0
        if mixup:
            lam = jax.random.beta(mixup_key, mixup, mixup)
            mixed = lam * pair + (1 - lam) * others
        if cutmix:
            cutting = jax.random.bernoulli(choice_key) if mixup else True
            inside = _cutmix_rectangle(cutmix_key, cutmix, pair.shape[1:3])
            mixed = jnp.where(cutting, jnp.where(inside[..., None], others, pair), mixed)
            lam = jnp.where(cutting, 1 - inside.mean(), lam)
        return mixed, lam * pair_targets + (1 - lam) * pair_targets[::-1]

    def in_pairs(x):
        return x.reshape(-1, 2, *x.shape[1:])

    mixed, mixed_targets = jax.vmap(of_pair)(in_pairs(images), in_pairs(targets), keys[::2])
    return mixed.reshape(images.shape), mixed_targets.reshape(targets.shape)


def _cutmix_rectangle(key: chex.PRNGKey, concentration: float, size: tuple[int, int]) -> chex.Array:
    """Draws a rectangle, bool [H, W]: its sides √(1 - λ) of the image's, its middle anywhere, cut off at the border."""
    lam_key, middle_key = jax.random.split(key)
    half = jnp.sqrt(1 - jax.random.beta(lam_key, concentration, concentration)) / 2
    middle = jax.random.uniform(middle_key, (2,))
    return _rectangle(middle - half, middle + half, size)


def _rectangle(start: chex.Array, end: chex.Array, size: tuple[int, int]) -> chex.Array:
    """Returns bool [H, W]: the pixels whose middle lies within [start, end), (y, x) in units of the image's sides."""
    (y, x) = ((jnp.arange(n) + 0.5) / n for n in size)
    return ((y >= start[0]) & (y < end[0]))[:, None] & ((x >= start[1]) & (x < end[1]))[None, :]
