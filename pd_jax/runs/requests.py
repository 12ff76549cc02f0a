"""What a session asks for whoever drives it: it trains one student, and what that takes may be shared with others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

FetchMetrics = Callable[[], Mapping[str, jax.Array | np.ndarray]]
"""Gives the metrics of a call, without a device axis; waits for the call to end."""


@dataclasses.dataclass(frozen=True)
class Update:
    """So many updates are to be done now; answered by a :class:`Dispatched`."""

    count: int


class Dispatched(NamedTuple):
    """A call of updates that is under way.

    Attributes:
      fetch_metrics: gives its metrics, and waits for it to end.
      take_values: gives metrics of what went on beside it, since they were last taken.
    """

    fetch_metrics: FetchMetrics
    take_values: Callable[[], dict[str, float]]


def drive(session: Generator[Any, Any, None], perform: Callable[[Any], Any]) -> None:
    """Performs what a session's generator asks for and hands it the answers; what fails is raised where it asked."""
    answer, failure = None, None
    while True:
        try:
            request = session.send(answer) if failure is None else session.throw(failure)
        except StopIteration:
            return
        answer, failure = None, None
        try:
            answer = perform(request)
        except BaseException as error:
            failure = error
