"""What an online run goes on from: both learners, the target, and where they stand."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from pd_jax.config.online import OnlineConfig
from pd_jax.distill.counters import GameCounters
from pd_jax.evaluation.scores import Score
from pd_jax.learner.learner import LearnerState, learner_template
from pd_jax.networks.student import Student
from pd_jax.online.labels import RelabelTotals
from pd_jax.runs.counters import StudentCounters
from pd_jax.trainers.learning_teacher import init_state, make_teacher_network


@flax.struct.dataclass
class OnlineState:
    """What checkpoints hold.

    Attributes:
      teacher: the learning teacher; where snapshots are given, int32, the place of the present one among them.
      student: the student's learner, without a device axis.
      target: variables of the snapshot that plays for the student; where snapshots are given, its place.
    """

    teacher: Any
    student: LearnerState
    target: Any


@dataclasses.dataclass(kw_only=True)
class OnlineCounters(StudentCounters):
    """Where an online run stands.

    Attributes:
      teacher_env_steps: control steps that the teacher has learnt from, in all lanes together.
      play: of the target, for the student.
      curve: the teacher's scores so far, as in a teacher file. They chose the best snapshot.
      best_mean: the best of their means.
      target_env_steps: control steps behind the target.
      target_changes: how often the target became another.
      scores: the latest of ``teacher``, ``target`` and ``student``.
      teacher_scored, student_scored: the rounds after which they last were; -1 for never.
      relabelling: what it has cost.
      snapshots: SHA-256 of the files that have been the teacher so far, where snapshots are given.
    """

    teacher_env_steps: int = 0
    play: GameCounters = dataclasses.field(default_factory=GameCounters)
    curve: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    best_mean: float | None = None
    target_env_steps: int = 0
    target_changes: int = 0
    scores: dict[str, Score] = dataclasses.field(default_factory=dict)
    teacher_scored: int = -1
    student_scored: int = -1
    relabelling: RelabelTotals = dataclasses.field(default_factory=RelabelTotals)
    snapshots: list[str] = dataclasses.field(default_factory=list)

    @property
    def step(self) -> int:
        """What metrics and checkpoints are numbered by: whatever the run does, the teacher's learning or the student's,
        raises it."""
        return self.teacher_env_steps + self.updates

    @property
    def env_steps(self) -> int:
        """Control steps of the target's play."""
        return self.play.env_steps

    def to_metadata(self) -> dict[str, Any]:
        """As a checkpoint has it."""
        scores = {who: score.to_json() for who, score in self.scores.items()}
        return {**dataclasses.asdict(self), "scores": scores}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> OnlineCounters:
        """What :meth:`to_metadata` made."""
        play, relabelling = GameCounters(**metadata["play"]), RelabelTotals(**metadata["relabelling"])
        scores = {who: Score.from_json(score) for who, score in metadata["scores"].items()}
        return cls(**{**metadata, "play": play, "relabelling": relabelling, "scores": scores})


def state_template(config: OnlineConfig, student: Student) -> OnlineState:
    """Shapes and dtypes of what the checkpoints of such a run hold, without computing any of it.

    Args:
      config: resolved.
      student: the run's.
    """
    (task,) = student.shown

    def init() -> tuple[Any, Any]:
        if config.teacher_snapshots is not None:
            return jnp.int32(0), jnp.int32(0)
        teacher = init_state(make_teacher_network(config, task), task, config.pqn, config.seed)
        return teacher, teacher.variables

    teacher, target = jax.eval_shape(init)
    return OnlineState(teacher, learner_template(student, config.learner, config.loss), target)
