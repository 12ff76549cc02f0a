"""The paper's tables from what runs say: grouped, pooled over seeds, averaged over games."""

from __future__ import annotations

import dataclasses
import math
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from pd_jax.config.sections import LossKind
from pd_jax.environments.tasks import PAPER_GAMES
from pd_jax.evaluation.protocol import Rules
from pd_jax.evaluation.scores import Score
from pd_jax.evaluation.statistics import FLOOR_PERCENT, geometric_mean
from pd_jax.report.paper import PaperFigure, figure_for_game, figure_for_mean
from pd_jax.report.results import Recipe, Result
from pd_jax.report.statistics import Percent, geometric, percent_with_interval, pool_games, pool_seeds
from pd_jax.system.text import printable
from pd_jax.system.values import show_setting

_NETWORKS = ("dqn", "net1", "net2", "net3", "multi3", "multi10", "mlp", "mlp_bits")
_LOSSES = get_args(LossKind)
# Of the text in a table's cell.
_LONGEST_SETTINGS = 50


@dataclasses.dataclass(frozen=True)
class Design:
    """One way to make students: runs that differ in no more than their seeds, games and teachers.

    Attributes:
      recipe: network, loss and temperature.
      settings: those in which runs of the same recipe differ within a game, by dotted key.
      letter: short for them where they are long; the same for the same settings.
    """

    recipe: Recipe
    settings: tuple[tuple[str, Any], ...] = ()
    letter: str = ""

    def describe_settings(self) -> str:
        """Such as ``learner.learning_rate 0.001, data live``."""
        return ", ".join(f"{printable(key)} {show_setting(value)}" for key, value in self.settings)


@dataclasses.dataclass(frozen=True)
class Cell:
    """The students of one design in one game.

    Attributes:
      game: our name of it.
      design: of the students.
      teacher_name: their teacher.
      results: one per seed.
      student, teacher: their scores; over several seeds means of the seeds' means.
      spread: standard deviation between the seeds' means, None for one seed.
      random_score: of random play.
      raw, normalised: the student's score as a percentage of the teacher's, and likewise of what lies above random.
      paper: the published figure of the same.
    """

    game: str
    design: Design
    teacher_name: str
    results: tuple[Result, ...]
    student: Score
    teacher: Score | None
    spread: float | None
    random_score: float | None
    raw: Percent
    normalised: Percent
    paper: PaperFigure | None

    @property
    def interval_kind(self) -> Literal["of episodes", "range of two seeds", "t over seeds"]:
        """What the student's interval is, and with it that of its percentages."""
        seeds = len(self.results)
        return "of episodes" if seeds == 1 else "range of two seeds" if seeds == 2 else "t over seeds"

    @property
    def compression(self) -> float | None:
        """How much smaller the student is than its teacher, or than all of its teachers together."""
        student, teacher = self.results[0].student_parameters, self.results[0].teacher_parameters
        return teacher / student if student and teacher else None


@dataclasses.dataclass(frozen=True)
class Mean:
    """A design's geometric means over its games.

    Attributes:
      design: of the students.
      cells: one per game.
      raw: of percentages of the teachers' scores; None unless all are positive.
      normalised: of percentages above random, each at least `FLOOR_PERCENT`.
      floored: the games whose percentage above random that floor replaced.
      problem: why there is no mean at all, or None.
      paper: the published figure of the same.
    """

    design: Design
    cells: tuple[Cell, ...]
    raw: Percent
    normalised: Percent
    floored: tuple[str, ...]
    problem: str | None
    paper: PaperFigure | None

    @property
    def compression(self) -> float | None:
        """Geometric mean of the cells'."""
        return geometric_mean([cell.compression for cell in self.cells])


@dataclasses.dataclass(frozen=True)
class Interference:
    """What games cost one another: a student of several against one of the same network that has a game to itself.

    Attributes:
      together: the student of several, in one of its games.
      alone: that game's own, of the same loss and teacher.
      raw, normalised: the former's score as a percentage of the latter's, and likewise of what lies above random.
    """

    together: Cell
    alone: Cell
    raw: Percent
    normalised: Percent


@dataclasses.dataclass(frozen=True)
class Section:
    """All that was scored under one protocol.

    Attributes:
      rules: of all scores in it.
      cells: per game and design.
      means: per design.
      interference: of the students of several games, where their games have students of their own.
      measure: which percentage compares the designs: ``raw``, or ``normalised`` where any raw score is not positive.
      not_positive: the cells on account of which it is not ``raw``.
    """

    rules: Rules
    cells: tuple[Cell, ...]
    means: tuple[Mean, ...]
    interference: tuple[Interference, ...]
    measure: Literal["raw", "normalised"]
    not_positive: tuple[Cell, ...]

    def measured(self, item: Cell | Mean) -> Percent:
        """The percentage of a cell or a mean that is compared."""
        return item.raw if self.measure == "raw" else item.normalised


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything that a report says.

    Attributes:
      sections: of students, by protocol.
      teachers: the results of teachers that were scored alone.
      runs: the directories behind it.
      warnings: what was left out, and what is to be kept in mind.
    """

    sections: tuple[Section, ...]
    teachers: tuple[Result, ...]
    runs: tuple[str, ...]
    warnings: tuple[str, ...]


def build_report(results: Sequence[Result], warnings: Iterable[str] = ()) -> Report:
    """Groups results by protocol, game and design, pools seeds, and averages over games.

    Args:
      results: of all runs, in any order.
      warnings: that reading them gave.
    """
    said = list(warnings)
    students = [result for result in results if result.student is not None]
    designs = _designs(students)
    groups: dict[tuple[Rules, Design, str], list[Result]] = {}
    for result in students:
        assert result.recipe is not None  # There is a student.
        groups.setdefault((result.rules, designs[id(result)], result.game), []).append(result)
    cells = [
        (rules, _cell(design, one_per_seed))
        for (rules, design, _), group in groups.items()
        for one_per_seed in _cells_of(group, said.append)
    ]
    by_rules: dict[Rules, list[Cell]] = {}
    for rules, cell in cells:
        by_rules.setdefault(rules, []).append(cell)
    said += _differences_between_games([cell for _, cell in cells])
    teachers = tuple(result for result in results if result.student is None)
    runs = tuple(dict.fromkeys(result.run for result in results))
    sections = tuple(_section(rules, group) for rules, group in by_rules.items())
    return Report(sections, teachers, runs, tuple(dict.fromkeys(said)))


def _designs(students: Sequence[Result]) -> dict[int, Design]:
    """The design of each result, by its identity.

    A setting tells designs apart only if it differs within a game: another game may need another replay or schedule.
    """
    values: dict[tuple[Recipe | None, str], dict[str, set[Any]]] = {}
    for result in students:
        seen = values.setdefault((result.recipe, result.game), {})
        for key, value in result.settings.items():
            seen.setdefault(key, set()).add(value)
    varying: dict[Recipe | None, set[str]] = {}
    for (recipe, _), seen in values.items():
        varying.setdefault(recipe, set()).update(key for key, different in seen.items() if len(different) > 1)
    designs = {}
    for result in students:
        assert result.recipe is not None  # There is a student.
        keys = sorted(varying[result.recipe])
        designs[id(result)] = Design(result.recipe, tuple((key, result.settings.get(key)) for key in keys))
    letters = _letters(set(designs.values()))
    return {key: dataclasses.replace(design, letter=letters[design]) for key, design in designs.items()}


def _letters(designs: Iterable[Design]) -> dict[Design, str]:
    """A letter for each combination of settings, if any of them is too long for a table."""
    ordered = sorted(designs, key=_design_order)
    if all(len(design.describe_settings()) <= _LONGEST_SETTINGS for design in ordered):
        return dict.fromkeys(ordered, "")
    letters: dict[tuple[tuple[str, Any], ...], str] = {(): ""}
    for design in ordered:
        letters.setdefault(design.settings, _letter(len(letters) - 1))
    return {design: letters[design.settings] for design in ordered}


def _letter(index: int) -> str:
    """A, B, ..., Z, AA, AB, ..."""
    return (_letter(index // 26 - 1) if index >= 26 else "") + string.ascii_uppercase[index % 26]


def _cells_of(group: Sequence[Result], warn: Callable[[str], None]) -> list[list[Result]]:
    """The results of one design in one game: by teacher, and of each seed the one over most games.

    Two evaluations of one student are no two students: pooled as such, the spread between seeds would be too small.
    """
    names = {result.teacher_name for result in group if result.teacher is not None}
    # A student that was scored alone belongs to the only teacher there is.
    only = names.pop() if len(names) == 1 else None
    by_teacher: dict[str, dict[int | str, Result]] = {}
    for result in group:
        name = only if only is not None and result.teacher is None else result.teacher_name
        seeds = by_teacher.setdefault(name, {})
        other = seeds.get(result.seed)
        kept = result if other is None or _weight(result) > _weight(other) else other
        seeds[result.seed] = kept
        if other is not None:
            out = other if kept is result else result
            warn(
                f"{out.run}: {out.game} is left out: {kept.run} scored the same student, or one of the same seed "
                f"({printable(str(out.seed))}), over {'as many' if _weight(kept) == _weight(out) else 'more'} games"
            )
    return [list(seeds.values()) for seeds in by_teacher.values()]


def _weight(result: Result) -> tuple[bool, int]:
    return result.teacher is not None, result.student.episodes if result.student is not None else 0


def _cell(design: Design, results: Sequence[Result]) -> Cell:
    students = [result.student for result in results if result.student is not None]
    teachers = [result.teacher for result in results if result.teacher is not None]
    # Seeds that were scored on the same starts have met the very same games of the teacher.
    teacher = pool_games(list(dict.fromkeys(teachers))) if teachers else None
    student = pool_seeds(students)
    named = next((result for result in results if result.teacher is not None), results[0])
    randoms = [result.random_score for result in results if result.random_score is not None]
    random = randoms[0] if randoms else None
    recipe, game = design.recipe, results[0].game
    is_alone = recipe.command == "distill" and not recipe.together and recipe.checkpoint == "newest"
    return Cell(
        game=game,
        design=design,
        teacher_name=named.teacher_name,
        results=tuple(results),
        student=student,
        teacher=teacher,
        spread=float(np.std([score.mean for score in students], ddof=1)) if len(students) > 1 else None,
        random_score=random,
        raw=percent_with_interval(student, teacher, 0.0),
        normalised=percent_with_interval(student, teacher, random) if random is not None else Percent(None),
        paper=figure_for_game(recipe.network, recipe.loss, recipe.temperature, game) if is_alone else None,
    )


def _section(rules: Rules, cells: Sequence[Cell]) -> Section:
    cells = sorted(cells, key=lambda cell: (_game_order(cell.game), _design_order(cell.design), cell.teacher_name))
    by_design: dict[Design, list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: _design_order(cell.design)):
        by_design.setdefault(cell.design, []).append(cell)
    compared = [cell for cell in cells if cell.teacher is not None]
    not_positive = tuple(cell for cell in compared if cell.raw.value is None or cell.raw.value <= 0)
    return Section(
        rules=rules,
        cells=tuple(cells),
        means=tuple(_mean(design, group) for design, group in by_design.items()),
        interference=_interference(cells),
        measure="normalised" if not_positive else "raw",
        not_positive=not_positive,
    )


def _interference(cells: Sequence[Cell]) -> tuple[Interference, ...]:
    """Every student of several games beside each of a single game that differs in nothing else a reader is told."""

    def kind(cell: Cell) -> tuple[Any, ...]:
        recipe = dataclasses.replace(cell.design.recipe, together=())
        # A student of several games may have a temperature for each of them.
        return cell.game, cell.teacher_name, dataclasses.replace(recipe, temperature=None)

    found = []
    for together in cells:
        for alone in cells:
            is_pair = together.design.recipe.together and not alone.design.recipe.together
            if is_pair and together.design.recipe.command == "distill" and kind(together) == kind(alone):
                random = together.random_score
                normalised = (
                    Percent(None) if random is None else percent_with_interval(together.student, alone.student, random)
                )
                raw = percent_with_interval(together.student, alone.student)
                found.append(Interference(together, alone, raw, normalised))
    return tuple(found)


def _mean(design: Design, cells: Sequence[Cell]) -> Mean:
    games, recipe = [cell.game for cell in cells], design.recipe
    problem = None
    if len(set(games)) < len(games):
        twice = next(game for game in games if games.count(game) > 1)
        problem = f"{twice} has students of different teachers"
    elif any(cell.teacher is None for cell in cells):
        problem = f"no teacher was scored in {next(cell.game for cell in cells if cell.teacher is None)}"
    paper = None
    is_all = not recipe.together or set(games) == set(recipe.together)
    if problem is None and is_all and recipe.command in ("distill", "train-teacher") and recipe.checkpoint == "newest":
        paper = figure_for_mean(
            recipe.network,
            recipe.loss,
            recipe.temperature,
            games,
            together=bool(recipe.together),
            jointly_trained=recipe.command == "train-teacher",
        )
    low = [cell.game for cell in cells if cell.normalised.value is not None and cell.normalised.value < FLOOR_PERCENT]
    return Mean(
        design=design,
        cells=tuple(cells),
        raw=Percent(None) if problem else geometric([cell.raw for cell in cells]),
        normalised=Percent(None) if problem else geometric([cell.normalised for cell in cells], FLOOR_PERCENT),
        floored=() if problem else tuple(low),
        problem=problem,
        paper=paper,
    )


def _differences_between_games(cells: Sequence[Cell]) -> list[str]:
    """What a reader should know of means over unlike things."""
    warnings = []
    by_design: dict[Design, list[Cell]] = {}
    for cell in cells:
        by_design.setdefault(cell.design, []).append(cell)
        for name in ("env_steps", "updates"):
            numbers = sorted({getattr(result, name) for result in cell.results} - {None})
            if len(numbers) > 1:
                warnings.append(
                    f"{cell.results[0].run}: its cell ({cell.game}) has seeds with {numbers[0]:,} to {numbers[-1]:,} "
                    f"{name}"
                )
    for design, group in by_design.items():
        first: Mapping[str, Any] = group[0].results[0].settings
        others = [cell.results[0].settings for cell in group[1:] if cell.game != group[0].game]
        keys = sorted({key for other in others for key in first if other.get(key) != first[key]})
        if keys:
            games = ", ".join(dict.fromkeys(cell.game for cell in group))
            differ = ", ".join(map(printable, keys))
            warnings.append(f"{design.recipe.network} ({games}): its mean is over games whose runs differ in {differ}")
    return warnings


def _design_order(design: Design) -> tuple[Any, ...]:
    recipe = design.recipe
    network, loss = recipe.network.split()[0], recipe.loss or ""
    return (
        _NETWORKS.index(network) if network in _NETWORKS else len(_NETWORKS),
        recipe.network,
        _LOSSES.index(loss) if loss in _LOSSES else len(_LOSSES),
        loss,
        _temperature_order(recipe.temperature),
        (recipe.together, recipe.command, recipe.checkpoint),
        tuple(_by_size(value) for _, value in design.settings),
    )


def _temperature_order(temperature: float | tuple[float, ...] | str | None) -> tuple[float, ...]:
    """None first, then numbers by size, then what was found from the play."""
    if isinstance(temperature, tuple):
        return temperature
    return (math.inf if isinstance(temperature, str) else temperature or 0.0,)


def _by_size(value: Any) -> tuple[bool, float, str]:
    """Orders numbers by size, and anything else after them."""
    is_number = isinstance(value, int | float)
    return not is_number, float(value) if is_number and abs(value) < 1e300 else 0.0, str(value)


def _game_order(game: str) -> tuple[int, str]:
    return PAPER_GAMES.index(game) if game in PAPER_GAMES else len(PAPER_GAMES), game
