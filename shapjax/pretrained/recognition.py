"""Recognizes whose weights these are, under which prefix, and checks that they are all of a model's."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from shapjax import models
from shapjax.config import default_config, model_settings, set_model
from shapjax.errors import UserError, as_user_error, few
from shapjax.pretrained import convnext, recipes, resnet, vit_google, vit_hugging_face, vit_timm
from shapjax.pretrained.architecture import Architecture, Plan
from shapjax.pretrained.weights import Weights

# A module for each scheme of names, see `architecture`; the first that knows the names makes the plan.
SCHEMES = (vit_hugging_face, vit_timm, vit_google, resnet, convnext)
# What training frameworks and larger models put before the names of a model's tensors, once or repeatedly.
_WRAPPED = re.compile(r"((module|_orig_mod|model|backbone|network|net|(model_)?ema(_model)?|state_dict|student|teacher"
                      r"|encoder|vision_tower)\.)+")


class Recognized(NamedTuple):
    """Weights under the names that a scheme knows, the plan to convert them, and notes for the report."""

    weights: Weights
    plan: Plan
    notes: tuple[str, ...] = ()


def recognize(weights: Weights) -> Recognized:
    """Returns weights with their plan; prefixes that training frameworks put before names are stripped.

    Raises:
      UserError: if they are of no known model, or of several, each under a prefix of its own, or not all of a model's.
    """
    if (plan := _plan_of(weights)) is not None:
        return Recognized(weights, plan)
    prefixes = dict.fromkeys(match[0] for name in weights if (match := _WRAPPED.match(name)))
    inside = {prefix: weights.under(prefix) for prefix in prefixes}
    found = {prefix: Recognized(inside[prefix], plan) for prefix in prefixes if (plan := _plan_of(inside[prefix]))}
    if len(found) > 1:
        raise UserError(f"weights {weights.path} hold several models, under {', '.join(found)}; keep "
                        "the tensors of one")
    for prefix, planned in found.items():
        others = len(weights) - len(planned.weights)
        return planned._replace(notes=(f"the prefix {prefix!r} of the names is stripped"
                                       + (f", {others} tensors without it are left out" if others else ""),))
    raise UserError(f"weights {weights.path} are of no known model (their tensors: {few(sorted(weights))}); "
                    "docs/models.md lists what can be loaded")


def _plan_of(weights: Weights) -> Plan | None:
    """Returns the plan of the first scheme that knows the names, None if none does.

    Raises:
      UserError: if tensors are missing, have shapes that do not fit, or belong to parts that our model lacks, or if
        the config has a value that cannot be.
    """
    plan = next((plan for scheme in SCHEMES if (plan := scheme.plan(weights)) is not None), None)
    if plan is None:
        return None
    looks, used = f"weights {weights.path} look like {plan.architecture.layout}", recipes.names(plan.recipes)
    if missing := sorted(used - weights.keys()):
        raise UserError(f"{looks} but lack {len(missing)} of its tensors: {few(missing)}; is the file complete?")
    advice = "use weights of the plain model, of a kind that docs/models.md lists"
    if more := sorted(name for name in weights if name.startswith(plan.blocks) and name not in used
                      and not re.match(plan.ignored, name)):
        raise UserError(f"{looks}, but their blocks have tensors that this model lacks: {few(more)}; {advice}")
    try:
        with as_user_error(f"weights {weights.path}: "):
            shapes = param_shapes(plan.architecture, plan.architecture.settings)
    except TypeError as e:  # of ml_collections
        raise UserError(f"the config.json of {weights.path} has a value of another type than expected: {str(e)[:200]}; "
                        "copy it again") from e
    wrong = [f"{tensors} where {key} needs {list(shape)}" for key, recipe in plan.recipes.items()
             for tensors, shape in recipes.misfits(recipe, weights.shapes, shapes[key])]
    if wrong:
        raise UserError(f"{looks}, but {few(wrong)}; {advice}")
    return plan


def param_shapes(architecture: Architecture, settings: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Returns the shapes, by path, of the parameters of a model with these settings, for the weights' images.

    Raises:
      TypeError: if a setting is of another type than the model's.
      ValueError: if a setting cannot work.
    """
    config = default_config()
    set_model(config, settings)
    image_shape = (*(architecture.image_size or [2 * config.model.patch_size] * 2), architecture.channels)
    module = models.build(model_settings(config), image_shape=image_shape, num_classes=architecture.num_classes or 1)
    leaves = jax.tree_util.tree_leaves_with_path(models.param_shapes(module, image_shape=image_shape))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x.shape for path, x in leaves}
