"""LIME (Ribeiro et al. 2016) on patches: a linear model of the output near the whole image."""

import functools

import chex
import jax
import jax.numpy as jnp

from shapjax.attribution.arguments import check_arguments
from shapjax.games.classifier import Classifier, pair_values, row_keys, target_class


@functools.partial(jax.jit, static_argnames=("batch_size", "coalitions", "kernel_width", "alpha", "output"))
def lime(model: Classifier, images: chex.Array, targets: chex.Array, key: chex.PRNGKey, *, batch_size: int = 256,
         coalitions: int = 1000, kernel_width: float = 0.25, alpha: float = 1.0, output: str = "probability"
         ) -> chex.Array:
    """Coefficients of a ridge regression with intercept on the visibility of patches.

    The settings are those of the authors' image explainer (lime 0.2, `LimeImageExplainer`): patches visible with
    probability 1/2, the whole image among the samples, cosine distance d to it, weights sqrt(exp(-d² / kernel_width²)),
    ridge penalty 1, no selection of features. The square root is the code's; the paper's kernel has none, which is
    a kernel_width smaller by √2. Here segments are patches, and samples come in complementary pairs (each is still
    uniform), so that a packed model needs half the passes.

    Args:
      model: the game.
      images: [B, H, W, C].
      targets: int [B].
      key: one, or [B].
      batch_size: pairs a forward pass.
      coalitions: how many samples, an even number; the whole and the empty image are the first two.
      kernel_width: of the weights, in cosine distance.
      alpha: penalty of the squared coefficients.
      output: a key of `classifier.OUTPUTS`, the units of the result.

    Returns:
      float32 [B, N].

    Raises:
      UserError: if an argument does not fit.
    """
    check_arguments(images, targets, key=key, batch_size=batch_size, output=output, coalitions=(coalitions,))
    draw = functools.partial(jax.random.bernoulli, shape=(coalitions // 2, model.num_players))
    masks_BMN = jax.vmap(draw)(row_keys(key, images.shape[0])).at[:, 0].set(True)
    v_BM, complement_BM = pair_values(model, images, masks_BMN, read=target_class(targets, output),
                                      batch_size=batch_size)
    fit = functools.partial(local_coefficients, kernel_width=kernel_width, alpha=alpha)
    samples = (jnp.concatenate([masks_BMN, ~masks_BMN], axis=1), jnp.concatenate([v_BM, complement_BM], axis=1))
    return jax.lax.map(lambda sample: fit(*sample), samples)


def local_coefficients(masks: chex.Array, values: chex.Array, *, kernel_width: float, alpha: float) -> chex.Array:
    """LIME's weighted ridge regression of one image.

    Args:
      masks: bool [M, N].
      values: float [M].
      kernel_width, alpha: as in `lime`.

    Returns:
      float32 [N], without the intercept.
    """
    n = masks.shape[1]
    distance_M = 1 - jnp.sqrt(masks.sum(axis=1) / n)  # cosine, of 0/1 rows to the row of ones
    weight_M = jnp.exp(-(distance_M**2) / (2 * kernel_width**2))
    share_M = weight_M / weight_M.sum()
    x_MN = masks.astype(jnp.float32)
    with jax.default_matmul_precision("highest"):  # accelerators would multiply in fewer bits
        x_MN, y_M = x_MN - share_M @ x_MN, values - share_M @ values  # takes the intercept out
        gram_NN = x_MN.T @ (weight_M[:, None] * x_MN) + alpha * jnp.eye(n)
        return jax.scipy.linalg.solve(gram_NN, x_MN.T @ (weight_M * y_M), assume_a="pos")
