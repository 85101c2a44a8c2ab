"""Evaluates a trained model: accuracy, efficiency, its Shapley values against the true ones, and how well they and the
attributions of other methods say what the prediction rests on.

  python eval.py --checkpoint runs/mnist5k
  python eval.py --checkpoint runs/mnist5k --methods phi,kernel_shap,gradcam --metrics deletion,aopc --images 200
  python eval.py --checkpoint runs/mnist5k --methods none            # the model's own figures only

Writes to OUTPUT (the directory of --checkpoint if not given):
  eval.json, eval.npz      figures of the model (keys in docs/metrics.md); images, its values and the true ones
  methods.json, .csv, .npz methods x metrics with intervals; maps of a few images
  methods/*.npz            true values, and what each method measured, image by image; an interrupted evaluation goes
                           on from these
  report/index.html        all of it as a page to look at, where OUTPUT is that directory
"""

import dataclasses
import functools
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import tqdm
from absl import flags

import shapjax
from shapjax import paths as files
from shapjax.attribution import registry as methods_registry
from shapjax.cli import dataset, keep_compiled, run_command
from shapjax.data import sources
from shapjax.data.images import read_masks
from shapjax.errors import UserError
from shapjax.evaluation import comparison
from shapjax.evaluation import evaluate as evaluation
from shapjax.evaluation import files as results
from shapjax.evaluation import over_images as parallel
from shapjax.evaluation import sample_efficiency as efficiency
from shapjax.evaluation import table as comparison_table
from shapjax.games import classifier, removal
from shapjax.metrics import registry as metrics_registry
from shapjax.model import SelfExplainingModel
from shapjax.report import page
from shapjax.report.formatting import decimal, duration

FORMAT = 1  # of methods.json
BLOCK = 16  # images on the devices at a time: a step of the progress bar
SHOWN = ("deletion", "insertion", "aopc", "lodds", "sensitivity_n", "shapley_pearson", "map", "pointing")  # printed
REMOVALS = {
    "drop": None,
    "zero": lambda mean: removal.Constant(0.0),
    "mean": lambda mean: removal.Constant(tuple(mean)),
    "blur": lambda mean: removal.Blur(),
    "noise": lambda mean: removal.Noise(mean=0.5, scale=0.25),
    "road": lambda mean: removal.NoisyLinear(),
}

_FLAGS = flags.FLAGS


def run() -> None:
    """Entry point of `python eval.py` and `shapjax-eval`."""
    flags.DEFINE_string("checkpoint", None, "Directory of a training run (its --workdir), or an exported model.",
                        required=True)
    flags.DEFINE_integer("step", None, "Step of the checkpoint; the newest if not given.")
    flags.DEFINE_string("output", None, "Directory to write to; the directory of --checkpoint if not given.")
    flags.DEFINE_integer("images", 64, "Test images (the first ones) that are explained and compared with true Shapley "
                         "values. Accuracy is over the whole split.")
    flags.DEFINE_list("methods", ["all"], "Attribution methods to compare: names separated by commas, all that the "
                      f"model can be asked for, or none. There are {', '.join(methods_registry.METHODS)}.")
    flags.DEFINE_list("metrics", ["all"], "Metrics of the table: names separated by commas, or all. There are "
                      f"{', '.join(metrics_registry.METRICS)}.")
    flags.DEFINE_enum("target", "predicted", ["predicted", "label"], "The class that is explained and scored.")
    flags.DEFINE_enum("truth", "auto", ["auto", *evaluation.TRUTHS], "True Shapley values: by enumeration, by "
                      "KernelSHAP until precise, or not at all; auto enumerates up to "
                      f"{methods_registry.MAX_UNASKED_EXACT_PLAYERS} patches and estimates beyond.")
    flags.DEFINE_string("masks", None, "Segmentation of the objects in the images, for localization: an .npy of "
                        "[n,H,W], or an .npz with it as \"masks\"; positive on the object, negative where unlabeled. "
                        "If not given, the dataset's own masks, if it has any.")
    flags.DEFINE_enum("removal", "drop", list(REMOVALS), "How methods and metrics hide patches: drop, as the model "
                      "itself does in its coalitions, or painted over.")
    flags.DEFINE_integer("coalitions", 2048, "Coalitions an image for the methods that sample them; even.",
                         lower_bound=2)
    flags.DEFINE_integer("explorer_images", 8, "Images in the report's explorer.", lower_bound=0, upper_bound=24)
    flags.DEFINE_integer("batch_size", None, "Images, or coalition pairs, a forward pass on a device; bounds the "
                         "memory. If not given, 64 on a CPU, 512 on an accelerator.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of random coalitions, ties and resampling.", lower_bound=0)
    flags.DEFINE_boolean("fresh", False, "Measure again what an earlier evaluation has left in OUTPUT/methods.")
    dataset.define_flags()
    run_command(main)


def main(_: Sequence[str]) -> None:
    """Reads the flags, evaluates, writes and prints."""
    parallel.split_cpu(0)
    keep_compiled()
    if not any(_FLAGS.methods) or not any(_FLAGS.metrics):
        raise UserError(f"--{'methods' if not any(_FLAGS.methods) else 'metrics'} is empty: name some, separated by "
                        "commas, or all")
    model = shapjax.load(_FLAGS.checkpoint, step=_FLAGS.step)
    output = pathlib.Path(_FLAGS.output or model.directory)
    files.require_writable(output / "eval.json")
    batch_size = _FLAGS.batch_size or (64 if jax.default_backend() == "cpu" else 512)
    # All that can be wrong with the flags is found before the long work.
    kind = evaluation.truth_kind(_FLAGS.truth, model.num_players)
    methods = _methods(model.classifier)
    if _FLAGS.coalitions % 2:
        raise UserError(f"--coalitions={_FLAGS.coalitions}: expected an even number, they come in complementary pairs")
    source = dataset.load_test_source(model)
    masks = _masks(source)
    metrics = _metrics(truth=kind != "none", masks=masks is not None)

    figures, arrays, truth = evaluation.evaluate(
        model, source, images=_FLAGS.images, batch_size=batch_size, truth=None if kind == "none" else functools.partial(
            remembered_truth, model.classifier, output / "methods" / "truth.npz", kind, batch_size))
    with files.replacing(output / "eval.npz") as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)
    with files.replacing(output / "eval.json") as part:
        part.write_text(json.dumps(figures, indent=2) + "\n")
    print(table(figures))
    if methods:
        summary = compare(model, output, arrays, truth, masks, methods, metrics, batch_size)
        print("\n" + comparison_lines(summary))
    print(f"\nwritten to {output}: eval.json, eval.npz{', methods.json, methods.csv, methods.npz' if methods else ''}")
    if output.resolve() == model.directory.resolve():
        print(f"page       {page.write_report(output / 'report', [output])}")


def remembered_truth(game: classifier.Classifier, path: pathlib.Path, kind: str, batch_size: int, images: np.ndarray
                     ) -> evaluation.Truth:
    """True Shapley values of images, float32 [n, H, W, C]: those that an earlier evaluation has left, or new ones."""
    mark = results.fingerprint({"version": shapjax.__version__, "kind": kind, "tolerance": evaluation.TOLERANCE,
                                "max_coalitions": evaluation.MAX_COALITIONS}, images,
                               *map(np.asarray, jax.tree.leaves(game.params)))
    if not _FLAGS.fresh and (found := results.load_method(path, mark)):
        print(f"going on: true Shapley values of {len(images)} images are already there (--fresh computes them again)")
        return evaluation.Truth(kind=kind, **found | {"seconds": float(found["seconds"])})
    truth = evaluation.true_values(game, images, kind=kind, batch_size=batch_size)
    arrays = dataclasses.asdict(truth)
    results.save_method(path, mark, {name: np.asarray(arrays[name]) for name in arrays if name != "kind"})
    return truth


def _masks(source: sources.Source) -> np.ndarray | None:
    """Masks of the first images, [n, H, W]: of the file that --masks names, or of the dataset."""
    if _FLAGS.masks is not None:
        return read_masks(_FLAGS.masks, shape=(_FLAGS.images, *source.image_shape[:2]))
    return source.read(np.arange(min(_FLAGS.images, len(source))))["mask"] if source.has_masks else None


def _methods(model: classifier.Classifier) -> list[methods_registry.Method]:
    if _FLAGS.methods == ["none"]:
        return []
    if _FLAGS.methods == ["all"]:
        return methods_registry.applicable(model)
    return methods_registry.select(_FLAGS.methods, model)


def _metrics(*, truth: bool, masks: bool) -> list[metrics_registry.Metric]:
    if _FLAGS.metrics == ["all"]:
        return metrics_registry.applicable(truth=truth, masks=masks)
    return metrics_registry.select(_FLAGS.metrics, truth=truth, masks=masks)


def compare(model: SelfExplainingModel, output: pathlib.Path, arrays: dict[str, np.ndarray],
            truth: evaluation.Truth | None, masks: np.ndarray | None, methods: Sequence[methods_registry.Method],
            metrics: Sequence[metrics_registry.Metric], batch_size: int) -> dict[str, Any]:
    """Measures method after method, writes what each has found as it ends, then the table; returns methods.json."""
    game = model.classifier
    if painting := REMOVALS[_FLAGS.removal]:
        game = classifier.painted(game, painting(model.mean))
        truth = truth and remembered_truth(
            game, output / "methods" / f"truth_{_FLAGS.removal}.npz", truth.kind, batch_size,
            evaluation.pixels(arrays["images"]))
    predicted = arrays["logits"].argmax(axis=1).astype(np.int32)
    labels = arrays["labels"].astype(np.int32)
    subjects = comparison.Subjects(
        images=evaluation.pixels(arrays["images"]), labels=labels, predicted=predicted,
        targets=predicted if _FLAGS.target == "predicted" else labels,
        probabilities=np.asarray(jax.nn.softmax(arrays["logits"])), masks=masks,
        truth=None if truth is None else truth.values)
    settings = comparison.Settings(
        coalitions=_FLAGS.coalitions, batch_size=batch_size, block=BLOCK,
        seed=_FLAGS.seed, explorer_images=_FLAGS.explorer_images)
    work = comparison.Comparison(game, subjects, settings, exact_seconds=(
        truth.seconds if truth is not None and truth.kind == "exact" else None))
    mark = results.fingerprint(
        {"version": shapjax.__version__, "format": FORMAT, "step": model.step, "removal": _FLAGS.removal,
         "coalitions": settings.coalitions, "seed": settings.seed, "explorer": work.classes.tolist(),
         "target": _FLAGS.target, "truth": truth and truth.kind},
        subjects.images, subjects.targets, subjects.labels, *([] if masks is None else [masks]),
        *map(np.asarray, jax.tree.leaves(model.params)))

    measured = {} if _FLAGS.fresh else {
        method.key: found for method in methods
        if (found := results.load_method(output / "methods" / f"{method.key}.npz", mark)) is not None}
    if measured:
        print(f"\ngoing on: {', '.join(measured)} already measured (--fresh measures again)")
    todo = [method for method in methods if method.key not in measured]
    total = math.ceil(sum(map(work.passes, todo)) + 1)  # its parts are rounded when they are added up
    with tqdm.tqdm(total=total, unit="pass", unit_scale=True, disable=not todo) as bar:
        for method in todo:
            bar.set_description(method.key)
            found = work.measure(method, done=bar.update)
            results.save_method(output / "methods" / f"{method.key}.npz", mark, found)
            measured[method.key] = found
            bar.write(_line(comparison_table.summarize(
                {method.key: found}, [method], [m for m in metrics if m.key in SHOWN], coalitions=settings.coalitions,
                seed=settings.seed)[0]))

    summary = {
        "format": FORMAT, "checkpoint": str(model.directory), "step": model.step, "dataset": model.config.dataset,
        "split": "test", "images": len(labels), "target": _FLAGS.target, "removal": _FLAGS.removal,
        "truth": truth and truth.kind, "seed": settings.seed, "players": game.num_players, "grid": list(game.grid),
        "class_names": list(model.class_names), "confidence": 0.95,
        "device": f"{jax.default_backend()} x {jax.device_count()}",
        "versions": {"shapjax": shapjax.__version__, "jax": jax.__version__},
        "metrics": [{"key": m.key, "title": m.title, "better": m.better, "hint": m.hint, "digits": m.digits}
                    for m in metrics],
        "methods": comparison_table.summarize(measured, methods, metrics, coalitions=settings.coalitions,
                                              seed=settings.seed),
    }
    if truth is not None and truth.kind == "exact":
        summary["efficiency"] = efficiency.budget_to_reach(
            game, subjects.images, truth.values, batch_size=batch_size, seed=settings.seed)
    e = len(work.classes)
    results.write_comparison(output, summary, {
        "images": arrays["images"][:e], "labels": labels[:e], "probabilities": subjects.probabilities[:e],
        "classes": work.classes, "methods": np.array([method.key for method in methods]),
        **{name: np.stack([measured[method.key][f"explorer/{name}"] for method in methods])
           for name in ("attributions", "deleted", "order")}})
    return summary


def _line(row: dict[str, Any]) -> str:
    """A method's means, as it ends."""
    means = "  ".join(f"{key} {decimal(value['mean']) if value else '–'}" for key, value in row["values"].items())
    return f"{row['key']:22}{means}  {duration(row['cost']['seconds'])} an image"


def comparison_lines(summary: dict[str, Any]) -> str:
    """The table for a terminal: the metrics of `SHOWN`; * marks the best, = what is not significantly worse."""
    metrics = [metric for metric in summary["metrics"] if metric["key"] in SHOWN]
    arrows = {"higher": " ↑", "lower": " ↓", None: ""}
    rows = [["method", *(metric["title"] + arrows[metric["better"]] for metric in metrics), "passes", "seconds"]]
    for method in summary["methods"]:
        cells = []
        for metric in metrics:
            value = method["values"][metric["key"]]
            sign = "" if not value else "*" if value["best"] else "=" if value["not_worse"] else " "
            cells.append(decimal(value["mean"], digits=metric["digits"]) + sign if value else "–")
        rows.append([method["title"], *cells, f"{method['cost']['passes']:,.0f}", duration(method["cost"]["seconds"])])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) if i == 0 else cell.rjust(width)
                       for i, (cell, width) in enumerate(zip(row, widths, strict=True))) for row in rows]
    note = f"* best, = not significantly worse ({summary['images']} images, paired bootstrap, 95 %); all in methods.csv"
    return "\n".join([*lines, note])


def table(figures: dict[str, Any]) -> str:
    """The figures of the model as a person reads them."""
    error = figures["shapley_error"]
    removed = figures["accuracy_under_removal"]
    rows = [
        ("test images", f"{figures['images']:,}"),
        ("accuracy, top 1", f"{figures['accuracy_top1']:.4f}"),
        ("accuracy, top 5", f"{figures['accuracy_top5']:.4f}"),
        ("  half removed", f"{removed[5]:.4f}"),
        ("cross-entropy", f"{figures['cross_entropy']:.4f} nats"),
        ("efficiency gap", f"{figures['efficiency_gap']:.1e} logits"),
    ]
    if error:
        how = "exact" if error["truth"] == "exact" else (
            f"KernelSHAP to a standard error of {error['standard_error']:.3f} of the spread")
        rows += [("true values", f"{how}: {error['images']} images, {error['coalitions_per_image']:,} coalitions each, "
                                 f"{error['seconds']:.0f} s")]
        titles = {"r2": "R²", "r2_allocation": "R² of shares", "mse": "MSE", "pearson": "Pearson",
                  "spearman": "Spearman"}
        rows += [(f"  {title}", "undefined" if error[key] is None else f"{error[key]:.4f}")
                 for key, title in titles.items()]
    else:
        rows += [("true values", "not computed; see --truth")]
    heading = f"{figures['checkpoint']}, step {figures['step']}, {figures['players']} patches, {figures['dataset']}"
    return "\n".join([heading, *(f"{name:18}{value}" for name, value in rows)])


if __name__ == "__main__":
    run()
