"""Explains images: what the model predicts, and the Shapley values of all patches for and against it.

  python explain.py --checkpoint runs/mnist5k --images a.png b.jpg --output out
  python explain.py --checkpoint runs/mnist5k --examples 8
  python explain.py --checkpoint runs/mnist5k --images a.png --pairs 32          # 32 passes more: smaller errors
  python explain.py --checkpoint runs/mnist5k --images a.png --tolerance 0.01    # as many as it takes

Writes to OUTPUT:
  NAME.png           for each image NAME.*, the patch Shapley values for its most probable classes; test_0000.png for a
                     test image
  agreement.png      predicted against exact Shapley values, for the images whose coalitions were enumerated
  explanations.json  "checkpoint", "step", "agreement" (the picture's name, or null), "r2" (mean over the enumerated
                     images, or null) and "images", a list of: "file" (as given, null for a test image), "picture",
                     "label" (null if not known), "prediction", "probability", "top" (the most probable classes, at
                     least two, each "class", "probability", "logit"), "r2" (null if not enumerated), "pairs" (that
                     refined its values) and "standard_error" (the largest, over the spread of its values, or null)
  explanations.npz   arrays in the order of "images": images uint8 [n,H,W,C] as the model saw them, logits and
                     probabilities float32 [n,K], shapley float32 [n,gh,gw,K] (in logits), class_names [K]; of a
                     calibrated model standard_error float32 [n,gh,gw,K] and freedom [n], of Student's law; and of the
                     first m images, if any were enumerated, exact float32 [m,gh,gw,K]
"""

import itertools
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tqdm
from absl import flags
from etils import epath

import shapjax
from shapjax import paths
from shapjax.attribution.registry import enumerates_unasked
from shapjax.cli import dataset, require_writable, run_command, settle_devices
from shapjax.data.images import read_image
from shapjax.data.sources import Source
from shapjax.errors import UserError, as_user_error
from shapjax.evaluation import comparison, ground_truth
from shapjax.games import shapley
from shapjax.metrics.shapley_agreement import shapley_error
from shapjax.model import SelfExplainingModel
from shapjax.report import figures, plots
from shapjax.report.explanation import Explanation
from shapjax.report.formatting import decimal, percent, probability_text

AGREEMENT = "agreement.png"
DEFAULT_EXAMPLES = 8
MAX_EXACT_IMAGES = 16


class Subject(NamedTuple):
    """An image to explain."""

    image: np.ndarray  # uint8 [H, W, C]
    picture: str  # name of the picture to write
    title: str
    file: str | None = None  # as given; None for a test image
    label: str | None = None


def run() -> None:
    """Runs `python explain.py` and `shapjax explain`."""
    flags.DEFINE_string("checkpoint", None, "A training run (its --workdir), or an exported model.", required=True)
    flags.DEFINE_integer("step", None, "Step of the checkpoint; the newest if not given.")
    flags.DEFINE_multi_string("images", [], "Image files, one or more.")
    flags.DEFINE_integer("examples", None, "Explain this many test images, the first ones, of the run's dataset; "
                         f"{DEFAULT_EXAMPLES}, or all if there are fewer, if there are no --images.", lower_bound=0)
    flags.DEFINE_string("output", "out", "Directory to write to; made if it is not there.")
    flags.DEFINE_integer("top", 3, "Show the Shapley values for this many classes, the most probable ones.",
                         lower_bound=1)
    flags.DEFINE_boolean("smooth", False, "Blend the colors of patches, as is usual for photographs; the values stay "
                         "those of patches.")
    flags.DEFINE_boolean("exact", None, "Compare with exact Shapley values, by enumeration, for the first "
                         f"{MAX_EXACT_IMAGES} images. If not given, where that takes seconds an image: of 16 patches "
                         "and a small model.")
    flags.DEFINE_integer("pairs", 0, "Refine the values by this many coalition pairs an image.", lower_bound=0)
    flags.DEFINE_float("tolerance", None, "Refine until the largest standard error is within this fraction of the "
                       "spread of an image's values, such as 0.02.")
    flags.DEFINE_integer("max_pairs", None, "With --tolerance, the most pairs an image; 16 times the patches if not "
                         "given.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Seed of the coalitions.", lower_bound=0)
    flags.FLAGS.set_gnu_getopt(True)  # so that flags may follow the second of several images
    dataset.define_flags()
    run_command(main, takes_names=True)


def main(argv: Sequence[str]) -> None:
    """Reads the flags, explains, writes and prints."""
    f, files = flags.FLAGS, [*flags.FLAGS.images, *argv[1:]]
    examples = f.examples if f.examples is not None else 0 if files else DEFAULT_EXAMPLES
    output, top = paths.as_path(f.output), f.top
    if not files and not examples:
        raise UserError("there is nothing to explain: give --images, or --examples of at least 1")
    settle_devices(f.checkpoint)
    model = shapjax.load(f.checkpoint, step=f.step)
    enumerate_all = enumerates_unasked(model.classifier, model.image_shape) if f.exact is None else f.exact
    if enumerate_all:
        with as_user_error("--exact: "):
            shapley.require_enumerable(model.num_players)
    subjects = list(_image_files(files, model.image_shape))
    if examples:
        source, (name, split) = dataset.load_test_source(model), dataset.name_and_split(model)
        if f.examples is None:
            examples = dataset.usual_count(source, name, split, usual=examples)
        subjects += _test_images(source, examples, name)
    subjects = distinct(subjects)
    _check_output(output, [AGREEMENT, *(subject.picture for subject in subjects)], files)

    images = np.stack([subject.image for subject in subjects])
    explanation = model.explain(images, pairs=f.pairs, tolerance=f.tolerance, max_pairs=f.max_pairs, seed=f.seed)
    _write_pictures(output, model, subjects, explanation, top=top, smooth=f.smooth)
    exact = None
    if enumerate_all:
        values = ground_truth.compute(
            model.classifier, comparison.to_pixels(images[:MAX_EXACT_IMAGES]), kind="exact").values
        exact = values.reshape(len(values), *model.grid, -1)
    summary = summarize(model, subjects, explanation, exact, top=top)
    if exact is not None:
        title = f"{len(exact)} {'image' if len(exact) == 1 else 'images'}, every patch and class"
        figure = plots.agreement_figure([explanation.shapley[: len(exact)]], [exact], r2=[summary["r2"]],
                                        titles=[title])
        _save(output / AGREEMENT, figures.figure_bytes(figure))
    arrays = {"images": images, "logits": explanation.logits, "probabilities": explanation.probabilities,
              "shapley": explanation.shapley, "class_names": np.array(model.class_names)}
    if explanation.standard_error is not None:
        arrays |= {"standard_error": explanation.standard_error, "freedom": explanation.freedom}
    paths.write_arrays(output / "explanations.npz", arrays if exact is None else arrays | {"exact": exact})
    paths.write_json(output / "explanations.json", summary)

    print(table(summary["images"]), end="\n\n")
    print(f"pictures    {output}{os.sep}, one for each image")
    if exact is not None:
        print(f"agreement   {output / AGREEMENT}, mean R² {decimal(summary['r2'])} against exact Shapley values")
    print(f"values      {output / 'explanations.npz'}, {output / 'explanations.json'}")


def summarize(model: SelfExplainingModel, subjects: Sequence[Subject], explanation: Explanation,
              exact: np.ndarray | None, *, top: int) -> dict[str, Any]:
    """Returns the content of explanations.json; exact is float32 [m, gh, gw, K] of the first m subjects, or None."""
    error = {"r2": None, "r2_per_image": []}
    if exact is not None:
        m, _, _, k = exact.shape
        error = shapley_error(explanation.shapley[:m].reshape(m, -1, k), exact.reshape(m, -1, k))
    images = []
    errors = [None] * len(subjects) if explanation.standard_error is None else explanation.largest_error.tolist()
    for subject, logits, probabilities, pairs, largest, r2 in itertools.zip_longest(
            subjects, explanation.logits, explanation.probabilities, explanation.pairs.tolist(), errors,
            error["r2_per_image"]):
        classes = [
            {"class": model.class_names[k], "probability": float(probabilities[k]), "logit": float(logits[k])}
            for k in np.argsort(-probabilities, kind="stable")[: max(top, 2)]]
        images.append({"file": subject.file, "picture": subject.picture, "label": subject.label,
                       "prediction": classes[0]["class"], "probability": classes[0]["probability"], "top": classes,
                       "r2": r2, "pairs": pairs, "standard_error": largest})
    return {"checkpoint": str(model.directory), "step": model.step, "agreement": None if exact is None else AGREEMENT,
            "r2": error["r2"], "images": images}


def table(images: Sequence[dict[str, Any]]) -> str:
    """Formats the "images" of explanations.json, a line each; columns without content are left out."""
    rows = [
        [image["file"] or image["picture"], image["label"] or "", image["prediction"],
         probability_text(image["probability"]),
         *(f"{other['class']} ({probability_text(other['probability'])})" for other in image["top"][1:2]),
         "" if image["standard_error"] is None else percent(image["standard_error"]),
         str(image["pairs"] or ""), "" if image["r2"] is None else decimal(image["r2"])]
        for image in images]
    heads = ["image", "label", "prediction", "probability", "runner-up", "largest error", "pairs", "R²"]
    columns = [column for column in zip(heads, *rows, strict=True) if any(column[1:])]
    padded = [[cell.ljust(max(map(len, column))) for cell in column] for column in columns]
    return "\n".join("   ".join(line).rstrip() for line in zip(*padded, strict=True))


def distinct(subjects: Sequence[Subject]) -> list[Subject]:
    """Gives pictures different names (a, a_2, a_3), even where upper and lower case are the same."""
    taken, renamed = {AGREEMENT}, []
    for subject in subjects:
        name, stem = subject.picture, pathlib.PurePath(subject.picture).stem
        others = (f"{stem}_{number}.png" for number in itertools.count(2))
        while name.casefold() in taken:
            name = next(others)
        taken.add(name.casefold())
        renamed.append(subject._replace(picture=name))
    return renamed


def _image_files(files: Sequence[str], image_shape: tuple[int, int, int]) -> Iterator[Subject]:
    for file in files:
        name = os.fsencode(file).decode(errors="replace")  # one that any terminal and font can show
        yield Subject(read_image(file, image_shape=image_shape), f"{pathlib.PurePath(file).stem}.png",
                      title=pathlib.PurePath(name).name, file=name)


def _test_images(source: Source, count: int, name: str) -> list[Subject]:
    """Reads the first images of a source; name is that of the dataset."""
    if count > len(source):
        raise UserError(f"--examples={count}: the test split of {name} has {len(source)} images")
    batch = source.read(np.arange(count))
    labels = [source.class_names[label] if source.labeled else None for label in batch["label"]]
    return [Subject(image, f"test_{i:04}.png", title=f"{name}, test image {i}", label=label)
            for i, (image, label) in enumerate(zip(batch["image"], labels, strict=True))]


def _check_output(output: epath.Path, names: Sequence[str], inputs: Sequence[str]) -> None:
    """Makes the output directory, unless no file can be written there or one would replace an image to explain."""
    for name, file in itertools.product(names, inputs):
        if paths.is_same(written := output / name, file):
            raise UserError(f"the picture {written} would replace the image {file}; give another --output")
    require_writable(output / AGREEMENT)


def _write_pictures(output: epath.Path, model: SelfExplainingModel, subjects: Sequence[Subject],
                    explanation: Explanation, *, top: int, smooth: bool) -> None:
    half_widths = [None] * len(subjects)
    if explanation.standard_error is not None:
        half_widths = explanation.half_width()
    for subject, values, half_width, probabilities in tqdm.tqdm(
            zip(subjects, explanation.shapley, half_widths, explanation.probabilities, strict=True),
            total=len(subjects), desc="pictures", unit="image"):
        figure = figures.explanation_figure(
            subject.image, values, probabilities, model.class_names, top=top, half_width=half_width,
            label=subject.label, title=subject.title, smooth=smooth)
        _save(output / subject.picture, figures.figure_bytes(figure))


def _save(path: epath.Path, content: bytes) -> None:
    with paths.replacing(path) as part:
        part.write_bytes(content)
