"""Vision models that explain themselves: every image patch gets its Shapley value for every class.

    import shapjax
    model = shapjax.load("runs/mnist5k")
    explanation = model.explain(images)  # .logits [B, K], .shapley [B, gh, gw, K], .probabilities [B, K]
    summary, arrays = shapjax.evaluation.compare(model, images, labels, methods=["phi", "kernel_shap"])

Any JAX model becomes a game by `shapjax.games.wrap`, which `shapjax.attribution` explains and `shapjax.metrics`
measures. A name is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from shapjax.errors import UserError
from shapjax.version import __version__

if TYPE_CHECKING:
    from shapjax import attribution, evaluation, games, metrics
    from shapjax.model import Explanation, SelfExplainingModel, load

__all__ = [
    "Explanation", "SelfExplainingModel", "UserError", "__version__", "attribution", "evaluation", "games", "load",
    "metrics",
]

_OF_MODEL = ("Explanation", "SelfExplainingModel", "load")


def __getattr__(name: str) -> Any:
    if name in _OF_MODEL:
        value = getattr(importlib.import_module("shapjax.model"), name)
    elif name in __all__:
        value = importlib.import_module(f"shapjax.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
