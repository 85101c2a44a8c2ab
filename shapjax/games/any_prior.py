"""Refines any attribution map of any classifier by coalition pairs: how good the map is, is told by the pairs too.

Letters as in `games.shapley`. For phi of a calibrated model, `error_law.refine` knows how good it is beforehand.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

from shapjax.games import classifier, contract, outputs, shapley
from shapjax.games.checks import require_finite, require_shape
from shapjax.games.classifier import Classifier, row_keys
from shapjax.games.error_law import Refined
from shapjax.games.refinement import posterior

RIDGES = np.geomspace(1e-3, 1e3, 19)  # noise over the variance of the map's errors
FLOORS = np.array([0.1, 0.3, 1.0, 3.0, 1e3])  # of a patch's share of these errors, beside the map's square
LIKELY_NOISE = 0.15  # of a pair, over the variance of the values: the median of what is expected beforehand
NOISE_SPREAD = 1.5  # standard deviation of its logarithm
FREEDOM = 4.0  # of what is expected of the errors' variance
MAX_PAIRS = 65_536  # an image
TELLING_PAIRS = 128  # that weigh the candidates: more would not tell more


def refine(model: Classifier, images: chex.Array, targets: chex.Array, key: chex.PRNGKey, *,
           prior: chex.Array | None = None, pairs: int = 32, batch_size: int = 256, output: str = "logit") -> Refined:
    """Estimates Shapley values of the target class from an attribution map and coalition pairs. Not to be traced.

        games.refine(model, images, targets, key, prior=attribution.METHODS["gradcam"].fn(model, images, targets, key))

    The map counts as far as the pairs bear it out: its scale, the size of its errors and the noise of the pairs are
    estimated for each image (empirical Bayes). With many pairs the values tend to the Shapley values, whatever the map.
    Standard errors from few pairs are rough.

    Args:
      model: the game, or what `shapjax.load` returns.
      images: [B, H, W, C].
      targets: int [B].
      key: one, or [B].
      prior: float [B, N], in any unit; None: all patches alike.
      pairs: coalition pairs an image, at least 2.
      batch_size: pairs a forward pass.
      output: a key of `outputs.OUTPUTS`, the units of the result.

    Returns:
      Refined; values float32 [B, N].

    Raises:
      ValueError: if an argument does not fit, the prior is not finite, or N < 2.
    """
    model = contract.as_classifier(model)
    images, targets = contract.prepared(model, images, targets, key=key, batch_size=batch_size)
    if not isinstance(pairs, int | np.integer) or not 2 <= pairs <= MAX_PAIRS:
        raise ValueError(f"pairs is {pairs}, expected a whole number from 2 to {MAX_PAIRS:,}")
    shape = (len(images), model.num_players)
    prior = jnp.zeros(shape, jnp.float32) if prior is None else jnp.asarray(prior, jnp.float32)
    require_shape("prior", prior, shape, "images, patches")
    require_finite(prior, "the prior")
    return _refine(model, images, targets, key, prior, pairs, batch_size, output)


@functools.partial(jax.jit, static_argnames=("pairs", "batch_size", "output"))
def _refine(model: Classifier, images: chex.Array, targets: chex.Array, key: chex.PRNGKey, prior: chex.Array,
            pairs: int, batch_size: int, output: str) -> Refined:
    """Refines the maps of all images; arguments as of `refine`."""
    n = model.num_players

    def differences(image: chex.Array, target: chex.Array, masks: chex.Array) -> chex.Array:
        v, complement = classifier.pair_values(model, image[None], masks[None], batch_size=batch_size,
                                               read=outputs.target_class(target[None], output))
        return (v - complement)[0]

    def one_image(row: tuple) -> Refined:
        image, target, key, prior_N = row
        masks = shapley.sample_coalitions(key, num_players=n, num_pairs=pairs)
        d = differences(image, target, jnp.concatenate([jnp.ones((1, n), bool), masks]))
        return refine_game(prior_N, masks, d[1:], d[0])

    return jax.lax.map(one_image, (images, targets, row_keys(key, len(images)), prior))


def refine_game(prior: chex.Array, masks: chex.Array, differences: chex.Array, total: chex.Array) -> Refined:
    """Refines a map of one game by pairs.

    Args:
      prior: float [N], in any unit.
      masks: bool [M, N], from `shapley.sample_coalitions`, M of at least 2.
      differences: float [M], v(S) − v(S^c).
      total: float scalar, v(all) − v(∅).

    Returns:
      Refined; values float32 [N].
    """
    m, n = masks.shape
    x_MN = jnp.where(masks, jnp.float32(1), -1)
    residual_M = differences - x_MN.sum(axis=1) * total / n
    scale = jnp.maximum(jnp.sqrt(jnp.mean(residual_M**2)), jnp.finfo(jnp.float32).tiny ** 0.5)
    prior_N = total / n + _amplitude(x_MN, prior, residual_M) * (prior - prior.mean())
    square_N = prior_N**2 / jnp.maximum(jnp.mean(prior_N**2), jnp.finfo(jnp.float32).tiny)
    unit = scale**2 / n  # the variance of values of patches that do not interact

    def of_floor(floor: chex.Array) -> tuple[chex.Array, ...]:
        share_N = (floor + square_N) / (floor + 1)

        def of_ridge(ridge: chex.Array) -> tuple[chex.Array, ...]:
            known = posterior(prior_N[:, None], masks, differences[:, None], total[None], ridge=ridge, shares=share_N)
            seen = known.distinct * known.misfit[0] / m
            variance = (FREEDOM * unit + seen) / (FREEDOM + known.distinct)
            return known.values[:, 0], variance * known.variances[:, 0], FREEDOM + known.distinct

        log_weights = _log_density(x_MN[:TELLING_PAIRS], differences[:TELLING_PAIRS], prior_N, share_N, unit)
        return *jax.lax.map(of_ridge, jnp.asarray(RIDGES, jnp.float32)), log_weights

    values, variances, freedom, log_weights = jax.lax.map(of_floor, jnp.asarray(FLOORS, jnp.float32))
    weights = jax.nn.softmax(log_weights.ravel())[:, None]
    values, variances = values.reshape(-1, n), variances.reshape(-1, n)
    mean_N = jnp.sum(weights * values, axis=0)
    spread_N = jnp.sum(weights * (variances + (values - mean_N) ** 2), axis=0)
    return Refined(mean_N, jnp.sqrt(spread_N), freedom.ravel()[0].astype(jnp.float32))


def _amplitude(x_MN: chex.Array, prior: chex.Array, residual_M: chex.Array) -> chex.Array:
    """Returns what a map is to be multiplied by: its regression, moved towards 0 where few pairs bear it out.

    It is 0 unless Student's statistic of the regression is beyond its 85 % quantile, and shrinks as James and Stein do.
    """
    from scipy import special  # loads slowly, and most users of the package do without it

    predicted_M = x_MN @ (prior - prior.mean())
    square = jnp.maximum(jnp.sum(predicted_M**2), jnp.finfo(jnp.float32).tiny)
    product = jnp.sum(predicted_M * residual_M)
    freedom = len(x_MN) - 1
    left = jnp.sum((residual_M - predicted_M * product / square) ** 2) / freedom
    chance = special.stdtrit(freedom, 0.85) ** 2
    kept = jnp.maximum(0, 1 - chance * left * square / jnp.maximum(product**2, jnp.finfo(jnp.float32).tiny))
    return kept * jnp.maximum(0, product) / square


def _log_density(x_MN: chex.Array, differences: chex.Array, prior_N: chex.Array, share_N: chex.Array, unit: chex.Array
                 ) -> chex.Array:
    """Returns the log density of the differences for each of `RIDGES`, times that of the noise: [R]."""
    m, n = x_MN.shape
    with jax.default_matmul_precision("highest"):
        residual_M = differences - x_MN @ prior_N
        covered_MN = x_MN * share_N
        covariance_MM = covered_MN @ x_MN.T - jnp.outer(covered_MN.sum(1), covered_MN.sum(1)) / share_N.sum()
        values_M, vectors_MM = jnp.linalg.eigh(covariance_MM)
        turned_M = vectors_MM.T @ residual_M
    ridges_R1 = jnp.asarray(RIDGES, jnp.float32)[:, None]
    law_RM = jnp.maximum(values_M, 0) + ridges_R1
    misfit_R = jnp.sum(turned_M**2 / law_RM, axis=1)
    noise_R = ridges_R1[:, 0] * (FREEDOM + misfit_R / unit) / (FREEDOM + m)
    expected_R = -0.5 * (jnp.log(noise_R / LIKELY_NOISE) / NOISE_SPREAD) ** 2
    return expected_R - 0.5 * jnp.sum(jnp.log(law_RM), axis=1) - (
        (FREEDOM + m) / 2 * jnp.log1p(misfit_R / (FREEDOM * unit)))
