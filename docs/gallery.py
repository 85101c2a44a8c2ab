"""Draws the pictures of docs/gallery.md: python docs/gallery.py. A minute; models and digits come with the package.

Each picture is chosen by a rule, so that a new model brings new pictures for the same text. What is printed is to be
checked against that text.
"""

import io
import pathlib

import numpy as np
from PIL import Image

import shapjax
from shapjax import attribution, metrics
from shapjax.data import mnist5k
from shapjax.model import SelfExplainingModel
from shapjax.report import figures
from shapjax.report.explanation import Explanation

OUTPUT = pathlib.Path(__file__).with_name("gallery")
PAIRS = 16


def main() -> None:
    """Chooses eight images of the test split and draws them."""
    model = shapjax.load("mnist5k")
    images, labels = mnist5k.load("test")
    e = model.explain(images)
    rows, predicted, p = np.arange(len(images)), e.logits.argmax(axis=1), np.sort(e.probabilities, axis=1)
    values, certain = e.shapley[rows, ..., predicted], e.sign_is_certain()[rows, ..., predicted]
    right, shares = predicted == labels, certain.mean(axis=(1, 2))

    def draw(name: str, index: int, classes: int = 3) -> None:
        top = np.argsort(-e.probabilities[index], kind="stable")[:classes]
        print(f"{name}: test image {index}, a {labels[index]}; " + ", ".join(
            f"{k} {e.probabilities[index, k]:.3f}" for k in top) + f"; {shares[index]:.0%} of the signs certain")
        write(name, figures.explanation_figure(
            images[index], e.shapley[index], e.probabilities[index], e.class_names, top=classes,
            half_width=e.half_width()[index], label=int(labels[index])))

    sure = right & (p[:, -1] > 0.99)
    runner_up = e.logits.argsort(axis=1)[:, -2]
    (gh, gw), (h, w) = model.grid, images.shape[1:3]
    empty = images.reshape(-1, gh, h // gh, gw, w // gw).max(axis=(2, 4)) == 0
    draw("clear", np.where(sure, shares, 0).argmax())
    draw("lookalikes", np.where(right & (labels == 4) & (runner_up == 9), p[:, -2], 0).argmax(), 2)
    draw("empty", np.where(empty & certain & sure[:, None, None], values, 0).max(axis=(1, 2)).argmax())
    draw("unsure", p[:, -1].argmin(), 2)
    draw("misread", np.where(right, 0, p[:, -1]).argmax(), 2)

    index = shares.argmin()
    beside_exact("pairs", model, images[index], f"{labels[index]}",
                 {"in one pass": model.explain(images[index]),
                  f"{PAIRS} pairs": model.explain(images[index], pairs=PAIRS)})
    index = int(np.flatnonzero(labels == 3)[0])
    negative = 255 - images[index]
    beside_exact("unlike", model, negative, f"{labels[index]}, negative", {"in one pass": model.explain(negative)})
    baseline = shapjax.load("mnist5k_baseline")
    beside_exact("patch_logits", baseline, images[index], f"{labels[index]}",
                 {"patch logits": baseline.explain(images[index])})


def beside_exact(name: str, model: SelfExplainingModel, image: np.ndarray, label: str, found: dict[str, Explanation]
                 ) -> None:
    """Draws explanations of one image beside the exact Shapley values, for the predicted class, on one scale."""
    exact = np.asarray(attribution.exact_all(model.classifier, image[None].astype(np.float32) / 255))
    exact = exact.reshape(1, *model.grid, -1)
    first = next(iter(found.values()))
    k, p = int(first.logits[0].argmax()), float(first.probabilities[0].max())
    panels = [(e.shapley[0, ..., k], e.half_width()[0, ..., k]) for e in found.values()]
    panels.append((exact[0, ..., k], np.zeros(model.grid)))
    for title, e in found.items():
        low, high = e.interval()
        r2 = metrics.shapley_error(*(x.reshape(1, model.num_players, -1) for x in (e.shapley, exact)))["r2"]
        print(f"{name}: {label}, read as {k}, {p:.3f}; {title}: R² {r2:.2f}, "
              f"{np.mean((low <= exact) & (exact <= high)):.0%} of the exact values inside, "
              f"{e.sign_is_certain()[0, ..., k].mean():.0%} of the signs certain")
    values, halves = (np.stack(arrays, axis=-1) for arrays in zip(*panels, strict=True))
    write(name, figures.explanation_figure(
        image, values, np.full(len(panels), p), [f"{k}, {title}" for title in (*found, "exact")],
        top=len(panels), half_width=halves, label=label))


def write(name: str, figure: figures.Figure) -> None:
    """Writes a figure as a small PNG, of 256 colors."""
    picture = Image.open(io.BytesIO(figures.figure_bytes(figure, dpi=130))).convert("RGB")
    picture = picture.quantize(256, Image.Quantize.MAXCOVERAGE)
    OUTPUT.mkdir(exist_ok=True)
    picture.save(OUTPUT / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
