"""The models that come with the package are whole, of this version, small, and go by their names."""

import importlib.resources

import pytest

import shapjax
from shapjax.errors import UserError
from shapjax.export import read

DIRECTORIES = [d for d in importlib.resources.files("shapjax.shipped").iterdir() if d.joinpath(read.CONFIG).is_file()]


@pytest.mark.parametrize("directory", DIRECTORIES, ids=lambda directory: directory.name)
def test_a_shipped_model_can_be_read(directory):
    assert sum(path.stat().st_size for path in directory.iterdir()) < 750_000
    model = shapjax.load(directory.name)
    assert model.step == model.config.optim.steps and model.calibration and read.is_shipped(model.directory)
    assert (model.config.shapley.weight == 0) == directory.name.endswith("_baseline")


def test_the_models_are_those_that_the_package_names():
    assert {directory.name for directory in DIRECTORIES} == {"mnist5k", "mnist5k_baseline"}


def test_a_directory_of_the_name_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist5k").mkdir()
    assert not read.is_shipped(read.located("mnist5k"))
    with pytest.raises(UserError, match="mnist6k does not exist; give .* comes with shapjax: mnist5k, "):
        read.located("mnist6k")
