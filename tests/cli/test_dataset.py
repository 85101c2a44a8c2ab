"""The images that a model is evaluated on are those that the flags name."""

import pytest
from absl import flags

import shapjax
from shapjax.cli import dataset
from shapjax.errors import UserError


@pytest.fixture
def given(monkeypatch):
    """Sets the flags of a command, given("--split=train"), for the test alone."""

    def set_flags(*arguments):
        values = flags.FlagValues()
        for name in ("dataset", "split", "data_dir"):
            flags.DEFINE_string(name, None, "", values)
        values(["command", *arguments])
        monkeypatch.setattr(flags, "FLAGS", values)

    return set_flags


@pytest.mark.parametrize(("arguments", "split", "count"), [
    ((), "test", 1000), (("--split=test",), "test", 1000), (("--split=train",), "train", 4000)])
def test_the_split_is_the_one_that_is_named(given, arguments, split, count):
    given(*arguments)
    model = shapjax.load("mnist5k")
    assert dataset.name_and_split(model) == ("mnist5k", split)
    assert len(dataset.load_test_source(model)) == count


def test_a_split_that_is_not_there_is_refused(given):
    given("--split=validation")
    with pytest.raises(UserError, match="unknown split 'validation' of mnist5k; use train or test"):
        dataset.load_test_source(shapjax.load("mnist5k"))
