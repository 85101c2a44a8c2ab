"""Attention of tokens to tokens, with a gradient that reads each attention map as few times as possible."""

import chex
import jax
import jax.numpy as jnp


@jax.custom_vjp
def attend(q_BTHC: chex.Array, k_BTHC: chex.Array, v_BTHC: chex.Array, mask_BTT: chex.Array | None) -> chex.Array:
    """Returns softmax(q kᵀ / √C) v for each head, as `jax.nn.dot_product_attention` does (Vaswani et al. 2017).

    The sum of a row of the softmax divides the result, not the map, and gives the gradient of the map in one pass over
    it (Dao et al. 2022, appendix B). On a CPU this takes 0.4 to 1 times as long, the less the larger the maps are.

    Args:
      q_BTHC, k_BTHC, v_BTHC: [B, T, H, C] of one dtype: T tokens, H heads of C channels.
      mask_BTT: bool [B, T, T], row t: the tokens that t attends to, at least one; None: all.

    Returns:
      [B, T, H, C] of the same dtype. Scores and sums are float32.
    """
    return _forward(q_BTHC, k_BTHC, v_BTHC, mask_BTT)[0]


def _forward(q_BTHC: chex.Array, k_BTHC: chex.Array, v_BTHC: chex.Array, mask_BTT: chex.Array | None
             ) -> tuple[chex.Array, tuple[chex.Array, ...]]:
    q, k, v = _scale(q_BTHC).swapaxes(1, 2), k_BTHC.swapaxes(1, 2), v_BTHC.swapaxes(1, 2)
    scores_BHTT = _product(q, k.mT)
    if mask_BTT is not None:
        scores_BHTT = jnp.where(mask_BTT[:, None], scores_BHTT, -jnp.inf)
    map_BHTT = jnp.exp(scores_BHTT - jnp.max(scores_BHTT, axis=-1, keepdims=True))  # of the softmax, not normalized
    norm_BHT1 = 1 / jnp.sum(map_BHTT, axis=-1, keepdims=True)
    map_BHTT = map_BHTT.astype(v.dtype)
    y_BHTC = (_product(map_BHTT, v) * norm_BHT1).astype(v.dtype)
    return y_BHTC.swapaxes(1, 2), (q, k, v, map_BHTT, norm_BHT1, y_BHTC)


def _backward(kept: tuple[chex.Array, ...], gradient_BTHC: chex.Array) -> tuple[chex.Array | None, ...]:
    q, k, v, map_BHTT, norm_BHT1, y_BHTC = kept
    of_y = (gradient_BTHC.swapaxes(1, 2) * norm_BHT1).astype(v.dtype)
    mean_BHT1 = jnp.sum(of_y * y_BHTC, axis=-1, keepdims=True, dtype=jnp.float32)
    of_scores = (map_BHTT * (_product(of_y, v.mT) - mean_BHT1)).astype(v.dtype)
    of_q, of_k, of_v = _product(of_scores, k), _product(q.mT, of_scores).mT, _product(of_y.mT, map_BHTT).mT
    of_q, of_k, of_v = (x.astype(v.dtype).swapaxes(1, 2) for x in (of_q, of_k, of_v))
    return _scale(of_q), of_k, of_v, None


def _product(left: chex.Array, right: chex.Array) -> chex.Array:
    return jnp.matmul(left, right, preferred_element_type=jnp.float32)


def _scale(x_BTHC: chex.Array) -> chex.Array:
    return x_BTHC * x_BTHC.shape[-1] ** -0.5


attend.defvjp(_forward, _backward)
