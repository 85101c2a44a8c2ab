"""A run's config takes the model's settings and the normalization of pixels from its weights."""

import json

import pytest

from shapjax import config
from shapjax.data import normalization
from shapjax.errors import UserError
from shapjax.pretrained.settings import complete


@pytest.fixture
def completed(tmp_path, write_vit):
    """Returns completed(weights={...}, group__setting=...), which makes the config of a run with these weights."""

    def complete_with(weights=None, given=(), **changes):
        write_vit(tmp_path / "weights", **(weights or {}))
        (tmp_path / "weights" / "preprocessor_config.json").write_text(json.dumps(
            {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.1]}))
        c = config.default_config()
        changes = {key.replace("__", "."): value for key, value in changes.items()}
        c.update_from_flattened_dict({"pretrained": str(tmp_path / "weights")} | changes)
        return complete(c, tmp_path / "run", given)

    return complete_with


def test_the_model_and_the_normalization_are_the_weights(completed):
    c = completed(dict(width=24, depth=2, heads=3), model__remat="none", model__explainer_depth=1)
    m = c.model
    assert (m.backbone, m.width, m.depth, m.heads, m.patch_size) == ("vit", 24, 2, 3, 14)
    assert (c.loaded.class_token, c.loaded.activation, c.loaded.mlp_ratio) == (True, "gelu", 2.0)
    assert (c.loaded.head_scale, c.loaded.center) == ("mean", False)
    assert (m.remat, m.explainer_depth) == ("none", 1)  # the run's own
    assert tuple(c.data.mean) == (0.4, 0.5, 0.6) and tuple(c.data.std) == (0.2, 0.3, 0.1)
    config.validate(c)
    normalization.check(c, channels=3)
    assert config.from_dict(json.loads(json.dumps(c.to_dict()))).to_dict() == c.to_dict()


def test_a_new_head_is_as_the_config_says(completed):
    for c in (completed(new_head=True), completed(dict(classes=0))):
        assert (c.loaded.head_scale, c.loaded.center) == ("sqrt", True)


def test_a_normalization_that_is_given_stays(completed):
    c = completed(data__mean=(0.1, 0.1, 0.1), data__std=(1.0, 1.0, 1.0))
    assert tuple(c.data.mean) == (0.1, 0.1, 0.1)


def test_a_variant_that_is_the_weights_is_taken_and_another_refused(completed):
    small = dict(width=384, depth=12, heads=6, patch=16, image=32)
    assert completed(small, model__variant="S/16").model.width == 384
    with pytest.raises(UserError, match=r"are of another model: .* is \[12, 384\] instead of \[12, 768\].* they are of "
                                        "variant S/16: set that, or leave --config.model.variant empty"):
        completed(small, model__variant="B/16")
    with pytest.raises(UserError, match=r"embedding/kernel is \[768, 384\] instead of \[192, 384\]; .*S/16"):
        completed(small, model__variant="S/8")
    with pytest.raises(UserError, match="--config.model.variant=Q/16: expected one of "):
        completed(small, model__variant="Q/16")


def test_weights_that_no_model_can_have_are_refused_in_one_line(completed):
    with pytest.raises(UserError, match="weights .*heads=5 does not divide the width 16") as e:
        completed(dict(heads=5), model__variant="S/16")
    assert "\n" not in str(e.value)


def test_a_value_of_another_type_beside_the_weights_is_named(completed):
    for variant in ("", "S/16"):
        with pytest.raises(UserError, match="has a value of another type than expected: .*heads"):
            completed(dict(num_attention_heads="two"), model__variant=variant)


def test_without_weights_nothing_changes(tmp_path):
    c = config.default_config()
    assert complete(c, tmp_path) is c


def test_a_size_that_is_given_and_not_the_weights_is_refused(completed):
    weights = dict(width=24, depth=2, heads=3)
    for name, value, own in (("width", 48, 24), ("depth", 3, 2)):  # the latter is the default
        with pytest.raises(UserError, match=f"--config.model.{name}={value}: --config.pretrained=.* has {own}; leave"):
            completed(weights, [f"model.{name}", "optim.steps"], **{f"model__{name}": value})
    assert completed(weights, ["model.width", "model.remat"], model__width=24, model__remat="none").model.width == 24
    assert completed(weights, model__width=48).model.width == 24  # of a recipe
