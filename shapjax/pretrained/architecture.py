"""The result of a module that handles one scheme of names (`vit_timm`, `resnet`, …), and what such modules share.

Such a module has a function `plan(weights) -> Plan | None`. It looks at names, shapes and config alone, and returns
None if the names follow another scheme.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from shapjax.errors import UserError
from shapjax.pretrained.recipes import Recipes
from shapjax.pretrained.weights import Weights

# Names in a config of Hugging Face -> keys of `models.layers.ACTIVATIONS`.
ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "quick_gelu": "quick_gelu"}
RUN_SETTINGS = ("dtype", "remat", "variant")  # model settings of the run, which weights do not decide
HEAD_SETTINGS = {"head_scale": "mean", "center": False}  # keep a classifier's own logits; set only if its head is kept
NOTHING = r"(?!)"  # a pattern that matches no name


class Architecture(NamedTuple):
    """The model that weights belong to.

    Attributes:
      layout: the scheme of the tensors' names, for messages: "Hugging Face ViT", "timm ViT", "Google ViT", ….
      settings: of the model, by their names in the groups `model` and `loaded` of a config: backbone, patch_size, …;
        with a head also `HEAD_SETTINGS`.
      image_size: (height, width) in pixels that the positions are for; None: any.
      num_classes: of its head; None: it has none.
      mean, std: per channel, in units of [0, 1], that its pixels were normalized with; None: unknown.
      channels: of its images.
      class_names: of its head, in its order; None: unknown.
    """

    layout: str
    settings: dict[str, Any]
    image_size: tuple[int, int] | None
    num_classes: int | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    channels: int
    class_names: tuple[str, ...] | None


class Plan(NamedTuple):
    """Holds which tensor goes where. Tensors that are neither used nor ignored are reported as skipped.

    Attributes:
      architecture: of the weights.
      recipes: of the parameters; those of "head" are absent where the weights have none that can act on patches, and
        "positions" where they are the fixed ones, `positions.sincos`.
      blocks: start of the names of blocks' tensors, which all have to be used.
      ignored: pattern that matches, from the start, the names of tensors known to be of no use (a pooler, …).
      head_note: a remark on the head, a few words, shown if no new head is made.
      note: a remark on the rest, likewise.
      antialias: positions are interpolated so where the grid gets coarser, as the weights' own code does.
    """

    architecture: Architecture
    recipes: Recipes
    blocks: str
    ignored: str = NOTHING
    head_note: str = ""
    note: str = ""
    antialias: bool = True


def describe(weights: Weights, layout: str, settings: dict[str, Any], recipes: Recipes, *, channels: int,
             image_size: tuple[int, int] | None = None) -> Architecture:
    """Returns the architecture of weights from their layout, the backbone's settings and the table of recipes."""
    num_classes = None
    if "head/bias" in recipes:
        num_classes, settings = size(weights, recipes["head/bias"].names[0]), settings | HEAD_SETTINGS
    return Architecture(layout, settings, image_size, num_classes, *normalization(weights), channels,
                        class_names(weights.config))


def class_names(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Returns the names of a head's classes by a config of Hugging Face or timm; None: it does not say them.

    Names that transformers makes up, "LABEL_0", are not taken for names.
    """
    names = config.get("label_names")
    if isinstance(labels := config.get("id2label"), dict):
        names = [labels.get(str(i)) for i in range(len(labels))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        return None
    return None if all(name == f"LABEL_{i}" for i, name in enumerate(names)) else tuple(names)


def normalization(weights: Weights) -> tuple[tuple[float, ...], tuple[float, ...]] | tuple[None, None]:
    """Returns (mean, std) of pixels in units of [0, 1], from the files of Hugging Face or timm beside the weights.

    Both are None where the files say nothing.

    Raises:
      UserError: if they are no lists of numbers.
    """
    timm = weights.config.get("pretrained_cfg")
    values, start = (timm, "") if isinstance(timm, dict) else (weights.preprocessor, "image_")
    mean, std = values.get(f"{start}mean"), values.get(f"{start}std")
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


def size(weights: Weights, name: str) -> int:
    """Returns the length of the last axis of a tensor, 0 if it is missing or has none."""
    return (0, *weights.shapes.get(name, ()))[-1]


def conv_sizes(weights: Weights, name: str, *, flax: bool = False) -> tuple[int, int, int]:
    """Returns (width, channels, p) of a p x p convolution that reads the image, all 0 if it is missing.

    Args:
      weights: whose shapes are looked at.
      name: of its kernel [width, channels, p, p].
      flax: the kernel is [p, p, channels, width].

    Raises:
      UserError: if its shape is of another kind.
    """
    shape = weights.shapes.get(name, (0, 0, 0, 0))
    in_order = shape[::-1] if flax else shape
    if len(shape) != 4 or in_order[2] != in_order[3]:
        expected = "[p, p, channels, width]" if flax else "[width, channels, p, p]"
        raise UserError(f"tensor {name} is {list(shape)}, expected {expected} for square patches")
    return in_order[:3]
