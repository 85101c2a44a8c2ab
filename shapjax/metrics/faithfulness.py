"""Metrics that compare attributions, summed over random coalitions, with the model's output for these coalitions.

The masks and the model's values are shared by all methods: draw the masks once, and evaluate them once with
`games.pair_values` and `read=target_class(ŷ, "log_odds")`, which gives the log-odds of x_S and of x without S together.
The sigmoid of the log-odds is the probability. A correlation with constant values is undefined: NaN.
"""

import chex
import jax
import jax.numpy as jnp

from shapjax.games.checks import require_shape


def sample_masks(key: chex.PRNGKey, *, num_players: int, num_masks: int, size: int | None = None) -> chex.Array:
    """Draws random coalitions, uniform among those of their size.

    Args:
      key: one typed key.
      num_players: number of players N.
      num_masks: number of masks M.
      size: of all coalitions; None draws the size of each uniformly from 1 … N-1.

    Returns:
      bool [M, N].

    Raises:
      ValueError: if the size leaves no patch or all.
    """
    if num_players < 2 or size is not None and not 1 <= size < num_players:
        raise ValueError(f"size={size} among {num_players} players: a coalition has at least 1 member and leaves 1 out")
    size_key, member_key = jax.random.split(key)
    size_M = jnp.full(num_masks, size) if size is not None else jax.random.randint(
        size_key, (num_masks,), 1, num_players, jnp.int32)
    rank_MN = jnp.argsort(jax.random.uniform(member_key, (num_masks, num_players), jnp.float32), axis=-1)
    return rank_MN < size_M[:, None]


def attribution_sums(attributions: chex.Array, masks: chex.Array) -> chex.Array:
    """Sums attributions over coalitions, Σ_{n∈S} a_n, in full precision: float [B, M].

    Args:
      attributions: float [B, N].
      masks: bool [B, M, N], or [M, N]: the same coalitions for every image.

    Raises:
      ValueError: if the shapes do not fit.
    """
    b, n = attributions.shape
    shape = (None, n) if masks.ndim == 2 else (b, None, n)
    require_shape("masks", masks, shape, "images (or not), coalitions, patches")
    inside, attributions = jnp.asarray(masks, jnp.float32), jnp.asarray(attributions, jnp.float32)
    return jnp.einsum("...mn,...n->...m", inside, attributions, precision="highest")


def pearson(x: chex.Array, y: chex.Array) -> chex.Array:
    """Computes Pearson's correlation of rows, [B, M] each: float [B], NaN where a row is constant."""
    x, y = _standardized(x), _standardized(y)
    return jnp.clip(jnp.sum(x * y, axis=-1), -1, 1)


def spearman(x: chex.Array, y: chex.Array) -> chex.Array:
    """Computes Spearman's correlation of rows, [B, M] each, ties at their mean rank: float [B], NaN as in `pearson`."""
    return pearson(*(jax.scipy.stats.rankdata(values, axis=-1) for values in (x, y)))


def sensitivity_n(attributions: chex.Array, masks: chex.Array, values: chex.Array) -> chex.Array:
    """Computes the Spearman correlation of Σ_{n∈S} a_n with the log-odds of ŷ on x_S over random S; higher is better.

    Ancona et al. 2018 take Pearson's correlation with the logit, which asks for proportion; ranks ask for agreement in
    order only. Log-odds have the order of the probabilities, but do not saturate in float32. Masks of every size reward
    any map of mostly positive attributions, because the log-odds depend on the size; masks of one size do not.

    Args:
      attributions: float [B, N].
      masks: bool [B, M, N] or [M, N], the visible patches; see `sample_masks`.
      values: float [B, M], log-odds of ŷ on x_S (`outputs.OUTPUTS`).

    Returns:
      float [B].

    Raises:
      ValueError: if the shapes do not fit.
    """
    sums = attribution_sums(attributions, masks)
    require_shape("values", values, sums.shape, "images, coalitions")
    return jnp.where(_sums_vary(sums, attributions), spearman(sums, values), jnp.nan)


def faithfulness_correlation(attributions: chex.Array, masks: chex.Array, full: chex.Array, without: chex.Array
                             ) -> chex.Array:
    """Computes the Pearson correlation of Σ_{n∈S} a_n with p_ŷ(x) - p_ŷ(x without S); higher is better.

    The random S are all of one size (Bhatt et al. 2020).

    Args:
      attributions: float [B, N].
      masks: bool [B, M, N] or [M, N], the *removed* patches, all of one size.
      full: float [B], p_ŷ(x).
      without: float [B, M], p_ŷ(x without S).

    Returns:
      float [B].

    Raises:
      ValueError: if the shapes do not fit.
    """
    sums, drop = _sums_and_drop(attributions, masks, full, without)
    return jnp.where(_sums_vary(sums, attributions), pearson(sums, drop), jnp.nan)


def infidelity(attributions: chex.Array, masks: chex.Array, full: chex.Array, without: chex.Array, *,
               normalize: bool = False) -> chex.Array:
    """Averages (Σ_{n∈S} a_n - (p_ŷ(x) - p_ŷ(x without S)))² over S (Yeh et al. 2019, definition 2.1); lower is better.

    The perturbation is the removal of S, and a_n is the worth of patch n: it contains Yeh's product of a gradient with
    a difference of pixels. Normalized infidelity is the same for a map and its negative: it cannot rank methods.

    Args:
      attributions: float [B, N].
      masks: bool [B, M, N] or [M, N], the *removed* patches.
      full: float [B], p_ŷ(x), or any other output.
      without: float [B, M], the same output without S.
      normalize: scale each image's attributions by the factor, of either sign, that makes its infidelity smallest
        (section 4 there), so that maps in other units than those of the output can be compared. A map of zeros stays.

    Returns:
      float [B], squared units of the output.

    Raises:
      ValueError: if the shapes do not fit.
    """
    sums, drop = _sums_and_drop(attributions, masks, full, without)
    if normalize:
        square = jnp.sum(sums**2, axis=1, keepdims=True)
        sums = sums * jnp.sum(sums * drop, axis=1, keepdims=True) / jnp.where(square > 0, square, 1)
    return jnp.mean((sums - drop) ** 2, axis=1)


def _sums_and_drop(attributions: chex.Array, masks: chex.Array, full: chex.Array, without: chex.Array
                   ) -> tuple[chex.Array, chex.Array]:
    """Returns Σ_{n∈S} a_n and what the output loses without S, [B, M] each."""
    sums = attribution_sums(attributions, masks)
    require_shape("values without S", without, sums.shape, "images, coalitions")
    require_shape("values of whole images", full, sums.shape[:1], "images")
    return sums, full[:, None] - without


def _sums_vary(sums: chex.Array, attributions: chex.Array) -> chex.Array:
    """Returns False where sums of coalitions differ by rounding only, as for a constant map and one size: [B]."""
    return jnp.ptp(sums, axis=-1) > 1e-6 * jnp.sum(jnp.abs(attributions), axis=-1)


def _standardized(x: chex.Array) -> chex.Array:
    """Scales rows to mean 0 and length 1, first by the largest value as squares may underflow; NaN where constant."""
    centered = jnp.asarray(x, jnp.float32) - jnp.mean(x, axis=-1, keepdims=True)
    centered = jnp.where(jnp.ptp(x, axis=-1, keepdims=True) > 0, centered, jnp.nan)
    centered = centered / jnp.max(jnp.abs(centered), axis=-1, keepdims=True)
    return centered / jnp.linalg.norm(centered, axis=-1, keepdims=True)
