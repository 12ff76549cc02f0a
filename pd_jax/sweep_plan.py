"""What a sweep is going to do: its games, its cells and their size, checked before anything is written."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from pd_jax.config import CollectConfig, DistillConfig, OneGameEnvConfig, SweepConfig, check_network
from pd_jax.config_sweep import Variant, cell_name
from pd_jax.errors import UserError
from pd_jax.memory import MemoryEstimate
from pd_jax.memory_parts import distillation_parts
from pd_jax.networks import count_params
from pd_jax.preparation import Setting, prepare, task_of
from pd_jax.tasks import Task
from pd_jax.teachers import Teacher, load

# Frames of random play shrink 25 times (Enduro) to 130 times (Qbert) in a recording; vectors hardly.
_FRAME_COMPRESSION = 20
# Orbax's own files.
_CHECKPOINT_OVERHEAD = 50_000


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
            observation //= _FRAME_COMPRESSION
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
    def shape(self) -> tuple[str, str, str]:
        """What cells that train together have in common."""
        return self.game.task.name, self.variant.network, self.variant.loss

    @property
    def temperature(self) -> float | None:
        """Of the loss kl, the teacher's kind being known; None for the other losses."""
        if self.variant.loss != "kl":
            return None
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
      memory: what the cells take that take the most.
    """

    config: SweepConfig
    games: tuple[Game, ...]
    cells: tuple[Cell, ...]
    checkpoint_bytes: int
    together: bool
    memory: MemoryEstimate

    @property
    def recording_bytes(self) -> int:
        """What all recordings together take on disk, an upper estimate."""
        return sum(game.recording_bytes for game in self.games)

    def describe(self) -> list[str]:
        """The grid in words, a few lines."""
        schedule = self.config.schedule
        axes = [f"{_count(len(self.games), 'game')} ({', '.join(game.task.name for game in self.games)})"]
        for name in ("network", "loss", "temperature", "learning_rate", "seed"):
            values = dict.fromkeys(getattr(variant, name) for variant in self.config.variants)
            shown = [f"{value:g}" if isinstance(value, float) else str(value) for value in values if value is not None]
            if len(shown) > 1:
                axes.append(f"{_count(len(shown), name.replace('_', ' '))} ({', '.join(shown)})")
        lines = [
            f"{_count(len(self.cells), 'cell')}: {', '.join(axes)}; "
            f"{schedule.rounds * schedule.updates_per_round:,} updates each"
        ]
        for game in self.games:
            if game.recording is not None:
                steps = game.recording.num_rollouts * game.recording.rollout_length * game.recording.env.num_lanes
                lines.append(
                    f"recording of {game.task.name}: {steps:,} steps, up to about {_size(game.recording_bytes)}"
                )
        lines.append(f"checkpoints: up to about {_size(self.checkpoint_bytes)}")
        lines.append(self.memory.describe())
        return lines


def make_plan(config: SweepConfig, teachers: Sequence[Teacher] | None = None) -> Plan:
    """Loads the teachers and checks every cell.

    Args:
      config: the sweep's.
      teachers: who play instead of the teachers that the configuration names.

    Raises:
      UserError: teachers, games, recordings, networks, memory and disk do not fit together.
    """
    games = _games(config, teachers)
    config = dataclasses.replace(config, game=tuple(game.task.name for game in games))
    cells = tuple(
        _cell(config, game, index, variant) for index, game in enumerate(games) for variant in config.variants
    )
    # The other axes make no difference to what is checked here.
    settings = {shape: _prepared(cell) for shape, cell in {cell.shape: cell for cell in cells}.items()}
    is_recorded = config.record is not None or config.data is not None
    # What trains together cannot be rolled back by one.
    may_share = config.checkpoint.on_divergence == "stop" and jax.default_backend() != "cpu"
    together = is_recorded and (may_share if config.together is None else config.together)
    memories = [setting.memory for setting in settings.values()]
    if together:
        memories = [_memory(setting, sum(cell.shape == shape for cell in cells)) for shape, setting in settings.items()]
        for memory in memories:
            memory.check()
    total = sum(_checkpoint_bytes(settings[cell.shape]) for cell in cells)
    plan = Plan(config, games, cells, total, together, max(memories, key=lambda memory: memory.share))
    _check_disk(plan)
    return plan


def _games(config: SweepConfig, teachers: Sequence[Teacher] | None) -> tuple[Game, ...]:
    names = config.game or (None,) * len(config.teacher)
    games: dict[str, Game] = {}
    for index, (source, name) in enumerate(zip(config.teacher, names, strict=True)):
        teacher = teachers[index] if teachers else load(source, name)
        task = task_of(name, teacher)
        if task.name in games:
            other = config.teacher[list(games).index(task.name)]
            raise UserError(
                f"teacher: {other!r} and {source!r} both play {task.name}; a sweep takes one teacher of each game"
            )
        for network in config.grid.networks or ():
            check_network(network, task, "grid.networks")
        recording, data = None, config.data[index] if config.data else None
        if config.record is not None:
            data = str(Path(config.out) / "data" / task.name)
            recording = CollectConfig(
                teacher=source,
                game=task.name,
                out=data,
                resume=True,
                seed=config.seed,
                steps=config.record,
                epsilon=config.epsilon,
                rollout_length=config.schedule.rollout_length,
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
    name = cell_name(config, index, variant)
    out = str(Path(config.out) / "cells" / name)
    settings = dataclasses.replace(config.cell(index, variant), out=out, data=game.data, resume=True)
    return Cell(name, game, variant, settings)


def _prepared(cell: Cell) -> Setting:
    """What a cell needs; what is still to be recorded has the lanes of live play."""
    is_recorded = cell.game.recording is None
    config = cell.config if is_recorded else dataclasses.replace(cell.config, data=None)
    return prepare(config, cell.game.teacher)


def _memory(setting: Setting, students: int) -> MemoryEstimate:
    """What some students take that train together."""
    policies = [(teacher.network.apply, teacher.variables) for teacher in setting.teachers]
    parts = distillation_parts(setting.config, setting.student, policies, setting.devices, students=students)
    return MemoryEstimate(parts, setting.devices)


def _checkpoint_bytes(setting: Setting) -> int:
    """The newest, the best and the one that is being written, each of the parameters and their moments."""
    config = setting.config
    num_params = count_params(jax.eval_shape(setting.student.init, jax.random.key(0)))
    moments = 2 if config.learner.optimizer == "adam" else 1
    return (4 * num_params * (1 + moments) + _CHECKPOINT_OVERHEAD) * (config.checkpoint.keep + 2)


def _check_disk(plan: Plan) -> None:
    """Raises a UserError if what is still to be written does not fit on the disk."""
    out = Path(plan.config.out)
    missing = sum(not Path(cell.config.out).exists() for cell in plan.cells)
    wanted = plan.checkpoint_bytes * missing // len(plan.cells)
    wanted += sum(game.recording_bytes for game in plan.games if game.data and not Path(game.data).exists())
    there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if wanted > free:
        raise UserError(
            f"{out}: the recording takes up to {_size(plan.recording_bytes)} and the checkpoints of "
            f"{_count(len(plan.cells), 'cell')} up to {_size(plan.checkpoint_bytes)}, and {_size(free)} are free on "
            "that disk"
        )


def _count(number: int, noun: str) -> str:
    """Such as ``3 losses``."""
    plural = "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{plural * (number != 1)}"


def _size(num_bytes: int) -> str:
    """Such as ``3.8 GB``."""
    for unit in ("kB", "MB"):
        if num_bytes < 10**6:
            return f"{num_bytes / 1000:,.1f} {unit}"
        num_bytes //= 1000
    return f"{num_bytes / 1000:,.1f} GB"
