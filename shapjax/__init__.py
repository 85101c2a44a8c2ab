"""Vision models that explain themselves: every image patch gets its Shapley value for every class.

    import shapjax
    model = shapjax.load("runs/mnist5k")
    explanation = model.explain(images)  # .logits [B, K], .shapley [B, gh, gw, K], .probabilities [B, K]
"""

from shapjax.errors import UserError
from shapjax.inference import Explanation, SelfExplainingModel, load

__all__ = ["Explanation", "SelfExplainingModel", "UserError", "load"]
__version__ = "0.1.0"
