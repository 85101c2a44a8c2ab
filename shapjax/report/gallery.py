"""Prepares the page's pictures: images with the Shapley values of their patches, as inline SVGs."""

import numpy as np
from scipy.special import softmax

from shapjax.report.formatting import signed
from shapjax.report.heatmap import MAX_LABELED_PATCHES, color_limit, overlay
from shapjax.report.pictures import image_height, image_uri, is_small
from shapjax.report.reading import GROUND_TRUTHS, Run


def hero(run: Run) -> dict:
    """Returns the first image's values for its three most probable classes, on one scale."""
    image, values, logits = (run.arrays[name][0] for name in ("images", "shapley", "logits"))
    half_width = run.arrays["half_width"][0] if "half_width" in run.arrays else None
    names, probabilities = run.arrays["class_names"], softmax(logits.astype(np.float64))
    shown = np.argsort(-probabilities, kind="stable")[:3]
    limit = color_limit(values[..., shown])
    return {"limit": limit, "has_errors": half_width is not None, "classes": [
        {"name": str(names[index]), "probability": float(probabilities[index])}
        | _value_map(image, values[..., index], limit, f"class {names[index]}",
                     None if half_width is None else half_width[..., index]) for index in shown]}


def picture(run: Run, index: int, r2: float | None) -> dict:
    """Returns an image of the gallery: its predicted values and ground truth for the predicted class, on one scale."""
    arrays = run.arrays
    image, logits, names = arrays["images"][index], arrays["logits"][index], arrays["class_names"]
    predicted = int(np.argmax(logits))
    maps = {"predicted": arrays["shapley"][index, ..., predicted]}
    if "ground_truth" in arrays:
        kind = GROUND_TRUTHS[run.evaluation["shapley_error"]["ground_truth"]]
        maps[kind] = arrays["ground_truth"][index, ..., predicted]
    limit = max(color_limit(values) for values in maps.values())
    place, prediction = int(arrays["labels"][index]), str(names[predicted])
    label = str(names[place]) if place >= 0 else None
    return {
        "label": label,
        "prediction": prediction,
        "correct": place == predicted,
        "probability": float(softmax(logits.astype(np.float64))[predicted]),
        "r2": r2,
        "limit": limit,
        "input": _drawing(image, f"Image {index + 1}, {'not labeled' if label is None else f'labeled {label}'}"),
        "maps": [{"title": f"{kind.capitalize()} values"}
                 | _value_map(image, values, limit, f"class {prediction}, {kind}") for kind, values in maps.items()],
    }


def _value_map(image: np.ndarray, values: np.ndarray, limit: float, subject: str, half_width: np.ndarray | None = None
               ) -> dict:
    """Returns the image tinted by the values of its patches, with the values' sum and, if there is room, the values.

    With half the widths of their intervals, it has these, and the places of the patches whose sign is not certain.
    """
    (rows, columns), (row, column) = values.shape, np.unravel_index(np.argmax(values), values.shape)
    description = (
        f"Shapley values for {subject}: {rows} × {columns} patches, the largest {signed(float(values[row, column]))} "
        f"in row {row + 1}, column {column + 1}; the smallest {signed(float(values.min()))}")
    return _drawing(overlay(image, values, limit), description) | {
        "grid": (rows, columns), "limit": limit, "sum": float(values.sum(dtype=np.float64)),
        "numbers": values.tolist() if values.size <= MAX_LABELED_PATCHES else [],
        "errors": None if half_width is None else half_width.tolist(),
        "uncertain": [] if half_width is None else np.argwhere(np.abs(values) <= half_width).tolist()}


def _drawing(image: np.ndarray, description: str) -> dict:
    return {"uri": image_uri(image), "height": image_height(image), "pixelated": is_small(image),
            "description": description}
