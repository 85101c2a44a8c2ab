"""Removals: what is painted over hidden patches for a model that cannot drop them.

A removal is a hashable function (images [B, H, W, C], hidden bool [B, H, W, 1]) -> images. It is chosen when a model
is wrapped (`games.wrap`). Colors and noise are in the units of the images that the model's function takes: pixels, or
normalized pixels. Those here take floats of any width and return float32; they raise `UserError` on integers.
"""

import dataclasses
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np

from shapjax.games import contract

Removal = Callable[[chex.Array, chex.Array], chex.Array]


def hidden_pixels(visible: chex.Array, grid: tuple[int, int], image_size: tuple[int, int]) -> chex.Array:
    """Returns which pixels belong to patches that are not visible.

    Args:
      visible: bool [B, N], patches in reading order.
      grid: (gh, gw), gh·gw = N.
      image_size: (H, W); patches are of equal size where the grid divides it, else of nearly equal size.

    Returns:
      bool [B, H, W, 1].

    Raises:
      ValueError: if the mask is not of this grid, or the image is smaller than it.
    """
    (gh, gw), (h, w) = grid, image_size
    if visible.shape[-1] != gh * gw:
        raise ValueError(f"a mask of {visible.shape[-1]} patches for a grid of {gh} x {gw}: expected {gh * gw} patches")
    if h < gh or w < gw:
        raise ValueError(f"an image of {h} x {w} pixels has no {gh} x {gw} patches: use a coarser grid")
    rows, columns = jnp.arange(h) * gh // h, jnp.arange(w) * gw // w
    hidden = ~visible.reshape(-1, gh, gw)
    return hidden[:, rows[:, None], columns[None, :], None]


class _Painter:
    """A removal that paints what `_fill(images, hidden)` returns, of the shape of the images or one that fits."""

    def __call__(self, images: chex.Array, hidden: chex.Array) -> chex.Array:
        images = contract.as_images(images)
        contract.require_floats(images)
        return jnp.where(hidden, self._fill(images, hidden), images)


@dataclasses.dataclass(frozen=True)
class Constant(_Painter):
    """Gives hidden pixels a fixed color: 0, or the dataset's mean.

    Attributes:
      color: one number, or one a channel, in the units of the images.

    Raises:
      ValueError: when called with images of another number of channels.
    """

    color: float | tuple[float, ...] = 0.0

    def _fill(self, images: chex.Array, hidden: chex.Array) -> chex.Array:
        color = jnp.asarray(self.color, images.dtype)
        if color.size not in (1, images.shape[-1]):
            raise ValueError(f"a color of {color.size} channels for images of {images.shape[-1]}: give as many, or 1")
        return color


@dataclasses.dataclass(frozen=True)
class Blur(_Painter):
    """Gives hidden pixels the values of the blurred whole image (Fong & Vedaldi 2017).

    Attributes:
      sigma: of the Gaussian, in pixels; cut off at 3 sigma, edges are repeated.
    """

    sigma: float = 10.0

    def _fill(self, images: chex.Array, hidden: chex.Array) -> chex.Array:
        from scipy import ndimage  # loads slowly, and most users of the package do without it

        # The filter is linear: its matrix is what it makes of the unit vectors.
        rows, columns = (ndimage.gaussian_filter1d(np.eye(n), self.sigma, axis=0, mode="nearest", truncate=3.0)
                         .astype(np.float32) for n in images.shape[1:3])
        return jnp.einsum("hy,wx,byxc->bhwc", rows, columns, images, precision="highest")


@dataclasses.dataclass(frozen=True)
class Noise(_Painter):
    """Gives hidden pixels Gaussian noise, the same for all images of a size.

    Attributes:
      mean, scale: of each pixel, in the units of the images.
      seed: of the noise, which is fixed because a removal is a function.
    """

    mean: float = 0.0
    scale: float = 1.0
    seed: int = 0

    def _fill(self, images: chex.Array, hidden: chex.Array) -> chex.Array:
        return self.mean + self.scale * jax.random.normal(jax.random.key(self.seed), images.shape[1:], images.dtype)


@dataclasses.dataclass(frozen=True)
class NoisyLinear(_Painter):
    """Imputes hidden pixels as ROAD does, by noisy linear imputation (Rong et al. 2022, section 4.3).

    Each hidden pixel is the weighted mean of its neighbors inside the image, with weights 1/6 at the sides and 1/12 at
    the corners: a system of linear equations. A little noise is added. An image without visible pixels becomes 0.

    Attributes:
      noise: standard deviation of the noise, in the units of the images.
      seed: of the noise.
      tolerance: of the solver, relative to the right-hand side.
      max_iterations: of the solver, at most.
    """

    noise: float = 0.01
    seed: int = 0
    tolerance: float = 1e-5
    max_iterations: int = 500

    def _fill(self, images: chex.Array, hidden: chex.Array) -> chex.Array:
        noise = self.noise * jax.random.normal(jax.random.key(self.seed), images.shape[1:], images.dtype)
        return jax.vmap(self._imputed)(images, hidden) + noise

    def _imputed(self, image_HWC: chex.Array, hidden_HW1: chex.Array) -> chex.Array:
        inside_HW1 = jnp.ones_like(image_HWC[..., :1])
        total_HW1 = _neighbors(inside_HW1)  # smaller at the edges

        def laplacian(x_HWC):  # symmetric and, with a visible pixel, positive definite on the hidden ones
            x_HWC = jnp.where(hidden_HW1, x_HWC, 0)
            return jnp.where(hidden_HW1, total_HW1 * x_HWC - _neighbors(x_HWC), 0)

        known_HWC = jnp.where(hidden_HW1, 0, image_HWC)
        right_HWC = jnp.where(hidden_HW1, _neighbors(known_HWC), 0)
        solution, _ = jax.scipy.sparse.linalg.cg(laplacian, right_HWC, tol=self.tolerance, maxiter=self.max_iterations)
        return solution


def _neighbors(x_HWC: chex.Array) -> chex.Array:
    """Sums the eight neighbors inside the image, weighted by 1/6 at the sides and 1/12 at the corners."""
    h, w, _ = x_HWC.shape
    padded = jnp.pad(x_HWC, ((1, 1), (1, 1), (0, 0)))
    return sum(
        padded[1 + dy : 1 + dy + h, 1 + dx : 1 + dx + w] / (6 if dy == 0 or dx == 0 else 12)
        for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx)
