"""The attribution methods by name, with their sources and what they need of a model.

    shapjax.attribution.METHODS["rise"].fn(model, images, targets, key)
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from shapjax.attribution import attention_maps, gradients, perturbation, reference, shapley_values
from shapjax.errors import chosen
from shapjax.games import cost, shapley
from shapjax.games.classifier import Classifier

# The coalitions of an image are enumerated unasked while that takes seconds: of up to 16 patches, each of which doubles
# the work, and of a small model. A ViT-S needs minutes.
MAX_UNASKED_EXACT_PLAYERS = 16
MAX_UNASKED_EXACT_FLOPS = 2e12
UNKNOWN_FLOPS = 1e8  # of a pass that has no products to count, such as one outside of JAX


class Method(NamedTuple):
    """An attribution method with its description.

    Attributes:
      key: its name on the command line.
      title: for people.
      family: "self-explaining", "gradient", "attention", "coalition", "shapley" or "baseline".
      citation: authors and year.
      fn: (model, images, targets, key, *, batch_size, …) -> float32 [B, N].
      needs: field of `Classifier` that the model must offer; None if any model will do.
      sampled: takes the number of coalitions as `coalitions=`.
    """

    key: str
    title: str
    family: str
    citation: str
    fn: Callable
    needs: str | None = None
    sampled: bool = False


METHODS: dict[str, Method] = {method.key: method for method in (
    Method("phi", "phi, the model's own", "self-explaining", "Fan et al. 2026", reference.phi, "phi_fn"),
    *(Method(f"phi_{pairs}", f"phi + {pairs} pairs", "self-explaining", "", functools.partial(
        shapley_values.refined_phi, pairs=pairs), "error_law") for pairs in (8, 32)),
    Method("exact", "exact Shapley values", "shapley", "Shapley 1953", shapley_values.exact),
    Method("kernel_shap", "KernelSHAP", "shapley", "Lundberg & Lee 2017; Covert & Lee 2021", shapley_values.kernel_shap,
           sampled=True),
    Method("permutation", "permutation sampling", "shapley", "Mitchell et al. 2022", shapley_values.permutation,
           sampled=True),
    Method("rise", "RISE", "coalition", "Petsiuk et al. 2018", perturbation.rise, sampled=True),
    Method("lime", "LIME", "coalition", "Ribeiro et al. 2016", perturbation.lime, sampled=True),
    Method("leave_one_out", "leave one out", "coalition", "Zeiler & Fergus 2014", perturbation.leave_one_out),
    Method("include_one", "include one", "coalition", "Covert et al. 2021", perturbation.include_one),
    Method("relevance", "relevance propagation", "attention", "Chefer et al. 2021 (CVPR)", attention_maps.relevance,
           "relevance_fn"),
    Method("gradient_rollout", "gradient-weighted rollout", "attention", "Chefer et al. 2021 (ICCV)",
           attention_maps.gradient_rollout, "attention_fn"),
    Method("rollout", "attention rollout", "attention", "Abnar & Zuidema 2020", attention_maps.rollout, "attention_fn"),
    Method("attention", "raw attention", "attention", "Vaswani et al. 2017", attention_maps.attention, "attention_fn"),
    Method("gradcam", "Grad-CAM", "gradient", "Selvaraju et al. 2017", gradients.gradcam, "features_fn"),
    Method("integrated_gradients", "integrated gradients", "gradient", "Sundararajan et al. 2017",
           gradients.integrated_gradients),
    Method("smoothgrad", "SmoothGrad", "gradient", "Smilkov et al. 2017", gradients.smoothgrad),
    Method("input_x_gradient", "input × gradient", "gradient", "Shrikumar et al. 2016", gradients.input_x_gradient),
    Method("gradient", "gradient", "gradient", "Simonyan et al. 2014", gradients.gradient),
    Method("random", "random", "baseline", "", reference.random),
)}


def passes(method: Method, model: Classifier, image: chex.Array, *, coalitions: int) -> float:
    """Returns the forward passes that one explanation costs: its operations over those of a forward pass.

    Operations are counted in the traced program; nothing is run. So a coalition that is drawn twice counts twice,
    though it is evaluated once. NaN for a model without products to count.

    Args:
      method: of `METHODS`; the model has what it needs.
      model: the classifier.
      image: float [H, W, C]; only its shape counts.
      coalitions: their number, for methods that sample them.
    """
    row = (image[None], jnp.zeros(1, jnp.int32), jax.random.split(jax.random.key(0), 1))
    options = {"coalitions": coalitions} if method.sampled else {}
    once = cost.count_flops(Classifier.logits, model, image[None])
    return cost.count_flops(functools.partial(method.fn, **options), model, *row) / once if once else math.nan


def enumerates_unasked(model: Classifier, image_shape: tuple[int, int, int]) -> bool:
    """Returns whether all coalitions of an image (H, W, C) take seconds, so that they are evaluated unasked.

    Operations are counted in the traced program; nothing is run.
    """
    if model.num_players > MAX_UNASKED_EXACT_PLAYERS:
        return False
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    once = cost.count_flops(Classifier.logits, model, image) or UNKNOWN_FLOPS
    return 2**model.num_players * once <= MAX_UNASKED_EXACT_FLOPS


def select(names: str | Sequence[str], model: Classifier, image_shape: tuple[int, int, int]) -> list[Method]:
    """Returns the methods of these names, in this order, each once.

    "all" is every method that the model can run on images (H, W, C), enumeration only while that takes seconds.

    Raises:
      ValueError: if there is no name, or on a name that does not exist (with the near ones), a method that needs what
        the model does not have, or enumeration of too many patches.
    """
    possible = [method for method in METHODS.values() if method.needs is None or getattr(model, method.needs)]
    if names == "all":
        return [method for method in possible if method.key != "exact" or enumerates_unasked(model, image_shape)]
    methods = chosen(names, METHODS, "method")
    for method in methods:
        if method.key == "exact":
            shapley.require_enumerable(model.num_players)
        elif method not in possible:
            raise ValueError(f"method {method.key!r} needs {method.needs}, which this model does not have: "
                             f"choose among {', '.join(method.key for method in possible)}")
    return methods
