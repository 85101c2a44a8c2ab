"""Do attributions, summed over random coalitions, vary as the model's output does?

The masks and the model's values are shared by all methods: draw the masks once, evaluate them once with
`classifier.pair_values` and `read=target_class(ŷ, "probability")`, which gives p_ŷ(x_S) and p_ŷ(x without S) together.
A correlation with something constant is undefined: NaN.
"""

import chex
import jax
import jax.numpy as jnp

from shapjax.errors import UserError
from shapjax.games.checks import require_shape


def sample_masks(key: chex.PRNGKey, *, num_players: int, num_masks: int, size: int | None = None) -> chex.Array:
    """Random coalitions, uniform among those of their size.

    Args:
      key: one typed key.
      num_players: N.
      num_masks: M.
      size: of all of them; if None, each has a size drawn uniformly from 1 … N-1.

    Returns:
      bool [M, N].

    Raises:
      UserError: if the size leaves no patch or all.
    """
    if num_players < 2 or size is not None and not 1 <= size < num_players:
        raise UserError(f"a coalition of {'any size' if size is None else size} among {num_players} players: "
                        "it must have at least 1 member and leave at least 1 out")
    size_key, member_key = jax.random.split(key)
    size_M = jax.random.randint(size_key, (num_masks,), 1, num_players) if size is None else jnp.full(num_masks, size)
    rank_MN = jnp.argsort(jax.random.uniform(member_key, (num_masks, num_players)), axis=-1)
    return rank_MN < size_M[:, None]


def attribution_sums(attributions: chex.Array, masks: chex.Array) -> chex.Array:
    """Σ_{n∈S} a_n, float [B, M].

    Args:
      attributions: float [B, N].
      masks: bool [B, M, N], or [M, N]: the same coalitions for every image.

    Raises:
      UserError: if the shapes do not fit.
    """
    b, n = attributions.shape
    shared = masks.ndim == 2
    require_shape("masks", masks, (None, n) if shared else (b, None, n), "images (or not), coalitions, patches")
    inside = jnp.asarray(masks, jnp.float32)
    subscripts = "mn,bn->bm" if shared else "bmn,bn->bm"
    return jnp.einsum(subscripts, inside, jnp.asarray(attributions, jnp.float32), precision="highest")


def pearson(x: chex.Array, y: chex.Array) -> chex.Array:
    """Pearson's correlation of rows, [B, M] each: float [B], NaN where a row is constant."""
    x, y = _standardized(x), _standardized(y)
    return jnp.clip(jnp.sum(x * y, axis=-1), -1, 1)


def spearman(x: chex.Array, y: chex.Array) -> chex.Array:
    """Spearman's correlation of rows, ties at their mean rank, [B, M] each: float [B], NaN where a row is constant."""
    return pearson(*(jax.scipy.stats.rankdata(values, axis=-1) for values in (x, y)))


def sensitivity_n(attributions: chex.Array, masks: chex.Array, values: chex.Array) -> chex.Array:
    """Spearman correlation of Σ_{n∈S} a_n with p_ŷ(x_S) over random S (Ancona et al. 2018, whose Pearson correlation
    asks for proportion; ranks ask for agreement in order only). Higher is better.

    Masks of every size reward any map of mostly positive attributions, as the size alone says much of the probability;
    masks of one size do not.

    Args:
      attributions: float [B, N].
      masks: bool [B, M, N] or [M, N], the visible patches; see `sample_masks`.
      values: float [B, M], p_ŷ(x_S).

    Returns:
      float [B].

    Raises:
      UserError: if the shapes do not fit.
    """
    sums = attribution_sums(attributions, masks)
    require_shape("values", values, sums.shape, "images, coalitions")
    return jnp.where(_sums_vary(sums, attributions), spearman(sums, values), jnp.nan)


def faithfulness_correlation(attributions: chex.Array, masks: chex.Array, full: chex.Array, without: chex.Array
                             ) -> chex.Array:
    """Pearson correlation of Σ_{n∈S} a_n with p_ŷ(x) - p_ŷ(x without S), |S| fixed (Bhatt et al. 2020).

    Higher is better.

    Args:
      attributions: float [B, N].
      masks: bool [B, M, N] or [M, N], the *removed* patches, all of one size.
      full: float [B], p_ŷ(x).
      without: float [B, M], p_ŷ(x without S).

    Returns:
      float [B].

    Raises:
      UserError: if the shapes do not fit.
    """
    sums = attribution_sums(attributions, masks)
    require_shape("values without S", without, sums.shape, "images, coalitions")
    require_shape("values of whole images", full, sums.shape[:1], "images")
    return jnp.where(_sums_vary(sums, attributions), pearson(sums, full[:, None] - without), jnp.nan)


def _sums_vary(sums: chex.Array, attributions: chex.Array) -> chex.Array:
    """[B], False where sums of coalitions differ by their rounding only, as those of one size of a constant map do."""
    return jnp.ptp(sums, axis=-1) > 1e-6 * jnp.sum(jnp.abs(attributions), axis=-1)


def _standardized(x: chex.Array) -> chex.Array:
    """Rows with mean 0 and length 1; NaN where constant. Scaled first, as squares of small numbers underflow."""
    centered = jnp.asarray(x, jnp.float32) - jnp.mean(x, axis=-1, keepdims=True)
    centered = jnp.where(jnp.ptp(x, axis=-1, keepdims=True) > 0, centered, jnp.nan)
    centered = centered / jnp.max(jnp.abs(centered), axis=-1, keepdims=True)
    return centered / jnp.linalg.norm(centered, axis=-1, keepdims=True)
