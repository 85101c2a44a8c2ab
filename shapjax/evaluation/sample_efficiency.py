"""Sample efficiency: the number of coalitions with which KernelSHAP equals one pass of a self-explaining model."""

from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from shapjax.evaluation.keys import image_keys
from shapjax.evaluation.over_images import OverImages
from shapjax.games import classifier, estimators, outputs, shapley
from shapjax.games.classifier import Classifier
from shapjax.metrics.shapley_agreement import shapley_error

BUDGETS = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)  # coalitions an image


def budget_to_reach(model: Classifier, images: np.ndarray, exact: np.ndarray, *, budgets: Sequence[int] = BUDGETS,
                    batch_size: int = 256, seed: int = 0) -> dict[str, Any]:
    """Computes the R² of paired KernelSHAP against exact values as its budget grows, beside that of the model's phi.

    Args:
      model: the game.
      images: float32 [n, H, W, C], as the model takes them.
      exact: float [n, N, K], its exact Shapley values.
      budgets: coalitions an image, each an even number, from the smallest on.
      batch_size: coalition pairs a forward pass.
      seed: of the coalitions; a larger budget contains the smaller ones.

    Returns:
      JSON-able: "kernel_shap", a list of {"coalitions", "r2"} (mean over images), of the budgets with at least as many
      pairs as there are patches; "phi_r2", and "reached_at", the smallest of these budgets whose R² is at least that;
      None where there is none, or the model has no phi.
    """
    n = model.num_players
    budgets = np.array([budget for budget in budgets if budget // 2 >= n])

    def fn(model: Classifier, images: chex.Array, keys: chex.Array) -> chex.Array:
        def one_image(image: chex.Array, key: chex.Array) -> chex.Array:
            masks_MN = shapley.sample_coalitions(key, num_players=n, num_pairs=int(budgets[-1]) // 2)
            pairs_MN = jnp.concatenate([jnp.ones((1, n), bool), masks_MN])  # the first is the total
            v, complement = classifier.pair_values(model, image[None], pairs_MN[None], read=outputs.all_classes(),
                                                   batch_size=batch_size)
            differences_MK = (v - complement)[0]

            def estimate(budget: chex.Array) -> chex.Array:
                taken_M = (jnp.arange(len(masks_MN)) < budget // 2).astype(jnp.float32)
                return estimators.kernel_shap_solve(masks_MN, differences_MK[1:], differences_MK[0], taken_M)[0]

            return jax.lax.map(estimate, jnp.asarray(budgets))

        return jax.lax.map(lambda row: one_image(*row), (images, keys))

    estimates = OverImages(fn, block=32)(model, images, image_keys("sample_efficiency", len(images), seed=seed))
    points = [{"coalitions": int(budget), "r2": r2} for i, budget in enumerate(budgets)
              if (r2 := shapley_error(estimates[:, i], exact)["r2"]) is not None]
    phi_r2 = None
    if model.phi_fn is not None:
        phi_r2 = shapley_error(OverImages(Classifier.phi, block=32)(model, images), exact)["r2"]
    reached = [point["coalitions"] for point in points if phi_r2 is not None and point["r2"] >= phi_r2]
    return {"kernel_shap": points, "phi_r2": phi_r2, "reached_at": min(reached, default=None)}
