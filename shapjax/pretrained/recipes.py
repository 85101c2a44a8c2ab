"""Tables of recipes, which make our parameters of foreign tensors. A table is checked before any tensor is read."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from shapjax.errors import UserError, few
from shapjax.pretrained.weights import Weights


class Recipe(NamedTuple):
    """The way from tensors to a parameter.

    Attributes:
      names: of the tensors; those of a block have {} in place of its number.
      make: function of the tensors, float32, that returns the parameter.
    """

    names: tuple[str, ...]
    make: Callable[..., np.ndarray] = lambda x: x


Recipes = dict[tuple[str, ...], Recipe]  # by the parameter's path


def names(recipes: Recipes, number: int | None = None) -> list[str]:
    """Returns the names of the tensors that recipes need; number: of the block, for recipes of blocks."""
    every = [name for recipe in recipes.values() for name in recipe.names]
    return list(dict.fromkeys(every if number is None else [name.format(number) for name in every]))


def head_names(recipes: Recipes) -> frozenset[str]:
    """Returns the names of the tensors that the head's parameters need."""
    return frozenset(names({path: recipe for path, recipe in recipes.items() if path[0] == "head"}))


def make(weights: Weights, recipes: Recipes) -> dict[tuple[str, ...], np.ndarray]:
    """Reads the tensors and returns the parameters by their paths."""
    return {path: recipe.make(*(weights[name] for name in recipe.names)) for path, recipe in recipes.items()}


def make_stacked(weights: Weights, recipes: Recipes, depth: int, *, stacked: bool) -> dict[tuple[str, ...], np.ndarray]:
    """Reads the tensors, block by block, and returns the parameters [L, ...] of L = depth blocks by their paths.

    Args:
      weights: to read from.
      recipes: of a block.
      depth: L.
      stacked: the tensors are [L, ...] too, and have no {} in their names.
    """
    def stack(recipe: Recipe) -> np.ndarray:
        whole = [weights[name] for name in recipe.names] if stacked else None
        result = None
        for i in range(depth):
            parts = [x[i] for x in whole] if stacked else [weights[name.format(i)] for name in recipe.names]
            part = recipe.make(*parts)
            result = np.empty((depth, *part.shape), np.float32) if result is None else result
            result[i] = part
        return result

    return {path: stack(recipe) for path, recipe in recipes.items()}


def require_fit(weights: Weights, recipes: Recipes, expected: dict[tuple[str, ...], tuple[int, ...]], layout: str, *,
                depth: int | None = None, stacked: bool = False) -> None:
    """Raises UserError, naming the first few tensors, if parameters would not have the expected shapes. Reads nothing.

    Args:
      weights: whose shapes are looked at.
      recipes: of a block if depth is given.
      expected: shapes of the parameters, by path.
      layout: of the weights, for the message.
      depth: number of blocks.
      stacked: as in `make_stacked`.
    """
    wrong = []
    for path, recipe in recipes.items():
        for i in range(1 if depth is None or stacked else depth):
            given = {name.format(i): weights.shapes[name.format(i)] for name in recipe.names}
            try:
                # Zeros that take no memory stand for the tensors.
                shapes = [shape[1:] if stacked and shape[:1] == (depth,) else shape for shape in given.values()]
                shape = recipe.make(*(np.broadcast_to(np.float32(0), shape) for shape in shapes)).shape
            except (ValueError, IndexError):  # from numpy, if the shapes do not fit each other
                shape = None
            if shape != expected[path]:
                wrong += [f"{name} is {list(shape)}" for name, shape in given.items()]
    if wrong:
        raise UserError(f"weights {weights.path} look like {layout}, but have tensors whose shapes do not fit the "
                        f"others: {few(wrong)}; is the file damaged, or of a variant of that model?")


def torch_norm(path: tuple[str, ...], name: str) -> Recipes:
    """Returns the recipes of torch's LayerNorm."""
    return {(*path, "scale"): Recipe((f"{name}.weight",)), (*path, "bias"): Recipe((f"{name}.bias",))}


def torch_linear(path: tuple[str, ...], name: str, *, scale: str | None = None) -> Recipes:
    """Returns the recipes of torch's Linear, weight [out, in]; scale: a tensor [out] to multiply its result by."""
    scales = (scale,) if scale else ()
    return {(*path, "kernel"): Recipe((f"{name}.weight", *scales), lambda weight, gamma=1: weight.T * gamma),
            (*path, "bias"): Recipe((f"{name}.bias", *scales), lambda bias, gamma=1: bias * gamma)}
