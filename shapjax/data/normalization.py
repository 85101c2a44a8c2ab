"""Mean and standard deviation of pixels, per channel: known, measured, or given by the user."""

import math
from collections.abc import Sequence

import ml_collections
import numpy as np

from shapjax.data.encoded import EncodedSource
from shapjax.data.verification import in_threads
from shapjax.errors import UserError

SAMPLE = 2000  # images, evenly spaced, that are measured

# (mean, std) in [0, 1] units. Those of ImageNet are the ones that nearly all pretrained models were trained with (they
# come from torch's ImageNet example); its subset and the pets, on which such models are fine-tuned, share them. The
# others are those of all pixels of the training split, as commonly published.
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
KNOWN = {
    "imagenet2012": _IMAGENET,
    "imagenette": _IMAGENET,
    "oxford_iiit_pet": _IMAGENET,
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "fashion_mnist": ((0.2860,), (0.3530,)),
}


def check(config: ml_collections.ConfigDict, channels: int) -> None:
    """Checks the normalization that a config gives, `data.mean` and `data.std`, against the images.

    Args:
      config: of a run, completed with what its pretrained weights say.
      channels: of the dataset's images.

    Raises:
      UserError: if the two have other lengths than 0, C and 3, or values out of range.
    """
    mean, std = tuple(config.data.mean), tuple(config.data.std)
    if len(mean) != len(std) or len(mean) not in (0, channels, 3):
        if config.pretrained:
            raise UserError(f"--config.pretrained={config.pretrained} normalizes images of {len(mean)} channels, those "
                            f"of the dataset have {channels}; use weights for such images")
        raise UserError(f"--config.data.mean={mean} and --config.data.std={std}: expected a number for each of the "
                        f"{channels} channels, or nothing")
    if not all(0 <= x <= 1 for x in mean) or not all(0 < x < math.inf for x in std):
        raise UserError(f"--config.data.mean={mean} and --config.data.std={std}: expected means in [0, 1] and standard "
                        "deviations above 0, in units of [0, 1]")


def per_channel(given: Sequence[float], own: tuple[float, ...]) -> tuple[float, ...]:
    """Returns what a config gives for the channels, or else the dataset's own; for gray images three are averaged."""
    if not given:
        return own
    return tuple(given) if len(given) == len(own) else (sum(given) / len(given),)


def measure(source: EncodedSource, *, corrupt: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Measures (mean, std), in [0, 1] units, of at most `SAMPLE` evenly spaced images, as evaluation sees them.

    Args:
      source: of the training images.
      corrupt: "skip" leaves out images that cannot be read.

    Raises:
      UserError: on an image that cannot be read otherwise, or if none can be.
    """
    chosen = np.unique(np.linspace(0, len(source) - 1, min(SAMPLE, len(source))).round().astype(np.int64))

    def sums(block: np.ndarray) -> np.ndarray:
        """Returns int64 [3, C]: pixels, their sum, their squares' sum; being integers, they add up in any order."""
        total = np.zeros((3, source.image_shape[2]), np.int64)
        for index in chosen[block]:
            try:
                pixels = source.read([index])["image"].astype(np.int64)
            except UserError:
                if corrupt == "fail":
                    raise
                continue
            total += [np.full(pixels.shape[-1], pixels[..., 0].size), pixels.sum((0, 1, 2)), (pixels**2).sum((0, 1, 2))]
        return total

    count, total, squares = sum(in_threads(sums, len(chosen), desc="measuring training pixels"))
    if not count[0]:
        raise UserError(f"none of {len(chosen)} training images can be read")
    mean = total / count
    variance = squares / count - mean**2
    # A constant channel gets a standard deviation of one gray level, because it is a divisor.
    return tuple((mean / 255).tolist()), tuple((np.sqrt(np.maximum(variance, 1)) / 255).tolist())
