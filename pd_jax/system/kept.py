"""What was made of equal arguments is taken again: programs, above all, which take seconds to compile."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def kept(most: int) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """As `functools.lru_cache`, of functions whose arguments need not have a hash: of those it is called each time.

    Args:
      most: results that are kept; the one that was taken longest ago makes room.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        cached = functools.lru_cache(maxsize=most)(function)

        @functools.wraps(function)
        def call(*arguments: P.args, **named: P.kwargs) -> T:
            try:
                # A TypeError of the function itself is not to be taken for a missing hash.
                hash((arguments, tuple(named.values())))
            except TypeError:
                return function(*arguments, **named)
            return cached(*arguments, **named)  # type: ignore[arg-type]

        return call

    return decorate
