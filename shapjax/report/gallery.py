"""Prepares the page's pictures: images with the Shapley values of their patches, as inline SVGs."""

import numpy as np
from scipy.special import softmax

from shapjax.report.formatting import signed
from shapjax.report.heatmap import MAX_LABELED_PATCHES, color_limit, number_colors, overlay, value_text
from shapjax.report.pictures import image_height, is_small, png_uri
from shapjax.report.reading import GROUND_TRUTHS, Run


def hero(run: Run) -> dict:
    """Returns the first image with its values for its three most probable classes, on one scale."""
    first = picture(run, 0, None)
    values, logits, names = run.arrays["shapley"][0], run.arrays["logits"][0], run.arrays["class_names"]
    probabilities = _probabilities(logits)
    shown = np.argsort(-probabilities, kind="stable")[:3]
    limit = color_limit(values[..., shown])
    return {
        "input": first["input"],
        "label": first["label"],
        "limit": limit,
        "classes": [
            {
                "name": str(names[index]),
                "probability": float(probabilities[index]),
                "sum": float(values[..., index].sum(dtype=np.float64)),
                "map": _value_map(run.arrays["images"][0], values[..., index], limit, f"class {names[index]}"),
            }
            for index in shown
        ],
    }


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
    label, prediction = str(names[arrays["labels"][index]]), str(names[predicted])
    return {
        "number": index + 1,
        "label": label,
        "prediction": prediction,
        "correct": int(arrays["labels"][index]) == predicted,
        "probability": float(_probabilities(logits)[predicted]),
        "r2": r2,
        "limit": limit,
        "input": {"uri": png_uri(image), "height": image_height(image), "pixelated": is_small(image),
                  "description": f"Image {index + 1}, labeled {label}"},
        "maps": [
            {
                "title": f"{kind.capitalize()} values",
                "sum": float(values.sum(dtype=np.float64)),
                "map": _value_map(image, values, limit, f"class {prediction}, {kind}"),
            }
            for kind, values in maps.items()
        ],
    }


def _value_map(image: np.ndarray, values: np.ndarray, limit: float, subject: str) -> dict:
    """Returns the parts of an inline SVG 100 units wide: the tinted image, lines between patches, their numbers."""
    grid_h, grid_w = values.shape
    height = image_height(image)
    cell_w, cell_h = 100 / grid_w, height / grid_h
    row, column = np.unravel_index(np.argmax(values), values.shape)
    cells = []
    if values.size <= MAX_LABELED_PATCHES:
        cells = [
            {
                "x": round((c + 0.5) * cell_w, 2),
                "y": round((r + 0.5) * cell_h, 2),
                "text": value_text(float(value), limit),
                "colors": number_colors(float(value) / limit),
            }
            for (r, c), value in np.ndenumerate(values)
        ]
    return {
        "uri": png_uri(overlay(image, values, limit)),
        "height": height,
        "pixelated": is_small(image),
        "grid": "".join(f"M0 {i * cell_h:.2f}H100" for i in range(1, grid_h))
        + "".join(f"M{i * cell_w:.2f} 0V{height:g}" for i in range(1, grid_w)),
        "font": round((0.3 if limit >= 1 else 0.25) * min(cell_w, cell_h), 2),  # the longer numbers have to fit
        "cells": cells,
        "description": f"Shapley values for {subject}: {grid_h} × {grid_w} patches, the largest"
        f" {signed(float(values[row, column]))} in row {row + 1}, column {column + 1};"
        f" the smallest {signed(float(values.min()))}",
    }


def _probabilities(logits: np.ndarray) -> np.ndarray:
    return softmax(logits.astype(np.float64))
