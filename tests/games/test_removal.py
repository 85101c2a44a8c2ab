"""Every removal keeps visible pixels and hides hidden ones completely; each fills in the right values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from shapjax.errors import UserError
from shapjax.games import removal, wrap

REMOVALS = [removal.Constant(-2.0), removal.Constant((0.5, -1.0)), removal.Blur(1.0), removal.Noise(0.2, 0.5),
            removal.NoisyLinear()]
NAMES = [type(each).__name__ for each in REMOVALS]
SIZE = (9, 14)


@pytest.fixture
def images(rng):
    return rng.uniform(size=(3, *SIZE, 2)).astype(np.float32)


@pytest.fixture
def hidden(rng):
    return np.asarray(removal.hidden_pixels(jnp.asarray(rng.random((3, 12)) < 0.5), (3, 4), SIZE))


@pytest.mark.parametrize("remove", REMOVALS, ids=NAMES)
def test_visible_pixels_never_change_and_hidden_ones_do(remove, images, hidden):
    painted = np.asarray(jax.jit(remove)(images, hidden))
    assert painted.shape == images.shape and painted.dtype == np.float32 and np.isfinite(painted).all()
    everywhere = np.broadcast_to(hidden, images.shape)
    np.testing.assert_array_equal(painted[~everywhere], images[~everywhere])
    assert np.mean(painted[everywhere] != images[everywhere]) > 0.99


@pytest.mark.parametrize("remove", [each for each in REMOVALS if not isinstance(each, removal.Blur)])
def test_what_is_painted_tells_nothing_of_what_was_hidden(remove, images, hidden, rng):
    other = np.where(hidden, rng.normal(size=images.shape) * 9, images).astype(np.float32)
    paint = jax.jit(remove)
    np.testing.assert_array_equal(paint(images, hidden), paint(other, hidden))


@pytest.mark.parametrize("remove", REMOVALS, ids=NAMES)
def test_an_image_is_painted_the_same_in_any_batch(remove, images, hidden):
    paint = jax.jit(remove)
    np.testing.assert_allclose(paint(images[1:2], hidden[1:2])[0], paint(images, hidden)[1], atol=1e-5)


@pytest.mark.parametrize("sigma", [0.5, 1.5, 4.0])  # 3 sigma: 1.5 and 4.5 pixels, and more than the image is high
def test_blur_is_the_gaussian_filter_of_scipy(images, sigma):
    blurred = jax.jit(removal.Blur(sigma))(images, np.ones((3, *SIZE, 1), bool))
    expected = ndimage.gaussian_filter(images.astype(np.float64), (0, sigma, sigma, 0), mode="nearest", truncate=3.0)
    np.testing.assert_allclose(blurred, expected, atol=1e-6)


def test_a_constant_is_one_color_or_one_a_channel(images, hidden):
    painted = np.asarray(removal.Constant((0.5, -1.0))(images, hidden))
    np.testing.assert_array_equal(np.unique(painted[hidden[..., 0]], axis=0), [[0.5, -1.0]])
    with pytest.raises(ValueError, match="3 channels for images of 2"):
        removal.Constant((0.1, 0.2, 0.3))(images, hidden)


def test_noise_has_its_mean_and_scale_and_is_the_same_for_all_images():
    images, hidden = np.zeros((2, 40, 40, 3), np.float32), np.ones((2, 40, 40, 1), bool)
    noise = np.asarray(removal.Noise(mean=2.0, scale=0.5)(images, hidden))
    np.testing.assert_array_equal(noise[0], noise[1])
    assert noise.mean() == pytest.approx(2, abs=0.03) and noise.std() == pytest.approx(0.5, abs=0.02)
    assert (removal.Noise(mean=2.0, scale=0.5, seed=1)(images, hidden) != noise).mean() > 0.99


def test_imputed_pixels_are_the_weighted_means_of_their_neighbors(images, hidden):
    filled = np.asarray(jax.jit(removal.NoisyLinear(noise=0.0))(images, hidden))
    kernel = np.array([[1, 2, 1], [2, 0, 2], [1, 2, 1]])[None, :, :, None] / 12
    total = ndimage.convolve(np.ones_like(filled), kernel, mode="constant")
    means = ndimage.convolve(filled, kernel, mode="constant") / total
    np.testing.assert_allclose(np.where(hidden, means, 0), np.where(hidden, filled, 0), atol=1e-4)


def test_imputation_continues_a_constant_and_makes_0_of_nothing():
    hidden = np.ones((2, *SIZE, 1), bool)
    hidden[0, 4, 4] = False
    filled = np.asarray(jax.jit(removal.NoisyLinear(noise=0.0))(np.full((2, *SIZE, 2), 0.7, np.float32), hidden))
    np.testing.assert_allclose(filled[0], 0.7, atol=1e-3)
    np.testing.assert_array_equal(filled[1], 0)


def test_imputation_has_the_noise_it_says():
    images, hidden = np.full((1, 40, 40, 2), 0.3, np.float32), np.ones((1, 40, 40, 1), bool)
    hidden[:, ::4, ::4] = False
    noise = np.asarray(jax.jit(removal.NoisyLinear(noise=0.05))(images, hidden))[hidden[..., 0]] - 0.3
    assert noise.std() == pytest.approx(0.05, abs=0.004) and noise.mean() == pytest.approx(0, abs=0.004)


def test_patches_are_in_reading_order():
    hidden = np.asarray(removal.hidden_pixels(jnp.arange(6)[None] != 1, (2, 3), (4, 6)))[0, :, :, 0]
    expected = np.zeros((4, 6), bool)
    expected[:2, 2:4] = True
    np.testing.assert_array_equal(hidden, expected)


@pytest.mark.parametrize("size", [(9, 14), (3, 4), (7, 5)])
def test_patches_of_any_image_cover_it_once_in_nearly_equal_sizes(size):
    hidden = np.asarray(removal.hidden_pixels(~jnp.eye(12, dtype=bool), (3, 4), size))[..., 0]
    np.testing.assert_array_equal(hidden.sum(axis=0), 1)  # each pixel belongs to one patch
    for axis, patches in ((1, 3), (2, 4)):
        lengths = hidden.any(axis=3 - axis).sum(axis=1)
        assert set(lengths) <= {size[axis - 1] // patches, -(-size[axis - 1] // patches)}


def test_masks_and_images_that_do_not_fit_the_grid_are_refused():
    with pytest.raises(ValueError, match="a mask of 4 patches for a grid of 4 x 4: expected 16"):
        removal.hidden_pixels(jnp.ones((4, 4), bool), (4, 4), (8, 8))
    with pytest.raises(ValueError, match="an image of 3 x 8 pixels has no 4 x 4 patches"):
        removal.hidden_pixels(jnp.ones((1, 16), bool), (4, 4), (3, 8))


@pytest.mark.parametrize("remove", REMOVALS, ids=NAMES)
def test_images_of_any_width_and_layout_are_painted_alike_and_integers_refused(remove, images, hidden):
    images = np.round(images * 8) / 8  # half precision holds them exactly
    expected = np.asarray(remove(images, hidden))
    strided = np.moveaxis(np.ascontiguousarray(np.moveaxis(images, -1, 1)), 1, -1)
    for other in (images.astype(np.float16), jnp.asarray(images, jnp.bfloat16), images.astype(np.float64), strided):
        painted = remove(other, hidden)
        assert painted.dtype == np.float32
        np.testing.assert_array_equal(painted, expected)
    with jax.enable_x64(True):
        np.testing.assert_allclose(remove(images.astype(np.float64), hidden), expected, atol=1e-6)
    with pytest.raises(UserError, match="the images are uint8, expected floats in the units that the model takes"):
        remove((255 * images).astype(np.uint8), hidden)


def test_a_removal_of_ones_own_paints_on_no_integers(images):
    model = wrap(lambda x: x.sum(axis=(1, 2))[:, :2], grid=(2, 2), removal=lambda x, hidden: jnp.where(hidden, 0.5, x))
    with pytest.raises(UserError, match="the images are uint8, expected floats"):
        model.coalition_logits((255 * images).astype(np.uint8), np.ones((len(images), 4), bool))
