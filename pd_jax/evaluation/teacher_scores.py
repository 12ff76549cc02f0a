"""A teacher's score with all that it depends on, so that many students can be compared with one score."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pd_jax.config.distill import DistillConfig
from pd_jax.environments.tasks import Task
from pd_jax.errors import UserError
from pd_jax.evaluation.protocol import play_games
from pd_jax.evaluation.statistics import summarise_scores
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
      protocol: what `protocol_of` gives.
      scores: what `pd_jax.evaluation.statistics.summarise_scores` makes of the returns.
    """

    game: str
    fingerprint: str
    protocol: Mapping[str, Any]
    scores: Mapping[str, Any]

    def check_fits(self, config: DistillConfig, task: Task, teacher: Teacher) -> None:
        """Raises a UserError unless this is the very score that a run with these settings would find."""
        if (self.game, self.fingerprint) != (task.name, teacher.sha256):
            raise UserError(
                f"the score given for the teacher is of {self.game} by {self.fingerprint[:12]}, "
                f"and the run's is of {task.name} by {teacher.sha256[:12]}"
            )
        wanted = protocol_of(config, task)
        for name in [*wanted, *(name for name in self.protocol if name not in wanted)]:
            found = self.protocol.get(name)
            if found != wanted.get(name):
                raise UserError(
                    f"the score given for the teacher of {self.game} was taken with {name} {found}, "
                    f"and the run's evaluation has {wanted.get(name)}"
                )


def protocol_of(config: DistillConfig, task: Task) -> dict[str, Any]:
    """All settings of a run that its teacher's score depends on, and nothing else."""
    evaluation, env = config.evaluation, config.env
    return {
        "episodes": evaluation.episodes,
        "num_lanes": evaluation.num_lanes,
        "epsilon": evaluation.epsilon,
        "seed": config.seed + evaluation.seed_offset,
        "max_episode_steps": evaluation.max_episode_steps or env.max_episode_steps or task.max_episode_steps,
        "max_noops": env.max_noops,
        "sticky_action_probability": env.sticky_action_probability,
    }


def score_teacher(config: DistillConfig, task: Task, teacher: Teacher) -> TeacherScore:
    """Plays the games that a run with these settings would score its teacher by.

    Raises:
      Interrupted: a signal came.
    """
    with Interrupts() as interrupts, Progress(f"evaluate the {task.name} teacher") as progress:
        played = play_games(
            teacher.network.apply,
            teacher.variables,
            task,
            config.evaluation,
            config.env,
            episodes=config.evaluation.episodes,
            seed=config.seed,
            meter=progress.add("games", config.evaluation.episodes),
            interrupts=interrupts,
        )
    return TeacherScore(task.name, teacher.sha256, protocol_of(config, task), summarise_scores(played.returns))


def write_teacher_score(path: Path, score: TeacherScore) -> None:
    """Keeps a score as JSON. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(to_json(dataclasses.asdict(score)), indent=2) + "\n")


def read_teacher_score(path: Path) -> TeacherScore | None:
    """What `write_teacher_score` kept; None if there is nothing, or nothing that can be read."""
    try:
        return TeacherScore(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
