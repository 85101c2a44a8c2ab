"""Metrics of models and attributions: pure functions of arrays and of any `games.Classifier`."""

from shapjax.metrics.accuracy import cross_entropy, top_k_correct
from shapjax.metrics.faithfulness import faithfulness_correlation, infidelity, sample_masks, sensitivity_n
from shapjax.metrics.localization import (
    mean_iou,
    pixel_accuracy,
    pointing_game,
    segmentation_average_precision,
    segmentation_counts,
)
from shapjax.metrics.perturbation import (
    aopc,
    aopc_absolute,
    curves,
    deletion,
    insertion,
    lodds,
    monotonicity,
    negative_perturbation,
    positive_perturbation,
    random_removal,
    road,
)
from shapjax.metrics.pixel_perturbation import negative_perturbation_pixels, positive_perturbation_pixels
from shapjax.metrics.ranking import order
from shapjax.metrics.registry import METRICS, Metric
from shapjax.metrics.shapley_agreement import agreement, efficiency_gap, r2_ceiling, shapley_error
from shapjax.metrics.sparseness import gini
from shapjax.metrics.statistics import Interval, bootstrap, bootstrap_mean, paired_difference

__all__ = [
    "METRICS", "Interval", "Metric", "agreement", "aopc", "aopc_absolute", "bootstrap", "bootstrap_mean",
    "cross_entropy", "curves", "deletion", "efficiency_gap", "faithfulness_correlation", "gini", "infidelity",
    "insertion", "lodds", "mean_iou", "monotonicity", "negative_perturbation", "negative_perturbation_pixels", "order",
    "paired_difference", "pixel_accuracy", "pointing_game", "positive_perturbation", "positive_perturbation_pixels",
    "r2_ceiling", "random_removal", "road", "sample_masks", "segmentation_average_precision", "segmentation_counts",
    "sensitivity_n", "shapley_error", "top_k_correct",
]
