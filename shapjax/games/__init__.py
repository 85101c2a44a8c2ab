"""Cooperative games over the patches of an image: classifiers as games, coalitions, Shapley values and estimators."""

from shapjax.games.any_prior import refine
from shapjax.games.classifier import Classifier, painted, pair_values, row_keys, values, wrap
from shapjax.games.error_law import ErrorLaw, Refined
from shapjax.games.estimators import Estimate, kernel_shap_solve
from shapjax.games.outputs import all_classes, target_class
from shapjax.games.refinement import Posterior, posterior
from shapjax.games.removal import Blur, Constant, Noise, NoisyLinear
from shapjax.games.shapley import enumerate_pairs, exact_shapley, sample_coalitions

__all__ = [
    "Blur", "Classifier", "Constant", "ErrorLaw", "Estimate", "Noise", "NoisyLinear", "Posterior", "Refined",
    "all_classes", "enumerate_pairs", "exact_shapley", "kernel_shap_solve", "painted", "pair_values", "posterior",
    "refine", "row_keys", "sample_coalitions", "target_class", "values", "wrap",
]
