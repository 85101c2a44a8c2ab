"""Attribution methods: pure functions (model, images, targets, key, …) -> [B, N] of any `games.Classifier`.

Images may be floats of any width, targets class numbers of any integer type, one-hot, or names: `games.contract`.
"""

from shapjax.attribution.attention_maps import attention, gradient_rollout, relevance, rollout
from shapjax.attribution.gradients import gradcam, gradient, input_x_gradient, integrated_gradients, smoothgrad
from shapjax.attribution.perturbation import include_one, leave_one_out, lime, rise
from shapjax.attribution.reference import phi, random
from shapjax.attribution.registry import METHODS, Method
from shapjax.attribution.shapley_values import (
    exact,
    exact_all,
    kernel_shap,
    kernel_shap_all,
    permutation,
    permutation_all,
    refined_phi,
)

__all__ = [
    "METHODS", "Method", "attention", "exact", "exact_all", "gradcam", "gradient", "gradient_rollout", "include_one",
    "input_x_gradient", "integrated_gradients", "kernel_shap", "kernel_shap_all", "leave_one_out", "lime",
    "permutation", "permutation_all", "phi", "random", "refined_phi", "relevance", "rise", "rollout", "smoothgrad",
]
