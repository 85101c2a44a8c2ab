"""The settings of a run, each with its reason, and the checks on them.

A config file (`configs/*.py`) starts from `default_config()` and sets what differs; `--config.key=value` on the command
line overrides it. The resolved config travels inside each checkpoint, as JSON.
"""

import difflib
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from shapjax import losses
from shapjax.errors import UserError
from shapjax.models import vit

# What may differ between the two halves of a resumed run: nothing that the parameters depend on.
FREE_TO_CHANGE = ("log_every", "eval_every", "eval_batch_size", "keep_checkpoints", "cpu_devices")


def default_config() -> ml_collections.ConfigDict:
    """All settings with their defaults; unknown keys cannot be set."""
    c = ml_collections.ConfigDict()
    c.dataset = "mnist5k"  # a name that shapjax.data.sources knows
    c.seed = 0  # initial parameters, data order, augmentation, coalitions
    c.max_shift = 2  # pixels; training images move by up to this much each way

    c.model = m = ml_collections.ConfigDict()
    m.variant = ""  # "Ti/16", "S/16", "B/16", "L/16", …: fills in the next four; empty: they stand as they are
    m.patch_size = 7  # pixels; (height/patch)·(width/patch) patches are the players of the game
    m.width = 64  # D, of a token
    m.depth = 3  # transformer blocks
    m.heads = 4  # H; divides the width
    m.mlp_ratio = 4.0  # hidden width of a block's MLP over D
    m.class_token = False  # a CLS token that does not vote
    m.registers = 0  # tokens that do not vote
    m.head_scale = "sqrt"  # votes times 1/√N ("sqrt", fast from scratch) or 1/N ("mean", a mean-pooled classifier's)
    m.head_init = "zero"  # start from the game v = 0: target and estimate do not chase each other; or "default"
    m.center_votes = True  # a patch's votes sum to 0 over the classes: softmax does not see their mean, nor any label
    m.dtype = "float32"  # of the computation; "bfloat16" on accelerators
    m.remat = True  # recompute what lies between the matrix products for the gradient: less memory, faster on CPU

    c.shapley_weight = 16.0  # of the Shapley task; 0 is the plain twin
    c.shapley_warmup = 0.0  # share of the run over which that weight grows from 0
    c.shapley_gradient = "allocation"  # the task moves votes between patches, not the prediction; "full": through all
    c.shapley_scale = "variance"  # the task in units of the values' variance, so not growing with the logits; or "none"
    c.masked_weight = 1.0  # of classifying coalitions: it makes v(S) a meaningful game
    c.num_pairs = 1  # coalition pairs an image and step; a step costs 1 + num_pairs passes
    c.label_smoothing = 0.0  # limits the logits; costs some R²

    c.steps = 6000  # of the whole run; 140 s on 2 cores
    c.batch_size = 48  # images a step, over all devices
    c.learning_rate = 2e-3  # the peak
    c.warmup = 0.1  # share of the run over which the learning rate grows from 0; then a cosine to 0
    c.weight_decay = 0.05  # on kernels only
    c.b2 = 0.99  # Adam's decay of squared gradients
    c.clip_norm = 1.0  # of the gradient's global norm
    c.ema_decay = 0.998  # evaluate a moving average of the parameters: better accuracy for free; 0: off

    c.log_every = 50  # steps between lines of metrics
    c.eval_every = 500  # steps between evaluations on the test split, each followed by a checkpoint
    c.eval_batch_size = 250  # images a forward pass
    c.keep_checkpoints = 2  # the newest ones; the best by test accuracy is kept besides
    c.cpu_devices = 0  # JAX devices to split the CPU into; 0: one a core (small models run faster so)
    return c.lock()


def describe() -> str:
    """Every setting with its default and its reason, a line each, for `--help`: `default_config` as it is written."""
    lines = (line.strip() for line in inspect.getsource(default_config).splitlines())
    settings = (re.match(r"([cm])\.(\w+) = (.*?)  # (.*)", line) for line in lines)
    return "\n".join(f"  {'model.' if s[1] == 'm' else ''}{s[2]} = {s[3]}\n      {s[4]}" for s in settings if s)


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every setting of a config or of the dict that JSON gives."""
    for key in sorted(config):
        value = config[key]
        if isinstance(value, Mapping | ml_collections.ConfigDict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def from_dict(values: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """The config that `to_dict()` of another config gave (in a checkpoint, say).

    Raises:
      UserError: on keys that this version does not know, or values of another type.
    """
    config = default_config()
    known = dict(flatten(config))
    for key, value in flatten(values):
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"setting {key!r} is unknown to this version of shapjax{hint}")
        try:
            config.update_from_flattened_dict({key: value})
        except (TypeError, ValueError) as e:
            raise UserError(f"setting {key!r} is {value!r}, expected {type(known[key]).__name__}") from e
    return config


def resolve(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Fills in what a model variant stands for; returns a copy."""
    config = config.copy_and_resolve_references()
    if config.model.variant:
        config.model.update(vit.variant(config.model.variant))
    return config.lock()


def validate(config: ml_collections.ConfigDict, *, image_shape: tuple[int, int, int], num_devices: int) -> None:
    """Checks a resolved config against the images and the devices.

    Args:
      config: resolved.
      image_shape: (H, W, C) of the dataset.
      num_devices: over which a batch is split.

    Raises:
      UserError: on the first setting that cannot work; says which, why and what would.
    """
    m, (height, width, _) = config.model, image_shape
    for key, value in flatten(config):
        if isinstance(value, float) and not (0 <= value < float("inf")):
            raise UserError(f"--config.{key}={value}: expected a finite number of at least 0")
    positive = {"steps": config.steps, "batch_size": config.batch_size, "num_pairs": config.num_pairs,
                "log_every": config.log_every, "eval_every": config.eval_every,
                "eval_batch_size": config.eval_batch_size, "keep_checkpoints": config.keep_checkpoints,
                "model.patch_size": m.patch_size, "model.width": m.width, "model.depth": m.depth,
                "model.heads": m.heads}
    for key, value in positive.items():
        if value < 1:
            raise UserError(f"--config.{key}={value}: expected at least 1")
    for key, value in {"max_shift": config.max_shift, "model.registers": m.registers, "seed": config.seed}.items():
        if value < 0:
            raise UserError(f"--config.{key}={value}: expected at least 0")
    for key, value in {"warmup": config.warmup, "shapley_warmup": config.shapley_warmup, "b2": config.b2,
                       "ema_decay": config.ema_decay, "label_smoothing": config.label_smoothing}.items():
        if value >= 1:
            raise UserError(f"--config.{key}={value}: expected a share below 1")
    choices = {"model.head_scale": vit.HEAD_SCALES, "model.head_init": vit.HEAD_INITS,
               "model.dtype": ("float32", "bfloat16"), "shapley_gradient": losses.SHAPLEY_GRADIENTS,
               "shapley_scale": losses.SHAPLEY_SCALES}
    flat = dict(flatten(config))
    for key, allowed in choices.items():
        if flat[key] not in allowed:
            raise UserError(f"--config.{key}={flat[key]}: expected one of {', '.join(allowed)}")
    if m.width % m.heads:
        raise UserError(f"--config.model.heads={m.heads} does not divide the width {m.width}")
    if height % m.patch_size or width % m.patch_size:
        fitting = [p for p in range(2, min(height, width)) if height % p == 0 == width % p]
        raise UserError(f"--config.model.patch_size={m.patch_size} does not divide the image size {height}x{width}; "
                        f"use one of {', '.join(map(str, fitting))}")
    if height * width // m.patch_size**2 < 2:
        raise UserError(f"--config.model.patch_size={m.patch_size} makes the whole image one patch; use a smaller one")
    if config.batch_size % num_devices:
        raise UserError(f"--config.batch_size={config.batch_size} is not divisible by the {num_devices} devices; "
                        f"use {max(1, config.batch_size // num_devices) * num_devices}")


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Settings that keep a run from being resumed: "key: old -> new", leaving out `FREE_TO_CHANGE`."""
    old, new = dict(flatten(old)), dict(flatten(new))
    return [f"{key}: {old.get(key)} -> {new.get(key)}" for key in sorted(old.keys() | new.keys())
            if key not in FREE_TO_CHANGE and old.get(key) != new.get(key)]
