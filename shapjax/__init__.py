"""Vision models that explain themselves: every image patch gets its Shapley value for every class.

    import shapjax
    model = shapjax.load("runs/mnist5k")
    explanation = model.explain(images)  # .logits [B, K], .shapley [B, gh, gw, K], .probabilities [B, K]
"""

from shapjax.errors import UserError
from shapjax.model import Explanation, SelfExplainingModel, load
from shapjax.version import __version__

__all__ = ["Explanation", "SelfExplainingModel", "UserError", "__version__", "load"]
