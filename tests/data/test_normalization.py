"""Normalization: what the user gives is checked against the images, and fitted to their channels."""

import pytest

from shapjax.config import default_config
from shapjax.data import normalization
from shapjax.errors import UserError


def config(mean, std, pretrained=""):
    c = default_config()
    c.pretrained = pretrained
    c.data.update(mean=mean, std=std)
    return c


@pytest.mark.parametrize("mean, std, message", [
    ((0.5, 0.5), (0.2, 0.2), "expected a number for each of the 1 channels, or nothing"),
    ((0.5,), (), "expected a number for each of the 1 channels"),
    ((120.0,), (60.0,), r"means in \[0, 1\]"),
    ((-0.1,), (0.5,), r"means in \[0, 1\]"),
    ((0.5,), (0.0,), "standard deviations above 0"),
    ((0.5,), (float("inf"),), "standard deviations above 0"),
])
def test_a_normalization_that_cannot_work_is_refused(mean, std, message):
    with pytest.raises(UserError, match=f"--config.data.mean=.*--config.data.std=.*{message}"):
        normalization.check(config(mean, std), channels=1)


def test_weights_for_images_of_other_channels_are_refused():
    with pytest.raises(UserError, match="pretrained=gray normalizes images of 1 channels, those of the dataset have 3"):
        normalization.check(config((0.1,), (0.3,), "gray"), channels=3)


@pytest.mark.parametrize("given, own, expected", [
    ((), (0.1, 0.2, 0.3), (0.1, 0.2, 0.3)),
    ((0.4, 0.5, 0.6), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
    ((0.25,), (0.1,), (0.25,)),
    ((0.25, 0.5, 0.75), (0.1,), (0.5,)),  # the weights' three, for gray images
])
def test_the_given_values_take_the_place_of_the_datasets_own(given, own, expected):
    normalization.check(config(given, given), channels=len(own))
    assert normalization.per_channel(given, own) == expected
