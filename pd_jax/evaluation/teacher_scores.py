"""A teacher's score with all that it depends on, so that many students can be compared with one score."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from pd_jax.environments.tasks import Task
from pd_jax.errors import UserError
from pd_jax.evaluation.games import heeding, play_games
from pd_jax.evaluation.protocol import Protocol
from pd_jax.evaluation.scores import Score
from pd_jax.system.files import to_json, write_atomically
from pd_jax.system.interrupts import Interrupts
from pd_jax.system.progress import Progress
from pd_jax.teachers import Teacher


@dataclasses.dataclass(frozen=True)
class TeacherScore:
    """What a teacher scores under a protocol.

    Attributes:
      game: name of its task.
      fingerprint: the teacher's.
      protocol: of the score.
      score: the teacher's.
    """

    game: str
    fingerprint: str
    protocol: Protocol
    score: Score

    def check_fits(self, protocol: Protocol, task: Task, teacher: Teacher) -> None:
        """Raises a UserError unless this is the very score that this teacher would have under this protocol."""
        if (self.game, self.fingerprint) != (task.name, teacher.sha256):
            raise UserError(
                f"the score given for the teacher is of {self.game} by {self.fingerprint[:12]}, "
                f"and the run's is of {task.name} by {teacher.sha256[:12]}"
            )
        there, wanted = ({"fire_reset": True} | each.to_json() for each in (self.protocol, protocol))
        for name, value in wanted.items():
            if there[name] != value:
                raise UserError(
                    f"the score given for the teacher of {self.game} was taken with {name} {there[name]}, "
                    f"and the run's evaluation has {value}"
                )

    def to_json(self) -> dict[str, Any]:
        """As it is kept in a file."""
        return {
            "game": self.game,
            "fingerprint": self.fingerprint,
            "protocol": self.protocol.to_json(),
            "scores": self.score.to_json(),
        }


def score_teacher(protocol: Protocol, task: Task, teacher: Teacher) -> TeacherScore:
    """Plays the games that a run with this protocol would score its teacher by.

    Raises:
      Interrupted: a signal came.
    """
    with Interrupts() as interrupts, Progress(f"evaluate the {task.name} teacher") as progress:
        on_progress = heeding(interrupts, progress.add("games", protocol.episodes))
        played = play_games(teacher.network.apply, teacher.variables, task, protocol, on_progress=on_progress)
    return TeacherScore(task.name, teacher.sha256, protocol, Score.of(played.returns))


def write_teacher_score(path: Path, score: TeacherScore) -> None:
    """Keeps a score as JSON. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(to_json(score.to_json()), indent=2) + "\n")


def read_teacher_score(path: Path) -> TeacherScore | None:
    """What `write_teacher_score` kept; None if there is nothing, or nothing that can be read."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        protocol, score = Protocol.from_json(kept["protocol"]), Score.from_json(kept["scores"])
        return TeacherScore(kept["game"], kept["fingerprint"], protocol, score)
    except (OSError, ValueError, TypeError, KeyError, UserError):
        return None
