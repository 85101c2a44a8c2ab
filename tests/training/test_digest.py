"""Digests of arrays: whatever changes in an array changes its digest, and how it is split does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from shapjax.training.digest import digests


def digest(x):
    (found,) = digests({"x": x}).values()
    return found


def numbers(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("spec", [P(), P("a"), P(None, "b"), P("b", None, "a"), P(("a", "b"))])
def test_a_digest_does_not_depend_on_how_an_array_is_split(spec):
    if jax.device_count() != 8:
        pytest.skip("needs eight devices; unset JAX_PLATFORMS to split the CPU")
    x = numbers(8, 12, 6)
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("a", "b"))
    assert digest(jax.device_put(x, NamedSharding(mesh, spec))) == digest(x) == digest(np.asfortranarray(x))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "bool"])
@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (2, 1, 3)])
def test_one_changed_byte_always_changes_it(shape, dtype):
    x = np.array(jnp.asarray(numbers(*shape), dtype))
    found = {digest(x)}
    for at in range(x.nbytes):
        other = x.copy()
        other.reshape(-1).view(np.uint8)[at] ^= 1
        found.add(digest(other))
    assert len(found) == 1 + x.nbytes


def test_other_changes_do_too():
    x, zero = numbers(6, 5, 4), np.zeros((6, 5, 4), np.float32)
    found = [digest(y) for y in (x, x[::-1], x[:, ::-1], x[..., ::-1], -x, x.reshape(5, 6, 4), np.roll(x, 1), zero)]
    found += [digest(np.concatenate([x[:3], zero[3:]])), digest(np.swapaxes(x, 0, 1))]
    assert len(set(found)) == len(found)


def test_digests_on_disk_stay_readable():
    tree = {"a": {"b": np.arange(6, dtype=np.float32).reshape(2, 3)}, "c": (jnp.int32(7), np.array([True, False]))}
    assert digests(tree) == {"a/b": "9dd62235c2e00000", "c/0": "0000000000000007", "c/1": "a5fed787b55f3e33"}
