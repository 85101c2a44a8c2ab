"""Grad-CAM: the last spatial features, weighted by the gradient of the target class's logit."""

import functools

import chex
import jax
import jax.numpy as jnp

from shapjax.attribution.arguments import check_arguments
from shapjax.attribution.backward import target_sum
from shapjax.games.classifier import Classifier
from shapjax.games.passes import in_passes


@functools.partial(jax.jit, static_argnames="batch_size")
def gradcam(model: Classifier, images: chex.Array, targets: chex.Array, key: chex.PRNGKey | None = None, *,
            batch_size: int = 256) -> chex.Array:
    """Grad-CAM (Selvaraju et al. 2017, equations 1 and 2) on the grid of patches.

    ReLU(Σ_d α_d F_d), F the features of `Classifier.features`, α_d the mean over the positions of ∂logit/∂F_d. A map of
    another size than the grid is resized bilinearly, with antialiasing where it is larger.

    Args:
      model: a classifier with `features_fn`.
      images: float [B, H, W, C].
      targets: int [B].
      key: ignored.
      batch_size: images a forward and backward pass; bounds the memory.

    Returns:
      float32 [B, N], never negative.

    Raises:
      UserError: if the model has no spatial features.
    """
    check_arguments(images, targets, batch_size=batch_size)

    def some_images(x: chex.Array, y: chex.Array) -> chex.Array:
        def target(delta: chex.Array) -> tuple[chex.Array, chex.Array]:
            logits, features = model.features(x, delta)
            return target_sum(logits, y), features

        delta_BHWD = jax.tree.map(jnp.zeros_like, jax.eval_shape(model.features, x)[1])
        gradient_BHWD, features_BHWD = jax.grad(target, has_aux=True)(delta_BHWD)
        weight_BD = jnp.mean(gradient_BHWD, axis=(1, 2))
        map_BHW = jax.nn.relu(jnp.einsum("bhwd,bd->bhw", features_BHWD, weight_BD))
        return jax.image.resize(map_BHW, (x.shape[0], *model.grid), "bilinear").reshape(-1, model.num_players)

    return in_passes(some_images, images, targets, batch_size=batch_size)
