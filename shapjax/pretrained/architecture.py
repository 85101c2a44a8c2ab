"""The results of a module that handles one family of weights (`vit`, `resnet`, `convnext`), and the checks they share.

Such a module has two functions. `recognize(weights) -> Architecture | None` looks at names, shapes and config alone,
and returns None if the names are another family's. `convert(weights, architecture, module) -> Converted` reads the
tensors.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from shapjax.errors import UserError, few
from shapjax.pretrained.weights import Weights

# Names in a config of Hugging Face -> keys of `models.layers.ACTIVATIONS`.
ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "quick_gelu": "quick_gelu"}
RUN_SETTINGS = ("dtype", "remat", "variant")  # model settings of the run, which weights do not decide
HEADS = ("head", "explainer")  # parameters that weights may lack, and that are left out for other classes


class Architecture(NamedTuple):
    """The model that weights belong to.

    Attributes:
      layout: the scheme of the tensors' names, for messages: "Hugging Face ViT", "timm ViT", "Google ViT", ….
      settings: of the model, by their names in the groups `model` and `loaded` of a config: backbone, patch_size, …;
        with a head also head_scale="mean" and center=False, which keep the classifier's own logits.
      image_size: (height, width) in pixels that the positions are for, or that the config says; None: any.
      num_classes: of its head; None: it has none.
      mean, std: per channel, in units of [0, 1], that its pixels were normalized with; None: unknown.
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
    """Weights as our parameters. Tensors that are neither used nor ignored are reported as skipped.

    Attributes:
      params: nested as the module's, np.float32 arrays; without "head" where the weights have none.
      used: names of the tensors that went into params.
      ignored: names of tensors known to be of no use (a pooler, the classifier of a distillation token, …).
      notes: remarks on the conversion for people, a few words each.
      head_note: a remark on the head, shown if the head is kept.
      head: names of the used tensors that went into one of `HEADS`.
    """

    params: dict[str, Any]
    used: frozenset[str]
    ignored: frozenset[str]
    notes: tuple[str, ...] = ()
    head_note: str = ""
    head: frozenset[str] = frozenset()


def normalization(weights: Weights) -> tuple[tuple[float, ...], tuple[float, ...]] | tuple[None, None]:
    """Returns (mean, std) of pixels in units of [0, 1], from the files of Hugging Face or timm beside the weights.

    Both are None where the files say nothing.

    Raises:
      UserError: if they are no lists of numbers.
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


def activation(config: Mapping[str, Any], default: str) -> str:
    """Returns the key of `models.layers.ACTIVATIONS` that a config of Hugging Face names, or else the default.

    Raises:
      UserError: if it names an activation that is not among them.
    """
    name = config.get("hidden_act")
    if name is not None and name not in ACTIVATIONS:
        raise UserError(f"the weights' config.json says hidden_act {name!r}; expected one of {', '.join(ACTIVATIONS)}")
    return default if name is None else ACTIVATIONS[name]


def require(weights: Weights, names: list[str], layout: str) -> None:
    """Raises UserError, naming the first few, if tensors that the layout has are missing."""
    missing = [name for name in names if name not in weights.shapes]
    if missing:
        raise UserError(f"weights {weights.path} look like {layout} but lack {len(missing)} of its tensors: "
                        f"{few(missing)}; is the file complete?")


def as_conv(kernel: np.ndarray) -> np.ndarray:
    """Returns the kernel [out, in, h, w] of a torch convolution as Flax has it, [h, w, in, out]."""
    return kernel.transpose(2, 3, 1, 0)


def require_shapes(weights: Weights, shapes: Mapping[str, tuple[int, ...] | None], layout: str) -> None:
    """Raises UserError, naming the first few, if tensors are missing or have other shapes; None: any shape."""
    require(weights, list(shapes), layout)
    other = [f"{name} is {list(weights.shapes[name])} instead of {list(shape)}" for name, shape in shapes.items()
             if shape is not None and weights.shapes[name] != shape]
    if other:
        raise UserError(f"weights {weights.path} look like {layout}, but {few(other)}; use weights of the plain model, "
                        "of a kind that docs/models.md lists")


def require_no_more(weights: Weights, names: Iterable[str], known: set[str], layout: str) -> None:
    """Raises UserError if some of the names are unknown, since features without their tensors would be wrong."""
    more = sorted(name for name in names if name not in known)
    if more:
        raise UserError(f"weights {weights.path} look like {layout}, but their blocks have tensors that this model "
                        f"lacks: {few(more)}; use weights of the plain model, of a kind that docs/models.md lists")
