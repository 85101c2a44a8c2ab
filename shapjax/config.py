"""The settings of a run, each with its reason, in groups.

A config file (`configs/*.py`) starts from `default_config()` and sets what differs; `--config.key=value` on the command
line overrides it. The resolved config travels inside each checkpoint, as JSON. Ranges of numbers are checked here;
choices and sizes are checked by the modules that use them.
"""

import inspect
import re
from collections.abc import Mapping
from typing import Any

import ml_collections
from flax import traverse_util

from shapjax.errors import UserError

# Settings that may change when a run is resumed. The parameters do not depend on them.
FREE_TO_CHANGE = ("run.log_every", "run.eval_every", "run.keep_checkpoints", "run.cpu_devices", "run.parallel",
                  "run.fsdp_devices", "model.remat", "data.data_dir", "data.cache_gib", "data.threads")


def default_config() -> ml_collections.ConfigDict:
    """Returns all settings with their defaults; unknown keys cannot be set."""
    c = ml_collections.ConfigDict()
    c.dataset = "mnist5k"  # "mnist5k", "tfds:NAME" or "folder:PATH"
    c.seed = 0  # of initial parameters, data order, augmentation and coalitions
    c.pretrained = ""  # weights to start from: a path, a run, a name on the Hugging Face hub; they say how it is built
    c.new_head = False  # start with a new head instead of the weights' own, as for other classes

    c.data = d = ml_collections.ConfigDict()
    d.data_dir = ""  # where TFDS datasets lie; empty: TFDS's own default
    d.train_split = "train"  # in TFDS syntax, such as "train[:90%]"; of a folder, the sub-directory or a slice of it
    d.test_split = "test"  # accuracy is measured on these images
    d.image_size = 0  # pixels; images are cut to a square and resized to it; 0: as they are
    d.cache_gib = 2.0  # a decoded set of at most this size is kept in memory
    d.mean = ()  # of each channel, of pixels in [0, 1]; empty: that of the pretrained weights, or of the dataset
    d.std = ()  # standard deviation, likewise; for gray images, three numbers are averaged
    d.corrupt = "fail"  # an image that cannot be read ends the run; "skip" leaves it out, counted and named
    d.threads = 1  # threads that read and decode

    c.augment = a = ml_collections.ConfigDict()
    a.max_shift = 2  # pixels; training images move by up to this much each way, black moving in
    a.flip = False  # left-right, half of the images
    a.crop_area = 1.0  # random-resized crop of at least this share of the area; 1: off
    a.color_jitter = 0.0  # strength of changes in brightness, contrast, saturation
    a.rand_augment = 0  # RandAugment operations an image; 0: off
    a.rand_magnitude = 9.0  # strength of RandAugment's operations, 0 to 10
    a.mixup = 0.0  # Beta parameter; 0: off
    a.cutmix = 0.0  # Beta parameter; 0: off; with both, each pair of images gets one of the two
    a.erase = 0.0  # probability of erasing a random rectangle

    c.model = m = ml_collections.ConfigDict()
    m.backbone = "vit"  # or "resnet", "convnext", whose hidden patches are masked: a pair costs two passes
    m.variant = ""  # such as "S/16", "ResNet-50", "ConvNeXt-T": fills in backbone and sizes; empty: the sizes below
    m.patch_size = 7  # pixels; (height/patch)·(width/patch) patches are the players of the game
    m.width = 64  # D, of a token; of a ResNet or ConvNeXt, channels of the first stage; each further stage doubles them
    m.depth = 3  # transformer blocks
    m.heads = 4  # H; divides the width
    m.stages = (1, 1, 1)  # of a ResNet or ConvNeXt, blocks a stage; each stage after the first halves the map
    m.explainer_depth = 0  # transformer blocks of an explainer head, which turns features into phi; 0: none
    m.dtype = "auto"  # "float32"; "bfloat16" on accelerators; "bfloat16_products": of training, where a CPU gains by it
    m.remat = "auto"  # recompute for the gradient "none" of a block, all but its products ("dots"), "full"; by memory

    c.loaded = w = ml_collections.ConfigDict()  # the form of loaded weights; weights and variants set these
    w.mlp_ratio = 4.0  # of a ViT or ConvNeXt: hidden width of a block's MLP over D
    w.class_token = False  # a CLS token before the patches
    w.registers = 0  # register tokens before the patches
    w.activation = "gelu_tanh"  # of MLPs; or "gelu" (exact), "quick_gelu"
    w.norm_epsilon = 1e-6  # of layer norms; of a ConvNeXt, of the last one
    w.input_norm = False  # of a ViT: a layer norm before the first block
    w.norm_place = "token"  # of the last layer norm; "pooled": as if of the mean of the tokens
    w.layer_scale = False  # of a ViT: what a block adds is multiplied by a parameter for each channel
    w.bottleneck = False  # of a ResNet: blocks of 1x1, 3x3, 1x1 convolutions, as from ResNet-50 on
    w.stride_in_1x1 = False  # of a bottleneck: in the 3x3 ("v1.5", nearly all weights), else the 1x1 before it ("v1")
    w.batch_norm = False  # of a ResNet: pretrained batch norms, as a scale and a bias; else norms of each cell
    w.head_scale = "sqrt"  # patch logits times 1/√N ("sqrt", fast from scratch) or 1/N ("mean", of a kept head)
    w.center = True  # a patch's logits sum to 0 over the classes, which softmax does not see; a kept head needs it off

    c.shapley = s = ml_collections.ConfigDict()
    s.weight = 16.0  # of the Shapley task; 0 is the baseline model
    s.masked_weight = 1.0  # of classifying coalitions: it makes v(S) a meaningful game
    s.num_pairs = 1  # coalition pairs an image and step; a step costs 1 + num_pairs passes; 0: an ordinary classifier
    s.start = 0.0  # share of the run before which only whole images are classified, at one pass a step
    s.teacher_weight = 0.0  # share of the loaded weights' prediction in the targets; the label has the rest

    c.optim = o = ml_collections.ConfigDict()
    o.steps = 4500  # of the whole run; with epochs, at most
    o.epochs = 0.0  # length of the run in epochs, at least 400 steps; 0: as many as steps says
    o.batch_size = 48  # images a step, over all devices
    o.accumulate = 1  # parts of a device's share of the batch, one after the other; the variance is each part's own
    o.learning_rate = 2e-3  # the peak
    o.warmup = 0.1  # share of the run over which the learning rate grows from 0; then a cosine
    o.floor = 0.0  # the learning rate at the end over the peak
    o.probe = 0.0  # share of the run, at its start, that trains the head alone: a new one on pretrained weights
    o.head_rate = 1.0  # factor on the learning rate of the head and the explainer head
    o.layer_decay = 1.0  # factor on the learning rate of a ViT's block for each block after it
    o.weight_decay = 0.05  # on kernels only
    o.b2 = 0.99  # Adam's decay of squared gradients
    o.clip_norm = 1.0  # of the gradient's global norm
    o.ema_decay = 0.998  # evaluate a moving average of the parameters: better accuracy for free; 0: off
    o.train_only = ()  # parts of the model ("explainer", "head") that are trained, the rest staying as loaded; (): all

    c.run = r = ml_collections.ConfigDict()
    r.log_every = 50  # steps between lines of metrics
    r.eval_every = 500  # steps between evaluations on the test split, each followed by a checkpoint
    r.keep_checkpoints = 2  # the newest ones; the best by test accuracy is kept besides
    r.parallel = "pmap"  # a copy of the state on every device; "fsdp": the state is split over devices
    r.fsdp_devices = 0  # devices that share one copy of the state, with "fsdp"; 0: all
    r.cpu_devices = 0  # JAX devices to split the CPU into; 0: one a core for small ViTs, else one
    return c.lock()


_GROUPS = {"c": "", "d": "data.", "a": "augment.", "m": "model.", "w": "loaded.", "s": "shapley.", "o": "optim.",
           "r": "run."}


def describe() -> str:
    """Returns every setting that a person sets with its default and its reason, by group, for `--help`."""
    lines = (line.strip() for line in inspect.getsource(default_config).splitlines())
    settings = (re.match(r"([cdamsor])\.(\w+) = (?!\w = )(.*?)  # (.*)", line) for line in lines)
    return "\n".join(f"  {_GROUPS[s[1]]}{s[2]} = {s[3]}\n      {s[4]}" for s in settings if s)


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns {dotted key: value} of a config, or of the dict that JSON gives."""
    values = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else config
    return traverse_util.flatten_dict(values, sep=".")


def from_dict(values: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """Returns the config that `to_dict()` of another config gave (in a checkpoint, say).

    A setting that is newer than the checkpoint has its default, which is the behavior before the setting existed.

    Raises:
      UserError: on keys that this version does not know, or values of another type.
    """
    config = default_config()
    known = flatten(config)
    for key, value in flatten(values).items():
        if key not in known:
            raise UserError(f"setting {key!r} is unknown to this version of shapjax: use the one that wrote it")
        try:
            config.update_from_flattened_dict({key: value})
        except (TypeError, ValueError) as e:
            raise UserError(f"setting {key!r} is {value!r}, expected {type(known[key]).__name__}") from e
    return config


def model_settings(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the settings that a module is built from: those of `model` and `loaded` in one dict."""
    return {**config.model, **config.loaded}


def set_model(config: ml_collections.ConfigDict, settings: Mapping[str, Any]) -> None:
    """Sets model settings by name, each in its group (`model` or `loaded`), in place.

    Raises:
      TypeError: if a value is of another type than the setting.
      KeyError: on a name that neither group has.
    """
    for key, value in settings.items():
        group = config.model if key in config.model else config.loaded
        group[key] = value


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks that numbers are in range, and that settings do not contradict each other.

    Raises:
      UserError: on the first setting that cannot work; names it, and says why and which value would work.
    """
    flat = flatten(config)
    for keys, wrong, expected in _BOUNDS:
        for key in keys:
            if wrong(flat[key]):
                raise UserError(f"--config.{key}={flat[key]}: expected {expected}")
    for key, value in flat.items():
        if isinstance(value, int | float) and not (0 <= value < float("inf")):
            raise UserError(f"--config.{key}={value}: expected a finite number of at least 0")
        if isinstance(value, int) and value >= 2**31:  # JAX counts in int32, and cuts a longer seed
            raise UserError(f"--config.{key}={value}: expected a number below 2147483648")
    optim, teacher_weight = config.optim, config.shapley.teacher_weight
    if optim.probe and not (config.pretrained and config.new_head):
        raise UserError(f"--config.optim.probe={optim.probe}: expected 0 without a new head on pretrained weights; set "
                        "--config.pretrained and --config.new_head=True")
    if optim.probe + optim.warmup >= 1:
        raise UserError(f"--config.optim.probe={optim.probe} and warmup={optim.warmup}: expected a sum below 1")
    if optim.train_only and not config.pretrained:
        raise UserError(f"--config.optim.train_only={optim.train_only}: set --config.pretrained to weights of the rest")
    if teacher_weight and (config.new_head or not config.pretrained):
        raise UserError(f"--config.shapley.teacher_weight={teacher_weight}: expected 0 without a trained head to learn "
                        "from; set --config.pretrained to weights that have one, and no new_head")


# (keys, test for a wrong value, expected value)
_BOUNDS = (
    (("optim.steps", "optim.batch_size", "optim.accumulate", "run.log_every", "run.eval_every", "run.keep_checkpoints",
      "data.threads", "model.patch_size", "model.width", "model.depth", "model.heads"),
     lambda value: value < 1, "at least 1"),
    (("optim.warmup", "shapley.start", "optim.b2", "optim.ema_decay", "optim.probe"), lambda value: value >= 1,
     "a share below 1"),
    (("optim.layer_decay", "optim.floor"), lambda value: value > 1, "at most 1"),
    (("optim.layer_decay", "optim.head_rate"), lambda value: value <= 0, "more than 0"),
    (("shapley.teacher_weight",), lambda value: value > 0.5, "a share of at most 0.5"),
)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Returns the settings that keep a run from being resumed: "key: old -> new", leaving out `FREE_TO_CHANGE`."""
    old, new = flatten(old), flatten(new)
    return [f"{key}: {old.get(key)} -> {new.get(key)}" for key in sorted(old.keys() | new.keys())
            if key not in FREE_TO_CHANGE and old.get(key) != new.get(key)]
