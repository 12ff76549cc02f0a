"""How long play takes, and how much of that is inference: stepping hides inside a compiled rollout."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import statistics
import time
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array, lax

from pd_jax.environments.envpool import TimeStep
from pd_jax.networks.lane_policy import LanePolicy, as_lane_policy
from pd_jax.system.computing import computing
from pd_jax.system.devices import platform_of, tracing_for
from pd_jax.types import PolicyApply

_DECISIONS = 4
"""Of a probe, in one compiled scan: as in a rollout, dispatch then costs next to nothing."""
_PROBE_SECONDS = 0.05
_MOST_SCANS = 16
_REMEMBERED = 16


class RolloutTime:
    """Wall time of a game's rollouts, in whichever thread plays them.

    Attributes:
      seconds: of all rollouts so far.
      inference_share: of the seconds, once it is known; the rest is stepping, with the little that belongs to it.
    """

    def __init__(self) -> None:
        """Nothing has been played yet."""
        self.seconds = 0.0
        self.inference_share: float | None = None
        self._each: list[float] = []

    def count(self, seconds: float, rollouts: int = 1) -> None:
        """Adds one rollout, or several that were played in one call."""
        self.seconds += seconds
        if len(self._each) < _REMEMBERED:
            self._each.append(seconds / rollouts)

    @property
    def usual_seconds(self) -> float | None:
        """Of one of the first rollouts but the very first, which is compiled on the way; None before there are two."""
        return statistics.median(self._each[1:]) if len(self._each) > 1 else None


class InferenceProbe:
    """Times the decisions of a rollout alone. Changes nothing in the play, and asks no random numbers of it.

    Args:
      policies: of all that decide at every step: the policy, its variables and its state.
      timestep: that they are shown; each decision sees its observations in another order of lanes, for XLA would take
        what is always the same out of the loop.
    """

    def __init__(self, policies: tuple[tuple[PolicyApply | LanePolicy, Any, Any], ...], timestep: TimeStep) -> None:
        all_policies, variables, states = zip(*policies, strict=True)
        self._platform = platform_of(timestep.observations)
        self._arguments = tuple(map(as_lane_policy, all_policies)), variables, states, timestep
        self._decide()

    def seconds(self) -> float:
        """Seconds of one decision of all lanes, the median of a few; takes no longer than a moment."""
        each: list[float] = []
        while not each or (sum(each) < _PROBE_SECONDS and len(each) < _MOST_SCANS):
            started = time.perf_counter()
            self._decide()
            each.append(time.perf_counter() - started)
        return statistics.median(each) / _DECISIONS

    def _decide(self) -> None:
        with tracing_for(self._platform):
            jax.block_until_ready(_decide(*self._arguments))


class Probed(Protocol):
    """Play whose inference can be timed."""

    def probe_inference(self) -> InferenceProbe | None:
        """What times it, ready for use; None if that cannot be done."""
        ...

    def note_inference(self, seconds: float) -> None:
        """Takes what one decision of all lanes takes."""
        ...


class InferenceTimer:
    """Finds out once how much of the play is inference, at no time that anyone notices.

    Probes are compiled in threads while the updates of the first round run, but not before the first of them are done,
    and used after the play of the second, when nothing else is going on. Those of several games are used at once, as
    the games are played.

    Args:
      plays: of the games that are played live.
    """

    def __init__(self, plays: Sequence[Probed]) -> None:
        self._plays = plays
        self._threads: concurrent.futures.ThreadPoolExecutor | None = None
        self._probes: list[concurrent.futures.Future[InferenceProbe | None]] = []
        self._rounds = 0
        self._calls = 0

    def note_call(self) -> None:
        """A call of updates is under way. With the second one, the first is over: a start waits for nothing else."""
        self._calls += 1
        if self._rounds == 1 and self._calls == 2:
            self._begin()

    def note_round(self) -> None:
        """A round has been played."""
        self._rounds += 1
        if not self._plays or self._rounds > 2:
            return
        if self._rounds == 1:
            return
        self._begin()
        assert self._threads is not None
        # That it is not known is no reason to end a run.
        with contextlib.suppress(RuntimeError):
            probes = [(play, probe.result()) for play, probe in zip(self._plays, self._probes, strict=True)]
            used = [
                (play, self._threads.submit(computing()(probe.seconds))) for play, probe in probes if probe is not None
            ]
            for play, seconds in used:
                play.note_inference(seconds.result())
        self.close()

    def _begin(self) -> None:
        """Has the probes made, unless that has begun."""
        if self._plays and self._threads is None:
            self._threads = concurrent.futures.ThreadPoolExecutor(len(self._plays), "probe")
            self._probes = [self._threads.submit(computing()(play.probe_inference)) for play in self._plays]

    def close(self) -> None:
        """Ends the threads, once they have compiled what they were compiling."""
        if self._threads is not None:
            self._threads.shutdown()
            self._threads, self._probes = None, []


@functools.partial(jax.jit, static_argnums=0)
def _decide(
    policies: tuple[LanePolicy, ...], variables: tuple[Any, ...], states: tuple[Any, ...], timestep: TimeStep
) -> Array:
    def once(_: Array, shift: Array) -> tuple[Array, Array]:
        seen = dataclasses.replace(timestep, observations=jnp.roll(timestep.observations, shift, axis=0))
        key = jax.random.key(shift)
        decided = (
            policy.decide(own, seen, state, key)[0]
            for policy, own, state in zip(policies, variables, states, strict=True)
        )
        return shift, jnp.stack([outputs.argmax(axis=-1) for outputs in decided])

    return lax.scan(once, jnp.int32(0), jnp.arange(_DECISIONS))[1]
