"""The commands choose the place where JAX keeps compiled programs, and the devices that a model gets."""

import jax
import pytest

from shapjax import cli
from shapjax.cli import keep_compiled, settle_devices
from shapjax.config import default_config
from shapjax.errors import UserError
from shapjax.training import machine
from shapjax.training.meta import Meta

OPTIONS = ("jax_compilation_cache_dir", "jax_enable_compilation_cache")


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """Sets the backend, $XDG_CACHE_HOME and perhaps JAX's own variable; returns JAX's two options after the call."""
    before = {name: getattr(jax.config, name) for name in OPTIONS}

    def call(backend, given=None):
        monkeypatch.setattr(jax, "default_backend", lambda: backend)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
        if given is not None:
            monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", given)
        keep_compiled()
        return tuple(getattr(jax.config, name) for name in OPTIONS)

    yield call
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_of_accelerators_are_kept_in_the_users_cache(cache, tmp_path):
    assert cache("gpu") == (str(tmp_path / "shapjax"), True)


@pytest.mark.parametrize(("backend", "given"), [("cpu", None), ("gpu", "/elsewhere")])
def test_cpus_and_a_directory_of_the_users_own_are_left_to_jax(cache, backend, given):
    before = jax.config.jax_compilation_cache_dir
    assert cache(backend, given) == (before, True)


def test_an_empty_directory_means_nothing_is_kept(cache):
    assert not cache("gpu", "")[1]


@pytest.mark.parametrize(("width", "devices"), [(64, 0), (384, 1), (None, 0)])
def test_a_loaded_model_gets_the_devices_that_training_chooses_and_a_damaged_one_is_left_to_load(
        width, devices, monkeypatch, tmp_path):
    def newest_meta(directory):
        if width is None:
            raise UserError("damaged")
        config = default_config()
        config.model.width = width
        return Meta(config, ("a", "b"), (28, 28, 1), (0.5,), (0.5,))

    chosen = []
    monkeypatch.setattr(cli, "newest_meta", newest_meta)
    monkeypatch.setattr(machine, "split_cpu", chosen.append)
    monkeypatch.setattr(cli, "keep_compiled", lambda: None)
    settle_devices(tmp_path)
    assert chosen == [devices]
