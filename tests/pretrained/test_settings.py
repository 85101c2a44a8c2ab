"""A run's config takes from its weights how the model is built and what pixels are normalized with."""

import json

import pytest

from shapjax import config
from shapjax.errors import UserError
from shapjax.pretrained.settings import complete


@pytest.fixture
def completed(tmp_path, write_vit):
    """completed(weights={...}, setting=...): the config of a run with these weights and settings."""

    def complete_with(weights=None, **changes):
        write_vit(tmp_path / "weights", **(weights or {}))
        (tmp_path / "weights" / "preprocessor_config.json").write_text(json.dumps(
            {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.1]}))
        c = config.default_config()
        changes = {key.replace("__", "."): value for key, value in changes.items()}
        c.update_from_flattened_dict({"pretrained": str(tmp_path / "weights")} | changes)
        return config.resolve(complete(c, tmp_path / "run"))

    return complete_with


def test_the_model_and_the_normalization_are_the_weights(completed):
    c = completed(dict(width=24, depth=2, heads=3), model__remat="none")
    m = c.model
    assert (m.width, m.depth, m.heads, m.patch_size, m.class_token, m.activation) == (24, 2, 3, 14, True, "gelu")
    assert (m.head_scale, m.center_votes, m.remat) == ("mean", False, "none")
    assert tuple(c.data.mean) == (0.4, 0.5, 0.6) and tuple(c.data.std) == (0.2, 0.3, 0.1)
    config.validate(c, image_shape=(28, 28, 3), num_devices=1)
    assert config.from_dict(json.loads(json.dumps(c.to_dict()))).to_dict() == c.to_dict()


def test_a_new_head_is_as_the_config_says(completed):
    for c in (completed(new_head=True), completed(dict(classes=0))):
        assert (c.model.head_scale, c.model.center_votes) == ("sqrt", True)


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


def test_a_value_of_another_type_beside_the_weights_is_named(completed):
    with pytest.raises(UserError, match="has a value of another type than expected: .*heads"):
        completed(dict(num_attention_heads="two"))


def test_without_weights_nothing_changes(tmp_path):
    c = config.default_config()
    assert complete(c, tmp_path) is c


@pytest.mark.parametrize(("changes", "message"), [
    ({"data__mean": (0.5,)}, "expected a number for each of the 1 channels"),
    ({"data__mean": (0.5, 0.5), "data__std": (0.5, 0.5)}, "expected a number for each of the 1 channels"),
    ({"data__mean": (120.0,), "data__std": (60.0,)}, r"means in \[0, 1\]"),
    ({"data__mean": (0.5,), "data__std": (0.0,)}, "spreads above 0"),
])
def test_a_normalization_that_cannot_work_is_named(changes, message):
    c = config.default_config()
    c.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    with pytest.raises(UserError, match=message):
        config.validate(config.resolve(c), image_shape=(28, 28, 1), num_devices=1)


def test_images_that_the_patches_do_not_divide_are_named_with_what_would_help(completed):
    with pytest.raises(UserError, match="patches of 14 pixels, which do not divide .* set --config.data.image_size to"):
        config.validate(completed(), image_shape=(32, 32, 3), num_devices=1)


def test_weights_for_images_of_other_channels_are_refused():
    c = config.default_config()
    c.pretrained = "gray"
    c.data.update(mean=(0.1,), std=(0.3,))
    with pytest.raises(UserError, match="pretrained=gray normalizes images of 1 channels, those of the dataset have 3"):
        config.validate(c, image_shape=(28, 28, 3), num_devices=1)
