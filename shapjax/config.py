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

from shapjax import losses, models
from shapjax.errors import UserError
from shapjax.models import layers, painted, resnet

LAYOUTS = ("pmap", "fsdp")  # of the training state, see shapjax.layouts

# What may differ between the two halves of a resumed run: nothing that the parameters depend on.
FREE_TO_CHANGE = ("log_every", "eval_every", "eval_batch_size", "keep_checkpoints", "cpu_devices", "parallel",
                  "fsdp_devices", "model.remat", "data.data_dir", "data.cache_gib", "data.threads", "data.workers")


def default_config() -> ml_collections.ConfigDict:
    """All settings with their defaults; unknown keys cannot be set."""
    c = ml_collections.ConfigDict()
    c.dataset = "mnist5k"  # "mnist5k", "tfds:NAME" or "folder:PATH"
    c.seed = 0  # initial parameters, data order, augmentation, coalitions

    c.pretrained = ""  # weights to start from: a path, a run, a name on the Hugging Face hub; they fill in model.*
    c.train_only = ()  # parts of the model ("allocation", "head") that are trained, the rest staying as loaded; (): all
    c.teacher_weight = 0.0  # of what the weights predict as loaded, in the targets; the label has the rest
    c.new_head = False  # start with a new head instead of theirs, as for other classes

    c.data = d = ml_collections.ConfigDict()
    d.data_dir = ""  # where TFDS datasets lie; empty: TFDS's own default
    d.train_split = "train"  # in TFDS syntax, such as "train[:90%]"; of a folder, the sub-directory or a slice of it
    d.test_split = "test"  # what accuracy is measured on
    d.image_size = 0  # pixels; images are cut to a square and resized to it; 0: as they are
    d.cache_gib = 2.0  # a decoded set of at most this size is kept in memory
    d.mean = ()  # of each channel, to normalise pixels in [0, 1] with; empty: the pretrained weights', or the dataset's
    d.std = ()  # the same; of grey images, three numbers are averaged
    d.corrupt = "fail"  # an image that cannot be read ends the run; "skip" leaves it out, counted and named
    d.threads = 1  # that read and decode
    d.workers = 0  # processes that read and decode; 0: threads of this one

    c.augment = a = ml_collections.ConfigDict()
    a.max_shift = 2  # pixels; training images move by up to this much each way, black moving in
    a.flip = False  # left-right, half of the images
    a.crop_area = 1.0  # random-resized crop of at least this share of the area; 1: off
    a.colour_jitter = 0.0  # strength of changes in brightness, contrast, saturation
    a.rand_augment = 0  # RandAugment operations an image; 0: off
    a.rand_magnitude = 9.0  # of 10
    a.mixup = 0.0  # Beta parameter; 0: off
    a.cutmix = 0.0  # Beta parameter; 0: off; with both, each pair of images gets one of the two
    a.erase = 0.0  # probability of erasing a random rectangle

    c.model = m = ml_collections.ConfigDict()
    m.backbone = "vit"  # or "resnet", "convnext": painted coalitions, a pair costs two passes
    m.variant = ""  # such as "S/16", "ResNet-50", "ConvNeXt-T": fills in backbone and sizes; empty: as they stand
    m.patch_size = 7  # pixels; (height/patch)·(width/patch) patches are the players of the game
    m.width = 64  # D, of a token; of a ResNet or ConvNeXt, channels of the first stage; each further stage doubles them
    m.depth = 3  # transformer blocks
    m.heads = 4  # H; divides the width
    m.mlp_ratio = 4.0  # of a ViT or ConvNeXt: hidden width of a block's MLP over D
    m.class_token = False  # a CLS token that does not vote
    m.registers = 0  # tokens that do not vote
    m.activation = "gelu_tanh"  # of MLPs; "gelu" (exact) and "quick_gelu" are what some pretrained weights want
    m.norm_epsilon = 1e-6  # of layer norms; of a ConvNeXt, of the last one
    m.input_norm = False  # of a ViT: a layer norm before the first block
    m.norm_place = "token"  # of the last layer norm; "pooled": as if of the mean of the tokens
    m.stages = (1, 1, 1)  # of a ResNet or ConvNeXt, blocks a stage; each stage after the first halves the map
    m.stem = "3x3"  # of a ResNet, patch_size is 2^(stages - 1); "4x4": twice that; "7x7", of ImageNet: 4 times
    m.bottleneck = False  # of a ResNet: blocks of 1x1, 3x3, 1x1 convolutions, as from ResNet-50 on
    m.stride_in_1x1 = False  # of a bottleneck: in the 3x3 ("v1.5", nearly all weights), else the 1x1 before it ("v1")
    m.norm = "group"  # of a ResNet, over the map; "cell": over a cell's channels; "affine": the pretrained batch norms
    m.allocation_depth = 0  # of a ResNet or ConvNeXt: blocks of a second head that turns votes into phi; 0: none
    m.allocation_reach = 2  # patches: how far one is taken to matter to the vote of another, in that head; 0: nowhere
    m.painting = "mean"  # over patches that cannot be dropped: the mean colour; "zero": black; "blur": shows a little
    m.layer_masking = False  # of a ResNet or ConvNeXt: hidden patches are 0 in every feature map too, like the border
    m.head_scale = "sqrt"  # votes times 1/√N ("sqrt", fast from scratch) or 1/N ("mean", a mean-pooled classifier's)
    m.head_init = "zero"  # start from the game v = 0: target and estimate do not chase each other; or "default"
    m.center_votes = True  # a patch's votes sum to 0 over the classes: softmax does not see their mean, nor any label
    m.dtype = "float32"  # of the computation; "bfloat16" on accelerators
    m.remat = "full"  # recompute for the gradient all of a block ("full"), all but matrix products ("dots"), "none"

    c.shapley_weight = 16.0  # of the Shapley task; 0 is the plain twin
    c.shapley_warmup = 0.0  # share of the run over which that weight grows from 0, once coalitions are looked at
    c.shapley_gradient = "allocation"  # the task moves votes between patches; "game": v(S) - v(S^c) too; "full": all
    c.shapley_scale = "variance"  # the task in units of the values' variance, so not growing with the logits; or "none"
    c.own_weight = 1.0  # of teaching an allocation head what each patch votes in random contexts; 0: off
    c.masked_weight = 1.0  # of classifying coalitions: it makes v(S) a meaningful game
    c.masked_target = "label"  # what coalitions are taught; "prediction": the probabilities of the whole image
    c.num_pairs = 1  # coalition pairs an image and step; a step costs 1 + num_pairs passes; 0: an ordinary classifier
    c.coalitions_from = 0.0  # share of the run before which only whole images are classified, at one pass a step
    c.label_smoothing = 0.0  # limits the logits; costs some R²

    c.steps = 6000  # of the whole run; 140 s on 2 cores
    c.batch_size = 48  # images a step, over all devices
    c.accumulate = 1  # parts of a device's share of the batch, one after the other; the variance is each part's own
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
    c.parallel = "pmap"  # a copy of the state on every device; "fsdp": the state is split over devices
    c.fsdp_devices = 0  # that share one copy of the state, with "fsdp"; 0: all
    c.cpu_devices = 0  # JAX devices to split the CPU into; 0: one a core (small models run faster so)
    return c.lock()


def describe() -> str:
    """Every setting with its default and its reason, a line each, for `--help`: `default_config` as it is written."""
    lines = (line.strip() for line in inspect.getsource(default_config).splitlines())
    settings = (re.match(r"([acdm])\.(\w+) = (.*?)  # (.*)", line) for line in lines)
    part = {"a": "augment.", "c": "", "d": "data.", "m": "model."}
    return "\n".join(f"  {part[s[1]]}{s[2]} = {s[3]}\n      {s[4]}" for s in settings if s)


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

    A setting that is younger than the checkpoint, which thus lacks it, has its default: what was there before it.

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
    """Fills in what a model variant and backbone stand for; returns a copy."""
    config = config.copy_and_resolve_references()
    if config.model.variant:
        config.model.update(models.variant(config.model.variant))
    if config.model.backbone in models.PAINTED and not config.cpu_devices:
        config.cpu_devices = 1  # several can lock each other: XLA's convolutions share threads with its collectives
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
    m, (height, width, channels) = config.model, image_shape
    for key, value in flatten(config):
        if isinstance(value, float) and not (0 <= value < float("inf")):
            raise UserError(f"--config.{key}={value}: expected a finite number of at least 0")
    flat = dict(flatten(config))
    if len(config.data.mean) != len(config.data.std) or len(config.data.mean) not in (0, channels, 3):
        if config.pretrained:
            raise UserError(f"--config.pretrained={config.pretrained} normalises images of {len(config.data.mean)} "
                            f"channels, those of the dataset have {channels}; use weights for such images")
        raise UserError(f"--config.data.mean={config.data.mean} and --config.data.std={config.data.std}: expected a "
                        f"number for each of the {channels} channels, or nothing")
    if not all(0 <= x <= 1 for x in config.data.mean) or not all(0 < x < float("inf") for x in config.data.std):
        raise UserError(f"--config.data.mean={config.data.mean} and --config.data.std={config.data.std}: expected "
                        "means in [0, 1] and spreads above 0, in units of [0, 1]")
    for keys, wrong, expected in _BOUNDS:
        for key in keys:
            if wrong(flat[key]):
                raise UserError(f"--config.{key}={flat[key]}: expected {expected}")
    if config.train_only and not config.pretrained:
        raise UserError(f"--config.train_only={config.train_only} would leave the rest of a new model as it is made; "
                        "set --config.pretrained to the weights that it should have")
    if config.teacher_weight and (config.new_head or not config.pretrained):
        raise UserError(f"--config.teacher_weight={config.teacher_weight}: expected 0 without a trained head to learn "
                        "from; set --config.pretrained to weights that have one, and no new_head")
    choices = {"parallel": LAYOUTS, "data.corrupt": ("fail", "skip"), "model.backbone": models.BACKBONES,
               "model.head_scale": layers.HEAD_SCALES, "model.head_init": layers.HEAD_INITS,
               "model.dtype": ("float32", "bfloat16"), "model.remat": layers.REMAT_POLICIES,
               "model.activation": layers.ACTIVATIONS, "model.norm_place": layers.NORM_PLACES,
               "model.stem": resnet.STEM_STRIDES, "model.norm": resnet.NORMS, "model.painting": painted.PAINTINGS,
               "masked_target": losses.MASKED_TARGETS, "shapley_gradient": losses.SHAPLEY_GRADIENTS,
               "shapley_scale": losses.SHAPLEY_SCALES}
    for key, allowed in choices.items():
        if flat[key] not in allowed:
            raise UserError(f"--config.{key}={flat[key]}: expected one of {', '.join(allowed)}")
    if fault := models.BACKBONES[m.backbone].fault(m):
        raise UserError(f"--config.{fault}")
    if height % m.patch_size or width % m.patch_size:
        if config.pretrained:
            raise UserError(f"--config.pretrained={config.pretrained} has patches of {m.patch_size} pixels, which do "
                            f"not divide the image size {height}x{width}; set --config.data.image_size to a multiple")
        fitting = [p for p in range(2, min(height, width)) if height % p == 0 == width % p]
        raise UserError(f"--config.model.patch_size={m.patch_size} does not divide the image size {height}x{width}; "
                        f"use one of {', '.join(map(str, fitting))}")
    if height * width // m.patch_size**2 < 2:
        raise UserError(f"--config.model.patch_size={m.patch_size} makes the whole image one patch; use a smaller one")
    if config.parallel == "fsdp" and config.fsdp_devices and num_devices % config.fsdp_devices:
        fitting = [n for n in range(1, num_devices + 1) if num_devices % n == 0]
        raise UserError(f"--config.fsdp_devices={config.fsdp_devices} does not divide the {num_devices} devices; use "
                        f"one of {', '.join(map(str, fitting))}, or 0 for all")
    batch_size, unit = config.batch_size, num_devices * config.accumulate
    if batch_size % unit:
        parts = f" times {config.accumulate} parts" if config.accumulate > 1 else ""
        raise UserError(f"--config.batch_size={batch_size} is not divisible by the {num_devices} devices{parts}; "
                        f"use {max(1, batch_size // unit) * unit}")


# Keys, what is wrong with a value, what is expected.
_BOUNDS = (
    (("steps", "batch_size", "accumulate", "log_every", "eval_every", "eval_batch_size", "keep_checkpoints",
      "data.threads", "model.patch_size", "model.width", "model.depth", "model.heads"),
     lambda value: value < 1, "at least 1"),
    (("seed", "num_pairs", "fsdp_devices", "cpu_devices", "data.workers", "data.image_size", "model.registers",
      "model.allocation_depth", "model.allocation_reach"),
     lambda value: value < 0, "at least 0"),
    (("warmup", "shapley_warmup", "coalitions_from", "b2", "ema_decay", "label_smoothing"),
     lambda value: value >= 1, "a share below 1"),
    (("teacher_weight",), lambda value: value > 0.5, "a share of at most 0.5"),
)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Settings that keep a run from being resumed: "key: old -> new", leaving out `FREE_TO_CHANGE`."""
    old, new = dict(flatten(old)), dict(flatten(new))
    return [f"{key}: {old.get(key)} -> {new.get(key)}" for key in sorted(old.keys() | new.keys())
            if key not in FREE_TO_CHANGE and old.get(key) != new.get(key)]
