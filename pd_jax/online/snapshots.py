"""A teacher that improves from file to file: snapshots of a training that is over, in the place of one that goes on."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pd_jax.config.online import OnlineConfig
from pd_jax.environments.protocols import PROTOCOLS
from pd_jax.environments.tasks import Task
from pd_jax.errors import UserError
from pd_jax.evaluation.protocol import Protocol
from pd_jax.evaluation.scores import Score
from pd_jax.runs.students import load_teacher
from pd_jax.teachers import Teacher
from pd_jax.teachers.files import save_teacher
from pd_jax.teachers.formats import is_foreign
from pd_jax.teachers.metadata import TeacherMetadata
from pd_jax.teachers.tasks import check_is_one, task_of


@dataclasses.dataclass(frozen=True)
class Snapshots:
    """Files of one teacher along its training, checked; only the first one's weights are kept.

    Attributes:
      sources: the files, or what else names a teacher.
      first: the first of them.
      sha256: of each file.
      metadata: of each.
      env_steps: control steps behind each, rising. A file that does not tell its own counts as one more than the one
        before it.
    """

    sources: tuple[str, ...]
    first: Teacher
    sha256: tuple[str, ...]
    metadata: tuple[TeacherMetadata, ...]
    env_steps: tuple[int, ...]

    def in_round(self, index: int, rounds: int) -> int:
        """The snapshot that teaches in a round: each in as many of the ``rounds``, or one more."""
        return min(index, rounds - 1) * len(self.sources) // rounds

    def load(self, index: int) -> Any:
        """The variables of a snapshot; a UserError if its file is not what it was when it was checked."""
        if index == 0:
            return self.first.variables
        teacher = load_teacher(self.sources[index], self.first.task.name)
        if teacher.sha256 != self.sha256[index]:
            raise UserError(f"teacher_snapshots: {self.sources[index]} is another file than when the run started")
        return teacher.variables

    def check_follow(self, taught: Sequence[str], out: str | os.PathLike[str]) -> None:
        """Raises a UserError unless the files that have taught already come first, wherever they lie now.

        Args:
          taught: SHA-256 of these.
          out: the directory of the run that they have taught, for messages.
        """
        for index, sha256 in enumerate(taught):
            if self.sha256[index : index + 1] != (sha256,):
                raise UserError(
                    f"teacher_snapshots: number {index + 1} is not the file that {out} has learnt from; those come "
                    "first, and others may follow"
                )


def read_snapshots(sources: Sequence[str], game: str | None) -> Snapshots:
    """Reads snapshots one after another.

    Args:
      sources: what `load_teacher` takes, in the order of the training.
      game: that they play; None is that of the first.

    Raises:
      UserError: there is only one, or one cannot be read, plays another game, has another network or other outputs than
        the first, or does not come after the one before it.
    """
    # A file that is not there is said to be so, also where a pattern has matched none.
    first = load_teacher(sources[0], game)
    if len(sources) < 2:
        raise UserError("teacher_snapshots: 1 file is a teacher that stays as it is: pd-jax distill --teacher FILE")
    check_is_one(first, "teacher_snapshots")
    task_of(game, first)
    found: list[tuple[str, TeacherMetadata]] = [(first.sha256, first.metadata)]
    for source in sources[1:]:
        # A file that says what it plays is to say so: another game is no damaged file.
        teacher = load_teacher(source, game or (first.task.name if is_foreign(source) else None))
        _check_alike(teacher, first)
        found.append((teacher.sha256, teacher.metadata))
    sha256, metadata = (tuple(values) for values in zip(*found, strict=True))
    return Snapshots(tuple(sources), first, sha256, metadata, _steps(sources, sha256, metadata))


def _check_alike(teacher: Teacher, first: Teacher) -> None:
    if teacher.task.name != first.task.name:
        raise UserError(
            f"teacher_snapshots: {teacher.source} plays {teacher.task.name}, and {first.source} {first.task.name}; "
            "they are of one training"
        )
    if teacher.network != first.network:
        names = (teacher.metadata.network, first.metadata.network)
        which = f"{names[0]}, and {first.source} {names[1]}" if names[0] != names[1] else f"{names[0]} of other layers"
        raise UserError(f"teacher_snapshots: {teacher.source} has {which}; they are of one training")
    if teacher.metadata.output != first.metadata.output:
        gives = {"q": "Q-values", "logits": "logits"}
        raise UserError(
            f"teacher_snapshots: {teacher.source} gives {gives[teacher.metadata.output]}, and {first.source} "
            f"{gives[first.metadata.output]}; they are of one training"
        )


def _steps(sources: Sequence[str], sha256: Sequence[str], metadata: Sequence[TeacherMetadata]) -> tuple[int, ...]:
    """Control steps behind each, checked to rise."""
    for (before, source), (old, new) in zip(itertools.pairwise(sources), itertools.pairwise(sha256), strict=True):
        if old == new:
            raise UserError(f"teacher_snapshots: {source} is {before} again")
    steps: list[int] = []
    for index, each in enumerate(metadata):
        least = steps[-1] + 1 if steps else 0
        if each.env_steps is not None and each.env_steps < least:
            raise UserError(
                f"teacher_snapshots: {sources[index]} has {each.env_steps:,} steps behind it, and "
                f"{sources[index - 1]} before it {least - 1:,}; give them in the order of their training"
            )
        steps.append(least if each.env_steps is None else each.env_steps)
    return tuple(steps)


class SnapshotTeacher:
    """The snapshot that teaches now, in the place of a `pd_jax.trainers.learning_teacher.LearningTeacher`.

    Args:
      snapshots: of the training.
      index: of the one to begin with.

    Attributes:
      index: of the present one.
      variables: its.
    """

    def __init__(self, snapshots: Snapshots, index: int) -> None:
        self._snapshots = snapshots
        self.index = index
        self.variables = snapshots.load(index)

    @property
    def env_steps(self) -> int:
        """Control steps behind it."""
        return self._snapshots.env_steps[self.index]

    def move_to(self, index: int) -> None:
        """Takes a later snapshot's place; an earlier one changes nothing: a run that was given more rounds goes on."""
        if index > self.index:
            self.variables = self._snapshots.load(index)
            self.index = index

    def check(self) -> None:
        """Files with NaN are refused when they are read."""

    def open(self, seed: int) -> None:
        """There are no games that it learns from."""

    def close(self) -> None:
        """There are none to end."""


class SnapshotWriter:
    """Leaves the snapshot that was the target last as ``teacher.safetensors``, with the score that it has here.

    Args:
      snapshots: of the training.
      config: of the run.
      task: its game.

    Attributes:
      path: of the file.
    """

    def __init__(self, snapshots: Snapshots, config: OnlineConfig, task: Task) -> None:
        self.path = Path(config.out) / "teacher.safetensors"
        self._snapshots = snapshots
        self._config = config
        self._task = task

    def write(
        self, params: Any, score: Score, *, env_steps: int, curve: Sequence[dict[str, Any]], seed_offset: int = 0
    ) -> None:
        """Writes it.

        Args:
          params: the weights.
          score: theirs.
          env_steps: that `Snapshots` has for them.
          curve: of the snapshots so far.
          seed_offset: of the score's protocol.
        """
        protocol = Protocol.of(self._config, self._task, seed_offset=seed_offset).to_json()
        told = {name: protocol[name] for name in ("epsilon", "max_noops", "max_episode_steps", "seed")}
        if self._config.protocol in PROTOCOLS:
            told["protocol"] = self._config.protocol
        metadata = self._snapshots.metadata[self._snapshots.env_steps.index(env_steps)]
        metadata = dataclasses.replace(metadata, evaluation={**score.to_json(), **told}, learning_curve=list(curve))
        save_teacher(self.path, params, metadata)
