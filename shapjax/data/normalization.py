"""Mean and standard deviation of training pixels, per channel."""

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


def measure(source: EncodedSource, *, corrupt: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) in [0, 1] units of at most `SAMPLE` evenly spaced images of a source, as evaluation sees them.

    Args:
      source: of the training images.
      corrupt: "skip" leaves out images that cannot be read.

    Raises:
      UserError: on an image that cannot be read otherwise, or if none can be.
    """
    chosen = np.unique(np.linspace(0, len(source) - 1, min(SAMPLE, len(source))).round().astype(np.int64))

    def sums(block: np.ndarray) -> np.ndarray:
        """int64 [3, C]: pixels, their sum, the sum of their squares; whole numbers, so the order does not matter."""
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
    # A channel that never changes carries nothing; its spread is taken as one gray level, to divide by.
    return tuple((mean / 255).tolist()), tuple((np.sqrt(np.maximum(variance, 1)) / 255).tolist())
