"""Times shapjax and the PyTorch libraries on the same network, images and cores, in one run.

    python -m benchmarks.libraries [--images 8] [--repeats 3]

Two jobs. "evaluate": insertion, deletion, sensitivity-n and KernelSHAP (2 048 coalitions) of images of 49 patches, with
Quantus for the metrics and shap, shapiq or Captum for KernelSHAP. "exact": Shapley values of 16 patches by enumeration,
with shapiq. The network is a ViT with the same weights in both frameworks. Times are seconds an image, compiled and
warmed up, the median of the repeats; the programs take turns.

The PyTorch libraries hide a patch by painting it black. shapjax drops it and packs a coalition with its complement in
one pass; the line "painted" is shapjax with the removal of those libraries.
"""

import functools
import time
import warnings
from collections.abc import Callable, Sequence

import captum.attr
import jax
import jax.numpy as jnp
import numpy as np
import shap
import shapiq
import torch
from absl import app, flags, logging

from benchmarks.torch_vit import TorchViT
from shapjax import attribution, games, metrics, models
from shapjax.evaluation import over_images
from shapjax.games import coalitions
from shapjax.models import vit
from shapjax.training import machine

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import quantus

COALITIONS = 2048
SENSITIVITY_PAIRS = 64
TORCH_BATCH = 256

_IMAGES = flags.DEFINE_integer("images", 8, "Images that each program works on.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 3, "Timed runs; the median counts.", lower_bound=1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Rows of shapjax's forward passes, a device.", lower_bound=1)


def main(_: Sequence[str]) -> None:
    """Times both jobs and prints their tables."""
    machine.split_cpu(0)
    logging.set_verbosity(logging.ERROR)
    warnings.simplefilter("ignore")
    images = np.random.default_rng(0).random((_IMAGES.value, 28, 28, 1), np.float32)
    _evaluate(images)
    _exact(images)


def _evaluate(images: np.ndarray) -> None:
    game, network = _networks(patch_size=4, images=images)
    n, x = len(images), np.moveaxis(images, -1, 1)
    classes = np.asarray(game.logits(images)).argmax(axis=1).astype(np.int32)
    attributions = np.random.default_rng(1).random((n, 49)).astype(np.float32)
    maps = attributions.reshape(n, 1, 7, 7).repeat(4, axis=2).repeat(4, axis=3)

    def quantus_metric(metric: Callable, maps: np.ndarray) -> None:
        metric(model=network, x_batch=x, y_batch=classes, a_batch=maps, device="cpu", softmax=True, channel_first=True,
               batch_size=64)

    common = dict(features_in_step=16, perturb_baseline="black", disable_warnings=True)  # 16 pixels are a patch
    flipping, sensitivity = quantus.PixelFlipping(**common), quantus.SensitivityN(n_max_percentage=1.0, **common)
    theirs = {
        "Quantus: deletion": lambda: quantus_metric(flipping, maps),
        "Quantus: insertion (the least important removed first)": lambda: quantus_metric(flipping, 1 - maps),
        "Quantus: sensitivity-n": lambda: quantus_metric(sensitivity, maps),
        "shap: KernelSHAP": lambda: _each(x, classes, network, _shap),
        "shapiq: KernelSHAP": lambda: _each(x, classes, network, _shapiq),
        "Captum: KernelSHAP, its default of one coalition a pass": lambda: _each(
            x[:1], classes, network, functools.partial(_captum, at_once=1)),
        f"Captum: KernelSHAP, {TORCH_BATCH} coalitions a pass": lambda: _each(
            x, classes, network, functools.partial(_captum, at_once=TORCH_BATCH)),
    }
    ours = {}
    for name, model in {"shapjax": game, "shapjax, painted": games.painted(game, games.Constant(0.0))}.items():
        program = over_images.OverImages(functools.partial(_all_of_it, batch_size=_BATCH_SIZE.value), block=n)
        keys = jax.random.split(jax.random.key(0), n)
        ours[name] = functools.partial(program, model, images, classes, attributions, keys)
    seconds = _time(theirs | ours, n, {"Captum: KernelSHAP, its default of one coalition a pass": 1})

    print(f"\nevaluate: {n} images of 49 patches, KernelSHAP with {COALITIONS} coalitions; seconds an image\n")
    for name, value in seconds.items():
        print(f"  {name:60}{value:9.4f}")
    metrics = sum(seconds[name] for name in list(theirs)[:3])
    print(f"\n| the whole job, KernelSHAP by | seconds | x shapjax | x shapjax, painted |\n{'|---' * 4}|")
    for name in list(theirs)[3:]:
        whole = metrics + seconds[name]
        print(f"| Quantus + {name.replace(': KernelSHAP', '')} | {whole:.3f} | {whole / seconds['shapjax']:.1f} "
              f"| {whole / seconds['shapjax, painted']:.1f} |")
    for name in ours:
        print(f"| {name} | {seconds[name]:.3f} | {seconds[name] / seconds['shapjax']:.1f} "
              f"| {seconds[name] / seconds['shapjax, painted']:.1f} |")


def _exact(images: np.ndarray) -> None:
    images = images[:2]
    game, network = _networks(patch_size=7, images=images)
    classes = np.asarray(game.logits(images)).argmax(axis=1).astype(np.int32)
    program = over_images.OverImages(functools.partial(attribution.exact_all, batch_size=_BATCH_SIZE.value), block=1)
    x = np.moveaxis(images, -1, 1)
    found = {}

    def shapiq_exact(image: np.ndarray, target: int, network: TorchViT) -> None:
        values = shapiq.ExactComputer(_painted_game(image, target, network, 7), n_players=16)("SV")
        found["theirs"] = values.get_n_order_values(1)

    def shapiq_exact_all(image: np.ndarray, _: int, network: TorchViT) -> None:
        """Runs the network once for all classes; the values of each class are then looked up."""
        codes = 2 ** np.arange(16)
        table = _painted_game(image, slice(None), network, 7)((np.arange(2**16)[:, None] >> np.arange(16)) & 1)
        for target in range(table.shape[1]):
            shapiq.ExactComputer(lambda masks, k=target: table[masks @ codes, k], n_players=16)("SV")

    one, every, ours = "shapiq: ExactComputer, one class", "shapiq: ExactComputer, all classes", "shapjax, all classes"
    seconds = _time({one: lambda: _each(x[:1], classes, network, shapiq_exact),
                     every: lambda: _each(x[:1], classes, network, shapiq_exact_all),
                     ours: lambda: program(game, images)}, len(images), {one: 1, every: 1})
    painted = over_images.OverImages(functools.partial(attribution.exact_all, batch_size=_BATCH_SIZE.value), block=1)(
        games.painted(game, games.Constant(0.0)), images[:1])[0, :, classes[0]]
    print("\nexact: 16 patches, 65 536 coalitions; seconds an image\n")
    for name, value in seconds.items():
        print(f"  {name:60}{value:9.4f}{value / seconds[ours]:9.1f} x shapjax")
    print(f"  largest difference of the values, both painted{'':14}{np.abs(painted - found['theirs']).max():9.1e}")


def _networks(*, patch_size: int, images: np.ndarray) -> tuple[games.Classifier, TorchViT]:
    """Returns the same network in both frameworks, after a check that it is the same."""
    module = vit.ViT(num_classes=10, image_size=(28, 28), patch_size=patch_size, width=64, depth=3, heads=4)
    params = models.init_params(module, jax.random.key(0), image_shape=(28, 28, 1))
    params["head"]["kernel"] = 0.1 * jax.random.normal(jax.random.key(1), params["head"]["kernel"].shape)  # it is zero
    network = TorchViT(module, params)

    def patch_logits(params, images, segment_ids=None):
        return module.apply({"params": params}, images, segment_ids)

    def pair(params, images, mask):
        values = coalitions.pair_values(functools.partial(patch_logits, params), images, mask[:, None])
        return tuple(value[:, 0] for value in values)

    game = games.wrap(lambda params, images: patch_logits(params, images).sum(axis=1), params, grid=module.grid,
                      pair_fn=pair, coalition_fn=lambda *args: pair(*args)[0], pair_passes=1)
    with torch.inference_mode():
        logits = network(torch.tensor(np.moveaxis(images, -1, 1))).numpy()
    np.testing.assert_allclose(logits, game.logits(images), atol=1e-4)
    return game, network


def _all_of_it(model, images, classes, attributions, keys, *, batch_size):
    """Computes insertion, deletion, sensitivity-n and KernelSHAP of every image."""
    curves = metrics.curves(model, images, metrics.order(attributions, keys), batch_size=batch_size)
    masks = metrics.sample_masks(jax.random.key(0), num_players=model.num_players, num_masks=SENSITIVITY_PAIRS)
    inside, outside = games.pair_values(model, images, masks, batch_size=batch_size,
                                        read=games.target_class(classes, "log_odds"))
    return {
        "insertion": metrics.insertion(curves, classes),
        "deletion": metrics.deletion(curves, classes),
        "sensitivity_n": metrics.sensitivity_n(
            attributions, jnp.concatenate([masks, ~masks]), jnp.concatenate([inside, outside], axis=1)),
        "kernel_shap": attribution.kernel_shap(model, images, classes, keys, batch_size=batch_size,
                                               coalitions=COALITIONS),
    }


def _each(x: np.ndarray, classes: np.ndarray, network: TorchViT, explain: Callable) -> None:
    for image, target in zip(x, classes, strict=False):
        explain(image, int(target), network)


def _painted_game(image: np.ndarray, target: int | slice, network: TorchViT, patch: int) -> Callable:
    """Makes a game: coalitions [M, N] -> logits of the target [M], or of several [M, K], hidden patches black."""
    side = 28 // patch
    image = torch.tensor(image)[None]

    def game(masks: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            masks = torch.as_tensor(np.asarray(masks, np.float32)).reshape(-1, 1, side, side)
            visible = masks.repeat_interleave(patch, 2).repeat_interleave(patch, 3)
            logits = [network(image * part)[:, target] for part in visible.split(TORCH_BATCH)]
            return torch.cat(logits).double().numpy()

    return game


def _shap(image: np.ndarray, target: int, network: TorchViT) -> None:
    explainer = shap.KernelExplainer(_painted_game(image, target, network, 4), np.zeros((1, 49)))
    explainer.shap_values(np.ones((1, 49)), nsamples=COALITIONS, silent=True)


def _shapiq(image: np.ndarray, target: int, network: TorchViT) -> None:
    shapiq.KernelSHAP(n=49, random_state=0).approximate(COALITIONS, _painted_game(image, target, network, 4))


def _captum(image: np.ndarray, target: int, network: TorchViT, *, at_once: int) -> None:
    patches = torch.arange(49).reshape(1, 1, 7, 7).repeat_interleave(4, 2).repeat_interleave(4, 3)
    captum.attr.KernelShap(network).attribute(torch.tensor(image)[None], target=target, feature_mask=patches,
                                              n_samples=COALITIONS, perturbations_per_eval=at_once)


def _time(programs: dict[str, Callable], images: int, fewer: dict[str, int]) -> dict[str, float]:
    """Returns median seconds an image of each program, after a run to warm up; `fewer` has those of fewer images."""
    taken = {name: [] for name in programs}
    for turn in range(1 + _REPEATS.value):
        for name, program in programs.items():
            begun = time.perf_counter()
            program()
            if turn:
                taken[name].append((time.perf_counter() - begun) / fewer.get(name, images))
    return {name: float(np.median(values)) for name, values in taken.items()}


if __name__ == "__main__":
    app.run(main)
