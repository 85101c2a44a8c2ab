"""Shapley values of any classifier: exact by enumeration, or estimated with standard errors.

`exact`, `kernel_shap` and `permutation` explain the target class. `exact_all`, `kernel_shap_all` and `permutation_all`
explain every class; they give the ground truth of a game.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from shapjax.games import error_law, estimators, shapley
from shapjax.games.classifier import Classifier, pair_values, row_keys, sampled_differences
from shapjax.games.contract import of_images
from shapjax.games.estimators import Estimate
from shapjax.games.outputs import Reader, all_classes, target_class
from shapjax.games.passes import in_passes

MIN_PERMUTATIONS = 16  # in a round; the spread of fewer is a poor estimate of the standard error


@of_images("batch_size", "output")
def exact_all(model: Classifier, images: chex.Array, *, batch_size: int = 256, output: str = "logit") -> chex.Array:
    """Computes exact Shapley values for every class from 2^(N-1) coalition pairs an image, summed on the device.

    Args:
      model: the game.
      images: [B, H, W, C].
      batch_size: pairs a forward pass; bounds the memory.
      output: a key of `outputs.OUTPUTS`, the units of the result.

    Returns:
      float32 [B, N, K].

    Raises:
      ValueError: if N is above `shapley.MAX_EXACT_PLAYERS`, or an argument does not fit.
    """
    return _enumerate(model, images, all_classes(output), batch_size)


@of_images("batch_size", "output")
def exact(model: Classifier, images: chex.Array, targets: chex.Array, key: chex.PRNGKey | None = None, *,
          batch_size: int = 256, output: str = "logit") -> chex.Array:
    """Computes exact Shapley values of the target class: float32 [B, N].

    Arguments and errors as in `exact_all`, and targets int [B]; key is ignored.
    """
    return _enumerate(model, images, target_class(targets, output), batch_size)[..., 0]


@of_images("batch_size", "output", "max_coalitions", "round_coalitions")
def kernel_shap_all(model: Classifier, images: chex.Array, key: chex.PRNGKey, *, batch_size: int = 256,
                    output: str = "logit", tolerance: float = 0.05, max_coalitions: int = 32768,
                    round_coalitions: int = 1024) -> Estimate:
    """Estimates Shapley values for every class by paired KernelSHAP, until an image's values are precise enough.

    The estimator is `estimators.kernel_shap_solve`.

    Args:
      model: the game.
      images: [B, H, W, C]; worked on one at a time, so that none waits for the rounds of another.
      key: one, or [B].
      batch_size: pairs a forward pass; bounds its memory. A further 8 · max_coalitions · (N + K) bytes or so are used.
      output: a key of `outputs.OUTPUTS`, the units of the result.
      tolerance: an image is done when its largest standard error is within this fraction of the spread of its values.
      max_coalitions: an image at most, in whole rounds.
      round_coalitions: coalitions of a round, after which the standard errors are checked; both numbers are even.

    Returns:
      Estimate; values float32 [B, N, K].

    Raises:
      ValueError: if an argument does not fit, or N < 2.
    """
    pairs = min(round_coalitions, max_coalitions) // 2
    rounds = max_coalitions // (2 * pairs)
    return _estimate(_kernel_shap, model, images, None, key, batch_size, output, tolerance, rounds, pairs)


@of_images("batch_size", "output", "coalitions")
def kernel_shap(model: Classifier, images: chex.Array, targets: chex.Array, key: chex.PRNGKey, *,
                batch_size: int = 256, coalitions: int = 2048, output: str = "logit") -> chex.Array:
    """Estimates Shapley values of the target class by paired KernelSHAP from a fixed number of coalitions.

    Args:
      model: the game.
      images: [B, H, W, C].
      targets: int [B].
      key: one, or [B].
      batch_size: pairs a forward pass.
      coalitions: number of them besides the full and the empty one, even.
      output: a key of `outputs.OUTPUTS`, the units of the result.

    Returns:
      float32 [B, N].

    Raises:
      ValueError: if an argument does not fit, or N < 2.
    """
    pairs = coalitions // 2
    return _estimate(_kernel_shap, model, images, targets, key, batch_size, output, 0.0, 1, pairs).values[..., 0]


@of_images("batch_size", "pairs")
def refined_phi(model: Classifier, images: chex.Array, targets: chex.Array, key: chex.PRNGKey, *,
                batch_size: int = 256, pairs: int = 32) -> chex.Array:
    """Refines phi for the target class by coalition pairs (`games.error_law.refine`), in logits.

    Args:
      model: with `phi_fn` and an `error_law`.
      images: [B, H, W, C].
      targets: int [B].
      key: one, or [B].
      batch_size: pairs a forward pass.
      pairs: their number.

    Returns:
      float32 [B, N].

    Raises:
      ValueError: if the model does not explain itself or is not calibrated, or an argument does not fit.
    """
    if model.error_law is None:
        raise ValueError("this model is not calibrated: its phi cannot be refined")

    def one_image(row: tuple) -> chex.Array:
        image, target, key, phi_NK = row
        masks, differences = sampled_differences(model, image[None], key[None], num_pairs=pairs, read=all_classes(),
                                                 batch_size=batch_size)
        refined = error_law.refine(model.error_law, phi_NK, masks[0], differences[0], phi_NK.sum(axis=0))
        return refined.values[:, target]

    phi_BNK = in_passes(model.phi, images, batch_size=batch_size)
    return jax.lax.map(one_image, (images, targets, row_keys(key, len(images)), phi_BNK))


@of_images("batch_size", "output", "max_coalitions", "round_coalitions")
def permutation_all(model: Classifier, images: chex.Array, key: chex.PRNGKey, *, batch_size: int = 256,
                    output: str = "logit", tolerance: float = 0.05, max_coalitions: int = 32768,
                    round_coalitions: int = 1024) -> Estimate:
    """Estimates Shapley values for every class by antithetic permutation sampling, until precise enough.

    The estimator is `estimators.antithetic_contributions`; unlike KernelSHAP it is unbiased. A permutation and its
    reverse take 2(N-1) coalitions. A round has as many of them as round_coalitions pays for, but at least
    `MIN_PERMUTATIONS`; there is at least one round. Arguments, result and errors as in `kernel_shap_all`.
    """
    size = max(MIN_PERMUTATIONS, permutation_pairs(model.num_players, min(round_coalitions, max_coalitions)))
    rounds = max(1, permutation_pairs(model.num_players, max_coalitions) // size)
    pairs = size * (model.num_players - 1)
    return _estimate(_permutation, model, images, None, key, batch_size, output, tolerance, rounds, pairs)


@of_images("batch_size", "output", "coalitions")
def permutation(model: Classifier, images: chex.Array, targets: chex.Array, key: chex.PRNGKey, *,
                batch_size: int = 256, coalitions: int = 2048, output: str = "logit") -> chex.Array:
    """Estimates Shapley values of the target class by antithetic permutation sampling: float32 [B, N].

    Arguments and errors as in `kernel_shap`; there are `permutation_pairs` permutations.
    """
    pairs = permutation_pairs(model.num_players, coalitions) * (model.num_players - 1)
    return _estimate(_permutation, model, images, targets, key, batch_size, output, 0.0, 1, pairs).values[..., 0]


def permutation_pairs(num_players: int, coalitions: int) -> int:
    """Returns how many permutations, each with its reverse, the coalitions pay for: 2(N-1) each, and at least one."""
    return max(1, coalitions // (2 * max(1, num_players - 1)))


def _enumerate(model: Classifier, images: chex.Array, read: Reader, batch_size: int) -> chex.Array:
    """Sums weighted differences of all pairs: [B, N, K], or [B, N, 1] where `read` takes one class."""
    n = model.num_players
    shapley.require_enumerable(n)
    num_pairs = 2 ** (n - 1)
    pairs = min(batch_size, num_pairs)

    def some_images(index: chex.Array) -> chex.Array:
        rows, image = len(index), jnp.repeat(index, pairs)
        row_images = images[image]

        def terms(start: chex.Array) -> chex.Array:
            code = start + jnp.arange(pairs)
            masks = (code[:, None] >> jnp.arange(n)) & 1 == 1
            weights = jnp.where(code[:, None] < num_pairs, shapley.pair_weights(masks), 0)  # none beyond the last pair
            v, complement = model.pair_logits(row_images, jnp.tile(masks, (rows, 1)))
            differences = (read(v, image) - read(complement, image)).reshape(rows, pairs, -1)
            return jnp.einsum("pn,rpk->rnk", weights, differences, precision="highest")

        def add(carry, start):  # Kahan's sum carries the rounding error to the next term
            total, error = carry
            term = terms(start) - error
            new_total = total + term
            return (new_total, (new_total - total) - term), None

        zero = jnp.zeros_like(jax.eval_shape(terms, jnp.int32(0)))
        return jax.lax.scan(add, (zero, zero), jnp.arange(-(-num_pairs // pairs)) * pairs)[0][0]

    return in_passes(some_images, jnp.arange(len(images)), batch_size=batch_size // pairs)  # several, if they fit


def _kernel_shap(key: chex.PRNGKey, differences: Callable, totals_K: chex.Array, n: int, max_rounds: int, pairs: int
                 ) -> tuple:
    """Returns draw, estimate and state of `estimators.until_precise`, for paired KernelSHAP of one image."""
    def draw(drawn, index):
        masks = shapley.sample_coalitions(jax.random.fold_in(key, index), num_players=n, num_pairs=pairs)
        new = (masks, differences(masks))
        return jax.tree.map(lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, index * pairs, 0), drawn, new)

    def estimate(drawn, num_rounds):
        weights = (jnp.arange(max_rounds * pairs) < num_rounds * pairs).astype(jnp.float32)
        return estimators.kernel_shap_solve(*drawn, totals_K, weights)

    nothing = (jnp.zeros((max_rounds * pairs, n), bool), jnp.zeros((max_rounds * pairs, len(totals_K)), jnp.float32))
    return draw, estimate, nothing


def _permutation(key: chex.PRNGKey, differences: Callable, totals_K: chex.Array, n: int, max_rounds: int, pairs: int
                 ) -> tuple:
    """Returns the same for antithetic permutations, each of which takes n - 1 pairs."""
    size = pairs // max(1, n - 1)

    def draw(moments, index):
        ranks = estimators.sample_ranks(jax.random.fold_in(key, index), num_players=n, num_permutations=size)
        steps = differences(estimators.permutation_prefixes(ranks).reshape(-1, n)).reshape(size, n - 1, -1)
        return moments.add(estimators.antithetic_contributions(ranks, steps, totals_K))

    zero = jnp.zeros((n, len(totals_K)), jnp.float32)
    nothing = estimators.Moments(jnp.float32(0), zero, zero)
    return draw, lambda moments, _: (moments.mean, moments.standard_errors), nothing


def _estimate(rounds_of: Callable, model: Classifier, images: chex.Array, targets: chex.Array | None,
              key: chex.PRNGKey, batch_size: int, output: str, tolerance: chex.Array, max_rounds: int, pairs: int
              ) -> Estimate:
    """Draws rounds of pairs until precise, for every image: its target, or without targets every class.

    `rounds_of` is `_kernel_shap` or `_permutation`; `differences` maps masks bool [M, N] to v(S) - v(S^c) [M, K].
    """
    n = model.num_players

    def run(row: tuple) -> tuple:
        image, target, key = row
        read = all_classes(output) if target is None else target_class(target[None], output)

        def differences(masks: chex.Array) -> chex.Array:
            v, complement = pair_values(model, image[None], masks[None], read=read, batch_size=batch_size)
            return (v - complement).reshape(masks.shape[0], -1)

        totals_K = differences(jnp.ones((1, n), bool))[0]
        return estimators.until_precise(*rounds_of(key, differences, totals_K, n, max_rounds, pairs),
                                        shape=(n, len(totals_K)), tolerance=tolerance, max_rounds=max_rounds)

    values, errors, ratio, rounds = jax.lax.map(run, (images, targets, row_keys(key, images.shape[0])))
    return Estimate(values, errors, ratio, 2 + 2 * pairs * rounds, ratio <= tolerance)
