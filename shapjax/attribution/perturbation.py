"""Attributions from the outputs of coalitions of patches: RISE, LIME, and one patch hidden or shown (occlusion)."""

import functools

import chex
import jax
import jax.numpy as jnp

from shapjax.games.classifier import Classifier, pair_values, row_keys, values
from shapjax.games.contract import of_images
from shapjax.games.outputs import target_class


@of_images("batch_size", "coalitions", "output")
def rise(model: Classifier, images: chex.Array, targets: chex.Array, key: chex.PRNGKey, *, batch_size: int = 256,
         coalitions: int = 2048, output: str = "probability") -> chex.Array:
    """Averages the output over random coalitions that a patch is in (RISE, Petsiuk et al. 2018, equation 6).

    Σ_m v(S_m) [n ∈ S_m] / (coalitions · 1/2), patches visible with probability 1/2 each. Other than in the paper, masks
    hide whole patches instead of a smooth upsampled grid, and they come in complementary pairs (each of them is still
    uniform), so that a packed model needs half the passes.

    Args:
      model: the game.
      images: [B, H, W, C].
      targets: int [B].
      key: one, or [B].
      batch_size: pairs a forward pass.
      coalitions: number of masks, even.
      output: a key of `outputs.OUTPUTS`, the units of the result.

    Returns:
      float32 [B, N].

    Raises:
      ValueError: if an argument does not fit.
    """
    draw = functools.partial(jax.random.bernoulli, p=jnp.float32(0.5), shape=(coalitions // 2, model.num_players))
    masks_BMN = jax.vmap(draw)(row_keys(key, images.shape[0]))
    v_BM, complement_BM = pair_values(model, images, masks_BMN, read=target_class(targets, output),
                                      batch_size=batch_size)
    seen_BMN = jnp.where(masks_BMN, v_BM[..., None], complement_BM[..., None])  # a patch is visible in one of the two
    return seen_BMN.sum(axis=1) / (coalitions / 2)


@of_images("batch_size", "coalitions", "kernel_width", "alpha", "output")
def lime(model: Classifier, images: chex.Array, targets: chex.Array, key: chex.PRNGKey, *, batch_size: int = 256,
         coalitions: int = 1000, kernel_width: float = 0.25, alpha: float = 1.0, output: str = "probability"
         ) -> chex.Array:
    """Fits a linear model of the output near the whole image, by ridge regression (LIME, Ribeiro et al. 2016).

    The settings are those of the authors' image explainer (lime 0.2, `LimeImageExplainer`): patches visible with
    probability 1/2, the whole image among the samples, cosine distance d to it, weights sqrt(exp(-d² / kernel_width²)),
    ridge penalty 1, no selection of features. The square root is in the code, not in the paper; without it, the same
    kernel has a kernel_width smaller by √2. Here segments are patches, and samples come in complementary pairs (each is
    still uniform), so that a packed model needs half the passes.

    Args:
      model: the game.
      images: [B, H, W, C].
      targets: int [B].
      key: one, or [B].
      batch_size: pairs a forward pass.
      coalitions: number of samples, even; the whole and the empty image are the first two.
      kernel_width: of the weights, in cosine distance.
      alpha: penalty of the squared coefficients.
      output: a key of `outputs.OUTPUTS`, the units of the result.

    Returns:
      float32 [B, N], the coefficients.

    Raises:
      ValueError: if an argument does not fit.
    """
    draw = functools.partial(jax.random.bernoulli, p=jnp.float32(0.5), shape=(coalitions // 2, model.num_players))
    masks_BMN = jax.vmap(draw)(row_keys(key, images.shape[0])).at[:, 0].set(True)
    v_BM, complement_BM = pair_values(model, images, masks_BMN, read=target_class(targets, output),
                                      batch_size=batch_size)
    samples = (jnp.concatenate([masks_BMN, ~masks_BMN], axis=1), jnp.concatenate([v_BM, complement_BM], axis=1))
    return jax.lax.map(lambda s: local_coefficients(*s, kernel_width=kernel_width, alpha=alpha), samples)


def local_coefficients(masks: chex.Array, values: chex.Array, *, kernel_width: float, alpha: float) -> chex.Array:
    """Solves LIME's weighted ridge regression of one image.

    Args:
      masks: bool [M, N].
      values: float [M].
      kernel_width, alpha: as in `lime`.

    Returns:
      float32 [N], without the intercept.
    """
    n = masks.shape[1]
    distance_M = 1 - jnp.sqrt(masks.sum(axis=1, dtype=jnp.float32) / n)  # cosine, of 0/1 rows to the row of ones
    weight_M = jnp.exp(-(distance_M**2) / (2 * kernel_width**2))
    share_M = weight_M / weight_M.sum()
    x_MN = masks.astype(jnp.float32)
    with jax.default_matmul_precision("highest"):  # accelerators would multiply in fewer bits
        x_MN, y_M = x_MN - share_M @ x_MN, values - share_M @ values  # takes the intercept out
        gram_NN = x_MN.T @ (weight_M[:, None] * x_MN) + alpha * jnp.eye(n, dtype=jnp.float32)
        return jax.scipy.linalg.solve(gram_NN, x_MN.T @ (weight_M * y_M), assume_a="pos")


@of_images("batch_size", "output")
def leave_one_out(model: Classifier, images: chex.Array, targets: chex.Array, key: chex.PRNGKey | None = None, *,
                  batch_size: int = 256, output: str = "logit") -> chex.Array:
    """Computes what the target class loses when a patch is hidden: v(all) - v(all without n) (Zeiler & Fergus 2014).

    Args:
      model: the game; N+1 coalitions are evaluated an image.
      images: [B, H, W, C].
      targets: int [B].
      key: ignored.
      batch_size: coalitions a forward pass.
      output: a key of `outputs.OUTPUTS`, the units of the result.

    Returns:
      float32 [B, N].

    Raises:
      ValueError: if an argument does not fit.
    """
    # Row 0 is the whole image, row 1+n lacks patch n.
    masks = ~jnp.eye(model.num_players + 1, model.num_players, k=-1, dtype=bool)
    v_BM = values(model, images, masks, read=target_class(targets, output), batch_size=batch_size)
    return v_BM[:, :1] - v_BM[:, 1:]


@of_images("batch_size", "output")
def include_one(model: Classifier, images: chex.Array, targets: chex.Array, key: chex.PRNGKey | None = None, *,
                batch_size: int = 256, output: str = "logit") -> chex.Array:
    """Computes what the target class gains when a patch is shown alone: v({n}) - v(∅).

    Arguments, cost, result and errors as those of `leave_one_out`.
    """
    # Row 0 is the empty coalition, row 1+n has patch n alone.
    masks = jnp.eye(model.num_players + 1, model.num_players, k=-1, dtype=bool)
    v_BM = values(model, images, masks, read=target_class(targets, output), batch_size=batch_size)
    return v_BM[:, 1:] - v_BM[:, :1]
