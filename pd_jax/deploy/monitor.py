"""A monitor of a policy at work: decisions in, alarms out. NumPy and river are all that it needs.

Example:
  In a control loop, beside `pd_jax.deploy.runtime`::

    policy, monitor = Policy.load("pong.onnx"), Monitor.load("thresholds.json")
    while True:
        outputs, actions = policy.decide(frames)
        alarm = monitor.update(outputs, frames=frames, actions=actions, is_first=is_first)
        if alarm is not None:
            print(alarm)
"""

from __future__ import annotations

import copy
import dataclasses
import os
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from pd_jax.deploy.calibration import Blocks
from pd_jax.deploy.signals import Decisions, sight_of
from pd_jax.deploy.thresholds import Thresholds
from pd_jax.errors import UserError

__all__ = ["Alarm", "Decisions", "Monitor"]

NOT_FINITE = "not_finite"
"""The signal of outputs or features that are NaN or infinite: an alarm at once."""
# Blocks that an alarm's own numbers are a mean of.
_RECENT = 8


@dataclasses.dataclass(frozen=True)
class Alarm:
    """The play is not what it was when the thresholds were made.

    Attributes:
      decision: number of decisions so far, of all lanes together, this one among them.
      lane: whose block it was that the alarm came with.
      signal: that has changed.
      direction: ``"above"`` or ``"below"`` what is usual; ``"none"`` for numbers that are none.
      value: mean of the signal over the last blocks, up to eight.
      usual: mean in healthy play.
      deviations: by which the blocks differ from what is usual, given the signals that explain this one; in deviations
        of a block of healthy play.
      threshold: of the test, in the same.
    """

    decision: int
    lane: int
    signal: str
    direction: str
    value: float | None
    usual: float | None
    deviations: float | None
    threshold: float | None

    def to_json(self) -> dict[str, Any]:
        """As JSON can say it."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        if self.value is None or self.usual is None or self.deviations is None:
            return f"decision {self.decision:,}: outputs or features that are not finite"
        return (
            f"decision {self.decision:,}: {self.signal} {self.value:.4g} is {self.direction} the usual "
            f"{self.usual:.4g}; given the rest, by {abs(self.deviations):.1f} deviations of a block"
        )


class Monitor:
    """Compares decisions with thresholds; made by :meth:`Monitor.load`.

    Each signal's means over blocks of a lane are tested by two `river.drift.PageHinkley`, for rises and for falls.
    These have seen as many blocks of nothing unusual as the thresholds were made from. A signal that has raised an
    alarm is silent until :meth:`reset`.

    Args:
      thresholds: of the policy.

    Attributes:
      thresholds: the same.
      alarms: so far, oldest first.
      decisions: so far, of all lanes together.
      blocks: so far.
      history: of the blocks so far: decisions, and deviations ``[S]`` by signal; up to the newest 10,000.
      is_watched: bool ``[S]``: signals that there were values of.
    """

    def __init__(self, thresholds: Thresholds) -> None:
        try:
            from river.drift import PageHinkley
        except ImportError:
            raise UserError("monitor: needs river, which is not installed: pip install 'pd-jax[monitor]'") from None
        limits = thresholds.limits
        self._seed = PageHinkley(min_instances=1, delta=thresholds.slack, threshold=np.inf, alpha=1.0, mode="up")
        for _ in range(limits.blocks):
            self._seed.update(0.0)
        self.thresholds = thresholds
        self.alarms: list[Alarm] = []
        self.decisions = self.blocks = 0
        self.history: deque[tuple[int, np.ndarray]] = deque(maxlen=10_000)
        self.is_watched = np.zeros(len(thresholds.model.names), bool)
        self._memory: Any = None
        self._restarts = self._is_broken = np.zeros(0, bool)
        self._full = Blocks(thresholds.block_size)
        self.reset()

    def reset(self) -> None:
        """Tests begin anew, and signals that have raised an alarm may raise another. What was counted stays."""
        self._silent: set[str] = set()
        self._tests: dict[int, list[tuple[int, str, float, Any]]] = {}
        self._recent: dict[int, deque[tuple[np.ndarray, np.ndarray]]] = {}

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, parameters: str | None = None) -> Monitor:
        """Reads ``thresholds.json``.

        Args:
          path: of the file.
          parameters: SHA-256 of the parameters of the policy that is watched: ``metadata["hashes"]["parameters"]`` of
            an exported one. None leaves it unchecked.

        Raises:
          UserError: no such file, not ours, altered, damaged, of a newer pd_jax or of another policy; or there is no
            river.
        """
        thresholds = Thresholds.load(path)
        if parameters is not None:
            thresholds.check_policy(parameters, f"one with parameters {parameters[:12]}", os.fspath(path))
        return cls(thresholds)

    def update(
        self,
        outputs: np.ndarray | Sequence[float],
        features: np.ndarray | None = None,
        *,
        frames: np.ndarray | None = None,
        actions: np.ndarray | int | None = None,
        is_first: np.ndarray | bool | None = None,
        is_decided: np.ndarray | bool | None = None,
        teacher_actions: np.ndarray | int | None = None,
    ) -> Alarm | None:
        """Takes in one decision, or one of each of N lanes, always as many.

        Args:
          outputs: ``[A]`` or ``[N, A]``: what the policy's actions are chosen by.
          features: ``[F]`` or ``[N, F]`` of its last layer but one, if they are to be had.
          frames: what it saw: uint8 ``[N, 84, 84, 4]`` or float32 ``[N, D]``, or one of these.
          actions: what was done; the greedy actions by default.
          is_first: whether an episode begins here.
          is_decided: False for what is shown after the end of an episode, where nothing is decided.
          teacher_actions: what the teacher would have done.

        Returns:
          an alarm, the first one where there are several (all are in ``alarms``); None if there is none.

        Raises:
          UserError: another number of lanes, actions or features than before, or than the thresholds are for.
        """
        outputs = np.atleast_2d(np.asarray(outputs, np.float64))
        count = len(outputs)
        if outputs.ndim != 2:
            raise UserError(f"outputs are {list(outputs.shape)}, and [N, actions] is right")

        def of_lanes(value: Any, default: Any) -> np.ndarray:
            return np.broadcast_to(np.asarray(default if value is None else value), (count,))

        def vectors(value: Any, size: int) -> np.ndarray | None:
            if value is None:
                return None
            array = np.asarray(value)
            return array if array.ndim > size else array[None]

        try:
            frames = vectors(frames, 1 if np.ndim(np.asarray(frames)) < 3 else 3)
            decisions = Decisions(
                outputs,
                of_lanes(actions, np.nan_to_num(outputs).argmax(axis=1)).astype(int),
                of_lanes(is_first, False).astype(bool),
                of_lanes(is_decided, True).astype(bool),
                vectors(features, 1),
                None if frames is None else sight_of(frames),
                None if teacher_actions is None else of_lanes(teacher_actions, 0).astype(int),
            )
        except ValueError as error:
            raise UserError(f"a decision of {count} lanes: {error}") from None
        alarms = self.take(decisions)
        return alarms[0] if alarms else None

    def take(self, decisions: Decisions) -> list[Alarm]:
        """As :meth:`update`, of what is in its form already; returns all alarms."""
        count = len(decisions.outputs)
        if not len(self._restarts):
            self._restarts, self._is_broken = np.ones(count, bool), np.zeros(count, bool)
        for name, each in zip(decisions._fields, decisions, strict=True):
            if each is not None and len(each) != len(self._restarts):
                raise UserError(f"{name} of {len(each)} lanes, and there are {len(self._restarts)}")
        self.thresholds.model.check(decisions)
        self.decisions += int(decisions.is_decided.sum())
        decisions, alarms = self._without_broken(decisions)
        values, weights, self._memory = self.thresholds.model.measure(decisions, self._memory)
        self.is_watched |= (weights > 0).any(axis=0)
        for block in self._full.add(values, weights, decisions.is_decided):
            deviations = self.thresholds.limits.usual.standardise(block.values, block.weights, self.thresholds.clip)
            self.blocks += 1
            self.history.append((self.decisions, deviations))
            self._recent.setdefault(block.lane, deque(maxlen=_RECENT)).append((block.values, deviations))
            alarms += self._test_block(block.lane, deviations)
        self.alarms += alarms
        return alarms

    def summary(self) -> dict[str, Any]:
        """What has been seen so far, as JSON can say it."""
        names = np.array(self.thresholds.model.names)
        return {
            "decisions": self.decisions,
            "blocks": self.blocks,
            "block_size": self.thresholds.block_size,
            "alarms": len(self.alarms),
            "first_alarm": self.alarms[0].to_json() if self.alarms else None,
            "signals": sorted({alarm.signal for alarm in self.alarms}),
            "watched": names[self.is_watched].tolist(),
            "not_watched": names[~self.is_watched].tolist(),
            "false_alarms_per_million": self.thresholds.false_alarms_per_million,
        }

    def _tests_of(self, lane: int) -> list[tuple[int, str, float, Any]]:
        """Index, direction, sign and test of each signal that is tested, for a lane."""
        if lane not in self._tests:
            tests = []
            for direction, sign in (("above", 1.0), ("below", -1.0)):
                thresholds = getattr(self.thresholds.limits, direction)
                for index in np.flatnonzero(np.isfinite(thresholds)):
                    # Falls are rises of what is negated.
                    test = copy.deepcopy(self._seed)
                    test.threshold = float(thresholds[index])
                    tests.append((int(index), direction, sign, test))
            self._tests[lane] = tests
        return self._tests[lane]

    def _test_block(self, lane: int, deviations: np.ndarray) -> list[Alarm]:
        names, alarms = self.thresholds.model.names, []
        for index, direction, sign, test in self._tests_of(lane):
            if np.isnan(deviations[index]) or names[index] in self._silent:
                continue
            test.update(sign * float(deviations[index]))
            if test.drift_detected:
                alarms.append(self._alarm(lane, index, direction))
                self._silent.add(names[index])
        # The clearest first.
        return sorted(alarms, key=lambda alarm: -abs(alarm.deviations or 0.0))

    def _alarm(self, lane: int, index: int, direction: str) -> Alarm:
        recent, limits = self._recent[lane], self.thresholds.limits
        value = float(np.nanmean([values[index] for values, _ in recent]))
        deviations = float(np.nanmean([deviations[index] for _, deviations in recent]))
        threshold = float(getattr(limits, direction)[index])
        name, usual = self.thresholds.model.names[index], float(limits.usual.means[index])
        return Alarm(self.decisions, lane, name, direction, value, usual, deviations, threshold)

    def _without_broken(self, decisions: Decisions) -> tuple[Decisions, list[Alarm]]:
        """Decisions in which all is finite, and alarms of those that were not, which begin anew."""
        is_broken = ~np.isfinite(decisions.outputs).all(axis=1)
        for vectors in (decisions.features, decisions.sights):
            if vectors is not None:
                is_broken |= ~np.isfinite(vectors).all(axis=1)
        alarms = [
            Alarm(self.decisions, int(lane), NOT_FINITE, "none", None, None, None, None)
            for lane in np.flatnonzero(is_broken & ~self._is_broken)
        ]
        self._is_broken = is_broken
        is_first = decisions.is_first | self._restarts | is_broken
        self._restarts = is_broken
        decisions = decisions._replace(is_first=is_first)
        if is_broken.any():

            def zeros(vectors: np.ndarray | None) -> np.ndarray | None:
                return None if vectors is None else np.where(is_broken[:, None], np.zeros_like(vectors), vectors)

            decisions = decisions._replace(
                outputs=np.where(is_broken[:, None], 0.0, decisions.outputs),
                features=zeros(decisions.features),
                sights=zeros(decisions.sights),
                is_decided=decisions.is_decided & ~is_broken,
            )
        return decisions, alarms
