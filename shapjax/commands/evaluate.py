"""Evaluates a trained model: accuracy, efficiency, and its Shapley values against exact enumeration.

  python eval.py --checkpoint runs/mnist5k [--exact_images 16] [--output eval.json]

Writes eval.json (the figures; keys in docs/metrics.md) and, beside it, eval.npz (images, predicted and exact values).
"""

import json
import math
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import tqdm
from absl import flags

import shapjax
from shapjax import evaluation, files, shapley
from shapjax.commands import run_command
from shapjax.data import sources
from shapjax.errors import UserError
from shapjax.metrics import shapley_error

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Directory of a training run (its --workdir).", required=True)
_STEP = flags.DEFINE_integer("step", None, "Step of the checkpoint; the newest if not given.")
_OUTPUT = flags.DEFINE_string("output", None, "Where to write the figures; CHECKPOINT/eval.json if not given.")
_EXACT_IMAGES = flags.DEFINE_integer(
    "exact_images", 16, "Test images whose exact Shapley values are enumerated (2^N coalitions each); 0: none.",
    lower_bound=0)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "Images, or coalition pairs, a forward pass.", lower_bound=1)


def run() -> None:
    """Entry point of `python eval.py` and `shapjax-eval`."""
    run_command(main)


def main(_: Sequence[str]) -> None:
    """Reads the flags, evaluates, writes and prints."""
    model = shapjax.load(_CHECKPOINT.value, step=_STEP.value)
    output = pathlib.Path(_OUTPUT.value or model.directory / "eval.json")
    files.require_writable(output)
    figures, arrays = evaluate(model, exact_images=_EXACT_IMAGES.value, batch_size=_BATCH_SIZE.value)
    with files.replacing(output.with_suffix(".npz")) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)
    with files.replacing(output) as part:
        part.write_text(json.dumps(figures, indent=2) + "\n")
    print(table(figures))
    print(f"\nwritten to {output} and {output.with_suffix('.npz')}")


def evaluate(model: shapjax.SelfExplainingModel, *, exact_images: int, batch_size: int
             ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """All figures of a model on the test split of its dataset.

    Args:
      model: from `shapjax.load`.
      exact_images: how many of the first test images to enumerate.
      batch_size: of a forward pass.

    Returns:
      the figures (JSON-able; keys in docs/metrics.md) and the arrays of the enumerated images.

    Raises:
      UserError: if the game has too many players to enumerate.
    """
    start = time.monotonic()
    source = sources.load_source(model.config.dataset, "test")
    if exact_images and model.num_players > shapley.MAX_EXACT_PLAYERS:
        raise UserError(f"the model has {model.num_players} patches: exact enumeration would take "
                        f"2^{model.num_players - 1} forward passes an image; use --exact_images 0")
    logits, labels = evaluation.collect_logits(lambda images: model.explain(images, batch_size=batch_size).logits,
                                               source, batch_size=batch_size, progress=True)
    chosen = source.read(np.arange(min(exact_images or 16, len(source))))
    images, phi = chosen["image"], _flat(model.explain(chosen["image"]).shapley)
    totals, empty = model.pair_values(images, np.ones((len(images), 1, model.num_players), bool))
    figures = {
        "checkpoint": str(model.directory),
        "step": model.step,
        "dataset": model.config.dataset,
        "split": "test",
        "shapley_weight": model.config.shapley_weight,
        "masked_weight": model.config.masked_weight,
        "images": len(labels),
        **evaluation.classification_metrics(logits, labels),
        "efficiency_gap": shapley_error.efficiency_gap(totals[:, 0], empty[:, 0], phi),
        "players": model.num_players,
        "classes": len(model.class_names),
        "parameters": sum(x.size for x in jax.tree.leaves(model.params)),
    }
    arrays = {"images": images, "labels": chosen["label"], "logits": logits[: len(images)],
              "shapley": _grid(phi, model), "class_names": np.array(model.class_names)}
    if exact_images:
        begun = time.monotonic()
        exact = exact_values(model, images, batch_size=batch_size)
        figures["shapley_error"] = {
            "images": len(images), "coalitions_per_image": 2**model.num_players,
            **shapley_error.shapley_error(phi, exact), "seconds": round(time.monotonic() - begun, 2)}
        arrays["exact"] = _grid(exact, model)
    else:
        figures["shapley_error"] = None
    figures |= {"seconds": round(time.monotonic() - start, 2),
                "device": f"{jax.default_backend()} x {jax.device_count()}",
                "versions": {"shapjax": shapjax.__version__, "jax": jax.__version__}}
    return figures, arrays


def exact_values(model: shapjax.SelfExplainingModel, images: np.ndarray, *, batch_size: int = 256) -> np.ndarray:
    """Exact Shapley values of images by enumeration, with a progress bar.

    Args:
      model: from `shapjax.load`.
      images: uint8 [B, H, W, C].
      batch_size: coalition pairs a forward pass.

    Returns:
      float64 [B, N, K].
    """
    def game(image: np.ndarray) -> Callable:
        def pairs(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            values, complements = model.pair_values(image[None], masks[None], batch_size=batch_size)
            return values[0], complements[0]
        return pairs

    description = f"exact Shapley values, {2**model.num_players:,} coalitions an image"
    return np.stack([shapley_error.exact_shapley_values(game(image), model.num_players)
                     for image in tqdm.tqdm(images, desc=description, unit="image")])


def table(figures: dict[str, Any]) -> str:
    """The figures as a person reads them."""
    error = figures["shapley_error"]
    rows = [
        ("test images", f"{figures['images']:,}"),
        ("accuracy, top 1", f"{figures['accuracy_top1']:.4f}"),
        ("accuracy, top 5", f"{figures['accuracy_top5']:.4f}"),
        ("cross-entropy", f"{figures['cross_entropy']:.4f} nats"),
        ("efficiency gap", f"{figures['efficiency_gap']:.1e} logits"),
    ]
    if error:
        rows += [("against exact", f"{error['images']} images, {error['coalitions_per_image']:,} coalitions each, "
                                   f"{error['seconds']:.0f} s")]
        rows += [(f"  {title}", "undefined" if error[key] is None else f"{error[key]:.4f}")
                 for key, title in (("r2", "R²"), ("mse", "MSE"), ("pearson", "Pearson"), ("spearman", "Spearman"))]
    heading = f"{figures['checkpoint']}, step {figures['step']}, {figures['players']} patches, {figures['dataset']}"
    return "\n".join([heading, *(f"{name:18}{value}" for name, value in rows)])


def _flat(shapley_values: np.ndarray) -> np.ndarray:
    """[B, gh, gw, K] -> [B, N, K]."""
    return shapley_values.reshape(len(shapley_values), math.prod(shapley_values.shape[1:3]), -1)


def _grid(phi: np.ndarray, model: shapjax.SelfExplainingModel) -> np.ndarray:
    """[B, N, K] -> [B, gh, gw, K]."""
    return phi.reshape(len(phi), *model.grid, -1)


if __name__ == "__main__":
    run()
