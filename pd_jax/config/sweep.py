"""The settings of ``pd-jax sweep``: a distillation as the template, a grid over it, and what cannot be spanned."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pd_jax.config.credibility import credibility_conflicts, of_teacher
from pd_jax.config.distill import DistillConfig
from pd_jax.config.distillation import DistillationSettings
from pd_jax.config.idle import Idle, idle_joint, idle_learner, idle_loss, idle_memory, idle_statistics, idle_student
from pd_jax.config.sections import (
    Count,
    HostsConfig,
    Jobs,
    Loss,
    LossKind,
    Paths,
    PathText,
    Positive,
    Seed,
    StudentNetwork,
    Words,
    needs_temperature,
)
from pd_jax.errors import UserError
from pd_jax.system.text import show

_PART = re.compile(r"([0-9]{1,9})(?:/([0-9]{1,9}))?")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridConfig:
    """What varies between the cells of a sweep; an axis that is left out has the one value of its own section."""

    networks: tuple[StudentNetwork, ...] | None = None
    """Students; None is student.network."""
    losses: tuple[Loss, ...] | None = None
    """Losses; None is loss.kind."""
    temperatures: tuple[Positive | Literal["auto"], ...] | None = None
    """Temperatures, or auto, of the cells whose loss has one; None is loss.temperature."""
    learning_rates: tuple[Positive, ...] | None = None
    """Learning rates; None is learner.learning_rate."""
    seeds: tuple[Seed, ...] | None = None
    """Seeds of the students; None is seed."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """One combination of the axes' values, which every game has a cell of.

    Attributes:
      network, loss, learning_rate, seed: the student's.
      temperature: of a loss that has one; None is the sweep's own, and is all that other losses have.
    """

    network: StudentNetwork
    loss: LossKind
    temperature: float | Literal["auto"] | None
    learning_rate: float
    seed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepConfig(DistillationSettings):
    """Distil a grid of students, each on its own, and compare them.

    Every cell of the grid is a run of ``distill``, whose settings these are.
    """

    teacher: Paths
    """Names of bundled teachers, or files; a list makes a cell of each for every combination of the grid."""
    out: PathText
    """Directory of the sweep; its cells are runs in cells/."""
    resume: bool = False
    """Go on with the sweep that is in the directory."""
    game: Words | None = None
    """Name or EnvPool id of each teacher's game; None is the teachers'."""
    data: Paths | None = None
    """Directory of each teacher's recorded play; None plays live, or records first if record is set."""
    record: Count | None = None
    """Control steps to record of each game, once, for all cells to learn from."""
    together: bool | None = None
    """Train students of one shape in one program; None does so on accelerators, unless they may be rolled back."""
    jobs: Jobs = 1
    """Processes that train cells at once, each on its share of the cores; auto is as many as cores and memory allow."""
    cells: str | None = None
    """Only these cells: one by its index, such as 3, or one part of several, such as 0/4, the first of four; None is
    all. Several processes may run at once, each with its own; one last run with resume makes the table."""
    grid: GridConfig = dataclasses.field(default_factory=GridConfig)

    def part(self, num_cells: int) -> range:
        """The indices of the cells that ``cells`` says, among so many.

        Raises:
          UserError: there is no such cell.
        """
        if self.cells is None:
            return range(num_cells)
        index, of = _parse_part(self.cells)
        if of is not None:
            return range(index, num_cells, of)
        if index >= num_cells:
            raise UserError(f"cells: there is no cell {index}; the {num_cells} are 0 to {num_cells - 1}")
        return range(index, index + 1)

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The combinations of the grid, each of which is a cell of every game.

        They are in the order of the grid's axes; seeds vary fastest.
        """
        grid, found = self.grid, []
        rates, seeds = grid.learning_rates or (self.learner.learning_rate,), grid.seeds or (self.seed,)
        networks, losses = grid.networks or (self.student.network,), grid.losses or (self.loss.kind,)
        for network, loss in itertools.product(networks, losses):
            has_temperature = needs_temperature(loss, self.loss.weights)
            temperatures = grid.temperatures if grid.temperatures and has_temperature else (None,)
            found += [Variant(network, loss, *rest) for rest in itertools.product(temperatures, rates, seeds)]
        return tuple(found)

    @property
    def template(self) -> DistillConfig:
        """The distillation, of all teachers, that every cell is a part and a variant of."""
        return DistillConfig(
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(DistillationSettings)}
        )

    def cell(self, index: int, variant: Variant) -> DistillConfig:
        """The settings of one cell, but for its ``out``: of the teacher with that index, and of one of ``variants``.

        All cells are scored on the same starts, whatever their seeds, so that one score of a game's teacher does for
        all.
        """
        env = self.env
        if env.lanes is not None:
            env = dataclasses.replace(env, num_lanes=self.lanes[index], lanes=None)
        return dataclasses.replace(
            self.template,
            teacher=self.teacher[index],
            credibility=of_teacher(self.credibility, self.teacher[index]),
            game=self.game[index] if self.game else None,
            data=self.data[index] if self.data else None,
            seed=variant.seed,
            env=env,
            student=dataclasses.replace(self.student, network=variant.network),
            loss=self.loss.of_kind(variant.loss, self._temperature(index, variant)),
            learner=dataclasses.replace(self.learner, learning_rate=variant.learning_rate),
            evaluation=dataclasses.replace(self.evaluation, seed_offset=self._starts - variant.seed),
        )

    def cell_name(self, index: int, variant: Variant) -> str:
        """Such as ``pong-net2-kl-t0.01-lr0.00025-seed0``: all of it, so that a cell keeps its name when a grid grows.

        The settings must have the games' names.
        """
        assert self.game is not None
        temperature = self._temperature(index, variant)
        loss = variant.loss if temperature is None else f"{variant.loss}-t{_spell(temperature)}"
        return f"{self.game[index]}-{variant.network}-{loss}-lr{_spell(variant.learning_rate)}-seed{variant.seed}"

    def idle(self) -> Iterator[Idle]:
        yield from super().idle()
        if self.together:
            yield Idle("jobs", "together", "cells that train together are in one process; say --no-together")
        if self.data is None and self.record is None:
            yield Idle("data_order", "data", "is for recorded play, and there is neither data nor record")
        grid = self.grid
        for axis, key in (
            ("networks", "student.network"),
            ("losses", "loss.kind"),
            ("temperatures", "loss.temperature"),
            ("learning_rates", "learner.learning_rate"),
        ):
            if getattr(grid, axis) is not None:
                yield Idle(key, f"grid.{axis}", f"grid.{axis} has those of all cells")
        own = self.loss if grid.temperatures is None else dataclasses.replace(self.loss, temperature=grid.temperatures)
        yield from idle_loss(own, grid.losses or (), "grid.losses" if grid.losses else "loss.kind")
        # Every cell is of one game.
        yield from idle_learner(self.learner, 1)
        yield from idle_memory(self.student)
        yield from idle_statistics(self.student)
        yield from idle_joint(self.student, 1)
        because = "grid.networks" if grid.networks else "student.network"
        yield from idle_student(self.student, 1, grid.networks or (), because)

    def conflicts(self) -> Iterator[tuple[str, str]]:
        yield from self.tracking_conflicts()
        counts = list(self.uneven())
        yield from counts
        yield from credibility_conflicts(self.credibility, self.teacher)
        if self.data is not None and self.record is not None:
            yield "record", "there is a recording already, in data; give one of the two"
        axes = ((f"grid.{key}", axis) for key, axis in vars(self.grid).items())
        for key, axis in (("teacher", self.teacher), *axes):
            for value in _duplicates(axis or ()):
                yield key, f"{value!r} is there twice"
        if self.hosts != HostsConfig() and not self.hosts.alone:
            yield "hosts", "a sweep runs in one process; share its cells out among hosts with --cells"
        if self.profile:
            yield "profile", "true; a sweep is not traced, but one of its cells can be, by pd-jax distill"
        if self.together and self.data is None and self.record is None:
            yield "together", "students that learn together share a recording; set record or data"
        if self.together and self.checkpoint.on_divergence == "roll_back":
            yield (
                "together",
                "true, and checkpoint.on_divergence is 'roll_back', which is for students that learn alone",
            )
        if self.cells is not None:
            try:
                _parse_part(self.cells)
            except UserError as error:
                yield "cells", str(error)
        losses = self.grid.losses or (self.loss.kind,)
        if self.grid.temperatures is not None and not any(
            needs_temperature(loss, self.loss.weights) for loss in losses
        ):
            yield (
                "grid.temperatures",
                f"policies and advantages have a temperature, and the grid has {', '.join(losses)}",
            )
        for seed in self.grid.seeds or ():
            if not 0 <= self._starts - seed <= 10**8:
                yield (
                    "grid.seeds",
                    f"{seed} is out of reach: all cells are scored on starts of seed {self._starts} "
                    "(seed + evaluation.seed_offset), which must not be less, nor more than 100000000 above",
                )
        if not counts:
            yield from self._conflicts_of_cells()

    def _conflicts_of_cells(self) -> Iterator[tuple[str, str]]:
        renamed = {"student.network": "grid.networks"} if self.grid.networks is not None else {}
        for index, variant in itertools.product(range(self.num_games), self.variants):
            for key, problem in self.cell(index, variant).conflicts():
                yield renamed.get(key, key), problem

    @property
    def _starts(self) -> int:
        """Seed of the games of all evaluations."""
        return self.seed + self.evaluation.seed_offset

    def _temperature(self, index: int, variant: Variant) -> float | Literal["auto"] | None:
        """Of one cell; None leaves it to the loss and the teacher's kind, and is all that a loss without one has."""
        own = self.loss.temperature
        has_temperature = needs_temperature(variant.loss, self.loss.weights)
        if not has_temperature or variant.temperature is not None or own is None:
            return variant.temperature
        assert isinstance(own, tuple)
        return own[index if len(own) > 1 else 0]


def _parse_part(text: str) -> tuple[int, int | None]:
    """``3`` as ``(3, None)`` and ``0/4`` as ``(0, 4)``; raises a UserError with what is wrong."""
    found = _PART.fullmatch(text)
    if found is None:
        raise UserError(f"{show(text)} is neither the index of a cell, such as 3, nor a part, such as 0/4")
    index, of = int(found[1]), None if found[2] is None else int(found[2])
    if of is not None and index >= of:
        there = f"the {of} parts are 0/{of} to {of - 1}/{of}" if of else "there is no part of nothing"
        raise UserError(f"{show(text)}: {there}")
    return index, of


def _duplicates(values: Sequence[Any]) -> list[Any]:
    """The values that are there more than once, each once."""
    return [value for index, value in enumerate(values) if values[:index].count(value) == 1]


def _spell(number: float | str) -> str:
    """The shortest usual spelling that stands for this very number; a word as it is."""
    if isinstance(number, str):
        return number
    return short if float(short := f"{number:g}") == number else repr(number)
