"""Tables of recipes, which make our parameters of foreign tensors, and the recipes of torch's layers."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

# What transformers puts before the names of a model's tensors where something else, as a classifier, is beside it.
_TOWER = r"((?:vit|deit|dinov2|dinov2_with_registers|vision_model|resnet|convnext)\.)?"


class Recipe(NamedTuple):
    """The way from tensors to a parameter.

    Attributes:
      names: of the tensors; those of a block have {} in place of its number.
      make: function of the tensors, float32, that returns the parameter, or the part of it that is a block's.
      depth: number of the blocks whose parts are stacked to the parameter [L, ...]; None: it is made at once.
    """

    names: tuple[str, ...]
    make: Callable[..., np.ndarray] = lambda x: x
    depth: int | None = None

    def tensors(self) -> list[tuple[str, ...]]:
        """Returns the names of the tensors of each block, or of the only part."""
        if self.depth is None:
            return [self.names]
        return [tuple(name.replace("{}", str(i)) for name in self.names) for i in range(self.depth)]


Recipes = dict[str, Recipe]  # by the parameter's path: "blocks/mlp_in/kernel"


def names(recipes: Recipes) -> frozenset[str]:
    """Returns the names of all tensors that recipes need."""
    return frozenset(name for recipe in recipes.values() for part in recipe.tensors() for name in part)


def make(weights: Mapping[str, np.ndarray], recipe: Recipe) -> np.ndarray:
    """Reads the tensors, block by block, and returns the parameter."""
    result = None
    for i, part in enumerate(recipe.tensors()):
        made = recipe.make(*(weights[name] for name in part))
        if recipe.depth is None:
            return made
        result = np.empty((recipe.depth, *made.shape), np.float32) if result is None else result
        result[i] = made
    return result


def misfits(recipe: Recipe, shapes: Mapping[str, tuple[int, ...]], expected: tuple[int, ...]
            ) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields what would not make the parameter, "name is shape", and the shape that it should make. Reads nothing.

    Args:
      recipe: of the parameter.
      shapes: of the tensors.
      expected: shape of the parameter.
    """
    wanted = expected if recipe.depth is None else expected[1:]
    for part in recipe.tensors():
        try:  # zeros that take no memory stand for the tensors
            made = recipe.make(*(np.broadcast_to(np.float32(0), shapes[name]) for name in part)).shape
        except (ValueError, IndexError):  # of numpy, if the shapes do not fit each other
            made = None
        if made != wanted:
            yield ", ".join(f"{name} is {list(shapes[name])}" for name in part), wanted


def of_blocks(recipes: Recipes, path: str, depth: int | None) -> Recipes:
    """Returns the recipes of a block as those of all blocks, whose parameters are under `path`."""
    return {f"{path}/{key}": recipe._replace(depth=depth) for key, recipe in recipes.items()}


def count_blocks(names: Iterable[str], start: str) -> int:
    """Returns the number of blocks, by the highest number after the start of their tensors' names."""
    found = [re.match(rf"{re.escape(start)}(\d+)[./]", name) for name in names]
    return max((int(match[1]) + 1 for match in found if match), default=0)


def prefix_of(names: Iterable[str], end: str) -> str | None:
    """Returns what transformers has before `end`, the end of a tensor's name; None: there is no such tensor."""
    matches = (re.fullmatch(rf"{_TOWER}{re.escape(end)}", name) for name in names)
    return next((match[1] or "" for match in matches if match), None)


def torch_norm(path: str, name: str) -> Recipes:
    """Returns the recipes of torch's LayerNorm."""
    return {f"{path}/scale": Recipe((f"{name}.weight",)), f"{path}/bias": Recipe((f"{name}.bias",))}


def torch_linear(path: str, name: str) -> Recipes:
    """Returns the recipes of torch's Linear, weight [out, in].

    The weight may be that of a 1x1 convolution, [out, in, 1, 1], as some models have it in place of a Linear.
    """
    return {f"{path}/kernel": Recipe((f"{name}.weight",), lambda x: x.reshape(x.shape[:2]).T),
            f"{path}/bias": Recipe((f"{name}.bias",))}


def torch_conv(path: str, name: str) -> Recipes:
    """Returns the recipes of torch's Conv2d."""
    return {f"{path}/kernel": Recipe((f"{name}.weight",), as_conv), f"{path}/bias": Recipe((f"{name}.bias",))}


def as_conv(kernel: np.ndarray) -> np.ndarray:
    """Returns the kernel [out, in, h, w] of a torch convolution as Flax has it, [h, w, in, out]."""
    return kernel.transpose(2, 3, 1, 0)
