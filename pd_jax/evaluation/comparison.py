"""What a student chooses where its teacher would choose: agreement, confusion, and the moments that cost most.

Plain NumPy and JSON; `pd_jax.evaluation.sampled_states` gathers the states.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pd_jax.errors import UserError
from pd_jax.system.text import printable, show
from pd_jax.system.values import count, number

MOMENTS = 5
_APART = 30
"""Steps between two moments of one game: two seconds of Atari."""
_LEAST = 1e-6
"""A smaller cost is how sums were rounded."""
_FRAMES = (84, 84, 4)
_MOST_ACTIONS = 1000
_MOST_NUMBERS = 10_000


@dataclasses.dataclass(frozen=True, eq=False)
class Moment:
    """A state in which the student chooses something else than its teacher.

    Attributes:
      game: which of the lane's games, and lane, as ``lane, game``; both from 0.
      step: decisions since the game began.
      cost: what the student's choice is worth less than the teacher's, by the teacher's own outputs; > 0.
      teacher_outputs: Q-values or logits, float ``[actions]``.
      student_probabilities: the student's policy, float ``[actions]``.
      teacher_choice, student_choice: greedy actions.
      observation: uint8 ``[84, 84, 4]``, oldest frame first, or float ``[D]``.
    """

    game: tuple[int, int]
    step: int
    cost: float
    teacher_outputs: np.ndarray
    student_probabilities: np.ndarray
    teacher_choice: int
    student_choice: int
    observation: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """Plain values; frames are zlib's bytes in base64."""
        seen = self.observation
        if seen.dtype == np.uint8:
            shown: Any = base64.b64encode(zlib.compress(np.ascontiguousarray(seen).tobytes(), 9)).decode()
        else:
            shown = [float(value) for value in seen]
        return {
            "lane": self.game[0],
            "game_of_lane": self.game[1],
            "step": self.step,
            "cost": self.cost,
            "teacher_choice": self.teacher_choice,
            "student_choice": self.student_choice,
            "teacher_outputs": [float(value) for value in self.teacher_outputs],
            "student_probabilities": [float(value) for value in self.student_probabilities],
            "frames" if seen.dtype == np.uint8 else "observation": shown,
        }

    @classmethod
    def from_json(cls, entry: Any, actions: int, where: str) -> Moment:
        """What :meth:`to_json` made. Raises a UserError for anything else."""
        if not isinstance(entry, dict):
            raise UserError(f"{where[:-1]}: {show(entry)} is not a mapping")
        teacher_choice, student_choice = (_count(entry, f"{who}_choice", where) for who in ("teacher", "student"))
        if max(teacher_choice, student_choice) >= actions:
            raise UserError(f"{where}choice: there are {actions} actions")
        cost = number(entry, "cost", where)
        if cost is None or cost < 0:
            raise UserError(f"{where}cost: {show(entry.get('cost'))} is not a number from 0 on")
        if "frames" in entry:
            observation = _frames(entry["frames"], where)
        else:
            observation = _numbers(entry, "observation", None, where)
        return cls(
            game=(_count(entry, "lane", where), _count(entry, "game_of_lane", where)),
            step=_count(entry, "step", where),
            cost=cost,
            teacher_outputs=_numbers(entry, "teacher_outputs", actions, where),
            student_probabilities=_numbers(entry, "student_probabilities", actions, where),
            teacher_choice=teacher_choice,
            student_choice=student_choice,
            observation=observation,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """Student and teacher, asked about the same states of the student's own play.

    Attributes:
      actions: their names.
      every: one of so many decisions of each lane was asked about.
      confusion: int ``[teacher's choice, student's choice]``, states.
      mean_cost: over all states, of what the student's choices cost by the teacher's own outputs.
      gives_logits: whether these are a policy's logits; otherwise they are Q-values.
      moments: the worst, the dearest first.
    """

    actions: tuple[str, ...]
    every: int
    confusion: np.ndarray
    mean_cost: float
    gives_logits: bool
    moments: tuple[Moment, ...]

    @property
    def states(self) -> int:
        """That both were asked about."""
        return int(self.confusion.sum())

    @property
    def agreement(self) -> float | None:
        """Share of the states in which both choose the same."""
        return float(np.trace(self.confusion)) / self.states if self.states else None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "states": self.states,
            "every": self.every,
            "agreement": self.agreement,
            "mean_cost": self.mean_cost,
            "teacher_gives": "logits" if self.gives_logits else "q",
            "actions": list(self.actions),
            "confusion": self.confusion.tolist(),
            "moments": [moment.to_json() for moment in self.moments],
        }

    @classmethod
    def from_json(cls, entry: Any, where: str) -> Comparison:
        """What :meth:`to_json` made.

        Args:
          entry: the mapping.
          where: what messages begin with.

        Raises:
          UserError: it is anything else.
        """
        if not isinstance(entry, dict):
            raise UserError(f"{where[:-1]}: {show(entry)} is not a mapping")
        names = entry.get("actions")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{where}actions: {show(names)} is not a list of names")
        moments = entry.get("moments")
        if not isinstance(moments, list) or len(moments) > _MOST_ACTIONS or not 0 < len(names) <= _MOST_ACTIONS:
            raise UserError(f"{where}moments: {show(moments)} is not a list of moments")
        cost = number(entry, "mean_cost", where)
        return cls(
            actions=tuple(map(printable, names)),
            every=_count(entry, "every", where),
            confusion=_confusion(entry, len(names), where),
            mean_cost=0.0 if cost is None else cost,
            gives_logits=entry.get("teacher_gives") == "logits",
            moments=tuple(
                Moment.from_json(moment, len(names), f"{where}moments.{place}.") for place, moment in enumerate(moments)
            ),
        )


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a state is in the play: of which lane, in which of its games, how many decisions after it began."""

    lane: int
    game: int
    step: int


def compare(
    teacher: np.ndarray,
    student: np.ndarray,
    places: Sequence[Place],
    observations: Sequence[Any],
    *,
    actions: Sequence[str],
    every: int,
    student_temperature: float,
    gives_logits: bool,
) -> Comparison:
    """Compares what two policies say of the same states; states of which either says NaN or infinite are left out.

    Args:
      teacher: its outputs, float ``[N, actions]``.
      student: its outputs, likewise.
      places: of the N states.
      observations: N; what gives one of them by its index is asked for few.
      actions: their names.
      every: as `Comparison` has it.
      student_temperature: its outputs over it are the logits of its policy.
      gives_logits: whether the teacher's outputs are logits.
    """
    sound = np.flatnonzero(np.isfinite(teacher).all(axis=1) & np.isfinite(student).all(axis=1))
    taught, own = teacher[sound].astype(np.float64), student[sound].astype(np.float64)
    choices, chosen, size = taught.argmax(axis=1), own.argmax(axis=1), len(actions)
    costs = taught.max(axis=1, initial=-np.inf) - np.take_along_axis(taught, chosen[:, None], axis=1)[:, 0]
    moments: list[Moment] = []
    seen: set[bytes] = set()
    for index in np.argsort(-costs, kind="stable").tolist():
        place = places[sound[index]]
        if len(moments) == MOMENTS or costs[index] <= _LEAST:
            break
        if any(
            moment.game == (place.lane, place.game) and abs(moment.step - place.step) < _APART for moment in moments
        ):
            continue
        observation = np.asarray(observations[sound[index]])
        # Games that open alike show the same.
        if observation.tobytes() in seen:
            continue
        seen.add(observation.tobytes())
        scaled = own[index] / student_temperature
        likely = np.exp(scaled - scaled.max())
        moments.append(
            Moment(
                game=(place.lane, place.game),
                step=place.step,
                cost=float(costs[index]),
                teacher_outputs=taught[index],
                student_probabilities=likely / likely.sum(),
                teacher_choice=int(choices[index]),
                student_choice=int(chosen[index]),
                observation=observation,
            )
        )
    return Comparison(
        actions=tuple(actions),
        every=every,
        confusion=np.bincount(choices * size + chosen, minlength=size * size).reshape(size, size),
        mean_cost=float(costs.mean()) if len(costs) else 0.0,
        gives_logits=gives_logits,
        moments=tuple(moments),
    )


def _count(entry: Mapping[str, Any], key: str, where: str) -> int:
    value = count(entry, key, where)
    if value is None:
        raise UserError(f"{where}{key}: is missing")
    return value


def _numbers(entry: Mapping[str, Any], key: str, size: int | None, where: str) -> np.ndarray:
    values = entry.get(key)
    is_list = isinstance(values, list) and len(values) <= _MOST_NUMBERS and (size is None or len(values) == size)
    if not isinstance(values, list) or not is_list:
        raise UserError(f"{where}{key}: {show(values)} is not a list of {'' if size is None else f'{size} '}numbers")
    found = [number({key: value}, key, where) for value in values]
    return np.array([np.nan if value is None else value for value in found])


def _confusion(entry: Mapping[str, Any], size: int, where: str) -> np.ndarray:
    rows = entry.get("confusion")
    if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == size for row in rows):
        raise UserError(f"{where}confusion: {show(rows)} is not a table of {size} x {size} counts")
    counts = [[count({"confusion": value}, "confusion", where) or 0 for value in row] for row in rows]
    if len(counts) != size or max(map(max, counts)) > 2**40:
        raise UserError(f"{where}confusion: {show(rows)} is not a table of {size} x {size} counts")
    return np.array(counts, np.int64).reshape(size, size)


def _frames(text: Any, where: str) -> np.ndarray:
    size = int(np.prod(_FRAMES))
    try:
        decompressor = zlib.decompressobj()
        content = decompressor.decompress(base64.b64decode(text, validate=True), size + 1)
    except (TypeError, ValueError, binascii.Error, zlib.error):
        raise UserError(f"{where}frames: are not zlib's bytes in base64") from None
    if len(content) != size:
        raise UserError(f"{where}frames: are not of shape 84 x 84 x 4")
    return np.frombuffer(content, np.uint8).reshape(_FRAMES)
