"""The pieces of a run from its config, settings that cannot work, and a run whose numbers go bad."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapjax import config, models
from shapjax.data.sources import ArraySource
from shapjax.errors import UserError
from shapjax.models import preprocessing
from shapjax.training import checkpoint, loop
from tests.conftest import random_tree


class Source(types.SimpleNamespace):
    """A source as far as `setup` looks at it."""

    images = 100

    def __len__(self):
        return self.images


SOURCE = Source(class_names=("a", "b", "c"), image_shape=(8, 8, 1), mean=(0.4,), std=(0.3,), crops_on_read=False)
SMALL = {"model.patch_size": 4, "model.width": 16, "model.depth": 1, "model.heads": 2, "augment.max_shift": 0,
         "optim.steps": 4, "optim.warmup": 0.0, "model.remat": "none", "model.dtype": "float32"}


def make(*, num_devices=1, **changes):
    c = config.default_config()
    c.update_from_flattened_dict(SMALL | {key.replace("__", "."): value for key, value in changes.items()})
    return loop.setup(loop.resolve(c), SOURCE, num_devices=num_devices)


@pytest.fixture
def batch(rng):
    return {"image": jnp.asarray(rng.integers(0, 256, (6, 8, 8, 1)), jnp.uint8), "index": jnp.arange(6),
            "label": jnp.asarray(rng.integers(0, 3, 6), jnp.int32), "valid": jnp.arange(6) < 4}


def weights(run):
    return random_tree(models.param_shapes(run.module, image_shape=SOURCE.image_shape), scale=0.5)


def test_the_settings_of_a_step_are_those_of_the_config():
    run = make(shapley__weight=3.0, shapley__masked_weight=0.5, shapley__num_pairs=2,
               optim__ema_decay=0.7, optim__accumulate=3, seed=5)
    s = run.settings
    assert tuple(s.loss) == (2, 3.0, 0.5)
    assert (s.ema_decay, s.accumulate, s.seed, s.mean, s.std, s.num_classes) == (0.7, 3, 5, (0.4,), (0.3,), 3)


def test_the_first_steps_leave_coalitions_and_the_explainer_head_out(batch):
    run = make(model__explainer_depth=1)
    state = run.init_state(weights(run))
    step = jax.jit(run.step, static_argnames="coalitions")
    plain, plain_metrics = step(state, batch, coalitions=False)
    joint, joint_metrics = step(state, batch, coalitions=True)
    assert plain_metrics["loss_masked"] == plain_metrics["loss_shapley"] == 0 < joint_metrics["loss_masked"]
    assert plain_metrics["loss_classification"] == pytest.approx(float(joint_metrics["loss_classification"]), rel=1e-5)

    def change(new):  # of a parameter of the explainer head without weight decay
        return np.asarray(new.params["explainer"]["norm"]["scale"] - state.params["explainer"]["norm"]["scale"])

    assert not change(plain).any() and change(joint).any()


def test_a_probe_trains_the_head_alone_on_whole_images(batch):
    run = make(pretrained="weights", new_head=True, optim__probe=0.5, optim__ema_decay=0.9)
    state = run.init_state(weights(run))
    new, metrics = jax.jit(run.step, static_argnames="probe")(state, batch, probe=True)
    assert metrics["loss_masked"] == 0
    for params, before in ((new.params, state.params), (new.ema_params, state.ema_params)):
        for key in before:
            same = jax.tree.map(np.array_equal, params[key], before[key])
            assert all(jax.tree.leaves(same)) == (key != "head"), key


@pytest.mark.parametrize(("images", "epochs", "steps"), [(10_000, 2.0, 417), (100, 2.0, 400), (100_000, 2.0, 900)])
def test_a_length_in_epochs_has_a_lower_and_an_upper_bound(images, epochs, steps):
    c = config.default_config()
    c.update_from_flattened_dict(SMALL | {"optim.epochs": epochs, "optim.steps": 900})
    assert loop.setup(loop.resolve(c), Source(**vars(SOURCE), images=images)).meta.config.optim.steps == steps


def test_work_counts_the_passes_of_each_phase_and_of_evaluations():
    c = config.default_config()
    c.update_from_flattened_dict({"optim.steps": 10, "optim.probe": 0.2, "optim.batch_size": 4, "run.eval_every": 4,
                                  "shapley.start": 0.5, "shapley.num_pairs": 2})
    each = [4, 4, 12, 12 + 5, 12, 36, 36, 36 + 5, 36, 36 + 5]
    np.testing.assert_array_equal(loop.work(c, test_images=5), np.cumsum([0, *each]))


def test_test_sums_count_the_valid_rows_alone(batch):
    run = make()
    params = weights(run)
    sums = jax.jit(run.test_sums)(params, batch)
    images = preprocessing.normalize(batch["image"], (0.4,), (0.3,))
    logits = np.asarray(run.module.apply({"params": params}, images).sum(axis=1))[:4]
    labels = np.asarray(batch["label"])[:4]
    log_p = np.asarray(jax.nn.log_softmax(logits))
    assert sums["images"] == 4 and sums["accuracy"] == (logits.argmax(axis=1) == labels).sum()
    assert sums["cross_entropy"] == pytest.approx(-log_p[np.arange(4), labels].sum(), rel=1e-4)


def test_weights_without_a_head_cannot_teach():
    run = make(shapley__teacher_weight=0.5, pretrained="weights")
    body = {key: value for key, value in weights(run).items() if key != "head"}
    with pytest.raises(UserError, match="teacher_weight=0.5: weights has no head"):
        run.init_state(body)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__patch_size": 5}, "model.patch_size=5.*does not divide the image size 8x8; use one of 2, 4"),
        ({"model__patch_size": 8}, "makes the whole image one patch"),
        ({"model__patch_size": 5, "pretrained": "weights"}, "pretrained=weights has patches of 5 pixels.*image_size"),
        ({"model__heads": 5}, "model.heads=5 does not divide the width 16"),
        ({"model__remat": "some"}, "expected one of auto, none, dots, full"),
        ({"model__backbone": "vgg"}, "model.backbone=vgg: expected one of vit, resnet, convnext"),
        ({"optim__batch_size": 33}, "batch_size=33 is not divisible by the 2 devices; use 32"),
        ({"optim__accumulate": 5}, "batch_size=48 .*use 40"),
        ({"optim__learning_rate": -1.0}, "optim.learning_rate=-1.0"),
        ({"optim__probe": 0.5}, "optim.probe=0.5: expected 0 without a new head on pretrained"),
        ({"optim__probe": 0.5, "optim__warmup": 0.5, "pretrained": "w", "new_head": True}, "expected a sum below 1"),
        ({"optim__layer_decay": 1.5}, "layer_decay=1.5: expected at most 1"),
        ({"optim__layer_decay": 0.5, "model__backbone": "convnext", "model__stages": (1,)},
         "expected 1 with a convnext"),
        ({"augment__flip": False, "augment__mixup": 200.0}, "augment.mixup=200.0: expected 0 to 100"),
        ({"data__mean": (0.5, 0.5), "data__std": (0.5, 0.5)}, "data.mean"),
        ({"optim__train_only": ("head", "explainer"), "pretrained": "weights"},
         "train_only: the model has no part 'explainer'; it has .*head"),
        ({"model__variant": "ResNet-19"}, "variant=ResNet-19: .*Ti, S, B, L, H.*ResNet-18, ResNet-34.*ConvNeXt-T"),
    ],
)
def test_a_setting_that_cannot_work_is_named_with_what_would(changes, message):
    with pytest.raises(UserError, match="--config.*" + message) as e:
        make(num_devices=2, **changes)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(("name", "backbone", "stages"), [
    ("S/16", "vit", (1, 1, 1)), ("ResNet-50", "resnet", (3, 4, 6, 3)), ("ConvNeXt-T", "convnext", (3, 3, 9, 3))])
def test_a_variant_brings_its_backbone_and_sizes(name, backbone, stages):
    c = config.default_config()
    c.model.variant = name
    c = loop.resolve(c)
    assert (c.model.backbone, c.model.stages) == (backbone, stages)
    assert c.loaded.bottleneck == (name == "ResNet-50")
    assert models.variant_of(config.model_settings(c)) == name


def test_a_state_after_a_bad_gradient_is_not_saved_and_the_last_good_checkpoint_is_whole(tmp_path, monkeypatch):
    """The loss of the step that is to be saved is still good."""
    train_step = loop.train_step

    def going_bad(state, batch, **settings):
        state, metrics = train_step(state, batch, **settings)
        spoil = jnp.where(state.step == 4, jnp.nan, 0.0)
        return (state.replace(params=jax.tree.map(lambda x: x + spoil, state.params)),
                metrics | {"gradient_norm": metrics["gradient_norm"] + spoil})

    rng = np.random.default_rng(0)
    source = ArraySource(rng.integers(0, 256, (16, 8, 8, 1), np.uint8), np.arange(16, dtype=np.int32) % 3,
                         ("a", "b", "c"), (0.5,), (0.25,))
    monkeypatch.setattr(loop, "train_step", going_bad)
    monkeypatch.setattr(loop.sources, "load_source", lambda config, split: source)
    c = config.default_config()
    c.update_from_flattened_dict(SMALL | {
        "optim.batch_size": 8, "optim.steps": 6, "optim.ema_decay": 0.0, "run.eval_every": 2, "shapley.num_pairs": 0})
    with pytest.raises(UserError, match="the norm of the gradient is nan at step 4; lower .*earlier steps are kept"):
        loop.train(loop.resolve(c), tmp_path)
    params, _, step = checkpoint.load_params(
        tmp_path, lambda meta: models.param_shapes(make().module, image_shape=source.image_shape))
    assert step == 2 and all(np.isfinite(x).all() for x in jax.tree.leaves(params))
