"""Scores of attributions: every metric of every image, from one set of curves and one set of random coalitions."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from shapjax.games import classifier, outputs
from shapjax.games.classifier import Classifier
from shapjax.metrics import faithfulness, localization, perturbation, ranking, shapley_agreement, sparseness
from shapjax.metrics.pixel_perturbation import negative_perturbation_pixels, positive_perturbation_pixels

RANDOM_PAIRS = 128  # pairs of coalitions an image for each of the three kinds of sizes


def shared_values(model: Classifier, images: chex.Array, targets: chex.Array, keys: chex.Array, *, batch_size: int
                  ) -> dict[str, chex.Array]:
    """Evaluates what no method changes: the whole and the empty image, and random coalitions.

    Args:
      model: the game.
      images: [B, H, W, C].
      targets: int [B].
      keys: [B].
      batch_size: pairs a forward pass.

    Returns:
      "whole" and "empty", logits [B, K]; "KIND/masks" bool [B, M, N] and the target's log-odds on S and on its
      complement, "KIND/inside" and "KIND/outside" float [B, M]; KIND is any (size), quarter or half (of the patches).
    """
    n = model.num_players
    whole, empty = classifier.pair_values(model, images, jnp.ones((1, n), bool), read=outputs.all_classes(),
                                          batch_size=batch_size)
    out = {"whole": whole[:, 0], "empty": empty[:, 0]}
    read = outputs.target_class(targets, "log_odds")
    for i, (kind, size) in enumerate({"any": None, "quarter": max(1, n // 4), "half": max(1, n // 2)}.items()):
        masks_BMN = jax.vmap(lambda key, i=i, size=size: faithfulness.sample_masks(
            jax.random.fold_in(key, i), num_players=n, num_masks=RANDOM_PAIRS, size=size))(keys)
        inside_BM, outside_BM = classifier.pair_values(model, images, masks_BMN, read=read, batch_size=batch_size)
        out |= {f"{kind}/masks": masks_BMN, f"{kind}/inside": inside_BM, f"{kind}/outside": outside_BM}
    return out


def scores(model: Classifier, images: chex.Array, targets: chex.Array, labels: chex.Array, predicted: chex.Array,
           attributions: chex.Array, keys: chex.Array, values: dict[str, chex.Array], *, batch_size: int
           ) -> dict[str, chex.Array]:
    """Computes the metrics that need the model, or its shared values.

    Args:
      model: the game.
      images: [B, H, W, C].
      targets, labels, predicted: int [B].
      attributions: float [B, N].
      keys: [B], for ties.
      values: of `shared_values`.
      batch_size: rows a forward pass.

    Returns:
      "metric/KEY" float [B] and "curve/NAME" float [B, points].
    """
    order = ranking.order(attributions, keys)
    curves = _curves(model, images, order, values, batch_size)
    known = {"whole": values["whole"], "batch_size": batch_size}
    p = jax.tree.map(jnp.exp, perturbation.target_log_probability(curves, targets))
    of_target = (perturbation.deletion, perturbation.insertion, perturbation.aopc, perturbation.aopc_absolute,
                 perturbation.lodds, perturbation.monotonicity)
    pixels = (images, attributions, predicted, keys)
    road_curve = perturbation.road(model, images, order, targets, **known)
    any_masks = jnp.concatenate([values["any/masks"], ~values["any/masks"]], axis=1)
    any_log_odds = jnp.concatenate([values["any/inside"], values["any/outside"]], axis=1)
    fixed = [faithfulness.sensitivity_n(attributions, masks, log_odds) for masks, log_odds in (
        (values["quarter/masks"], values["quarter/inside"]),
        (values["half/masks"], values["half/inside"]),
        (~values["quarter/masks"], values["quarter/outside"]))]
    full, removed = p.deleted[:, 0], perturbation.at_fractions(curves)
    return {f"metric/{fn.__name__}": fn(curves, targets) for fn in of_target} | {
        "metric/positive": perturbation.positive_perturbation(curves, predicted),
        "metric/negative": perturbation.negative_perturbation(curves, predicted),
        "metric/positive_label": perturbation.positive_perturbation(curves, labels),
        "metric/negative_label": perturbation.negative_perturbation(curves, labels),
        "metric/positive_pixels": positive_perturbation_pixels(model, *pixels, **known),
        "metric/negative_pixels": negative_perturbation_pixels(model, *pixels, **known),
        "metric/sensitivity_n": faithfulness.sensitivity_n(attributions, any_masks, any_log_odds),
        "metric/sensitivity_n_fixed": jnp.mean(jnp.stack(fixed), axis=0),
        "metric/faithfulness": faithfulness.faithfulness_correlation(
            attributions, values["quarter/masks"], full, jax.nn.sigmoid(values["quarter/outside"])),
        "metric/infidelity": faithfulness.infidelity(
            attributions, ~any_masks, full, jax.nn.sigmoid(any_log_odds), normalize=True),
        "metric/road": jnp.mean(road_curve[:, 1:], axis=1),
        "metric/sparseness": sparseness.gini(attributions),
        "curve/insertion": p.inserted,
        "curve/deletion": p.deleted,
        "curve/positive": perturbation.correct(removed.deleted, predicted),
        "curve/negative": perturbation.correct(removed.inserted, predicted),
    }


def removal_curves(model: Classifier, images: chex.Array, targets: chex.Array, attributions: chex.Array,
                   keys: chex.Array, values: dict[str, chex.Array], *, batch_size: int
                   ) -> tuple[chex.Array, chex.Array]:
    """Removes patches one by one, most important first.

    Arguments as of `scores`; of the values, the two ends are used.

    Returns:
      the order int32 [B, N], and the target's probability without the first 0 … N patches of it, float32 [B, N+1].
    """
    order = ranking.order(attributions, keys)
    curves = _curves(model, images, order, values, batch_size)
    return order, jnp.exp(perturbation.target_log_probability(curves, targets).deleted)


def _curves(model: Classifier, images: chex.Array, order: chex.Array, values: dict[str, chex.Array], batch_size: int
            ) -> perturbation.Curves:
    return perturbation.curves(model, images, order, batch_size=batch_size, ends=(values["whole"], values["empty"]))


def agreement_scores(attributions: np.ndarray, targets: np.ndarray, ground_truth: np.ndarray) -> dict[str, np.ndarray]:
    """Computes correlations with ground truth: "metric/KEY" float64 [n].

    Args:
      attributions: float [n, N].
      targets: int [n].
      ground_truth: float [n, N, K].
    """
    of_target = np.take_along_axis(ground_truth, targets[:, None, None], axis=2)
    agreement = shapley_agreement.agreement(attributions[..., None], of_target)
    return {f"metric/shapley_{name}": agreement[name] for name in ("pearson", "spearman")}


def localization_scores(attributions: np.ndarray, object_masks: np.ndarray, keys: chex.Array, grid: tuple[int, int]
                        ) -> dict[str, np.ndarray]:
    """Compares attributions with object masks: "metric/KEY" [n], of segmentations counts [n, 6] (`table` sums them).

    Args:
      attributions: float [n, N].
      object_masks: bool or int [n, H, W]; see `metrics.localization`.
      keys: [n], for ties.
      grid: (gh, gw).
    """
    where = {"grid": grid, "image_size": object_masks.shape[1:]}
    counts = localization.segmentation_counts(attributions, object_masks, **where)
    return jax.device_get({
        "metric/pixel_accuracy": counts, "metric/miou": counts,
        "metric/map": localization.segmentation_average_precision(attributions, object_masks, **where),
        "metric/pointing": localization.pointing_game(attributions, object_masks, keys, grid=grid)})
