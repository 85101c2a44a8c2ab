"""Arguments that do not fit are refused in one line that says what was given and what is expected."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapjax.games import checks, passes

KEY = jax.random.key(0)


def test_arguments_that_fit_pass_while_tracing_too():
    def check(key):
        checks.require_arguments(3, key=key, batch_size=2, coalitions=(2, 8))
        return key

    check(KEY)
    jax.eval_shape(check, jax.random.split(KEY, 3))
    checks.require_finite(np.zeros((2, 3), np.float32), "lime")
    checks.require_targets(np.array([2, 0, 1]), 3)


@pytest.mark.parametrize(("change", "message"), [
    ({"num_images": 0}, "the number of images is 0, expected at least 1"),
    ({"batch_size": 0}, "batch_size is 0, expected at least 1"),
    ({"key": jax.random.split(KEY, 2)}, r"key is key<fry> \[2\], expected one jax.random.key\(seed\)"),
    ({"key": jax.random.PRNGKey(0)}, "key is uint32"),
    ({"coalitions": (4, 5)}, "5 coalitions were asked for, expected an even number"),
    ({"coalitions": (0,)}, "0 coalitions were asked for"),
])
def test_arguments_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message) as e:
        checks.require_arguments(**{"num_images": 3, "key": KEY, "batch_size": 1} | change)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_message_names_the_method_the_images_and_their_number(bad):
    attributions = np.zeros((9, 3), np.float32)
    attributions[[1, 4], [0, 2]] = bad
    with pytest.raises(ValueError, match=r"of lime are not finite for 2 of 9 images \(rows 1, 4\)"):
        checks.require_finite(attributions, "lime")
    attributions[:] = bad
    with pytest.raises(ValueError, match=r"9 of 9 images \(rows 0, 1, 2, 3, 4, …\)"):
        checks.require_finite(attributions, "lime")


def test_attributions_of_every_class_or_pixel_are_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 4, 4\), expected \(any, any\): \[images, patches\]"):
        checks.require_finite(np.zeros((2, 4, 4)), "gradient")


@pytest.mark.parametrize("targets", [[0, 3], [0, -1]])
def test_targets_that_are_no_class_are_refused_with_their_row(targets):
    with pytest.raises(ValueError, match=f"target {targets[1]} of row 1 is no class: expected 0 to 2"):
        checks.require_targets(np.array(targets), 3)


@pytest.mark.parametrize("batch_size", [1, 4, 9])
def test_work_in_passes_is_the_work_on_all_rows(batch_size):
    x, y = np.arange(14.0, dtype=np.float32).reshape(7, 2), np.arange(7, dtype=np.float32)
    total, product = passes.in_passes(lambda x, y: (x.sum(axis=1), x * y[:, None]), x, y, batch_size=batch_size)
    np.testing.assert_array_equal(total, x.sum(axis=1))
    np.testing.assert_array_equal(product, x * y[:, None])


def test_the_rows_of_all_passes_are_alike():
    seen = []
    passes.in_passes(lambda x: seen.append(len(x)) or x, np.arange(65), batch_size=64)
    assert set(seen) == {33}


@pytest.mark.parametrize("count", [1, 4, 6, 7])
def test_of_rows_that_are_counted_the_others_are_not_computed(count):
    seen = []

    def fn(x):
        jax.debug.callback(lambda x: seen.extend(x.tolist()), x)
        return x + 1

    got = jax.jit(lambda count: passes.in_passes(fn, jnp.arange(7), batch_size=3, count=count))(count)
    jax.effects_barrier()
    np.testing.assert_array_equal(got[:count], np.arange(count) + 1)
    assert set(range(count)) <= set(seen) and len(seen) == -(-count // 3) * 3


def test_no_rows_and_no_batch_are_refused():
    with pytest.raises(ValueError, match="the number of rows is 0"):
        passes.in_passes(lambda x: x, np.zeros((0, 2)), batch_size=1)
    with pytest.raises(ValueError, match="batch_size is 0"):
        passes.in_passes(lambda x: x, np.zeros((3, 2)), batch_size=0)
