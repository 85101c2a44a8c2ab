"""The mathematics of Shapley values: coalitions drawn from the kernel, exact enumeration, the regression loss.

Letters: B images, N players (patches), K classes, M coalition pairs. A coalition is a boolean row over players, True =
visible. A *pair* is a coalition with its complement; only the coalition is stored.
"""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np

MAX_EXACT_PLAYERS = 20  # 2^20 values an image; beyond that, use an estimator


def kernel_size_probabilities(num_players: int) -> np.ndarray:
    """Returns the distribution of the coalition size under the Shapley kernel.

    The kernel gives every coalition of size k the weight (N-1) / (C(N,k) k (N-k)) (Lundberg & Lee 2017, theorem 2);
    summed over the C(N,k) coalitions of a size this is proportional to 1 / (k (N-k)).

    Args:
      num_players: number of players N, at least 2.

    Returns:
      float64 [N-1], probabilities of the sizes 1 … N-1.

    Raises:
      ValueError: if N < 2, where no proper coalition exists.
    """
    if num_players < 2:
        raise ValueError(f"{num_players} player(s) have no proper coalition: use smaller patches, at least 2 an image")
    sizes = np.arange(1, num_players, dtype=np.float64)
    weights = 1.0 / (sizes * (num_players - sizes))
    return weights / weights.sum()


def sample_coalitions(key: chex.PRNGKey, *, num_players: int, num_pairs: int) -> chex.Array:
    """Draws coalitions from the Shapley kernel, each to be used together with its complement.

    The size follows `kernel_size_probabilities` exactly and the members are a uniform subset of that size, so no
    coalition is ever empty or full. Pairing a coalition with its complement (the kernel gives both the same
    probability) lowers the variance of every regression on them (Covert & Lee 2021, section 4).

    Args:
      key: one PRNG key.
      num_players: number of players N.
      num_pairs: number of pairs M.

    Returns:
      bool [M, N], True = member of the coalition.
    """
    size_key, member_key = jax.random.split(key)
    probabilities = jnp.asarray(kernel_size_probabilities(num_players), jnp.float32)
    size_M = 1 + jax.random.choice(size_key, num_players - 1, (num_pairs,), p=probabilities)
    draws_MN = jax.random.uniform(member_key, (num_pairs, num_players), jnp.float32)
    rank_MN = jnp.argsort(draws_MN, axis=-1)  # a uniform permutation
    return rank_MN < size_M[:, None]


def require_enumerable(num_players: int) -> None:
    """Raises ValueError if there are more than `MAX_EXACT_PLAYERS` players."""
    if num_players > MAX_EXACT_PLAYERS:
        raise ValueError(f"exact Shapley values of {num_players} players take 2^{num_players - 1} packed passes an "
                         f"image, and are limited to {MAX_EXACT_PLAYERS} players: use kernel_shap, or larger patches")


def enumerate_pairs(num_players: int) -> np.ndarray:
    """Returns one coalition of every pair: all coalitions without the last player, in the order of their codes.

    The code of a coalition is Σ_n 2^n [n ∈ S]. Row i has code i; its complement has code 2^N - 1 - i.

    Returns:
      bool [2^(N-1), N].

    Raises:
      ValueError: if N is above `MAX_EXACT_PLAYERS`.
    """
    require_enumerable(num_players)
    codes = np.arange(2 ** (num_players - 1))
    return (codes[:, None] >> np.arange(num_players)) & 1 == 1


def exact_shapley(values: np.ndarray) -> np.ndarray:
    """Computes the exact Shapley values of a game from the values of all its coalitions (Shapley 1953).

    phi_n = Σ_{S∌n} (v(S ∪ n) - v(S)) / (N C(N-1,|S|)).

    Args:
      values: float [2^N, ...]; values[code] = v(S), with code = Σ_n 2^n [n ∈ S]; any trailing axes (classes).

    Returns:
      float64 [N, ...].

    Raises:
      ValueError: if the first axis is not a power of two of at least 2.
    """
    values = np.asarray(values, np.float64)
    num_players = int(values.shape[0]).bit_length() - 1
    if values.shape[0] != 2**num_players or num_players < 1:
        raise ValueError(f"exact_shapley: {values.shape[0]} values are not those of all 2^N coalitions")
    codes, phi = np.arange(2**num_players), []
    weight_by_size = np.array([1 / (num_players * math.comb(num_players - 1, s)) for s in range(num_players)])
    for player in 2 ** np.arange(num_players):
        without = codes[codes & player == 0]
        weight = weight_by_size[np.bitwise_count(without)]
        phi.append(np.tensordot(weight, values[without | player] - values[without], axes=1))
    return np.stack(phi)


def pair_weights(masks: chex.Array) -> chex.Array:
    """Returns the weights of pairs in the Shapley values: phi_n = Σ over all pairs of weight_n(S) · (v(S) - v(S^c)).

    The weights of S and of its complement in Shapley's sum are opposite, so the difference is enough.
    With s = |S|, the weight of S is (s-1)! (N-s)! / N! = 1 / (s C(N,s)) for its members and -s! (N-s-1)! / N! =
    -1 / ((N-s) C(N,s)) for the others (Shapley 1953).

    Args:
      masks: bool [..., N], one coalition of each pair; the pair of the empty and the full one is among all pairs.

    Returns:
      float32 [..., N].
    """
    n = masks.shape[-1]
    inside = np.array([0] + [1 / (s * math.comb(n, s)) for s in range(1, n + 1)], np.float32)
    outside = np.array([1 / ((n - s) * math.comb(n, s)) for s in range(n)] + [0], np.float32)
    size = masks.sum(axis=-1, keepdims=True)
    return jnp.where(masks, jnp.asarray(inside)[size], -jnp.asarray(outside)[size])


def allocation_only(phi: chex.Array) -> chex.Array:
    """Returns phi with a gradient that moves phi between patches and never changes its total.

    The regression's residual does not vanish where patches interact, and its plain gradient would move the total
    f(x) = Σ phi, the prediction, towards v(S) + v(S^c). The Shapley values are the regression's minimum *given* the
    total, so the total's share of the gradient (the constraint's Lagrange multiplier) is left out.

    Args:
      phi: float [B, N, K].

    Returns:
      float [B, N, K], equal to phi; its Jacobian is the projection onto zero sums over the patches.
    """
    mean_B1K = jnp.mean(phi, axis=1, keepdims=True)
    return phi - mean_B1K + jax.lax.stop_gradient(mean_B1K)


def difference_only(values: chex.Array, complement_values: chex.Array) -> tuple[chex.Array, chex.Array]:
    """Returns the values with a gradient that moves v(S) - v(S^c) and never v(S) + v(S^c).

    A Shapley value is a mean of such differences: each marginal contribution v(S ∪ n) - v(S) has the same weight as its
    mirror image v(S^c) - v(S^c \\ n). The sums are left to the classification of masked images.

    Args:
      values: float [...], v(S).
      complement_values: float [...], v(S^c).

    Returns:
      float [...] each, equal to the arguments; their Jacobian is the projection onto opposite pairs.
    """
    mean, half = (values + complement_values) / 2, (values - complement_values) / 2
    mean = jax.lax.stop_gradient(mean)
    return mean + half, mean - half


def coalition_sums(phi: chex.Array, masks: chex.Array) -> tuple[chex.Array, chex.Array]:
    """Sums phi over the members of coalitions, and over those of their complements.

    The products are in full precision: accelerators would multiply in bfloat16 or TF32, and the sums would miss the
    totals by 1e-2.

    Args:
      phi: float [B, N, K].
      masks: bool [B, M, N].

    Returns:
      two float [B, M, K]: Σ_{n∈S} phi_n and Σ_{n∉S} phi_n.
    """
    inside_BMN = masks.astype(phi.dtype)
    return tuple(jnp.einsum("bmn,bnk->bmk", side_BMN, phi, precision="highest")
                 for side_BMN in (inside_BMN, 1 - inside_BMN))


def regression_residuals(phi: chex.Array, masks: chex.Array, values: chex.Array, complement_values: chex.Array
                         ) -> chex.Array:
    """Computes the residuals v(S) - Σ_{n∈S} phi_n of the regression whose minimum is the Shapley values.

    Among all phi with Σ_n phi_n = v(all) - v(∅), the Shapley values minimize the expected square of this residual
    over coalitions from the Shapley kernel (Charnes et al. 1988; Lundberg & Lee 2017). Here v(∅) = 0.

    Args:
      phi: float [B, N, K].
      masks: bool [B, M, N], from `sample_coalitions`.
      values: float [B, M, K], v(S).
      complement_values: float [B, M, K], v(S^c).

    Returns:
      float [B, 2, M, K], of the coalitions and of their complements.
    """
    sums, complement_sums = coalition_sums(phi, masks)
    return jnp.stack([values - sums, complement_values - complement_sums], axis=1)
