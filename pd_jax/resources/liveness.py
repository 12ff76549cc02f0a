"""How much memory the arrays of a function take at once, by tracing it: nothing is compiled, allocated or computed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

_LOOPS = ("scan", "while")


def tree_bytes(tree: Any) -> int:
    """What the arrays of a pytree take, or those that its ``jax.ShapeDtypeStruct`` describe."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def peak_bytes(function: Callable[..., Any], *arguments: Any) -> int:
    """The most that a function's intermediate arrays and results take at any time; its arguments are not counted.

    Operations are gone through in the order in which they were traced, and an array is let go of after its last use.
    XLA makes no array at all of what it fuses into its consumer, and may keep others for longer, or in another layout
    (`tests/resources/test_liveness.py`).

    Args:
      function: of arrays; it is traced.
      *arguments: pytrees of arrays or of ``jax.ShapeDtypeStruct``.

    Returns:
      bytes.
    """
    return _peak(jax.make_jaxpr(function)(*arguments).jaxpr)


def _peak(jaxpr: Jaxpr) -> int:
    last_use = {
        var: index
        for index, equation in enumerate(jaxpr.eqns)
        for var in equation.invars
        if not isinstance(var, Literal)
    }
    last_use |= {var: len(jaxpr.eqns) for var in jaxpr.outvars if not isinstance(var, Literal)}
    alive: dict[Any, int] = {}
    peak = 0
    for index, equation in enumerate(jaxpr.eqns):
        results = {var: _bytes(var.aval) for var in equation.outvars}
        within = max(map(_peak, _inner(equation)), default=0)
        # The results of a call are among its own arrays; those of a loop are there beside what an iteration takes.
        taken = sum(results.values())
        taken = taken + within if equation.primitive.name in _LOOPS else max(taken, within)
        peak = max(peak, sum(alive.values()) + taken)
        alive |= {var: size for var, size in results.items() if last_use.get(var, -1) > index}
        for var in equation.invars:
            if not isinstance(var, Literal) and last_use[var] == index:
                alive.pop(var, None)
    return peak


def _inner(equation: Any) -> Iterator[Jaxpr]:
    """The functions that an operation calls."""
    for value in equation.params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(each, ClosedJaxpr):
                yield each.jaxpr
            elif isinstance(each, Jaxpr):
                yield each


def _bytes(aval: Any) -> int:
    # Tokens have no shape.
    return math.prod(aval.shape) * aval.dtype.itemsize if hasattr(aval, "shape") else 0
