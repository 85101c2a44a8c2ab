"""Measures refined Shapley values and their intervals against ground truth, beside others by as many passes."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from shapjax.evaluation import calibration
from shapjax.evaluation.ground_truth import GroundTruth
from shapjax.evaluation.keys import image_keys
from shapjax.evaluation.over_images import OverImages
from shapjax.games import classifier, error_law, estimators, outputs, shapley
from shapjax.games.classifier import Classifier
from shapjax.metrics import shapley_agreement, statistics

PAIRS = (0, 4, 16, 64)  # that everybody can compare; the others are fractions and multiples of the players
BUDGETS = (0.5, 1.0, 2.0, 4.0)
CURVE = tuple(np.round(np.arange(0.05, 1.0, 0.05), 2).tolist())  # levels of the calibration curve


def measure(model: Classifier, images: np.ndarray, ground_truth: GroundTruth, *, batch_size: int = 256, seed: int = 0
            ) -> list[dict[str, Any]]:
    """Measures phi refined by pairs, KernelSHAP of the same pairs, and permutation sampling of as many.

    Args:
      model: the game, with phi and the law of its errors.
      images: float32 [n, H, W, C], as the model takes them, on which the law was not fitted.
      ground_truth: of these images. Its standard errors are added in quadrature to those of the intervals.
      batch_size: coalition pairs a forward pass.
      seed: of the pairs; a larger number contains the smaller ones.

    Returns:
      JSON-able, for each number of pairs: "pairs"; "coverage", {level: {"mean", "low", "high"}} over images; "curve",
      coverage at `CURVE`; "width", mean width of 95 % intervals in logits; "standard_error", the mean, over the spread
      of the image's values; "r2", "rmse"; the same as "kernel_shap_r2" and so on for "kernel_shap" and "permutation",
      None where they are undefined; "gain", {"mean", "low", "high"}: KernelSHAP's squared error less that of the
      refined values, paired over images, in squared logits.
    """
    n = model.num_players
    numbers = sorted({*PAIRS, *(calibration.budget_pairs(budget, n) for budget in BUDGETS)})

    def fn(model: Classifier, images: chex.Array, keys: chex.Array) -> tuple[chex.Array, ...]:
        masks = jax.vmap(lambda key: shapley.sample_coalitions(key, num_players=n, num_pairs=numbers[-1]))(keys)
        ranks, prefixes = jax.vmap(functools.partial(_permutation_masks, num_players=n, num_pairs=numbers[-1]))(keys)
        v, complement = classifier.pair_values(model, images, jnp.concatenate([masks, prefixes], axis=1),
                                               read=outputs.all_classes(), batch_size=batch_size)
        return model.phi(images), masks, ranks, *jnp.split(v - complement, [numbers[-1]], axis=1)

    keys = image_keys("sample_efficiency", len(images), seed=seed)
    phi, masks, ranks, differences, steps = OverImages(fn, block=4)(model, images, keys)
    totals, exact = phi.sum(axis=1), np.asarray(ground_truth.values, np.float64)
    game = (masks, differences, totals)
    return [_at(m, calibration.refined_by(m, model.error_law, phi, *game), exact, ground_truth,
                others={"kernel_shap": _kernel_shap(m, *game) if m else None,
                        "permutation": _permutation(r, ranks, steps, totals) if r else None})
            for m, r in ((m, m // (n - 1)) for m in numbers)]


@jax.jit
def _kernel_shap(pairs: chex.Array, *games: chex.Array) -> chex.Array:
    """Returns the estimates of KernelSHAP from the first pairs of each image, [B, N, K]."""
    def one_image(row: tuple) -> chex.Array:
        taken = (jnp.arange(len(row[0])) < pairs).astype(jnp.float32)
        return estimators.kernel_shap_solve(*row, taken)[0]

    return jax.lax.map(one_image, games)


def _permutation_masks(key: chex.PRNGKey, *, num_players: int, num_pairs: int) -> tuple[chex.Array, chex.Array]:
    """Draws as many permutations as the pairs pay for, R: their ranks int [R, N], coalitions bool [R·(N−1), N]."""
    ranks = estimators.sample_ranks(key, num_players=num_players, num_permutations=num_pairs // (num_players - 1))
    return ranks, estimators.permutation_prefixes(ranks).reshape(-1, num_players)


@jax.jit
def _permutation(taken: chex.Array, ranks: chex.Array, differences: chex.Array, totals: chex.Array) -> chex.Array:
    """Returns the estimates by the first of R antithetic permutations of each image, [B, N, K]."""
    b, r, n = ranks.shape
    steps = differences.reshape(b, r, n - 1, -1)
    share_R = (jnp.arange(r) < taken) / taken
    return jax.vmap(lambda *row: jnp.tensordot(share_R, estimators.antithetic_contributions(*row), 1))(
        ranks, steps, totals)


def _at(pairs: int, refined: error_law.Refined, exact: np.ndarray, ground_truth: GroundTruth, *,
        others: dict[str, np.ndarray | None]) -> dict[str, Any]:
    """Returns the measures of one number of pairs."""
    error = np.asarray(refined.values, np.float64) - exact
    covered = {level: np.abs(error) <= calibration.half_widths(refined, level, extra=ground_truth.standard_errors)
               for level in sorted({*CURVE, *calibration.LEVELS})}
    spread = exact.max(axis=(1, 2)) - exact.min(axis=(1, 2))
    own = np.mean(error**2, axis=(1, 2))
    measures = {
        "pairs": pairs,
        "coverage": {str(level): _interval(covered[level].mean(axis=(1, 2))) for level in calibration.LEVELS},
        "curve": [float(covered[level].mean()) for level in CURVE],
        "width": float(2 * calibration.half_widths(refined, 0.95).mean()),
        "standard_error": float(np.mean(np.asarray(refined.standard_errors).mean(axis=(1, 2)) / spread)),
        "r2": shapley_agreement.shapley_error(refined.values, exact)["r2"], "rmse": float(np.sqrt(own.mean()))}
    for name, values in others.items():
        measures |= {f"{name}_r2": None, f"{name}_rmse": None} if values is None else {
            f"{name}_r2": shapley_agreement.shapley_error(values, exact)["r2"],
            f"{name}_rmse": float(np.sqrt(np.mean((values - exact) ** 2)))}
    their = others["kernel_shap"]
    gain = None if their is None else _interval(np.mean((their - exact) ** 2, axis=(1, 2)) - own)
    return measures | {"gain": gain}


def _interval(values: np.ndarray) -> dict[str, float]:
    """Returns the mean over images with its interval."""
    mean, low, high, _ = statistics.bootstrap_mean(values)
    return {"mean": float(mean), "low": float(low), "high": float(high)}
