"""An explanation in the hand: predictions, Shapley values, their errors; as a picture, as text, as a file."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import chex
import numpy as np

from shapjax import paths
from shapjax.errors import UserError
from shapjax.evaluation import refined
from shapjax.games.error_law import Refined
from shapjax.report.formatting import probability_text, signed

SHOWN_IMAGES = 4  # of a notebook's picture
TEXT_IMAGES = 10  # of `repr`


@chex.dataclass(frozen=True, repr=False, mappable_dataclass=False)
class Explanation:
    """Predictions and, for every patch and class, the model's Shapley value with its error; arrays on the host.

    The errors are how far the values may be from the Shapley values of the model's game. They follow Student's law.
    In a notebook it shows as a picture, in a terminal as text.

    Attributes:
      logits: float32 [B, K], the sums of the Shapley values over the patches.
      shapley: float32 [B, gh, gw, K], in logits.
      probabilities: float32 [B, K], softmax of the logits.
      standard_error: float32 [B, gh, gw, K], of the Shapley values, in logits; None if the model is not calibrated.
      freedom: float32 [B], degrees of freedom of the errors; None likewise.
      pairs: int [B], coalition pairs that the values were refined by.
      images: uint8 [B, H, W, C], or float32 in [0, 1], as the model saw them.
      names: of the B images, a path or "image 0".
      changes: what was done to each image before, or "as given".
      class_names: K names.
    """

    logits: np.ndarray
    shapley: np.ndarray
    probabilities: np.ndarray
    standard_error: np.ndarray | None
    freedom: np.ndarray | None
    pairs: np.ndarray
    images: np.ndarray
    names: Sequence[str]
    changes: Sequence[str]
    class_names: Sequence[str]

    @property
    def largest_error(self) -> np.ndarray:
        """Returns the largest standard error of each image over the spread (max − min) of its values, float [B].

        Raises:
          UserError: if the model is not calibrated.
        """
        self._require_errors()
        return refined.largest_error(self.shapley, self.standard_error)

    def interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Returns the ends of intervals that hold this share of the Shapley values, float32 [B, gh, gw, K] each.

        Raises:
          UserError: if the model is not calibrated, or level is not between 0 and 1.
        """
        half = self.half_width(level)
        return self.shapley - half, self.shapley + half

    def half_width(self, level: float = 0.95) -> np.ndarray:
        """Returns half the widths of the intervals of this level, float32 [B, gh, gw, K]; errors as of `interval`."""
        self._require_errors()
        return Refined(self.shapley, self.standard_error, self.freedom).half_width(level).astype(np.float32)

    def sign_is_certain(self, level: float = 0.95) -> np.ndarray:
        """Returns where the interval of this level is on one side of 0, bool [B, gh, gw, K]: for or against a class.

        Errors as of `interval`.
        """
        low, high = self.interval(level)
        return (low > 0) | (high < 0)

    def top(self, count: int = 3) -> list[list[dict[str, Any]]]:
        """Returns for each image the patches that speak most for the predicted class, largest value first.

        Args:
          count: of patches; all of them if there are no more.

        Returns:
          for each image a list of {"row", "column", "value"}, rows and columns from 0, values in logits.
        """
        found = []
        for values, index in zip(self.shapley, self.logits.argmax(axis=1), strict=True):
            order = np.argsort(-values[..., index], axis=None, kind="stable")[: max(0, count)]
            rows, columns = np.unravel_index(order, values.shape[:2])
            found.append([{"row": int(r), "column": int(c), "value": float(values[r, c, index])}
                          for r, c in zip(rows, columns, strict=True)])
        return found

    def plot(self, path: str | os.PathLike | None = None, *, image: int = 0, classes: int = 3, smooth: bool = False
             ) -> Any:
        """Draws one image and its values for the most probable classes; returns the matplotlib figure.

        Args:
          path: of a file to write too, .png or .svg; None writes none.
          image: which.
          classes: how many.
          smooth: blend the colors of patches.

        Raises:
          UserError: if there is no such image, classes is no number of at least 1, or the file is of another kind.
        """
        from shapjax.report import figures  # matplotlib loads slowly, and values alone do without it

        if not isinstance(classes, int | np.integer) or classes < 1:
            raise UserError(f"classes is {classes!r}, expected how many classes to draw, at least 1")
        if not -len(self.logits) <= image < len(self.logits):
            raise UserError(f"image is {image}, expected 0 to {len(self.logits) - 1}")
        kind = "png" if path is None else pathlib.PurePath(path).suffix.removeprefix(".").lower()
        if kind not in ("png", "svg"):
            raise UserError(f"{path}: expected a path that ends in .png or .svg")
        half_width = None if self.standard_error is None else self.half_width()[image]
        pixels = self.images[image]
        figure = figures.explanation_figure(
            pixels if pixels.dtype == np.uint8 else np.round(255 * pixels).astype(np.uint8), self.shapley[image],
            self.probabilities[image], self.class_names, top=classes, half_width=half_width,
            title=pathlib.PurePath(self.names[image]).name, smooth=smooth)
        if path is not None:
            with paths.replacing(path) as part:
                part.write_bytes(figures.figure_bytes(figure, format=kind))
        return figure

    def to_dict(self) -> dict[str, Any]:
        """Returns all but the pixels as JSON can hold it: for each image its name, classes and values."""
        errors = [None] * len(self.logits) if self.standard_error is None else self.standard_error.tolist()
        freedom = [None] * len(self.logits) if self.freedom is None else self.freedom.tolist()
        images = [
            {"name": name, "change": change, "prediction": self.class_names[int(np.argmax(logits))],
             "probabilities": probabilities.tolist(), "logits": logits.tolist(), "shapley": shapley.tolist(),
             "standard_error": error, "freedom": degrees, "pairs": int(pairs)}
            for name, change, probabilities, logits, shapley, error, degrees, pairs in zip(
                self.names, self.changes, self.probabilities, self.logits, self.shapley, errors, freedom, self.pairs,
                strict=True)]
        return {"class_names": list(self.class_names), "images": images}

    def save(self, path: str | os.PathLike) -> None:
        """Writes `to_dict` as JSON.

        Raises:
          UserError: if the path ends in something else than .json.
        """
        if pathlib.PurePath(path).suffix.lower() != ".json":
            raise UserError(f"{path}: expected a path that ends in .json")
        paths.write_json(path, self.to_dict())

    def __repr__(self) -> str:
        lines = []
        for i, patches in enumerate(self.top()[:TEXT_IMAGES]):
            order = np.argsort(-self.probabilities[i], kind="stable")[:3]
            classes = ", ".join(f"{self.class_names[k]} {probability_text(float(self.probabilities[i, k]))}"
                                for k in order)
            places = ", ".join(f"row {p['row'] + 1} column {p['column'] + 1} {signed(p['value'])}" for p in patches)
            lines.append(f"{self.names[i]}: {classes}; patches for {self.class_names[order[0]]}: {places}")
        if (more := len(self.logits) - TEXT_IMAGES) > 0:
            lines.append(f"… and {more} more images")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Returns the pictures of the first images, for notebooks."""
        from shapjax.report import figures

        parts = []
        for i in range(min(SHOWN_IMAGES, len(self.logits))):
            picture = figures.figure_bytes(self.plot(image=i), format="svg").decode()
            parts.append(f"<div>{picture[picture.index('<svg'):]}</div>")
        if len(self.logits) > SHOWN_IMAGES:
            parts.append(f"<p>… and {len(self.logits) - SHOWN_IMAGES} more images: e.plot(image=i)</p>")
        return "\n".join(parts)

    def _require_errors(self) -> None:
        if self.standard_error is None:
            raise UserError("these values have no standard errors: the model is not calibrated; run "
                            "python -m shapjax eval on it")
