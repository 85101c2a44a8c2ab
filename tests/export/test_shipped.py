"""The models that come with the package are whole, of this version, and small."""

import importlib.resources

import pytest

from shapjax.export import read

DIRECTORIES = [d for d in importlib.resources.files("shapjax.shipped").iterdir() if d.joinpath(read.CONFIG).is_file()]


@pytest.mark.parametrize("directory", DIRECTORIES, ids=lambda directory: directory.name)
def test_a_shipped_model_can_be_read(directory):
    assert sum(path.stat().st_size for path in directory.iterdir()) < 750_000
    params, meta, step = read.read_model(directory)
    assert params and step == meta.config.optim.steps
    if directory.name.endswith("_baseline"):
        assert meta.config.shapley.weight == 0
