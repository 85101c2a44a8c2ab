"""Evaluates a trained model: accuracy, efficiency, and its Shapley values against ground truth. Compares it with other
attribution methods.

  python eval.py --checkpoint runs/mnist5k
  python eval.py --checkpoint runs/mnist5k --methods phi,kernel_shap,gradcam --metrics deletion,aopc --images 200
  python eval.py --checkpoint runs/mnist5k --methods none            # the model's own metrics only
  python eval.py --checkpoint runs/mnist5k --maps captum_ig.npz      # maps of other programs beside the methods

Writes to OUTPUT (the directory of --checkpoint if not given):
  eval.json, eval.npz      metrics of the model (keys in docs/metrics.md); images, targets, its values and
                           ground truth
  methods.json, .csv, .npz methods x metrics with intervals; maps of a few images
  methods/*.npz            ground truth, and the metrics of each method, image by image; an interrupted evaluation goes
                           on from these
  report/index.html        all of it as a page to look at
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags
from etils import epath

import shapjax
from shapjax import paths
from shapjax.attribution import registry as methods_registry
from shapjax.cli import calibration, dataset, require_writable, run_command, settle_devices
from shapjax.data.images import read_maps, read_masks
from shapjax.data.sources import Source
from shapjax.errors import UserError, as_user_error
from shapjax.evaluation import comparison, files, ground_truth, quality, refinement_quality, table
from shapjax.evaluation.over_images import default_batch_size
from shapjax.games import removal
from shapjax.metrics import registry as metrics_registry
from shapjax.report import page
from shapjax.report.formatting import decimal, duration, passes

DEFAULT_IMAGES = 64
# By the names of --removal: functions of the dataset's mean color that return the removal.
REMOVALS = {
    "drop": lambda mean: None,
    "zero": lambda mean: removal.Constant(0.0),
    "mean": lambda mean: removal.Constant(tuple(mean)),
    "blur": lambda mean: removal.Blur(),
    "noise": lambda mean: removal.Noise(mean=0.5, scale=0.25),
    "road": lambda mean: removal.NoisyLinear(),
}


def run() -> None:
    """Runs `python eval.py` and `shapjax eval`."""
    flags.DEFINE_string("checkpoint", None, "A training run (its --workdir), or an exported model.", required=True)
    flags.DEFINE_integer("step", None, "Step of the checkpoint; the newest if not given.")
    flags.DEFINE_string("output", None, "Directory to write to; the directory of --checkpoint if not given.")
    flags.DEFINE_integer("images", None, f"Test images (the first ones) to explain; if not given, {DEFAULT_IMAGES}, or "
                         "all if there are fewer. Accuracy is over the whole split.")
    flags.DEFINE_list("methods", ["all"], "Attribution methods to compare: names separated by commas, all that the "
                      f"model can run, or none. There are {', '.join(methods_registry.METHODS)}.")
    flags.DEFINE_list("metrics", ["all"], "Metrics of the table: names separated by commas, or all. There are "
                      f"{', '.join(metrics_registry.METRICS)}.")
    flags.DEFINE_enum("target", "predicted", comparison.TARGETS, "The class that is explained and scored.")
    flags.DEFINE_enum("ground_truth", "auto", ["auto", *ground_truth.KINDS], "Ground truth, the Shapley values of the "
                      "model's game: by enumeration, by KernelSHAP until precise, or none; auto enumerates up to "
                      f"{methods_registry.MAX_UNASKED_EXACT_PLAYERS} patches and estimates beyond.")
    flags.DEFINE_string("object_masks", None, "Segmentation of the objects in the images, for localization: an .npy of "
                        "[n,H,W], or an .npz with it as \"masks\"; positive on the object, negative where unlabeled. "
                        "If not given, the dataset's own masks, if it has any.")
    flags.DEFINE_list("maps", [], "Maps that other programs have made of the \"images\" and \"targets\" of eval.npz, to "
                      "be scored as further methods, by the names of their files: .npz with float [n,gh,gw] as \"maps\", "
                      "or .npy.")
    flags.DEFINE_enum("removal", "drop", list(REMOVALS), "How methods and metrics hide patches: drop, as the model "
                      "does in its coalitions; the others paint over them.")
    flags.DEFINE_integer("coalitions", 2048, "Coalitions an image for methods that sample them; even.", lower_bound=2)
    flags.DEFINE_integer("explorer_images", 8, "Images in the report's explorer.", lower_bound=0, upper_bound=24)
    flags.DEFINE_integer("batch_size", None, "Images, or coalition pairs, a forward pass on a device; bounds the "
                         "memory. If not given, 64 on a CPU, 512 on an accelerator.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Seed of random coalitions, ties and resampling.", lower_bound=0)
    flags.DEFINE_boolean("fresh", False, "Measure again, and ignore earlier results in OUTPUT/methods.")
    dataset.define_flags()
    run_command(main)


def main(_: Sequence[str]) -> None:
    """Reads the flags, evaluates, writes and prints."""
    f = flags.FLAGS
    methods, metrics = (names[0] if names in (["all"], ["none"]) else names for names in (f.methods, f.metrics))
    if f.coalitions % 2:
        raise UserError(f"--coalitions={f.coalitions}: expected an even number, they come in complementary pairs")
    settle_devices(f.checkpoint)
    model = shapjax.load(f.checkpoint, step=f.step)
    output = paths.as_path(f.output or model.directory)
    require_writable(output / "eval.json")

    # Flags are checked before the long work.
    source = dataset.load_test_source(model)
    count = min(DEFAULT_IMAGES, len(source)) if f.images is None else f.images
    if not 1 <= count <= len(source):
        raise UserError(f"--images={count}: the test split of {model.config.dataset} has {len(source)}")
    with as_user_error("--ground_truth: "):
        kind = ground_truth.resolve(f.ground_truth, model.num_players)
    chosen = source.read(np.arange(count))
    object_masks = chosen.get("object_mask")
    if f.object_masks is not None:
        object_masks = read_masks(f.object_masks, shape=chosen["image"].shape[:3])
    if f.maps and methods == "none":
        raise UserError("--maps are scored beside methods: give --methods too, such as phi")
    maps = {paths.as_path(path).stem: read_maps(path, shape=(count, *model.grid)) for path in f.maps}
    if len(maps) < len(f.maps) or methods_registry.METHODS.keys() & maps:
        raise UserError(f"--maps={','.join(f.maps)}: expected files of different names, and not of a method's name")
    with as_user_error("--methods: "):
        if methods != "none":
            methods_registry.select(methods, model.classifier.replace(error_law=True))  # it gets one below
    with as_user_error("--metrics: "):
        metrics_registry.select(metrics, ground_truth=kind != "none", object_masks=object_masks is not None)

    model = calibration.calibrated(model, source, batch_size=f.batch_size)
    origin = {"checkpoint": str(model.directory), "step": model.step, "dataset": model.config.dataset, "split": "test"}
    reference, targets = _evaluate(model, source, chosen["image"], kind, origin, output)
    for name, (_, explained) in maps.items():
        if explained is not None and not np.array_equal(explained, targets):
            raise UserError(f"the maps {name!r} explain other classes than those chosen here; make them for the "
                            f"\"targets\" of {output / 'eval.npz'}")
    if methods != "none":
        painting = REMOVALS[f.removal](model.mean)
        with as_user_error():
            summary, maps = comparison.compare(
                model, chosen["image"], chosen["label"], methods=methods, metrics=metrics, target=f.target,
                object_masks=object_masks, maps={name: values for name, (values, _) in maps.items()},
                ground_truth=reference if reference and painting is None else kind,
                removal=painting, coalitions=f.coalitions, batch_size=f.batch_size, seed=f.seed,
                explorer_images=f.explorer_images, directory=output / "methods", fresh=f.fresh)
        files.write_comparison(output, origin | summary | {"removal": f.removal}, maps)
        print("\n" + comparison_lines(summary))
    written = "eval.json, eval.npz" + (", methods.json, methods.csv, methods.npz" if methods != "none" else "")
    print(f"\nwritten to {output}: {written}")
    print(f"page       {page.write_report(output / 'report', [output])}")


def _evaluate(model: shapjax.SelfExplainingModel, source: Source, images: np.ndarray, kind: str,
              origin: dict[str, Any], output: epath.Path) -> tuple[ground_truth.GroundTruth | None, np.ndarray]:
    """Writes eval.json and eval.npz and prints the metrics; returns the images' ground truth and targets int [n]."""
    f, begun, pixels = flags.FLAGS, time.monotonic(), comparison.to_pixels(images)
    options = {"batch_size": f.batch_size or default_batch_size(), "seed": f.seed}
    cache = files.Cache(output / "methods", model.classifier, pixels, fresh=f.fresh)
    reference = ground_truth.remembered(cache, "ground_truth", model.classifier, pixels, kind=kind, **options)
    values, arrays = quality.evaluate(model.classifier, source, images=len(images), ground_truth=reference, **options)
    values = files.origin() | origin | values | {
        "refinement": reference and _refinement(model, pixels, reference, test_images=len(source), **options),
        "shapley_weight": model.config.shapley.weight, "masked_weight": model.config.shapley.masked_weight,
        "config": model.config.to_dict(), "seconds": round(time.monotonic() - begun, 2)}
    if model.calibration:
        arrays["half_width"] = model.explain(images, batch_size=options["batch_size"]).half_width()
    arrays["targets"] = arrays["labels"] if f.target == "label" else arrays["logits"].argmax(axis=1).astype(np.int32)
    paths.write_arrays(output / "eval.npz", arrays | {"class_names": np.array(model.class_names)})
    paths.write_json(output / "eval.json", values)
    print(model_lines(values))
    return reference, arrays["targets"]


def _refinement(model: shapjax.SelfExplainingModel, pixels: np.ndarray, reference: ground_truth.GroundTruth, *,
                test_images: int, **options: int) -> dict[str, Any] | None:
    """Measures intervals and refined values on the explained images that the calibration has not used."""
    if model.calibration is None:
        return None
    unused = len(pixels) if model.calibration.held_out else min(len(pixels), test_images // 2)
    reference = reference._replace(**{
        name: getattr(reference, name)[:unused] for name in ("values", "standard_errors", "ratio", "coalitions")})
    points = refinement_quality.measure(model.classifier, pixels[:unused], reference, **options)
    return {"calibration": model.calibration.to_dict(), "images": unused, "points": points}


def comparison_lines(summary: dict[str, Any]) -> str:
    """Formats a comparison for a terminal; * marks the best, = those not significantly worse."""
    metrics = [metric for metric in summary["metrics"] if metric["key"] in table.SHOWN]
    arrows = {"higher": " ↑", "lower": " ↓", None: ""}
    rows = [["method", *(metric["title"] + arrows[metric["better"]] for metric in metrics), "passes", "seconds"]]
    for method in summary["methods"]:
        cells = []
        for metric in metrics:
            value = method["values"][metric["key"]]
            sign = "" if not value else "*" if value["best"] else "=" if value["not_worse"] else " "
            cells.append(decimal(value["mean"], digits=metric["digits"]) + sign if value else "–")
        rows.append([method["title"], *cells, passes(method["cost"]["passes"]), duration(method["cost"]["seconds"])])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) if i == 0 else cell.rjust(width)
                       for i, (cell, width) in enumerate(zip(row, widths, strict=True))) for row in rows]
    note = f"* best, = not significantly worse ({summary['images']} images, paired bootstrap, 95 %); all in methods.csv"
    return "\n".join([*lines, note])


def model_lines(values: dict[str, Any]) -> str:
    """Formats the metrics of the model, the content of eval.json, for a terminal."""
    rows = [
        ("test images", f"{values['images']:,}"),
        ("accuracy, top 1", f"{values['accuracy_top1']:.4f}"),
        ("accuracy, top 5", f"{values['accuracy_top5']:.4f}"),
        ("  half removed", f"{values['accuracy_under_removal'][5]:.4f}"),
        ("cross-entropy", f"{values['cross_entropy']:.4f} nats"),
        ("efficiency gap", f"{values['efficiency_gap']:.1e} logits"),
    ]
    if error := values["shapley_error"]:
        exact = error["ground_truth"] == "exact"
        how = "exact" if exact else f"KernelSHAP to a standard error of {error['standard_error']:.3f} of the spread"
        rows += [("ground truth", f"{how}: {error['images']} images, {error['coalitions_per_image']:,} coalitions "
                                  f"each, {error['seconds']:.0f} s")]
        titles = {"r2": "R²", "r2_shares": "R² of shares", "mse": "MSE", "pearson": "Pearson", "spearman": "Spearman"}
        rows += [(f"  {title}", "undefined" if error[key] is None else f"{error[key]:.4f}")
                 for key, title in titles.items()]
        if not exact and error["r2_ceiling"] is not None:
            rows.insert(-4, ("  R² at most", f"{error['r2_ceiling']:.4f}, as ground truth is an estimate"))
    else:
        rows += [("ground truth", "not computed; see --ground_truth")]
    if refinement := values["refinement"]:
        rows += refinement_rows(refinement)
    heading = f"{values['checkpoint']}, step {values['step']}, {values['players']} patches, {values['dataset']}"
    return "\n".join([heading, *(f"{name:18}{value}" for name, value in rows)])


def refinement_rows(refinement: dict[str, Any]) -> list[tuple[str, str]]:
    """Formats "refinement" of eval.json: the calibration, and a line for each number of pairs."""
    found = refinement["calibration"]
    kind = "images held out of training" if found["held_out"] else "test images, measured on others"
    rows = [("errors", f"calibrated on {found['images']} {kind}; {refinement['images']} images, in each:")]
    for point in refinement["points"]:
        shares = " ".join(f"{100 * share['mean']:.1f}" for share in point["coverage"].values())
        others = [f"KernelSHAP {point['kernel_shap_r2']:.4f}"] if point["kernel_shap_r2"] is not None else []
        r2 = "undefined" if point["r2"] is None else f"{point['r2']:.4f}"
        rows.append((f"  {point['pairs']:3} pairs", "; ".join([
            f"R² {r2}", *others, f"standard error {100 * point['standard_error']:.2f} % of the spread",
            f"{shares} % in intervals of {', '.join(f'{100 * float(x):.0f}' for x in point['coverage'])} %"])))
    return rows
