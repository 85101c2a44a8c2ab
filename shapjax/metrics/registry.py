"""Every metric of an attribution by its name, with what a reader wants to know of it; see docs/metrics.md."""

import dataclasses
from collections.abc import Sequence

from shapjax.errors import UserError, near_names


@dataclasses.dataclass(frozen=True)
class Metric:
    """A column of the comparison.

    Attributes:
      key: its name on the command line.
      title: for people.
      better: "higher", "lower" or None where neither is.
      hint: one sentence.
      digits: behind the point.
      needs: "truth" (Shapley values to compare with), "masks" (of objects), or None.
    """

    key: str
    title: str
    better: str | None
    hint: str
    digits: int = 3
    needs: str | None = None


_ALL = (
    Metric("deletion", "Deletion", "lower", "area under the target's probability, most important removed first"),
    Metric("insertion", "Insertion", "higher", "area under the target's probability, most important shown first"),
    Metric("aopc", "AOPC", "higher", "mean fall of the target's probability, most important 10 … 90 % removed"),
    Metric("aopc_absolute", "AOPC, absolute", "higher", "the same with the size of each change, up or down"),
    Metric("lodds", "LOdds", "lower", "mean log ratio of the target's probability, most important 10 … 90 % removed",
           2),
    Metric("positive", "Positive perturbation", "lower", "accuracy area, most important patches removed first, against "
           "the class predicted on the whole image", 1),
    Metric("negative", "Negative perturbation", "higher", "accuracy area, least important patches removed first, "
           "against the class predicted on the whole image", 1),
    Metric("positive_label", "Positive, label", "lower", "positive perturbation against the true class", 1),
    Metric("negative_label", "Negative, label", "higher", "negative perturbation against the true class", 1),
    Metric("positive_pixels", "Positive, pixels", "lower", "positive perturbation, single pixels of the upsampled map "
           "blacked out", 1),
    Metric("negative_pixels", "Negative, pixels", "higher", "negative perturbation, single pixels of the upsampled map "
           "blacked out", 1),
    Metric("sensitivity_n", "Sensitivity-n", "higher", "rank correlation of summed attributions with the target's "
           "probability, over random selections of patches of every size"),
    Metric("sensitivity_n_fixed", "Sensitivity-n, fixed", "higher", "the same over selections of one size, averaged "
           "over a quarter, half and three quarters of the patches"),
    Metric("faithfulness", "Faithfulness", "higher", "linear correlation of summed attributions with the fall of the "
           "target's probability when a random quarter of the patches is removed"),
    Metric("infidelity", "Infidelity", "lower", "mean squared difference of summed attributions, best scaled, and the "
           "change of the target's probability", 4),
    Metric("monotonicity", "Monotonicity", "higher", "share of images whose probability never falls as patches are "
           "shown, least important first"),
    Metric("road", "ROAD", "lower", "accuracy, most important 10 … 90 % imputed from their surroundings"),
    Metric("sparseness", "Sparseness", None, "Gini index of the sizes of the attributions: 0 all equal, 1 one patch"),
    Metric("shapley_pearson", "Shapley correlation", "higher", "linear correlation with the true Shapley values of the "
           "target class", needs="truth"),
    Metric("shapley_spearman", "Shapley ranks", "higher", "rank correlation with the true Shapley values of the target "
           "class", needs="truth"),
    Metric("pixel_accuracy", "Pixel accuracy", "higher", "pixels on the right side of the map's mean", needs="masks"),
    Metric("miou", "mIoU", "higher", "mean of background's and foreground's intersection over union", needs="masks"),
    Metric("map", "mAP", "higher", "mean average precision of the map as a segmentation", needs="masks"),
    Metric("pointing", "Pointing game", "higher", "share of images whose most important patch touches the object",
           needs="masks"),
    Metric("pixel_accuracy_correct", "Pixel accuracy, correct", "higher", "of correctly classified images",
           needs="masks"),
    Metric("miou_correct", "mIoU, correct", "higher", "of correctly classified images", needs="masks"),
    Metric("map_correct", "mAP, correct", "higher", "of correctly classified images", needs="masks"),
)
METRICS: dict[str, Metric] = {metric.key: metric for metric in _ALL}


def applicable(*, truth: bool, masks: bool) -> list[Metric]:
    """The metrics that can be measured, with or without true Shapley values and masks of objects."""
    there = {None} | ({"truth"} if truth else set()) | ({"masks"} if masks else set())
    return [metric for metric in METRICS.values() if metric.needs in there]


def select(names: Sequence[str], *, truth: bool, masks: bool) -> list[Metric]:
    """The metrics of these names, in this order, each once.

    Raises:
      UserError: on a name that does not exist (with the near ones), or a metric that needs what is not there.
    """
    for name in names:
        if name not in METRICS:
            raise UserError(f"there is no metric {name!r}; {near_names(name, METRICS)}")
        if METRICS[name] not in applicable(truth=truth, masks=masks):
            what = {"truth": "true Shapley values (not --truth none)", "masks": "masks of the objects (--masks)"}
            raise UserError(f"metric {name!r} needs {what[METRICS[name].needs]}")
    return [METRICS[name] for name in dict.fromkeys(names)]
