"""What a run leaves open is chosen for the machine, and what it sets stays."""

import os
import pathlib
import types

import jax
import jax.numpy as jnp
import pytest

from benchmarks import scaling
from shapjax import config
from shapjax.errors import UserError
from shapjax.training import loop, machine


def settings(**changes):
    c = config.default_config()
    c.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return loop.resolve(c)


def test_the_cpu_is_split_into_a_device_a_core_unless_told_otherwise(monkeypatch):
    updates = []
    monkeypatch.setattr(jax.config, "update", lambda *x: updates.append(x))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 4}, raising=False)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    machine.split_cpu(0)
    machine.split_cpu(5)
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    machine.split_cpu(5)
    assert updates == [("jax_num_cpu_devices", 3), ("jax_num_cpu_devices", 5)]


@pytest.mark.parametrize(("cores", "devices"), [(1, 1), (2, 2), (5, 4), (7, 6), (9, 8), (10, 8), (14, 12), (20, 16),
                                                (32, 24), (64, 48)])
def test_a_batch_of_48_is_shared_by_as_many_devices_as_can(cores, devices, monkeypatch):
    updates = []
    monkeypatch.setattr(jax.config, "update", lambda *x: updates.append(x))
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # as on macOS
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    machine.split_cpu(0, rows=48)
    machine.split_cpu(3, rows=48)
    assert updates == [("jax_num_cpu_devices", devices), ("jax_num_cpu_devices", 3)]


@pytest.mark.parametrize(("images", "cores", "rows"), [(100, 32, 48), (48, 32, 48), (40, 32, 32), (18, 32, 18),
                                                        (18, 4, 16), (3, 4, 3), (0, 4, 0)])
def test_few_images_are_shared_by_as_many_cores_as_can(images, cores, rows, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert machine.rows_of(images, 48) == rows


def fitted(asked, devices, images, monkeypatch, *, begun=None, fit_batch=True, accumulate=1):
    """Returns the batch size, and what is said."""
    said = []
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    config = settings(optim__batch_size=asked, optim__accumulate=accumulate)
    begun = begun and settings(optim__batch_size=begun)
    config = machine.fit(config, begun, images=images, fit_batch=fit_batch, say=said.append)
    assert len(said) == (config.optim.batch_size != asked)
    return config.optim.batch_size, "".join(said)


@pytest.mark.parametrize(("devices", "batch_size"), [
    (1, 48), (2, 48), (5, 50), (7, 49), (9, 45), (10, 50), (14, 42), (20, 40), (32, 64), (64, 64)])
def test_a_default_batch_becomes_the_nearest_that_the_devices_share(devices, batch_size, monkeypatch):
    assert fitted(48, devices, 4000, monkeypatch)[0] == batch_size


def test_a_default_batch_is_of_the_images_that_are_there_and_a_given_one_stays(monkeypatch):
    assert fitted(48, 2, 21, monkeypatch) == (20, "batches of 20 images instead of 48, for 2 device(s) and 21 images")
    assert fitted(48, 2, 21, monkeypatch, accumulate=4)[0] == 16
    assert fitted(48, 5, 21, monkeypatch, fit_batch=False)[0] == 48
    with pytest.raises(UserError, match="3 training images, .* too few for 4 devices .*--config.run.cpu_devices=1"):
        fitted(48, 4, 3, monkeypatch)


def test_a_run_goes_on_in_the_batches_it_began_with(monkeypatch):
    assert fitted(48, 2, 4000, monkeypatch, begun=50) == (50, "batches of 50 images instead of 48, as the run began")
    assert fitted(48, 2, 4000, monkeypatch, begun=50, fit_batch=False)[0] == 48  # and `train` says that it differs


@pytest.mark.parametrize("wrong", [AttributeError, ValueError])
def test_a_system_that_does_not_tell_its_memory_is_taken_for_a_small_one(wrong, monkeypatch):
    def sysconf(name):
        raise wrong(name)

    monkeypatch.setattr(os, "sysconf", sysconf)
    assert machine._memory_bytes() == 4 * 2**30


@pytest.mark.parametrize(("changes", "devices"), [
    ({}, 0), ({"model__variant": "S/16"}, 1), ({"model__backbone": "resnet"}, 1), ({"run__cpu_devices": 2}, 2),
    ({"model__variant": "S/16", "run__cpu_devices": 2}, 2)])
def test_narrow_vits_get_a_device_a_core(changes, devices):
    assert machine.cpu_devices(settings(**changes)) == devices


@pytest.mark.parametrize(("flags", "changes", "dtype"), [
    ("fma amx_bf16 amx_tile", {}, "bfloat16_products"), ("fma avx512_bf16", {}, "bfloat16_products"),
    ("fma avx512f", {}, "float32"), (None, {}, "float32"),
    ("amx_bf16", {"model__dtype": "float32"}, "float32"), ("fma", {"model__dtype": "bfloat16"}, "bfloat16"),
    ("amx_bf16", {"model__backbone": "resnet"}, "float32")])
def test_products_are_in_bfloat16_where_the_processor_gains(flags, changes, dtype, monkeypatch):
    def read_text(path):
        if flags is None:
            raise FileNotFoundError(path)
        return f"flags\t\t: {flags}\n"

    monkeypatch.setattr(machine, "pathlib", types.SimpleNamespace(Path=lambda path: types.SimpleNamespace(
        read_text=lambda: read_text(pathlib.Path(path)))))
    assert machine.complete(settings(**changes), (28, 28, 1)).model.dtype == dtype


@pytest.mark.parametrize(("backend", "gigabytes", "changes", "remat"), [
    ("cpu", 8, {}, "none"), ("cpu", 0.1, {}, "full"), ("gpu", 8, {}, "full"),
    ("cpu", 0.1, {"model__remat": "none"}, "none"), ("cpu", 0.1, {"optim__accumulate": 4}, "none"),
    ("cpu", 8, {"model__backbone": "resnet"}, "full")])
def test_blocks_are_computed_again_where_memory_is_short(backend, gigabytes, changes, remat, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(machine, "_memory_bytes", lambda: gigabytes * 1e9)
    assert machine.complete(settings(**changes), (28, 28, 1)).model.remat == remat


@pytest.mark.parametrize("pixels", [112, 224])
def test_the_bytes_that_a_step_keeps_are_nearly_those_of_autodiff(pixels):
    c = settings(model__variant="S/16", optim__batch_size=8)
    module = scaling.make_module(f"S/16@{pixels}", remat="none", dtype=jnp.float32)
    assert machine.kept_bytes(c, (pixels, pixels, 3)) == pytest.approx(8 * scaling.kept_bytes(module), rel=0.25)


def test_a_model_that_is_larger_than_memory_is_refused_before_it_is_made(monkeypatch):
    c = settings(model__variant="S/16", optim__ema_decay=0.9)
    monkeypatch.setattr(machine, "_memory_bytes", lambda: 5 * 4 * 22_000_000)
    machine.require_memory(c, 22_000_000)
    with pytest.raises(UserError, match="22,000,001 parameters needs 0.4 GiB .* has 0.4 GiB; use a smaller model"):
        machine.require_memory(c, 22_000_001)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    machine.require_memory(c, 22_000_001)
