"""Evaluates a trained model: accuracy, efficiency, and its Shapley values against exact enumeration.

  python eval.py --checkpoint runs/mnist5k [--exact_images 16] [--output eval.json]

Writes eval.json (the figures; keys in docs/metrics.md) and, beside it, eval.npz (images, predicted and exact values).
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

import shapjax
from shapjax import evaluation, files
from shapjax.commands import run_command
from shapjax.errors import UserError

DEFAULT_EXACT_IMAGES = 16

_FLAGS = flags.FLAGS


def run() -> None:
    """Entry point of `python eval.py` and `shapjax-eval`."""
    flags.DEFINE_string("checkpoint", None, "Directory of a training run (its --workdir).", required=True)
    flags.DEFINE_integer("step", None, "Step of the checkpoint; the newest if not given.")
    flags.DEFINE_string("output", None, "Where to write the figures; CHECKPOINT/eval.json if not given.")
    flags.DEFINE_integer("exact_images", None, "Test images whose exact Shapley values are enumerated (2^N coalitions "
                         f"each); {DEFAULT_EXACT_IMAGES} if the model has at most {evaluation.MAX_DEFAULT_PLAYERS} "
                         "patches, else 0.", lower_bound=0)
    flags.DEFINE_integer("batch_size", 256, "Images, or coalition pairs, a forward pass.", lower_bound=1)
    run_command(main)


def main(_: Sequence[str]) -> None:
    """Reads the flags, evaluates, writes and prints."""
    model = shapjax.load(_FLAGS.checkpoint, step=_FLAGS.step)
    output = pathlib.Path(_FLAGS.output or model.directory / "eval.json")
    if output.suffix == ".npz":
        raise UserError(f"--output {output}: the arrays go to a file of that ending; give one that ends in .json")
    files.require_writable(output)
    exact_images = _FLAGS.exact_images
    if exact_images is None:
        exact_images = DEFAULT_EXACT_IMAGES if model.num_players <= evaluation.MAX_DEFAULT_PLAYERS else 0
    figures, arrays = evaluation.evaluate(model, exact_images=exact_images, batch_size=_FLAGS.batch_size)
    with files.replacing(output.with_suffix(".npz")) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)
    with files.replacing(output) as part:
        part.write_text(json.dumps(figures, indent=2) + "\n")
    print(table(figures))
    print(f"\nwritten to {output} and {output.with_suffix('.npz')}")


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
        titles = {"r2": "R²", "r2_allocation": "R² of shares", "mse": "MSE", "pearson": "Pearson",
                  "spearman": "Spearman"}
        rows += [(f"  {title}", "undefined" if error[key] is None else f"{error[key]:.4f}")
                 for key, title in titles.items()]
    else:
        rows += [("against exact", f"not measured: 2^{figures['players']} coalitions an image; see --exact_images")]
    heading = f"{figures['checkpoint']}, step {figures['step']}, {figures['players']} patches, {figures['dataset']}"
    return "\n".join([heading, *(f"{name:18}{value}" for name, value in rows)])


if __name__ == "__main__":
    run()
