"""Every config file gives settings that can work, on the images and the devices that it is made for."""

import importlib
import pathlib

import jax
import pytest

from shapjax import config, models
from shapjax.data import augmentation

CONFIGS = sorted(path.stem for path in (pathlib.Path(__file__).parents[1] / "configs").glob("*.py"))
IMAGES = {"mnist5k": (28, 28, 1), "fashion_mnist": (28, 28, 1), "finetune_fashion_mnist": (28, 28, 1),
          "cifar10": (32, 32, 3), "finetune_cifar10": (32, 32, 3), "cifar100": (32, 32, 3)}
VARIANTS = [(name, ()) for name in CONFIGS] + [("fashion_mnist", ("49",)), ("cifar10", ("vit",)),
                                            ("finetune_cifar10", ("allocation",))]


@pytest.mark.parametrize(("name", "arguments"), VARIANTS)
def test_a_config_file_gives_settings_that_work(name, arguments):
    c = config.resolve(importlib.import_module(f"configs.{name}").get_config(*arguments))
    shape = IMAGES.get(name) or (c.data.image_size, c.data.image_size, 3)
    for devices in (1, 2, 8) if c.parallel == "pmap" else (8, 64):
        config.validate(c, image_shape=shape, num_devices=devices)
        augmentation.settings(c.augment, crops_on_read=name not in IMAGES, image_shape=shape,
                              device_batch=c.batch_size // devices)
    module = models.build(c.model, image_shape=shape, num_classes=10, mean=(0.5,) * shape[2],
                          std=(0.25,) * shape[2])
    assert module.num_patches == {"49": 49}.get(arguments[0] if arguments else "", module.num_patches)
    assert all(x.size for x in jax.tree.leaves(models.param_shapes(module, image_shape=shape)))


def test_each_config_file_says_how_it_is_run():
    for name in CONFIGS:
        docstring = importlib.import_module(f"configs.{name}").__doc__
        assert f"python train.py --config configs/{name}.py" in docstring, name
        assert "--workdir" in docstring, name
