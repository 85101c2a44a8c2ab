"""The metrics of attributions by name, with their descriptions; see docs/metrics.md."""

from collections.abc import Sequence
from typing import NamedTuple

from shapjax.errors import chosen


class Metric(NamedTuple):
    """A column of the comparison.

    Attributes:
      key: its name on the command line.
      title: for people.
      better: "higher", "lower", or None for a metric that does not rank methods.
      hint: one sentence.
      digits: behind the point.
      needs: of "ground_truth" (Shapley values to compare with), "object_masks", "labels".
    """

    key: str
    title: str
    better: str | None
    hint: str
    digits: int = 3
    needs: tuple[str, ...] = ()


METRICS: dict[str, Metric] = {metric.key: metric for metric in (
    Metric("deletion", "Deletion", "lower", "area under the target's probability, most important removed first"),
    Metric("insertion", "Insertion", "higher", "area under the target's probability, most important shown first"),
    Metric("aopc", "AOPC", "higher", "mean fall of the target's probability, most important 10 … 90 % removed"),
    Metric("aopc_absolute", "AOPC, absolute", "higher", "AOPC of the absolute change of the probability"),
    Metric("lodds", "LOdds", "lower", "mean log ratio of the probability, most important 10 … 90 % removed", 2),
    Metric("positive", "Positive perturbation", "lower", "accuracy area, most important patches removed first, against "
           "the class predicted on the whole image", 1),
    Metric("negative", "Negative perturbation", "higher", "accuracy area, least important patches removed first, "
           "against the class predicted on the whole image", 1),
    Metric("positive_label", "Positive, label", "lower", "positive perturbation against the label", 1,
           ("labels",)),
    Metric("negative_label", "Negative, label", "higher", "negative perturbation against the label", 1,
           ("labels",)),
    Metric("positive_pixels", "Positive, pixels", "lower", "positive perturbation, single pixels blacked out", 1),
    Metric("negative_pixels", "Negative, pixels", "higher", "negative perturbation, single pixels blacked out", 1),
    Metric("sensitivity_n", "Sensitivity-n", "higher", "rank correlation of summed attributions with the target's "
           "log-odds, over random coalitions of every size"),
    Metric("sensitivity_n_fixed", "Sensitivity-n, fixed", "higher", "sensitivity-n over coalitions of one size, "
           "averaged over a quarter, half and three quarters of the patches"),
    Metric("faithfulness", "Faithfulness", "higher", "linear correlation of summed attributions with the fall of the "
           "target's probability when a random quarter of the patches is removed"),
    Metric("infidelity", "Infidelity", None, "mean squared difference of summed attributions, scaled to fit best, and "
           "the change of the target's probability; the same for a map and its negative", 4),
    Metric("monotonicity", "Monotonicity", "higher", "share of images whose probability never falls as patches are "
           "shown, least important first"),
    Metric("road", "ROAD", "lower", "accuracy, most important 10 … 90 % imputed from their surroundings"),
    Metric("sparseness", "Sparseness", None, "Gini index of the sizes of the attributions: 0 all equal, 1 one patch"),
    Metric("shapley_pearson", "Shapley correlation", "higher", "linear correlation with the Shapley values of the "
           "target class", needs=("ground_truth",)),
    Metric("shapley_spearman", "Shapley ranks", "higher", "rank correlation with the Shapley values of the target "
           "class", needs=("ground_truth",)),
    Metric("pixel_accuracy", "Pixel accuracy", "higher", "share of pixels correctly above or below the map's mean",
           needs=("object_masks",)),
    Metric("miou", "mIoU", "higher", "mean of background's and foreground's intersection over union",
           needs=("object_masks",)),
    Metric("map", "mAP", "higher", "mean average precision of the map as a segmentation", needs=("object_masks",)),
    Metric("pointing", "Pointing game", "higher", "share of images whose most important patch touches the object",
           needs=("object_masks",)),
    Metric("pixel_accuracy_correct", "Pixel accuracy, correct", "higher",
           "pixel accuracy of correctly classified images", needs=("object_masks", "labels")),
    Metric("miou_correct", "mIoU, correct", "higher", "mIoU of correctly classified images",
           needs=("object_masks", "labels")),
    Metric("map_correct", "mAP, correct", "higher", "mAP of correctly classified images",
           needs=("object_masks", "labels")),
)}


_NEEDS = {"ground_truth": "Shapley values as ground truth", "object_masks": "object masks",
          "labels": "labels of the images"}


def select(names: str | Sequence[str], *, ground_truth: bool, object_masks: bool, labels: bool = True) -> list[Metric]:
    """Returns the metrics of these names, in this order, each once; "all" is every metric whose data are given.

    Args:
      names: of `METRICS`.
      ground_truth: there are Shapley values to compare with.
      object_masks: there are masks of the objects.
      labels: the true classes are known.

    Raises:
      ValueError: if there is no name, or on a name that does not exist (with the near ones), or a metric whose data are
        not given.
    """
    given = {"ground_truth": ground_truth, "object_masks": object_masks, "labels": labels}
    if names == "all":
        return [metric for metric in METRICS.values() if all(given[need] for need in metric.needs)]
    metrics = chosen(names, METRICS, "metric")
    for metric in metrics:
        for need in metric.needs:
            if not given[need]:
                raise ValueError(f"metric {metric.key!r} needs {_NEEDS[need]}")
    return metrics
