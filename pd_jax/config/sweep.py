"""The grid of ``pd-jax sweep``: its axes, the variants they span, and what cannot be spanned."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from pd_jax.config.distill import DistillConfig, uneven
from pd_jax.config.sections import (
    Count,
    HostsConfig,
    Loss,
    LossConfig,
    Positive,
    Seed,
    StudentNetwork,
    Words,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridConfig:
    """What varies between the cells of a sweep; an axis that is left out has the one value of its own section."""

    networks: tuple[StudentNetwork, ...] | None = None
    """Students; None is student.network."""
    losses: tuple[Loss, ...] | None = None
    """Losses; None is loss.kind."""
    temperatures: tuple[Positive, ...] | None = None
    """Temperatures, of the cells with the loss kl alone; None is loss.temperature."""
    learning_rates: tuple[Positive, ...] | None = None
    """Learning rates; None is learner.learning_rate."""
    seeds: tuple[Seed, ...] | None = None
    """Seeds of the students; None is seed."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """One combination of the axes' values, which every game has a cell of.

    Attributes:
      network, loss, learning_rate, seed: the student's.
      temperature: of the loss kl; None is the sweep's own, and is all that other losses have.
    """

    network: str
    loss: str
    temperature: float | None
    learning_rate: float
    seed: int


def variants(config: SweepConfig) -> tuple[Variant, ...]:
    """The combinations that a grid spans over the settings beside it, in the order of its axes; seeds vary fastest."""
    grid, found = config.grid, []
    rates, seeds = grid.learning_rates or (config.learner.learning_rate,), grid.seeds or (config.seed,)
    networks, losses = grid.networks or (config.student.network,), grid.losses or (config.loss.kind,)
    for network, loss in itertools.product(networks, losses):
        temperatures = grid.temperatures if grid.temperatures and loss == "kl" else (None,)
        found += [Variant(network, loss, *rest) for rest in itertools.product(temperatures, rates, seeds)]
    return tuple(found)


def cell_name(config: SweepConfig, index: int, variant: Variant) -> str:
    """Such as ``pong-net2-kl-t0.01-lr0.00025-seed0``: all of it, so that a cell keeps its name when a grid grows.

    Args:
      config: the sweep's, with the games' names.
      index: of the cell's teacher.
      variant: the cell's.
    """
    assert config.game is not None
    temperature = _temperature(config, index, variant)
    loss = variant.loss if temperature is None else f"{variant.loss}-t{_spell(temperature)}"
    rate = _spell(variant.learning_rate)
    return f"{config.game[index]}-{variant.network}-{loss}-lr{rate}-seed{variant.seed}"


def cell_settings(config: SweepConfig, index: int, variant: Variant) -> dict[str, Any]:
    """What sets a cell apart from the settings of its sweep.

    All cells are scored on the same starts, whatever their seeds, so that one score of a game's teacher does for all.

    Args:
      config: the sweep's.
      index: of the cell's teacher.
      variant: the cell's.
    """
    lanes = config.env.lanes
    env = dataclasses.replace(config.env, num_lanes=config.lanes[index], lanes=None) if lanes else config.env
    return {
        "teacher": config.teacher[index],
        "game": config.game[index] if config.game else None,
        "data": config.data[index] if config.data else None,
        "seed": variant.seed,
        "env": env,
        "student": dataclasses.replace(config.student, network=variant.network),  # type: ignore[arg-type]
        "loss": LossConfig(kind=variant.loss, temperature=_temperature(config, index, variant)),  # type: ignore[arg-type]
        "learner": dataclasses.replace(config.learner, learning_rate=variant.learning_rate),
        "evaluation": dataclasses.replace(config.evaluation, seed_offset=_starts(config) - variant.seed),
    }


def sweep_conflicts(config: SweepConfig) -> Iterator[tuple[str, str]]:
    """Yields ``(key, what is wrong)`` for settings that are possible alone and impossible together."""
    counts = list(uneven(config))
    yield from counts
    if config.data is not None and config.record is not None:
        yield "record", "there is a recording already, in data; give one of the two"
    for key, axis in (("teacher", config.teacher), *((f"grid.{key}", axis) for key, axis in vars(config.grid).items())):
        for value in duplicates(axis or ()):
            yield key, f"{value!r} is there twice"
    if config.hosts != HostsConfig():
        yield "hosts", "a sweep runs in one process; start one on each host, with other seeds and another --out"
    if config.profile:
        yield "profile", "true; a sweep is not traced, but one of its cells can be, by pd-jax distill"
    if config.together and config.data is None and config.record is None:
        yield "together", "students that learn together share a recording; set record or data"
    if config.together and config.checkpoint.on_divergence == "roll_back":
        yield "together", "true, and checkpoint.on_divergence is 'roll_back', which is for students that learn alone"
    losses = config.grid.losses or (config.loss.kind,)
    if config.grid.temperatures is not None and "kl" not in losses:
        yield "grid.temperatures", f"only the loss kl has a temperature, and the grid has {', '.join(losses)}"
    for seed in config.grid.seeds or ():
        if not 0 <= _starts(config) - seed <= 10**8:
            yield (
                "grid.seeds",
                f"{seed} is out of reach: all cells are scored on starts of seed {_starts(config)} "
                "(seed + evaluation.seed_offset), which must not be less, nor more than 100000000 above",
            )
    if not counts:
        yield from _conflicts_of_cells(config)


def _conflicts_of_cells(config: SweepConfig) -> Iterator[tuple[str, str]]:
    renamed = {"student.network": "grid.networks"} if config.grid.networks is not None else {}
    for index, variant in itertools.product(range(len(config.teacher)), config.variants):
        for key, problem in config.cell(index, variant).conflicts():
            yield renamed.get(key, key), problem


def _temperature(config: SweepConfig, index: int, variant: Variant) -> float | None:
    """Of one cell; None leaves it to the teacher's kind, and is all that losses other than kl have."""
    own = config.loss.temperature
    if variant.loss != "kl" or variant.temperature is not None or own is None:
        return variant.temperature
    assert isinstance(own, tuple)
    return own[index if len(own) > 1 else 0]


def _starts(config: SweepConfig) -> int:
    """Seed of the games of all evaluations."""
    return config.seed + config.evaluation.seed_offset


def duplicates(values: Sequence[Any]) -> list[Any]:
    """The values that are there more than once, each once."""
    return [value for index, value in enumerate(values) if values[:index].count(value) == 1]


def _spell(number: float) -> str:
    """The shortest usual spelling that stands for this very number."""
    return short if float(short := f"{number:g}") == number else repr(number)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepConfig(DistillConfig):
    """Distil a grid of students, each on its own, and compare them.

    Every cell of the grid is a run of ``distill``, whose settings these are.
    """

    teacher: Words
    """Names of bundled teachers, or files; a list makes a cell of each for every combination of the grid."""
    out: str
    """Directory of the sweep; its cells are runs in cells/."""
    resume: bool = False
    """Go on with the sweep that is in the directory."""
    game: Words | None = None
    """Name or EnvPool id of each teacher's game; None is the teachers'."""
    data: Words | None = None
    """Directory of each teacher's recorded play; None plays live, or records first if record is set."""
    record: Count | None = None
    """Control steps to record of each game, once, for all cells to learn from."""
    together: bool | None = None
    """Train students of one shape in one program; None does so on accelerators, unless they may be rolled back."""
    grid: GridConfig = dataclasses.field(default_factory=GridConfig)

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The combinations of the grid, each of which is a cell of every game."""
        return variants(self)

    def cell(self, index: int, variant: Variant) -> DistillConfig:
        """The settings of one cell, but for its ``out``: of the teacher with that index, and of one of ``variants``."""
        shared = {field.name: getattr(self, field.name) for field in dataclasses.fields(DistillConfig)}
        return DistillConfig(**(shared | cell_settings(self, index, variant)))

    def conflicts(self) -> Iterator[tuple[str, str]]:
        yield from sweep_conflicts(self)
