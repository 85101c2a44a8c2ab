"""Convolutional backbones: the game of painted patches, for each of them and each way of painting."""

import functools
import types
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapjax import config, models
from shapjax.errors import UserError
from shapjax.games import coalitions
from shapjax.models import masked_conv as painted
from shapjax.models import preprocessing
from shapjax.models import probes as vit_probes
from shapjax.training import loop as experiment
from shapjax.training import loss as losses
from tests.conftest import random_tree

SHAPE, GRID = (8, 12, 2), (2, 3)  # patches of 4 pixels
MEAN, STD = (0.3, 0.6), (0.2, 0.4)
BACKBONES = {
    "small ResNet": {"backbone": "resnet", "width": 16, "stages": (0, 1, 1)},
    "small ResNet that halves": {"backbone": "resnet", "width": 16, "stages": (0, 1), "stem": "4x4",
                                 "norm": "cell", "allocation_depth": 1},
    "ResNet": {"backbone": "resnet", "width": 8, "stages": (1,), "stem": "7x7", "bottleneck": True, "norm": "affine"},
    "ConvNeXt": {"backbone": "convnext", "width": 8, "stages": (1,), "norm_place": "pooled"},
}
MASK = jnp.array([[True, False, True, False, False, True], [False, True, True, True, False, True]])


class Net(NamedTuple):
    """A backbone with random parameters, its compiled functions, pixels in [0, 1] and the images they become."""

    module: painted.PaintedBackbone
    params: Any
    votes: Any
    pair_values: Any
    pixels: Any
    images: Any


@functools.cache
def make(backbone, painting="mean", **sizes):
    c = config.default_config()
    c.model.update({"patch_size": 4, "head_init": "default", "painting": painting} | BACKBONES[backbone] | sizes)
    c = config.resolve(c)
    config.validate(c, image_shape=SHAPE, num_devices=1)
    module = models.build(c.model, image_shape=SHAPE, num_classes=3, mean=MEAN, std=STD)
    params = random_tree(models.param_shapes(module, image_shape=SHAPE), scale=0.4)
    votes = jax.jit(lambda *arguments, method=None: module.apply({"params": params}, *arguments, method=method),
                    static_argnames="method")
    pixels = jax.random.uniform(jax.random.key(1), (2, *SHAPE))
    pair_values = jax.jit(lambda images, masks: coalitions.pair_values(votes, images, masks))
    return Net(module, params, votes, pair_values, pixels, preprocessing.normalize(pixels, MEAN, STD))


def hidden(mask):
    return ~jnp.repeat(jnp.repeat(mask.reshape(-1, *GRID), 4, axis=1), 4, axis=2)[..., None]


@pytest.fixture(params=BACKBONES)
def backbone(request):
    return request.param


def test_it_votes_for_every_patch_and_class(backbone):
    net = make(backbone)
    phi = net.votes(net.images, None)
    assert net.module.grid == GRID and phi.shape == (2, 6, 3) and phi.dtype == jnp.float32
    np.testing.assert_allclose(phi.sum(axis=-1), 0, atol=1e-5)  # centered over the classes
    assert np.std(phi) > 1e-3


@pytest.mark.parametrize("painting", painted.PAINTINGS)
def test_the_game_is_that_of_painted_images_from_nothing_to_the_prediction(backbone, painting):
    net = make(backbone, painting)
    masks = jnp.stack([jnp.ones_like(MASK), MASK], axis=1)
    values, complements = net.pair_values(net.images, masks)
    np.testing.assert_array_equal(complements[:, 0], 0)  # v of no patches
    np.testing.assert_allclose(values[:, 0], net.votes(net.images, None).sum(axis=1), rtol=1e-4, atol=1e-4)
    for side, value in ((MASK, values[:, 1]), (~MASK, complements[:, 1])):  # one batch is two painted passes
        votes = net.votes(net.images, side, method="visible_patch_logits")
        np.testing.assert_allclose(value, jnp.where(side[..., None], votes, 0).sum(axis=1), rtol=1e-4, atol=1e-4)
    assert np.abs(values[:, 1] + complements[:, 1] - values[:, 0]).max() > 1e-3  # what is hidden would have mattered


@pytest.mark.parametrize(("painting", "color"), [("mean", MEAN), ("zero", (0.0, 0.0))])
def test_hidden_patches_are_of_one_color_and_their_pixels_do_not_matter(backbone, painting, color):
    net = make(backbone, painting)
    seen = net.votes(net.images, MASK, method="visible_patch_logits")
    by_hand = preprocessing.normalize(jnp.where(hidden(MASK), jnp.array(color), net.pixels), MEAN, STD)
    expected = net.votes(net.votes(by_hand, method="features"), MASK, method="read")
    np.testing.assert_allclose(seen[MASK], expected[MASK], rtol=1e-4, atol=1e-4)
    other = jnp.where(hidden(MASK), 7.0, net.images)
    np.testing.assert_array_equal(seen, net.votes(other, MASK, method="visible_patch_logits"))


def test_black_is_what_the_normalization_of_the_run_makes_of_it():
    c = config.default_config()
    c.model.update({"patch_size": 4, "painting": "zero"} | BACKBONES["small ResNet"])
    c.data.mean, c.data.std = MEAN, STD  # as of pretrained weights, in place of the dataset's
    source = types.SimpleNamespace(class_names=("a", "b"), image_shape=SHAPE, mean=(0.5, 0.5), std=(1.0, 1.0),
                                   crops_on_read=False)
    module = experiment.setup(config.resolve(c), source).module
    np.testing.assert_allclose(module.removal.color, preprocessing.normalize(jnp.zeros(2), MEAN, STD), rtol=1e-6)


def test_what_blurring_hides_still_matters_a_little(backbone):
    net = make(backbone, "blur")
    seen, other = (net.votes(images, MASK, method="visible_patch_logits")[MASK]
                   for images in (net.images, jnp.where(hidden(MASK), 7.0, net.images)))
    assert np.abs(seen - other).max() > 1e-3


@pytest.mark.parametrize("rows, columns", [((0, 2), (0, 2)), ((0, 2), (1, 3)), ((1, 2), (1, 2))])
def test_with_layer_masking_what_is_hidden_lies_beyond_the_border(backbone, rows, columns):
    norm = {"norm": "cell"} if backbone == "small ResNet" else {}  # a group's statistics are those of the whole map
    net = make(backbone, layer_masking=True, **norm)
    mask = np.zeros((2, *GRID), bool)
    mask[:, slice(*rows), slice(*columns)] = True
    mask = mask.reshape(2, -1)
    seen = net.votes(net.images, mask, method="visible_patch_logits")[mask]
    cut = net.images[:, 4 * rows[0]:4 * rows[1], 4 * columns[0]:4 * columns[1]]
    alone = net.module.voter.clone(image_size=cut.shape[1:3]).apply({"params": net.params}, cut)
    shares = np.sqrt(alone.shape[1] / 6)  # each of N votes is divided by √N
    np.testing.assert_allclose(seen, alone.reshape(seen.shape) * shares, rtol=1e-4, atol=1e-4)
    painted_over = make(backbone, **norm).votes(net.images, mask, method="visible_patch_logits")[mask]
    assert np.abs(painted_over - seen).max() > 1e-3


def test_moving_votes_between_patches_changes_phi_but_no_total_and_no_coalition():
    net = make("small ResNet that halves")
    plain = net.module.clone(allocation_depth=0)
    params = {key: value for key, value in net.params.items() if key != "allocation"}
    votes = jax.jit(lambda *arguments: plain.apply({"params": params}, *arguments))
    moves = net.votes(net.images, None) - votes(net.images)
    np.testing.assert_allclose(moves.sum(axis=1), 0, atol=1e-5)
    assert np.abs(moves).max(axis=(1, 2)).min() > 1e-2
    np.testing.assert_array_equal(net.votes(net.images, MASK), votes(net.images, MASK))


def test_a_new_allocation_head_moves_nothing():
    net = make("small ResNet that halves")
    fresh = models.init_params(net.module, jax.random.key(0), image_shape=SHAPE)["allocation"]
    params = net.params | {"allocation": fresh}
    phi = jax.jit(net.module.apply)({"params": params}, net.images)
    votes = net.votes(net.votes(net.images, method="features"), method="read")
    np.testing.assert_allclose(phi, votes, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("weight", "own_weight", "trained"), [
    (0.0, 0.0, set()), (1.0, 0.0, {"own", "moves", "effects"}), (0.0, 1.0, {"own", "effects"})])
def test_only_the_tasks_of_shapley_values_train_the_allocation_head(weight, own_weight, trained):
    net = make("small ResNet that halves")
    settings = losses.LossSettings(num_pairs=2, masked_weight=1.0, masked_target="label", label_smoothing=0.0,
                                   shapley_gradient="game", shapley_scale="variance", own_weight=own_weight)

    @jax.jit
    @jax.grad
    def gradient_of(params):
        def apply(*arguments, method=None):
            return net.module.apply({"params": params}, *arguments, method=method)

        return losses.joint_loss(
            apply, net.images, jax.nn.one_hot(jnp.array([0, 2]), 3), jax.random.split(jax.random.key(3)),
            shapley_weight=weight, settings=settings, parts_fn=functools.partial(apply, method="phi_and_parts"))[0]

    gradient = gradient_of(net.params)
    assert {name for name in ("own", "moves", "effects")
            if np.abs(gradient["allocation"][name]["kernel"]).max() > 1e-3} == trained
    assert np.abs(gradient["head"]["kernel"]).max() > 1e-3


@pytest.mark.parametrize("name", ["small ResNet", "small ResNet that halves"])
def test_without_an_allocation_head_phi_and_its_own_part_are_the_votes(name):
    net = make(name)
    phi, own, effects = net.votes(net.images, method="phi_and_parts")
    votes = net.votes(net.votes(net.images, method="features"), method="read")
    np.testing.assert_array_equal(phi, net.votes(net.images))
    assert (np.abs(own - votes).max() > 1e-2) == (np.abs(phi - own).max() > 1e-2) == (effects is not None) == (
        net.module.allocation_depth > 0)


@pytest.mark.parametrize("backbone", ["small ResNet", "ConvNeXt"], indirect=True)
def test_rematerialisation_changes_no_gradient(backbone):
    net = make(backbone)

    def gradient(remat):
        module = net.module.clone(remat=remat)
        return jax.jit(jax.grad(lambda p: jnp.mean(module.apply({"params": p}, net.images) ** 2)))(net.params)

    chex.assert_trees_all_close(gradient("none"), gradient("full"), rtol=1e-3, atol=1e-4)


def test_bfloat16_computes_with_float32_parameters_and_returns_float32_votes(backbone):
    net = make(backbone)
    coarse = net.module.clone(dtype=jnp.bfloat16)
    assert {x.dtype for x in jax.tree.leaves(net.params)} == {jnp.dtype("float32")}
    phi = net.votes(net.images, None)
    phi_coarse = jax.jit(coarse.apply)({"params": net.params}, net.images)
    assert phi_coarse.dtype == jnp.float32
    assert 1e-6 < np.abs(phi - phi_coarse).max() / np.abs(phi).max() < 0.1  # near, and not secretly float32


def test_its_features_lead_to_its_votes(backbone):
    net = make(backbone)
    probes = vit_probes.probes(net.module)
    assert probes.keys() == {"features_fn"}  # nothing attends
    features_fn = jax.jit(probes["features_fn"])
    features = net.votes(net.images, method="features")
    assert features.shape[:3] == (2, *GRID)
    logits, same = features_fn(net.params, net.images, jnp.zeros_like(features))
    np.testing.assert_allclose(features, same, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(logits, net.votes(net.images, None).sum(axis=1), rtol=1e-4, atol=1e-4)
    moved, _ = features_fn(net.params, net.images, jax.random.normal(jax.random.key(2), features.shape))
    assert np.abs(moved - logits).max() > 1e-3


def test_images_of_another_size_are_refused(backbone):
    net = make(backbone)
    with pytest.raises(UserError, match=r"takes images \[B, 8, 12, C\], got \[1, 12, 8, 2\]"):
        net.module.apply({"params": net.params}, jnp.zeros((1, 12, 8, 2)))
