"""Every recipe has settings that can work, on the images and the devices that it is made for."""

import importlib
import pathlib
import types

import jax
import pytest

from shapjax import models
from shapjax.training import loop

CONFIGS = sorted(path.stem for path in (pathlib.Path(__file__).parents[1] / "configs").glob("*.py"))
IMAGES = {"mnist5k": (28, 28, 1), "fashion_mnist": (28, 28, 1), "cifar10": (32, 32, 3)}
RECIPES = [(name, ()) for name in CONFIGS] + [
    ("fashion_mnist", ("49",)), ("fashion_mnist", ("finetune",)), ("cifar10", ("vit",)), ("cifar10", ("vit100",)),
    ("photographs", ("pets",)), ("imagenet", ("b16",))]


class Source(types.SimpleNamespace):
    """A dataset of a thousand images, of which nothing is read."""

    def __len__(self):
        return 1000


@pytest.mark.parametrize(("name", "arguments"), RECIPES)
def test_a_recipe_gives_settings_that_work(name, arguments):
    c = loop.resolve(importlib.import_module(f"configs.{name}").get_config(*arguments))
    shape = IMAGES.get(name) or (c.data.image_size, c.data.image_size, 3)
    source = Source(class_names=tuple("abcdefghij"), image_shape=shape, mean=(0.5,) * shape[2],
                                   std=(0.25,) * shape[2], crops_on_read=name not in IMAGES)
    for devices in (1, 2, 8) if c.run.parallel == "pmap" else (8, 64):
        run = loop.setup(c, source, num_devices=devices)
    assert run.module.num_patches == (49 if "49" in arguments else run.module.num_patches)
    assert all(x.size for x in jax.tree.leaves(models.param_shapes(run.module, image_shape=shape)))


def test_each_recipe_says_how_it_is_run():
    for name in CONFIGS:
        docstring = importlib.import_module(f"configs.{name}").__doc__
        assert f"python train.py --config configs/{name}.py" in docstring, name
        assert "--workdir" in docstring, name
