"""``summary.json``: what a run says of itself at its end, for whoever writes it and whoever reads it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pd_jax.errors import UserError
from pd_jax.evaluation.scores import Score
from pd_jax.evaluation.statistics import floored_mean, geometric_mean, percent_of_teacher
from pd_jax.system.text import printable, show
from pd_jax.system.values import count, number

T = TypeVar("T")

_OF_A_GAME = frozenset(
    [f"{who}_{name}" for who in ("teacher", "student") for name in ("score", "standard_error", "ci95", "episodes")]
    + ["episodes", "random_score", "percent_of_teacher", "percent_of_teacher_normalised"]
)
_COUNTS = ("student_parameters", "teacher_parameters", "env_steps", "updates")
_MEANS = (
    "geometric_mean_percent",
    "geometric_mean_percent_normalised",
    "geometric_mean_percent_normalised_floored",
    "floored_games",
)


@dataclasses.dataclass(frozen=True)
class GameSummary:
    """What a summary says of one game.

    Attributes:
      teacher, student: their scores under one protocol; None if one did not play.
      random_score: of random play, None where it is not known.
      about: more entries, such as ``play_stopped_at``.
    """

    teacher: Score | None
    student: Score | None
    random_score: float | None = None
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def percent_of_teacher(self) -> float | None:
        """The paper's measure; None for a teacher whose score is not positive, or if one did not play."""
        return self._percent(0.0)

    @property
    def percent_of_teacher_normalised(self) -> float | None:
        """Of what the teacher's score lies above random play; None where that is not known or not above it."""
        return None if self.random_score is None else self._percent(self.random_score)

    @property
    def episodes(self) -> int:
        """The student's, or those of the teacher alone."""
        score = self.student or self.teacher
        return 0 if score is None else score.episodes

    def to_json(self) -> dict[str, Any]:
        """Scores by who has them; of two that are compared, the percentages too."""
        entry: dict[str, Any] = {}
        for who, score in (("teacher", self.teacher), ("student", self.student)):
            if score is not None:
                entry |= score.entries(who)
        if self.teacher is None or self.student is None:
            random = {} if self.random_score is None else {"random_score": self.random_score}
            return entry | {"episodes": self.episodes} | random | dict(self.about)
        return {
            **entry,
            "random_score": self.random_score,
            "percent_of_teacher": self.percent_of_teacher,
            "percent_of_teacher_normalised": self.percent_of_teacher_normalised,
            "episodes": self.student.episodes,
            "teacher_episodes": self.teacher.episodes,
            **self.about,
        }

    @classmethod
    def from_json(cls, entry: Mapping[str, Any], where: str) -> GameSummary:
        """What :meth:`to_json` made. Raises a UserError for a value that has another type, or is impossible."""
        return cls(
            teacher=Score.from_entries(entry, "teacher", where),
            student=Score.from_entries(entry, "student", where),
            random_score=number(entry, "random_score", where),
            about={name: value for name, value in entry.items() if name not in _OF_A_GAME},
        )

    def _percent(self, random: float) -> float | None:
        if self.teacher is None or self.student is None:
            return None
        return percent_of_teacher(self.student.mean, self.teacher.mean, random)


@dataclasses.dataclass(frozen=True, eq=False)
class Summary(Mapping[str, Any]):
    """The summary of a run; a mapping too, of what ``summary.json`` holds, and equal to any that holds the same.

    Attributes:
      games: by name, what is said of each.
      student_parameters: of the one student; None if there is none.
      teacher_parameters: of all teachers together, so that ``compression`` says how much smaller the student is; None
        if none was scored.
      wall_seconds: the whole run's time.
      env_steps: control steps played for training.
      updates: minibatch updates.
      about: more entries, such as ``loss`` or ``network``; plain values.
      is_flat: whether the only game's entries stand among the others, as ``train-teacher`` has them.
    """

    games: Mapping[str, GameSummary]
    student_parameters: int | None = None
    teacher_parameters: int | None = None
    wall_seconds: float | None = None
    env_steps: int | None = None
    updates: int | None = None
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    is_flat: bool = False

    @classmethod
    def compare(
        cls,
        teachers: Mapping[str, Score],
        students: Mapping[str, Score],
        *,
        random_scores: Mapping[str, float | None] | None = None,
        about_games: Mapping[str, Mapping[str, Any]] | None = None,
        **rest: Any,
    ) -> Summary:
        """The summary of students beside teachers.

        Args:
          teachers: scores by game.
          students: likewise, of the same games under the same protocol.
          random_scores: by game, the score of random play; a game without one has no normalised percentage.
          about_games: by game, more entries.
          **rest: the other fields.

        Raises:
          ValueError: the games are not the same, or there are none.
        """
        if teachers.keys() != students.keys() or not teachers:
            raise ValueError(f"teachers play {sorted(teachers)} and the student plays {sorted(students)}")
        randoms, about = random_scores or {}, about_games or {}
        games = {
            game: GameSummary(teachers[game], students[game], randoms.get(game), about.get(game, {}))
            for game in teachers
        }
        return cls(games, **rest)

    @property
    def is_comparison(self) -> bool:
        """Whether both a student and its teachers were scored."""
        return all(game.teacher is not None and game.student is not None for game in self.games.values())

    @property
    def geometric_mean_percent(self) -> float | None:
        """Over the games; None if a percentage is undefined or negative."""
        return geometric_mean([game.percent_of_teacher for game in self.games.values()])

    @property
    def above_random(self) -> dict[str, Any]:
        """The mean over games of scores above random that all tables show; see `floored_mean`."""
        return floored_mean({name: game.percent_of_teacher_normalised for name, game in self.games.items()})

    @property
    def compression(self) -> float | None:
        """How many times as many parameters the teachers have."""
        if self.teacher_parameters is None or not self.student_parameters:
            return None
        return self.teacher_parameters / self.student_parameters

    def with_about(self, **entries: Any) -> Summary:
        """The same with more entries."""
        return dataclasses.replace(self, about={**self.about, **entries})

    def to_json(self) -> dict[str, Any]:
        """A mapping that JSON can hold; NaN is left to the writer."""
        games = {name: game.to_json() for name, game in self.games.items()}
        whole: dict[str, Any] = {"games": games}
        if self.is_flat:
            ((name, entry),) = games.items()
            whole = {"game": name, **entry}
        if self.is_comparison:
            normalised = [game.percent_of_teacher_normalised for game in self.games.values()]
            whole |= {
                "geometric_mean_percent": self.geometric_mean_percent,
                "geometric_mean_percent_normalised": geometric_mean(normalised),
                **self.above_random,
                "compression": self.compression,
            }
        for name in ("student_parameters", "teacher_parameters", "wall_seconds", "env_steps", "updates"):
            if (value := getattr(self, name)) is not None:
                whole[name] = value
        return whole | dict(self.about)

    @classmethod
    def from_json(cls, summary: Mapping[str, Any], where: str = "") -> Summary:
        """What :meth:`to_json` made, now or in an earlier version; what follows from the scores is worked out anew.

        Args:
          summary: of a run whose command ends in scores.
          where: what messages begin with, such as ``"runs/pong/summary.json: "``.

        Raises:
          UserError: a value has another type or is impossible, or this is no such summary.
        """
        entries, is_flat = _games_of(summary, where)
        games = {
            name: GameSummary.from_json(entry, f"{where}games.{printable(name)}.") for name, entry in entries.items()
        }
        if is_flat:
            ((name, game),) = games.items()
            games = {name: dataclasses.replace(game, about={})}
        known = {"games", *_COUNTS, *_MEANS, "compression", "wall_seconds", *({"game", *_OF_A_GAME} if is_flat else ())}
        return cls(
            games=games,
            **{name: count(summary, name, where) for name in _COUNTS},
            wall_seconds=number(summary, "wall_seconds", where),
            about={name: value for name, value in summary.items() if name not in known},
            is_flat=is_flat,
        )

    def __getitem__(self, key: str) -> Any:
        return self._json[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._json)

    def __len__(self) -> int:
        return len(self._json)

    @functools.cached_property
    def _json(self) -> dict[str, Any]:
        return self.to_json()


def _games_of(summary: Mapping[str, Any], where: str) -> tuple[dict[str, Mapping[str, Any]], bool]:
    """The entries of ``games``, and whether there is no such level: ``train-teacher`` of one game has none."""
    games = summary.get("games")
    is_flat = games is None and isinstance(summary.get("game"), str)
    if is_flat:
        games = {summary["game"]: summary}
    if not isinstance(games, dict) or not games:
        raise UserError(f"{where}games: {show(games)} is not a mapping of games; it is not the summary of a run")
    for name, entry in games.items():
        if not isinstance(entry, dict):
            raise UserError(f"{where}games.{printable(name)}: {show(entry)} is not a mapping of scores")
        if "teacher_score" not in entry and "student_score" not in entry:
            raise UserError(f"{where}games.{printable(name)}: has neither teacher_score nor student_score")
    return games, is_flat


def one_or_list(values: Sequence[T]) -> T | list[T]:
    """What a summary says where there is one for each game: with one game, just that one."""
    return values[0] if len(values) == 1 else list(values)
