"""The cost of a computation in floating-point operations."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core as jex


def count_flops(fn: Callable, *args: Any) -> int:
    """Counts the operations in the matrix products and convolutions of `fn(*args)`, two for a multiply-add.

    Nothing is run: the count is made in the traced program. The body of `lax.map` and `lax.scan` counts as often as it
    runs (the compiler's own `cost_analysis` counts it once). The more expensive branch of a `lax.cond` counts. A
    `lax.while_loop`, whose length is unknown, counts as one pass. Custom kernels are not counted.

    Args:
      fn: traceable by `jax.jit`; arguments that are no arrays are bound (`functools.partial`).
      args: pytrees of arrays, or of `jax.ShapeDtypeStruct`.
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
