"""Every attribution method by its name, with its source, what it costs and what it needs of a model.

    from shapjax.attribution import registry
    registry.METHODS["rise"].fn(model, images, targets, key)
"""

import dataclasses
import difflib
from collections.abc import Callable, Sequence

from shapjax import shapley
from shapjax.attribution import (
    attention,
    baseline,
    gradcam,
    gradients,
    lime,
    occlusion,
    rise,
    shapley_values,
)
from shapjax.classifier import Classifier
from shapjax.errors import UserError

GRADIENT_PASSES = 3  # a gradient costs as much as three forward passes: forward, and backward twice as much
MAX_UNASKED_EXACT_PLAYERS = 16  # enumerated unasked: 65 536 coalitions take seconds; each further patch doubles that


@dataclasses.dataclass(frozen=True)
class Method:
    """An attribution method and what a reader wants to know of it.

    Attributes:
      key: its name on the command line.
      title: for people.
      family: "self-explaining", "gradient", "attention", "coalition", "shapley" or "baseline".
      citation: authors and year.
      fn: (model, images, targets, key, *, batch_size, …) -> float32 [B, N].
      passes: (model, coalitions) -> forward passes of one image that an explanation costs; a gradient counts three.
      needs: field of `Classifier` that the model must offer; None if any model will do.
      sampled: takes the number of coalitions as `coalitions=`.
    """

    key: str
    title: str
    family: str
    citation: str
    fn: Callable
    passes: Callable[[Classifier, int], float]
    needs: str | None = None
    sampled: bool = False


def _constant(passes: float) -> Callable[[Classifier, int], float]:
    return lambda model, coalitions: passes


def _pairs(count: Callable[[int, int], float]) -> Callable[[Classifier, int], float]:
    """The cost of so many coalition pairs, by (N, coalitions)."""
    return lambda model, coalitions: model.pair_passes * count(model.num_players, coalitions)


_ALL = (
    Method("phi", "phi, the model's own", "self-explaining", "Fan et al. 2026", baseline.phi, _constant(1), "votes_fn"),
    Method("exact", "exact Shapley values", "shapley", "Shapley 1953", shapley_values.exact,
           _pairs(lambda n, _: 2 ** (n - 1))),
    Method("kernel_shap", "KernelSHAP", "shapley", "Lundberg & Lee 2017; Covert & Lee 2021", shapley_values.kernel_shap,
           _pairs(lambda _, m: m // 2 + 1), sampled=True),
    Method("permutation", "permutation sampling", "shapley", "Mitchell et al. 2022", shapley_values.permutation,
           _pairs(lambda n, m: shapley_values.permutation_pairs(n, m) * (n - 1) + 1), sampled=True),
    Method("rise", "RISE", "coalition", "Petsiuk et al. 2018", rise.rise, _pairs(lambda _, m: m // 2), sampled=True),
    Method("lime", "LIME", "coalition", "Ribeiro et al. 2016", lime.lime, _pairs(lambda _, m: m // 2), sampled=True),
    Method("leave_one_out", "leave one out", "coalition", "Zeiler & Fergus 2014", occlusion.leave_one_out,
           lambda model, _: model.num_players + 1),
    Method("include_one", "include one", "coalition", "Covert et al. 2021", occlusion.include_one,
           lambda model, _: model.num_players + 1),
    Method("relevance", "relevance propagation", "attention", "Chefer et al. 2021 (CVPR)", attention.relevance,
           _constant(2 * GRADIENT_PASSES), "relevance_fn"),
    Method("gradient_rollout", "gradient-weighted rollout", "attention", "Chefer et al. 2021 (ICCV)",
           attention.gradient_rollout, _constant(GRADIENT_PASSES), "attention_fn"),
    Method("rollout", "attention rollout", "attention", "Abnar & Zuidema 2020", attention.rollout, _constant(1),
           "attention_fn"),
    Method("attention", "raw attention", "attention", "Vaswani et al. 2017", attention.attention, _constant(1),
           "attention_fn"),
    Method("gradcam", "Grad-CAM", "gradient", "Selvaraju et al. 2017", gradcam.gradcam, _constant(GRADIENT_PASSES),
           "features_fn"),
    Method("integrated_gradients", "integrated gradients", "gradient", "Sundararajan et al. 2017",
           gradients.integrated_gradients, _constant(GRADIENT_PASSES * gradients.INTEGRATION_STEPS)),
    Method("smoothgrad", "SmoothGrad", "gradient", "Smilkov et al. 2017", gradients.smoothgrad,
           _constant(GRADIENT_PASSES * gradients.SMOOTHGRAD_SAMPLES)),
    Method("input_x_gradient", "input × gradient", "gradient", "Shrikumar et al. 2016", gradients.input_x_gradient,
           _constant(GRADIENT_PASSES)),
    Method("gradient", "gradient", "gradient", "Simonyan et al. 2014", gradients.gradient, _constant(GRADIENT_PASSES)),
    Method("random", "random", "baseline", "", baseline.random, _constant(0)),
)
METHODS: dict[str, Method] = {method.key: method for method in _ALL}


def applicable(model: Classifier) -> list[Method]:
    """The methods that a model can be asked for, without those that would take very long."""
    return [method for method in METHODS.values()
            if (method.needs is None or getattr(model, method.needs) is not None)
            and (method.key != "exact" or model.num_players <= MAX_UNASKED_EXACT_PLAYERS)]


def select(names: Sequence[str], model: Classifier) -> list[Method]:
    """The methods of these names, in this order, each once.

    Raises:
      UserError: on a name that does not exist (with the near ones), a method that needs what the model does not have,
        or enumeration of too many patches.
    """
    for name in names:
        if name not in METHODS:
            near = difflib.get_close_matches(name, METHODS, n=3, cutoff=0.4)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(METHODS)}"
            raise UserError(f"there is no attribution method {name!r}; {hint}")
        if (needs := METHODS[name].needs) and getattr(model, needs) is None:
            possible = ", ".join(method.key for method in applicable(model))
            raise UserError(f"method {name!r} needs {needs}, which this model does not have; choose among {possible}")
    if "exact" in names:
        shapley.require_enumerable(model.num_players)
    return [METHODS[name] for name in dict.fromkeys(names)]
