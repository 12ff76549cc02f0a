"""What a sweep is going to do: its games, its cells and their size, checked before anything is written."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from pd_jax.config.collect import CollectConfig
from pd_jax.config.credibility import of_teacher
from pd_jax.config.distill import DistillConfig
from pd_jax.config.games import check_network
from pd_jax.config.observation import ObservationConfig
from pd_jax.config.sections import OneGameEnvConfig
from pd_jax.config.sweep import SweepConfig, Variant
from pd_jax.distill.setup import DistillSetup, make_setup
from pd_jax.environments.tasks import Task
from pd_jax.errors import UserError
from pd_jax.resources.jobs import choose_jobs, jobs_memory
from pd_jax.resources.memory import MemoryEstimate
from pd_jax.runs.parts import settle
from pd_jax.runs.students import load_teacher
from pd_jax.sweep.memory import FRAME_COMPRESSION, check_disk, checkpoint_bytes, students_memory
from pd_jax.system.text import spell_bytes, spell_count
from pd_jax.teachers import Teacher
from pd_jax.teachers.tasks import task_of


@dataclasses.dataclass(frozen=True)
class Game:
    """A game of a sweep.

    Attributes:
      task: the game.
      teacher: who plays it.
      recording: how the play is to be recorded, None if it is not.
      data: where recorded play lies or will lie, None for live play.
    """

    task: Task
    teacher: Teacher
    recording: CollectConfig | None
    data: str | None

    @property
    def recording_bytes(self) -> int:
        """What the recording takes on disk, an upper estimate."""
        if self.recording is None:
            return 0
        task, steps = self.task, self.recording.num_rollouts * self.recording.rollout_length
        observation = math.prod(task.frame_shape) * np.dtype(task.observation_dtype).itemsize
        if task.kind == "atari":
            observation //= FRAME_COMPRESSION
        senses = self.recording.observation.of(task, "observation")
        if not senses.is_plain:
            observation += math.prod(senses.sample_shape) * np.dtype(senses.dtype).itemsize
        # Beside the observation: two flags, an action, a reward and the teacher's outputs.
        return steps * self.recording.env.num_lanes * (observation + 10 + 4 * task.num_actions)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
      name: of its directory.
      game: that it plays.
      variant: where it lies in the grid.
      config: its settings, whose ``out`` is its directory.
    """

    name: str
    game: Game
    variant: Variant
    config: DistillConfig

    @property
    def shape(self) -> tuple[str, str, str, bool]:
        """What cells that train together have in common."""
        return self.game.task.name, self.variant.network, self.variant.loss, self.config.loss.is_auto

    @property
    def temperature(self) -> float | Literal["auto"] | None:
        """Of a loss that has one, the teacher's kind being known; None for the other losses."""
        if not self.config.loss.has_temperature:
            return None
        if self.config.loss.is_auto:
            return "auto"
        return self.config.loss.temperature_for(teacher_gives_logits=self.game.teacher.gives_logits)


@dataclasses.dataclass(frozen=True)
class Plan:
    """All of a sweep.

    Attributes:
      config: with the games' names filled in.
      games: in the order of the teachers.
      cells: game by game, in the order of the grid.
      checkpoint_bytes: what all cells together take on disk, an upper estimate.
      together: whether cells of one shape train together.
      memory: what the cells take that take the most; of several at once, all of them.
      jobs: how many cells are trained at once, by processes of their own; 1 is one after another, in this process.
      why_jobs: in words.
      part: indices of the cells that are to be trained.
    """

    config: SweepConfig
    games: tuple[Game, ...]
    cells: tuple[Cell, ...]
    checkpoint_bytes: int
    together: bool
    memory: MemoryEstimate
    jobs: int
    why_jobs: str
    part: range

    @property
    def own_cells(self) -> tuple[Cell, ...]:
        """Those that are to be trained; all, unless ``cells`` says a part of them."""
        return tuple(self.cells[index] for index in self.part)

    @property
    def recording_bytes(self) -> int:
        """What all recordings together take on disk, an upper estimate."""
        return sum(game.recording_bytes for game in self.games)

    @property
    def missing_bytes(self) -> int:
        """What is still to be written."""
        missing = sum(not Path(cell.config.out).exists() for cell in self.cells)
        recordings = [game.recording_bytes for game in self.games if game.data and not Path(game.data).exists()]
        return self.checkpoint_bytes * missing // len(self.cells) + sum(recordings)

    def describe(self) -> list[str]:
        """The grid in words, a few lines."""
        schedule = self.config.schedule
        axes = [f"{spell_count(len(self.games), 'game')} ({', '.join(game.task.name for game in self.games)})"]
        for name in ("network", "loss", "temperature", "learning_rate", "seed"):
            values = dict.fromkeys(getattr(variant, name) for variant in self.config.variants)
            shown = [f"{value:g}" if isinstance(value, float) else str(value) for value in values if value is not None]
            if len(shown) > 1:
                axes.append(f"{spell_count(len(shown), name.replace('_', ' '))} ({', '.join(shown)})")
        lines = [
            f"{spell_count(len(self.cells), 'cell')}: {', '.join(axes)}; "
            f"{schedule.rounds * schedule.updates_per_round:,} updates each"
        ]
        for game in self.games:
            if game.recording is not None:
                steps = game.recording.num_rollouts * game.recording.rollout_length * game.recording.env.num_lanes
                lines.append(
                    f"recording of {game.task.name}: {steps:,} steps, up to about {spell_bytes(game.recording_bytes)}"
                )
        lines.append(f"checkpoints: up to about {spell_bytes(self.checkpoint_bytes)}")
        lines.append(self.memory.describe())
        if self.config.cells is not None:
            indices = ", ".join(map(str, self.part)) or "none"
            lines.append(f"this process trains {len(self.part)} of them: {indices}")
        if self.config.jobs != 1:
            lines.append(f"jobs: {self.jobs} ({self.why_jobs})")
        return lines


def make_plan(config: SweepConfig, teachers: Sequence[Teacher] | None = None) -> Plan:
    """Loads the teachers and checks every cell.

    Args:
      config: the sweep's.
      teachers: who play instead of the teachers that the configuration names.

    Raises:
      UserError: teachers, games, recordings, networks, memory and disk do not fit together.
    """
    # As for its directory: processes with a part of the cells each go on with what the first has begun.
    goes_on = config.resume or config.cells is not None
    config = dataclasses.replace(config, parts=settle(config.parts, config.out, resume=goes_on))
    games = _games(config, teachers)
    config = dataclasses.replace(config, game=tuple(game.task.name for game in games))
    cells = tuple(
        _cell(config, game, index, variant) for index, game in enumerate(games) for variant in config.variants
    )
    # The other axes make no difference to what is checked here.
    settings = {shape: _prepared(cell) for shape, cell in {cell.shape: cell for cell in cells}.items()}
    is_recorded = config.record is not None or config.data is not None
    # What trains together cannot be rolled back by one.
    platform = next(iter(settings.values())).devices.platform
    part = config.part(len(cells))
    own = [cells[index] for index in part]
    may_share = config.checkpoint.on_divergence == "stop" and platform != "cpu"
    together = is_recorded and (may_share if config.together is None else config.together)
    memories = [setup.memory for setup in settings.values()]
    if together:
        memories = [
            students_memory(setup, max(1, sum(cell.shape == shape for cell in own)))
            for shape, setup in settings.items()
        ]
        for memory in memories:
            memory.check()
    total = sum(checkpoint_bytes(settings[cell.shape]) for cell in cells)
    alone = None
    if platform != "cpu":
        alone = f"students train on {platform}, which is one process's at a time"
    elif teachers is not None:
        alone = "the teachers are objects of this process, which no other has"
    elif together:
        alone = "cells of one shape train together, in this process"
    each = [settings[cell.shape].memory for cell in own]
    # That jobs is idle beside together was said when the settings were read.
    jobs, why = choose_jobs("auto" if config.together and config.jobs != 1 else config.jobs, each, "cell", alone)
    memory = max(memories, key=lambda memory: memory.share) if jobs == 1 else jobs_memory(each, jobs)
    plan = Plan(config, games, cells, total, together, memory, jobs, why, part)
    what = (
        f"the recording takes up to {spell_bytes(plan.recording_bytes)} and the checkpoints of "
        f"{spell_count(len(cells), 'cell')} up to {spell_bytes(total)}"
    )
    check_disk(Path(config.out), plan.missing_bytes, what)
    return plan


def _games(config: SweepConfig, teachers: Sequence[Teacher] | None) -> tuple[Game, ...]:
    names = config.game or (None,) * len(config.teacher)
    games: dict[str, Game] = {}
    for index, (source, name) in enumerate(zip(config.teacher, names, strict=True)):
        teacher = teachers[index] if teachers else load_teacher(source, name, of_teacher(config.credibility, source))
        task = task_of(name, teacher)
        if task.name in games:
            other = config.teacher[list(games).index(task.name)]
            raise UserError(
                f"teacher: {other!r} and {source!r} both play {task.name}; a sweep takes one teacher of each game"
            )
        for network in config.grid.networks or ():
            check_network(network, config.student.observation.of(task).perceived, "grid.networks")
        recording, data = None, config.data[index] if config.data else None
        if config.record is not None:
            data = str(Path(config.out) / "data" / task.name)
            observation = config.student.observation.recorded
            recording = CollectConfig(
                teacher=source,
                game=task.name,
                credibility=of_teacher(config.credibility, source),
                out=data,
                resume=True,
                seed=config.seed,
                steps=config.record,
                epsilon=config.epsilon,
                protocol=config.protocol,
                rollout_length=config.schedule.rollout_length,
                # What its students see is recorded where it does not follow from what the teacher sees.
                observation=ObservationConfig() if observation.of(task).is_of_shown_steps else observation,
                env=_env_of(config, index),
            )
        games[task.name] = Game(task, teacher, recording, data)
    return tuple(games.values())


def _env_of(config: SweepConfig, index: int) -> OneGameEnvConfig:
    """How a game is recorded."""
    names = [field.name for field in dataclasses.fields(OneGameEnvConfig)]
    values = {name: getattr(config.env, name) for name in names}
    return OneGameEnvConfig(**values | {"num_lanes": config.lanes[index]})


def _cell(config: SweepConfig, game: Game, index: int, variant: Variant) -> Cell:
    name = config.cell_name(index, variant)
    out = str(Path(config.out) / "cells" / name)
    settings = dataclasses.replace(config.cell(index, variant), out=out, data=game.data, resume=True)
    return Cell(name, game, variant, settings)


def _prepared(cell: Cell) -> DistillSetup:
    """What a cell needs; what is still to be recorded has the lanes of live play."""
    is_recorded = cell.game.recording is None
    config = cell.config if is_recorded else dataclasses.replace(cell.config, data=None)
    return make_setup(config, cell.game.teacher)
