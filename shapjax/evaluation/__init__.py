"""Evaluation: ground truth, the quality of a model, attribution methods beside each other."""

from shapjax.evaluation.comparison import Result, compare
from shapjax.evaluation.ground_truth import GroundTruth
from shapjax.evaluation.quality import evaluate

__all__ = ["GroundTruth", "Result", "compare", "evaluate"]
