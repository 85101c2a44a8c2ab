"""Explains images: what the model predicts, and every patch's vote for and against it.

  python explain.py --checkpoint runs/mnist5k --images a.png b.jpg --output out
  python explain.py --checkpoint runs/mnist5k --examples 8

Writes to OUTPUT:
  NAME.png           for each image NAME.*, the votes for its most probable classes; test_0000.png for a test image
  agreement.png      predicted votes against exact Shapley values, for the images whose coalitions were enumerated
  explanations.json  "checkpoint", "step", "agreement" (the picture's name, or null), "r2" (mean over the enumerated
                     images, or null) and "images", a list of: "file" (as given, null for a test image), "picture",
                     "label" (null if not known), "prediction", "probability", "top" (the most probable classes, at
                     least two, each "class", "probability", "logit") and "r2" (null if not enumerated)
  explanations.npz   arrays in the order of "images": images uint8 [n,H,W,C] as the model saw them, logits and
                     probabilities float32 [n,K], shapley float32 [n,gh,gw,K] (the votes, in logits), class_names [K],
                     and of the first m images, if any were enumerated, exact float32 [m,gh,gw,K]
"""

import itertools
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tqdm
from absl import flags

import shapjax
from shapjax import paths as files
from shapjax.attribution.registry import MAX_UNASKED_EXACT_PLAYERS
from shapjax.cli import dataset, keep_compiled, run_command
from shapjax.data.images import read_image
from shapjax.errors import UserError
from shapjax.evaluation import evaluate as evaluation
from shapjax.evaluation import over_images as parallel
from shapjax.games import shapley
from shapjax.metrics.shapley_error import shapley_error
from shapjax.model import Explanation, SelfExplainingModel
from shapjax.report import figures
from shapjax.report.formatting import decimal, probability_text

AGREEMENT = "agreement.png"
DEFAULT_EXAMPLES = 8
MAX_EXACT_IMAGES = 16

_FLAGS = flags.FLAGS


class Subject(NamedTuple):
    """An image to explain."""

    image: np.ndarray  # uint8 [H, W, C]
    picture: str  # name of the picture to write
    title: str
    file: str | None = None  # as given; None for a test image
    label: str | None = None


def run() -> None:
    """Entry point of `python explain.py` and `shapjax-explain`."""
    flags.DEFINE_string("checkpoint", None, "Directory of a training run (its --workdir), or an exported model.",
                        required=True)
    flags.DEFINE_integer("step", None, "Step of the checkpoint; the newest if not given.")
    flags.DEFINE_multi_string("images", [], "Image files, one or more.")
    flags.DEFINE_integer("examples", None, "Explain the first so many test images of the run's dataset; "
                         f"{DEFAULT_EXAMPLES} if there are no --images.", lower_bound=0)
    flags.DEFINE_string("output", "out", "Directory to write to; made if it is not there.")
    flags.DEFINE_integer("top", 3, "Show the votes for so many classes, the most probable ones.", lower_bound=1)
    flags.DEFINE_boolean("exact", None, "Compare with exact Shapley values, by enumeration, for the first "
                         f"{MAX_EXACT_IMAGES} images; on if the model has at most {MAX_UNASKED_EXACT_PLAYERS} "
                         "patches.")
    flags.FLAGS.set_gnu_getopt(True)  # so that flags may follow the second of several images
    dataset.define_flags()
    run_command(main)


def main(argv: Sequence[str]) -> None:
    """Reads the flags, explains, writes and prints."""
    parallel.split_cpu(0)
    keep_compiled()
    paths = [*_FLAGS.images, *argv[1:]]
    examples = _FLAGS.examples if _FLAGS.examples is not None else 0 if paths else DEFAULT_EXAMPLES
    if not paths and not examples:
        raise UserError("there is nothing to explain: give --images, or --examples of at least 1")
    model = shapjax.load(_FLAGS.checkpoint, step=_FLAGS.step)
    enumerate_all = model.num_players <= MAX_UNASKED_EXACT_PLAYERS if _FLAGS.exact is None else _FLAGS.exact
    if enumerate_all:
        shapley.require_enumerable(model.num_players)
    subjects = distinct([*_image_files(paths, model.image_shape), *_test_images(model, examples)])
    output = pathlib.Path(_FLAGS.output)
    _check_output(output, [AGREEMENT, *(subject.picture for subject in subjects)], paths)

    images = np.stack([subject.image for subject in subjects])
    explanation = model.explain(images)
    exact = None
    if enumerate_all:
        true = evaluation.true_values(model.classifier, evaluation.pixels(images[:MAX_EXACT_IMAGES]), kind="exact")
        exact = true.values.reshape(len(true.values), *model.grid, -1)
    summary = summarize(model, subjects, explanation, exact, top=_FLAGS.top)
    _write_pictures(output, model, subjects, explanation, exact, top=_FLAGS.top)
    arrays = {"images": images, "logits": explanation.logits, "probabilities": explanation.probabilities,
              "shapley": explanation.shapley, "class_names": np.array(model.class_names)}
    with files.replacing(output / "explanations.npz") as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays if exact is None else arrays | {"exact": exact})
    with files.replacing(output / "explanations.json") as part:
        part.write_text(json.dumps(summary, indent=2) + "\n")

    print(table(summary["images"]), end="\n\n")
    print(f"pictures    {output}{os.sep}, one for each image")
    if exact is not None:
        print(f"agreement   {output / AGREEMENT}, mean R² {decimal(summary['r2'])} against exact Shapley values")
    print(f"values      {output / 'explanations.npz'}, {output / 'explanations.json'}")


def summarize(model: SelfExplainingModel, subjects: Sequence[Subject], explanation: Explanation,
              exact: np.ndarray | None, *, top: int) -> dict[str, Any]:
    """The content of explanations.json; exact is float64 [m, gh, gw, K] of the first m subjects, or None."""
    error = {"r2": None, "r2_per_image": []}
    if exact is not None:
        error = shapley_error(explanation.shapley[: len(exact)], exact)
    images = []
    for subject, logits, probabilities, r2 in itertools.zip_longest(
            subjects, explanation.logits, explanation.probabilities, error["r2_per_image"]):
        classes = [
            {"class": model.class_names[k], "probability": float(probabilities[k]), "logit": float(logits[k])}
            for k in np.argsort(-probabilities, kind="stable")[: max(top, 2)]]
        images.append({"file": subject.file, "picture": subject.picture, "label": subject.label,
                       "prediction": classes[0]["class"], "probability": classes[0]["probability"], "top": classes,
                       "r2": r2})
    return {"checkpoint": str(model.directory), "step": model.step, "agreement": None if exact is None else AGREEMENT,
            "r2": error["r2"], "images": images}


def table(images: Sequence[dict[str, Any]]) -> str:
    """The "images" of explanations.json for a person, a line each; columns without content are left out."""
    rows = [
        [image["file"] or image["picture"], image["label"] or "", image["prediction"],
         probability_text(image["probability"]),
         *(f"{other['class']} ({probability_text(other['probability'])})" for other in image["top"][1:2]),
         "" if image["r2"] is None else decimal(image["r2"])]
        for image in images]
    heads = ["image", "label", "prediction", "probability", "runner-up", "R²"]
    columns = [column for column in zip(heads, *rows, strict=True) if any(column[1:])]
    padded = [[cell.ljust(max(map(len, column))) for cell in column] for column in columns]
    return "\n".join("   ".join(line).rstrip() for line in zip(*padded, strict=True))


def distinct(subjects: Sequence[Subject]) -> list[Subject]:
    """The subjects with pictures of different names, even where upper and lower case are the same: a, a_2, a_3."""
    taken, renamed = {AGREEMENT}, []
    for subject in subjects:
        path = pathlib.Path(subject.picture)
        others = (f"{path.stem}_{n}{path.suffix}" for n in itertools.count(2))
        name = next(name for name in itertools.chain([path.name], others) if name.casefold() not in taken)
        taken.add(name.casefold())
        renamed.append(subject._replace(picture=name))
    return renamed


def _image_files(paths: Sequence[str], image_shape: tuple[int, int, int]) -> Iterator[Subject]:
    for path in paths:
        name = os.fsencode(path).decode(errors="replace")  # one that any terminal and font can show
        yield Subject(read_image(path, image_shape=image_shape), f"{pathlib.Path(path).stem}.png",
                      title=pathlib.Path(name).name, file=name)


def _test_images(model: SelfExplainingModel, count: int) -> list[Subject]:
    if not count:
        return []
    source, name = dataset.load_test_source(model), model.config.dataset
    if count > len(source):
        raise UserError(f"--examples={count}: the test split of {name} has {len(source)} images")
    batch = source.read(np.arange(count))
    return [Subject(image, f"test_{i:04}.png", title=f"{name}, test image {i}", label=source.class_names[label])
            for i, (image, label) in enumerate(zip(batch["image"], batch["label"], strict=True))]


def _check_output(output: pathlib.Path, names: Sequence[str], paths: Sequence[str]) -> None:
    """Makes the output directory, unless no file can be written there or one would replace an image to explain."""
    inputs = {(status.st_dev, status.st_ino): path for path in paths for status in [os.stat(path)]}
    for name in names:
        if (output / name).exists():
            status = os.stat(output / name)
            if (path := inputs.get((status.st_dev, status.st_ino))) is not None:
                raise UserError(f"the picture {output / name} would replace the image {path}; give another --output")
    try:
        files.require_writable(output / AGREEMENT)
    except OSError as error:
        raise UserError(f"cannot write to {output} ({error.strerror}); give another --output") from None


def _write_pictures(output: pathlib.Path, model: SelfExplainingModel, subjects: Sequence[Subject],
                    explanation: Explanation, exact: np.ndarray | None, *, top: int) -> None:
    for subject, votes, probabilities in tqdm.tqdm(
            zip(subjects, explanation.shapley, explanation.probabilities, strict=True),
            total=len(subjects), desc="pictures", unit="image"):
        figure = figures.explanation_figure(subject.image, votes, probabilities, model.class_names, top=top,
                                            label=subject.label, title=subject.title)
        _save(output / subject.picture, figures.figure_bytes(figure))
    if exact is not None:
        title = f"{len(exact)} {'image' if len(exact) == 1 else 'images'}, every patch and class"
        figure = figures.agreement_figure([explanation.shapley[: len(exact)]], [exact], titles=[title])
        _save(output / AGREEMENT, figures.figure_bytes(figure))


def _save(path: pathlib.Path, content: bytes) -> None:
    with files.replacing(path) as part:
        part.write_bytes(content)
