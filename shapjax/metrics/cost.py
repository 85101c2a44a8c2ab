"""What a computation costs once it is compiled: seconds, floating-point operations, memory."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import numpy as np


class Cost(NamedTuple):
    """Attributes:
      seconds: median of the timed calls, compilation and warm-up apart.
      flops: see `count_flops`.
      peak_bytes: of intermediate and output arrays on the device, as the compiler plans them; None if it does not say.
    """

    seconds: float
    flops: int
    peak_bytes: int | None


def measure(fn: Callable, *args: Any, repeats: int = 5) -> Cost:
    """Compiles `fn(*args)`, warms it up and measures it.

    Args:
      fn: traceable by `jax.jit`; whatever is not an array is bound (`functools.partial`).
      args: pytrees of arrays.
      repeats: timed calls, at least 1.
    """
    compiled = jax.jit(fn).lower(*args).compile()
    jax.block_until_ready(compiled(*args))
    memory = compiled.memory_analysis()
    return Cost(
        seconds=float(np.median([_seconds(compiled, args) for _ in range(repeats)])),
        flops=count_flops(fn, *args),
        peak_bytes=None if memory is None else memory.temp_size_in_bytes + memory.output_size_in_bytes,
    )


def _seconds(compiled: Callable, args: tuple) -> float:
    start = time.perf_counter()
    jax.block_until_ready(compiled(*args))
    return time.perf_counter() - start


def count_flops(fn: Callable, *args: Any) -> int:
    """Operations in the matrix products and convolutions of `fn(*args)`, two for a multiply-add; nothing is run.

    Counted in the traced program, passes of `lax.map` and `lax.scan` times their number (the compiler's own
    `cost_analysis` counts the body of a loop once). Of a `lax.cond` the dearer branch counts; a `lax.while_loop`, whose
    length is unknown, counts as one pass; kernels of other languages are not seen. Divided by that of one forward pass
    it is the number of passes a method takes, a gradient being about two.

    Args:
      fn, args: as for `measure`; `jax.ShapeDtypeStruct` will do for arrays.
    """
    return _flops(jax.make_jaxpr(fn)(*args).jaxpr)


def _flops(jaxpr: jex.Jaxpr) -> int:
    return sum(_equation_flops(equation) for equation in jaxpr.eqns)


def _equation_flops(equation: jex.JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    if name in ("dot_general", "conv_general_dilated"):
        left, right = (operand.aval.shape for operand in equation.invars)
        if name == "dot_general":
            summed = math.prod(left[axis] for axis in params["dimension_numbers"][0][0])
        else:
            summed = math.prod(right) // right[params["dimension_numbers"].rhs_spec[0]]
        return 2 * math.prod(equation.outvars[0].aval.shape) * summed
    parts = [part for value in params.values() for part in (value if isinstance(value, tuple | list) else (value,))]
    inner = [_flops(getattr(part, "jaxpr", part)) for part in parts if isinstance(part, jex.Jaxpr | jex.ClosedJaxpr)]
    if name == "cond":
        return max(inner)
    return sum(inner) * (params["length"] if name == "scan" else 1)
