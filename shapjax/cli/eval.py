"""Evaluates a trained model: accuracy, efficiency, and its Shapley values against ground truth. Compares it with other
attribution methods.

  python eval.py --checkpoint runs/mnist5k
  python eval.py --checkpoint runs/mnist5k --methods phi,kernel_shap,gradcam --metrics deletion,aopc --images 200
  python eval.py --checkpoint runs/mnist5k --methods none            # the model's own metrics only
  python eval.py --checkpoint runs/a,runs/b --output compared        # two models, with paired differences
  python eval.py --checkpoint runs/cats --dataset folder:pictures    # other images than its dataset's
  python eval.py --checkpoint runs/mnist5k --maps captum_ig.npz      # maps of other programs beside the methods

On several hosts, start the same command on each, with --multihost or with --coordinator, as train.py (docs/scaling.md):
they share the work, and the first one writes.

Writes to OUTPUT (the directory of --checkpoint if not given; of two models to OUTPUT/A, OUTPUT/B and models.json):
  eval.json, eval.npz      metrics of the model (keys in docs/metrics.md); images, targets, its values and
                           ground truth
  methods.json, .csv, .npz methods x metrics with intervals; maps of a few images
  methods/*.npz            ground truth, and the metrics of each method, image by image; an interrupted evaluation goes
                           on from these
  report/index.html        all of it as a page to look at
"""

import contextlib
import io
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from etils import epath

import shapjax
from shapjax import paths
from shapjax.attribution import registry as methods_registry
from shapjax.cli import calibration, dataset, processes, require_writable, run_command, settle_devices
from shapjax.data.images import read_maps, read_masks
from shapjax.data.sources import Source
from shapjax.errors import UserError, as_user_error
from shapjax.evaluation import comparison, files, ground_truth, paired_models, quality, refinement_quality
from shapjax.evaluation.over_images import default_batch_size
from shapjax.export import read as export
from shapjax.games import removal
from shapjax.metrics import registry as metrics_registry
from shapjax.report import page, terminal
from shapjax.training import distributed

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
    flags.DEFINE_list("checkpoint", None, "A training run (its --workdir), an exported model, or the name of a model "
                      "that comes with shapjax. Two of them, A,B, are compared on the same images.", required=True)
    flags.DEFINE_integer("step", None, "Step of the checkpoint; the newest if not given.")
    flags.DEFINE_string("output", None, "Directory to write to. If not given, that of --checkpoint; of two, "
                        "A_and_B; of a model that comes with shapjax, eval_NAME.")
    flags.DEFINE_integer("images", None, f"Test images (the first ones) to explain; if not given, {DEFAULT_IMAGES}, or "
                         "all if there are fewer. Accuracy is over the whole split.")
    flags.DEFINE_list("methods", ["all"], "Attribution methods to compare: names separated by commas, all that the "
                      f"model can run, or none. There are {', '.join(methods_registry.METHODS)}.")
    flags.DEFINE_list("metrics", ["all"], "Metrics of the table: names separated by commas, or all. There are "
                      f"{', '.join(metrics_registry.METRICS)}.")
    flags.DEFINE_enum("target", "predicted", comparison.TARGETS, "The class that is explained and scored.")
    flags.DEFINE_enum("ground_truth", "auto", ["auto", *ground_truth.KINDS], "Ground truth, the Shapley values of the "
                      "model's game: by enumeration, by KernelSHAP until precise, or none; auto enumerates while that "
                      "takes seconds an image (16 patches of a small model) and estimates beyond.")
    flags.DEFINE_string("object_masks", None, "Segmentation of the objects in the images, for localization: an .npy of "
                        "[n,H,W], or an .npz with it as \"masks\"; positive on the object, negative where unlabeled. "
                        "If not given, the dataset's own masks, if it has any.")
    flags.DEFINE_list("maps", [], "Maps that other programs have made of \"images\" and \"targets\" of eval.npz, to be "
                      "scored as further methods, by the names of their files: .npz with float [n,gh,gw] as "
                      "\"maps\", or .npy.")
    flags.DEFINE_enum("removal", "drop", list(REMOVALS), "How methods and metrics hide patches: drop, as the model "
                      "does in its coalitions; the others paint over them.")
    flags.DEFINE_integer("coalitions", 2048, "Coalitions an image for methods that sample them; even.", lower_bound=2)
    flags.DEFINE_integer("explorer_images", 8, "Images in the report's explorer.", lower_bound=0, upper_bound=24)
    flags.DEFINE_integer("batch_size", None, "Images, or coalition pairs, a forward pass on a device; bounds the "
                         "memory. If not given, 64 on a CPU, 512 on an accelerator.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Seed of random coalitions, ties and resampling.", lower_bound=0)
    flags.DEFINE_boolean("fresh", False, "Measure again, and ignore earlier results in OUTPUT/methods.")
    dataset.define_flags()
    processes.define_flags()
    run_command(main)


def main(_: Sequence[str]) -> None:
    """Reads the flags, evaluates, writes and prints."""
    f = flags.FLAGS
    if f.coalitions % 2:
        raise UserError(f"--coalitions={f.coalitions}: expected an even number, they come in complementary pairs")
    if not 1 <= len(f.checkpoint) <= 2:
        raise UserError(f"--checkpoint={','.join(f.checkpoint)}: expected one model, or two to compare")
    settle_devices(f.checkpoint[0], start=processes.start)
    with contextlib.redirect_stdout(io.StringIO()) if jax.process_index() else contextlib.nullcontext():
        _evaluate_all()
        distributed.agreed(True)  # no process ends, which would end the others, before the first has written


def _evaluate_all() -> None:
    """Loads the models, evaluates each, compares two; all processes do the work, and the first one writes."""
    f = flags.FLAGS
    models = [shapjax.load(checkpoint, step=f.step) for checkpoint in f.checkpoint]
    outputs = _outputs([model.directory for model in models])
    # Everything is checked before the long work.
    work = [_prepare(model, output) for model, output in zip(models, outputs, strict=True)]
    if len(work) == 2:
        _require_same_images(*work)
    for chosen in work:
        _evaluate(chosen)
    if len(work) == 1 or jax.process_index():
        return
    names, directory = [output.name for output in outputs], outputs[0].parent
    differences = paired_models.compare(*outputs, seed=f.seed)
    paths.write_json(directory / "models.json", {"one": names[0], "other": names[1], "metrics": differences})
    print(f"\n{terminal.difference_lines(differences, names, ('phi', 'exact', 'kernel_shap'))}\n")
    print(f"written to {directory}: models.json")
    print(f"page       {page.write_report(directory / 'report', outputs)}")


class _Work(NamedTuple):
    """Holds what one model is evaluated on."""

    model: shapjax.SelfExplainingModel
    output: epath.Path
    source: Source
    chosen: dict[str, np.ndarray]  # the images to explain
    object_masks: np.ndarray | None
    maps: dict[str, tuple[np.ndarray, np.ndarray | None]]
    methods: str | list[str]
    metrics: str | list[str]
    ground_truth: str
    origin: dict[str, Any]


def _require_same_images(one: _Work, other: _Work) -> None:
    """Raises UserError if two models are to be compared on other images or classes; labels and names tell."""
    same_classes = one.model.class_names == other.model.class_names
    if not same_classes or not np.array_equal(one.chosen["label"], other.chosen["label"]):
        raise UserError(f"--checkpoint: the test images of {one.output.name} and of {other.output.name} or the order "
                        f"of their classes differ ({one.origin['dataset']}, {other.origin['dataset']}); expected two "
                        "models of the same classes, on the images of one --dataset")


def _outputs(directories: Sequence[epath.Path]) -> list[epath.Path]:
    """Returns the directories to write to: of one model its own, of two sub-directories of OUTPUT."""
    f = flags.FLAGS
    if len(directories) == 2:
        one, other = (directory.resolve().name for directory in directories)
        root = paths.as_path(f.output or f"{one}_and_{other}")
        return [root / one, root / (other if other != one else f"{other}_2")]
    (directory,) = directories
    if f.output is None and export.is_shipped(directory):
        return [paths.as_path(f"eval_{directory.name}")]
    return [paths.as_path(f.output or directory)]


def _prepare(model: shapjax.SelfExplainingModel, output: epath.Path) -> _Work:
    """Loads what the flags ask for, and checks that it fits the model; raises UserError if not."""
    f = flags.FLAGS
    methods, metrics = (names[0] if names in (["all"], ["none"]) else names for names in (f.methods, f.metrics))
    require_writable(output / "eval.json")
    (name, split), source = dataset.name_and_split(model), dataset.load_test_source(model)
    count = dataset.usual_count(source, name, split, usual=DEFAULT_IMAGES) if f.images is None else f.images
    if not 1 <= count <= len(source):
        raise UserError(f"--images={count}: expected 1 to {len(source)}, the images of {name}, split {split}")
    if f.target == "label" and not source.labeled:
        raise UserError(f"--target=label: the images of {name} have no labels; leave it out")
    with as_user_error("--ground_truth: "):
        kind = ground_truth.resolve(f.ground_truth, model.classifier, model.image_shape)
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
            methods_registry.select(methods, model.classifier.replace(error_law=True), model.image_shape)  # it gets one
    with as_user_error("--metrics: "):
        metrics_registry.select(metrics, ground_truth=kind != "none", object_masks=object_masks is not None,
                                labels=source.labeled)
    origin = {"checkpoint": str(model.directory), "step": model.step, "dataset": name, "split": split}
    return _Work(model, output, source, chosen, object_masks, maps, methods, metrics, kind, origin)


def _evaluate(work: _Work) -> None:
    """Evaluates one model; writes the files and the page, and prints."""
    f, output, images, is_first = flags.FLAGS, work.output, work.chosen["image"], jax.process_index() == 0
    model = calibration.calibrated(work.model, work.source, batch_size=f.batch_size)
    reference, targets = _evaluate_values(work._replace(model=model))
    for name, (_, explained) in work.maps.items():
        if explained is not None and not np.array_equal(explained, targets):
            raise UserError(f"the maps {name!r} explain other classes than those chosen here; make them for the "
                            f"\"targets\" of {output / 'eval.npz'}")
    written = "eval.json, eval.npz"
    if work.methods != "none":
        painting = REMOVALS[f.removal](model.mean)
        with as_user_error():
            summary, arrays = comparison.compare(
                model, images, work.chosen["label"] if work.source.labeled else None, methods=work.methods,
                metrics=work.metrics, target=f.target, object_masks=work.object_masks,
                maps={name: values for name, (values, _) in work.maps.items()},
                ground_truth=reference if reference and painting is None else work.ground_truth, removal=painting,
                coalitions=f.coalitions, batch_size=f.batch_size, seed=f.seed, explorer_images=f.explorer_images,
                directory=output / "methods", fresh=f.fresh, progress=is_first)
        if is_first:
            files.write_comparison(output, work.origin | summary | {"removal": f.removal}, arrays)
        print("\n" + terminal.comparison_lines(summary))
        written += ", methods.json, methods.csv, methods.npz"
    if is_first:
        print(f"\nwritten to {output}: {written}")
        print(f"page       {page.write_report(output / 'report', [output])}")


def _evaluate_values(work: _Work) -> tuple[ground_truth.GroundTruth | None, np.ndarray]:
    """Writes eval.json and eval.npz and prints the metrics; returns the images' ground truth and targets int [n]."""
    f, begun, model, is_first = flags.FLAGS, time.monotonic(), work.model, jax.process_index() == 0
    images, pixels = work.chosen["image"], comparison.to_pixels(work.chosen["image"])
    options = {"batch_size": f.batch_size or default_batch_size(), "seed": f.seed}
    cache = files.Cache(work.output / "methods", model.classifier, pixels, fresh=f.fresh)
    reference = ground_truth.remembered(cache, "ground_truth", model.classifier, pixels, kind=work.ground_truth,
                                        progress=is_first, **options)
    values, arrays = quality.evaluate(model.classifier, work.source, images=len(images), ground_truth=reference,
                                      progress=is_first, **options)
    values = files.origin() | work.origin | values | {
        "refinement": reference and _refinement(model, pixels, reference, test_images=len(work.source), **options),
        "shapley_weight": model.config.shapley.weight, "masked_weight": model.config.shapley.masked_weight,
        "config": model.config.to_dict(), "seconds": round(time.monotonic() - begun, 2)}
    if model.calibration:
        arrays["half_width"] = model.explain(images, batch_size=options["batch_size"]).half_width()
    arrays["targets"] = arrays["labels"] if f.target == "label" else arrays["logits"].argmax(axis=1).astype(np.int32)
    if is_first:
        paths.write_arrays(work.output / "eval.npz", arrays | {"class_names": np.array(model.class_names)})
        paths.write_json(work.output / "eval.json", values)
    print(terminal.model_lines(values))
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
