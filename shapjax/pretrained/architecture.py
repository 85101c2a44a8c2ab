"""What a module of a family of weights (`vit`, …) says of them: what model they are of, and the parameters it gets.

Such a module has two functions. `recognise(weights) -> Architecture | None` looks at names, shapes and config alone;
None: the names are not its family's. `convert(weights, architecture, module) -> Converted` reads the tensors.
"""

from typing import Any, NamedTuple

import numpy as np

from shapjax.errors import UserError
from shapjax.pretrained.weights import Weights, few

RUN_SETTINGS = ("dtype", "remat", "head_init", "variant")  # of `config.model`: what a run says, and weights do not


class Architecture(NamedTuple):
    """The model that weights are of.

    Attributes:
      layout: whose names the tensors have, for messages: "Hugging Face ViT", "timm ViT", "Google ViT", ….
      settings: of `config.model`: backbone, patch_size, width, …; where there is a head, also head_scale="mean" and
        center_votes=False, so that the classifier's own logits are kept.
      image_size: (height, width) in pixels that the positions are for, or that the config says; None: any.
      num_classes: of its head; None: it has none.
      mean, std: per channel, in units of [0, 1], that its pixels were normalised with; None: unknown.
      channels: of its images.
    """

    layout: str
    settings: dict[str, Any]
    image_size: tuple[int, int] | None
    num_classes: int | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    channels: int = 3


class Converted(NamedTuple):
    """Weights as our parameters. What is neither used nor ignored of them is reported as skipped.

    Attributes:
      params: nested as the module's, np.float32 arrays; without "head" where the weights have none.
      used: names of the tensors that went into params.
      ignored: names of tensors known to be of no use (a pooler, the classifier of a distillation token, …).
      notes: what else a person should know of the conversion, a few words each.
      head_note: the same of the head, as long as it is kept.
    """

    params: dict[str, Any]
    used: frozenset[str]
    ignored: frozenset[str]
    notes: tuple[str, ...] = ()
    head_note: str = ""


def normalisation(weights: Weights) -> tuple[tuple[float, ...], tuple[float, ...]] | tuple[None, None]:
    """(mean, std) of the pixels in units of [0, 1], as the files of Hugging Face or timm beside the weights say them.

    None twice where they say nothing.
    """
    timm = weights.config.get("pretrained_cfg")
    values = timm if isinstance(timm, dict) else weights.preprocessor
    mean, std = (values.get("mean"), values.get("std")) if values is timm else (
        values.get("image_mean"), values.get("image_std"))
    if mean is None or std is None or values.get("do_normalize") is False:
        return None, None
    try:
        return tuple(float(x) for x in mean), tuple(float(x) for x in std)
    except (TypeError, ValueError) as e:
        raise UserError(f"the mean {mean!r} and std {std!r} beside {weights.path} are not lists of numbers") from e


def require(weights: Weights, names: list[str], layout: str) -> None:
    """UserError, naming the first few, if tensors that the layout has are missing."""
    missing = [name for name in names if name not in weights.shapes]
    if missing:
        raise UserError(f"weights {weights.path} look like {layout} but lack {len(missing)} of its tensors: "
                        f"{few(missing)}; is the file complete?")


def as_dense(kernel: np.ndarray) -> np.ndarray:
    """A torch Linear's [out, in] as a Flax Dense's [in, out]."""
    return kernel.T


def as_conv(kernel: np.ndarray) -> np.ndarray:
    """A torch convolution's [out, in, h, w] as a Flax one's [h, w, in, out]."""
    return kernel.transpose(2, 3, 1, 0)
