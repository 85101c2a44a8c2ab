"""What one pass of a self-explaining model is worth: how many coalitions KernelSHAP needs to come as close."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from shapjax.evaluation.over_images import OverImages
from shapjax.games import classifier, estimators, shapley
from shapjax.games.classifier import Classifier
from shapjax.metrics import shapley_error

BUDGETS = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)  # coalitions an image


def budget_to_reach(model: Classifier, images: np.ndarray, exact: np.ndarray, *, batch_size: int = 256, seed: int = 0
                    ) -> dict[str, Any]:
    """R² of paired KernelSHAP against exact values as its budget grows, beside that of the model's own values.

    Args:
      model: the game.
      images: float32 [n, H, W, C], as the model takes them.
      exact: float [n, N, K], its exact Shapley values.
      batch_size: coalition pairs a forward pass.
      seed: of the coalitions; a larger budget contains the smaller ones.

    Returns:
      JSON-able: "kernel_shap", a list of {"coalitions", "r2"} (mean over images; budgets of fewer pairs than patches
      are left out); "phi_r2", and "reached_at", the smallest of these budgets whose R² is at least that; None
      where there is none, or the model has no values of its own.
    """
    n = model.num_players
    budgets = np.array([budget for budget in BUDGETS if budget // 2 > n])

    def fn(model: Classifier, images: chex.Array, keys: chex.Array) -> chex.Array:
        def one_image(row: tuple[chex.Array, chex.Array]) -> chex.Array:
            image, key = row
            masks = shapley.sample_coalitions(key, num_players=n, num_pairs=int(budgets[-1]) // 2)
            pairs = jnp.concatenate([jnp.ones((1, n), bool), masks])
            v, complement = classifier.pair_values(model, image[None], pairs[None], read=classifier.all_classes(),
                                                   batch_size=batch_size)
            differences = (v - complement)[0]

            def estimate(budget: chex.Array) -> chex.Array:
                taken = (jnp.arange(len(masks)) < budget // 2).astype(jnp.float32)
                return estimators.kernel_shap_solve(masks, differences[1:], differences[0], taken)[0]

            return jax.lax.map(estimate, jnp.asarray(budgets))

        return jax.lax.map(one_image, (images, keys))

    keys = jax.random.split(jax.random.key(seed), len(images))
    estimates = OverImages(fn, block=32)(model, images, keys)
    points = [{"coalitions": int(budget), "r2": shapley_error.shapley_error(estimates[:, i], exact)["r2"]}
              for i, budget in enumerate(budgets)]
    points = [point for point in points if point["r2"] is not None]
    if model.phi_fn is None:
        return {"kernel_shap": points, "phi_r2": None, "reached_at": None}
    phi = OverImages(lambda model, images: model.phi(images), block=32)(model, images)
    own = shapley_error.shapley_error(phi, exact)["r2"]
    reached = [point["coalitions"] for point in points if own is not None and point["r2"] >= own]
    return {"kernel_shap": points, "phi_r2": own, "reached_at": min(reached, default=None)}
