"""A report as text: its tables in the terminal, and the same as Markdown."""

from __future__ import annotations

import dataclasses
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TextIO, TypeVar

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pd_jax.config.sections import needs_temperature
from pd_jax.evaluation.scores import Score
from pd_jax.evaluation.statistics import FLOOR_PERCENT, floor_note
from pd_jax.report.aggregates import Aggregates, Improvement, aggregates_of, improvements_of
from pd_jax.report.groups import Cell, Design, Mean, Report, Section
from pd_jax.report.paper import PaperFigure
from pd_jax.report.results import Result
from pd_jax.report.statistics import Percent, geometric
from pd_jax.report.terminal import format_percent, format_score, loss_name

_UNDEFINED = "–"
# Wider than any table; a table is only as wide as it needs to be.
_UNLIMITED = 1_000
_UNVERIFIED = "†"
_RANGE_NOTE = "two seeds: the interval is from the lower to the higher of their scores, and no 95 % interval"
Row = TypeVar("Row")


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of a table, all in text.

    Attributes:
      header: above it.
      cells: from top to bottom.
      justify: numbers stand to the right.
      dispensable: of the columns that do not fit a terminal, those with the highest number are left out first.
    """

    header: str
    cells: tuple[str, ...]
    justify: Literal["left", "right"] = "right"
    dispensable: int = 0


@dataclasses.dataclass(frozen=True)
class Grid:
    """A table with its title and the lines below it."""

    title: str
    columns: tuple[Column, ...]
    notes: tuple[str, ...]


def report_grids(report: Report) -> list[tuple[Section | None, list[Grid]]]:
    """Every section's tables, and at the end, beside None, that of teachers that were scored alone."""
    grids: list[tuple[Section | None, list[Grid]]] = [
        (
            section,
            [
                scores_grid(section),
                means_grid(section),
                *([interference_grid(section)] if section.interference else []),
                *aggregate_grids(section),
            ],
        )
        for section in report.sections
    ]
    return [*grids, (None, [teachers_grid(report.teachers)])] if report.teachers else grids


def scores_grid(section: Section) -> Grid:
    """A row per game and design: scores, their interval, percentages, and the paper's figure."""
    cells = section.cells
    kinds = {cell.interval_kind for cell in cells}
    has_ranges = "range of two seeds" in kinds
    twice = Counter((cell.game, cell.design) for cell in cells)
    columns = [
        _column("game", cells, lambda cell: cell.game, "left"),
        *_design_columns(cells, lambda cell: cell.design),
        _column("teacher", cells, lambda cell: cell.teacher_name if twice[cell.game, cell.design] > 1 else "", "left"),
        _column("teacher's score", cells, lambda cell: _score(cell.teacher), dispensable=4),
        _column("student's score", cells, lambda cell: _score(cell.student)),
        _column(
            "interval" if has_ranges else "95 % interval", cells, lambda cell: _interval(cell.student), dispensable=3
        ),
        _column("seeds", cells, lambda cell: f"{len(cell.results)}", dispensable=2),
        _column("spread", cells, lambda cell: "" if cell.spread is None else _plain(cell.spread), dispensable=5),
        _column("episodes", cells, lambda cell: f"{cell.student.episodes:,}", dispensable=6),
        _column("of teacher", cells, lambda cell: format_percent(cell.raw.value)),
        _column("interval of %", cells, lambda cell: _percent_interval(cell.raw), dispensable=7),
        _column("above random", cells, lambda cell: format_percent(cell.normalised.value)),
        _column("paper", cells, lambda cell: _paper(cell.paper), dispensable=1),
    ]
    notes = [
        "± is one standard error of the mean; intervals are of 95 %, those of percentages with the teacher's share"
    ]
    if any(cell.spread is not None for cell in cells):
        t = ", and the interval is Student's t over seeds" if "t over seeds" in kinds else ""
        notes.append(f"several seeds: mean of their scores, spread is the standard deviation between them{t}")
    notes += [_RANGE_NOTE] if has_ranges else []
    notes.append("above random: 0 % plays as badly as random actions, 100 % as well as the teacher")
    if any(cell.raw.value is None for cell in cells):
        notes.append(f"{_UNDEFINED}: a share of a score that is not positive, or that nobody took, means nothing")
    letters = {cell.design.letter: cell.design.describe_settings() for cell in cells if cell.design.letter}
    notes += [f"settings {letter}: {settings}" for letter, settings in sorted(letters.items())]
    notes += _paper_notes([cell.paper for cell in cells])
    return Grid(f"Scores ({section.rules.describe()})", _used(columns), tuple(notes))


def means_grid(section: Section) -> Grid:
    """A row per design: the geometric means over its games, its size, and the paper's figure."""
    means = section.means
    is_raw = section.measure == "raw"
    raw, above = ("of teacher ¹", "above random") if is_raw else ("of teacher", "above random ¹")
    columns = [
        *_design_columns(means, lambda mean: mean.design),
        _column("over", means, _games, "left", dispensable=1),
        _column(raw, means, lambda mean: format_percent(mean.raw.value)),
        _column(above, means, lambda mean: format_percent(mean.normalised.value)),
        _column(
            "interval ¹", means, lambda mean: _percent_interval(mean.raw if is_raw else mean.normalised), dispensable=2
        ),
        _column("parameters", means, _parameters, dispensable=4),
        _column("smaller", means, lambda mean: f"{mean.compression:.1f}x" if mean.compression else "", dispensable=3),
        _column("paper", means, lambda mean: _paper(mean.paper, len(mean.cells))),
    ]
    notes = [f"¹ {_measure_note(section)}"]
    notes += [_RANGE_NOTE] if any(cell.interval_kind == "range of two seeds" for cell in section.cells) else []
    notes += [f"{describe_design(mean.design)}: no mean: {mean.problem}" for mean in means if mean.problem]
    if any(mean.paper and mean.paper.games != len(mean.cells) for mean in means):
        notes.append(
            "where the paper's figure names its games, ours is over fewer of them, and not the same measurement"
        )
    notes += _paper_notes([mean.paper for mean in means])
    return Grid(f"Geometric means over games ({section.rules.describe()})", _used(columns), tuple(notes))


def interference_grid(section: Section) -> Grid:
    """A row per game: the student of several games against the game's own."""
    rows = section.interference
    columns = [
        _column("game", rows, lambda row: row.together.game, "left"),
        *_design_columns(rows, lambda row: row.together.design),
        _column("of several games", rows, lambda row: _score(row.together.student)),
        _column("of this game alone", rows, lambda row: _score(row.alone.student)),
        _column("updates", rows, lambda row: _updates(row.together, row.alone), dispensable=2),
        _column("% of its own", rows, lambda row: format_percent(row.raw.value)),
        _column("above random", rows, lambda row: format_percent(row.normalised.value)),
        _column("interval of that", rows, lambda row: _percent_interval(row.normalised), dispensable=1),
    ]
    notes = [
        "the student of several games, in percent of one of the same network and loss that has this game to itself: "
        "below 100 % its games disturb one another, above they help",
        "updates: of the student of several games, each of which may see all of its games, and of the game's own",
    ]
    designs = dict.fromkeys(row.together.design for row in rows)
    for design in designs:
        own = [row.normalised for row in rows if row.together.design == design]
        mean = geometric(own, FLOOR_PERCENT)
        if len(own) > 1 and mean.value is not None:
            whose = f"{describe_design(design)}: " if len(designs) > 1 else ""
            notes.append(f"{whose}geometric mean above random: {format_percent(mean.value)}")
    return Grid(f"Interference between games ({section.rules.describe()})", _used(columns), tuple(notes))


def aggregate_grids(section: Section) -> list[Grid]:
    """What the seeds and games of designs say together, and which design is likely the better one, if anything."""
    aggregates, improvements = aggregates_of(section), improvements_of(section)
    grids = [_aggregates_grid(section, aggregates)] if aggregates else []
    return [*grids, *([_improvements_grid(section, improvements)] if improvements else [])]


def _aggregates_grid(section: Section, rows: Sequence[Aggregates]) -> Grid:
    """A row per design and reference."""
    columns = [
        *_design_columns(rows, lambda row: row.design),
        _column("100 % is", rows, lambda row: "the teacher" if row.reference == "teacher" else "a human", "left"),
        _column("runs", rows, lambda row: f"{row.seeds} seeds x {len(row.games)}", "left", 3),
        _column("IQM", rows, lambda row: format_percent(row.iqm.value)),
        _column("95 % of IQM", rows, lambda row: _percent_interval(row.iqm), dispensable=1),
        _column("median", rows, lambda row: format_percent(row.median.value)),
        _column("95 % of median", rows, lambda row: _percent_interval(row.median), dispensable=5),
        _column("mean", rows, lambda row: format_percent(row.mean.value)),
        _column("95 % of mean", rows, lambda row: _percent_interval(row.mean), dispensable=4),
        _column("optimality gap", rows, lambda row: format_percent(row.optimality_gap.value)),
        _column("95 % of gap", rows, lambda row: _percent_interval(row.optimality_gap), dispensable=2),
    ]
    notes = (
        "of scores above random, in percent of the reference's; the definitions are those of Agarwal et al. (2021)",
        "IQM: the mean of the middle half of all runs; median: over games, of the means over seeds",
        "optimality gap: how far runs fall short of 100 % in the mean; what is above makes up for nothing",
        "intervals: bootstrap over seeds, in each game apart; of few seeds they are too narrow",
    )
    return Grid(f"Seeds and games together ({section.rules.describe()})", _used(columns), notes)


def _improvements_grid(section: Section, rows: Sequence[Improvement]) -> Grid:
    """A row per pair of designs: how likely a run of the one is better."""
    names = [describe_design(mean.design, [mean.design for mean in section.means]) for mean in section.means]
    name_of = dict(zip((mean.design for mean in section.means), names, strict=True))
    columns = [
        _column("design", rows, lambda row: name_of[row.design], "left"),
        _column("better than", rows, lambda row: name_of[row.other], "left"),
        _column(
            "in", rows, lambda row: ", ".join(row.games) if len(row.games) <= 3 else f"{len(row.games)} games", "left"
        ),
        _column("probability", rows, lambda row: format_percent(row.probability.value)),
        _column("95 % interval", rows, lambda row: _percent_interval(row.probability)),
    ]
    notes = ("that a run of the one has a higher score than a run of the other; 50 % is an even chance",)
    return Grid(f"Probability of improvement ({section.rules.describe()})", _used(columns), notes)


def teachers_grid(teachers: Sequence[Result]) -> Grid:
    """A row per teacher that was scored alone."""
    scores = {id(result): result.teacher for result in teachers}
    columns = [
        _column("game", teachers, lambda result: result.game, "left"),
        _column("network", teachers, lambda result: result.settings["network"], "left"),
        _column("trained by", teachers, lambda result: loss_name(result.settings["algorithm"], ""), "left", 1),
        _column("score", teachers, lambda result: _score(scores[id(result)])),
        _column("95 % interval", teachers, lambda result: _interval(scores[id(result)])),
        _column(
            "episodes",
            teachers,
            lambda result: f"{score.episodes:,}" if (score := result.teacher) else "",
            dispensable=3,
        ),
        _column(
            "steps", teachers, lambda result: "" if result.env_steps is None else f"{result.env_steps:,}", dispensable=2
        ),
        _column("protocol", teachers, lambda result: result.rules.describe(), "left", 4),
        _column("run", teachers, lambda result: result.run, "left", 5),
    ]
    return Grid("Teachers", _used(columns), ("± is one standard error of the mean",))


def describe_design(design: Design, among: Sequence[Design] = ()) -> str:
    """Such as ``net2, KL, τ = 0.01``; of ``among`` others only what tells it apart, but the network always."""
    parts = _parts(design)
    others = [_parts(other) for other in among]
    shown = [parts[0]] + [
        part for index, part in enumerate(parts[1:], 1) if not others or any(other[index] != part for other in others)
    ]
    return ", ".join(filter(None, shown))


def print_report(report: Report, *, file: TextIO | None = None) -> None:
    """Prints all tables, on stdout unless ``file`` is given; in a terminal only the columns that fit."""
    console = Console(file=file or sys.stdout, highlight=False)
    if not console.is_terminal:
        console.width = _UNLIMITED
    for _, grids in report_grids(report):
        for grid in grids:
            console.print(Text(grid.title, style="bold"))
            without = max(column.dispensable for column in grid.columns) + 1
            while without > 1 and _width(grid, without) > console.width:
                without -= 1
            console.print(_rich_table(grid, without))
            omitted = [column.header for column in grid.columns if column.dispensable >= without]
            more = [f"a wider terminal, a pipe and --out also show: {', '.join(omitted)}"] if omitted else []
            for note in (*grid.notes, *more):
                console.print(f"  {note}", markup=False, style="dim", soft_wrap=True)
            console.print()


def markdown(report: Report, figures: Mapping[int, Sequence[tuple[str, str]]], *, version: str) -> str:
    """The report as a Markdown document.

    Args:
      report: what to say.
      figures: by a section's index, ``(file, what it shows)``.
      version: of pd_jax.

    Returns:
      the text.
    """
    lines = ["# Policy distillation: report", ""]
    for index, (_, grids) in enumerate(report_grids(report)):
        for grid in grids:
            lines += [f"## {grid.title}", "", *_markdown_table(grid), ""]
            lines += [f"- {_escape(note)}" for note in grid.notes] + [""]
        for name, about in figures.get(index, ()):
            lines += [f"![{_escape(about)}]({name})", ""]
    if report.warnings:
        lines += ["## To be kept in mind", "", *(f"- {_escape(warning)}" for warning in report.warnings), ""]
    lines += ["## Runs", "", *(f"- {_escape(run)}" for run in report.runs), "", f"Written by pd_jax {version}.", ""]
    return "\n".join(lines)


def _measure_note(section: Section) -> str:
    if section.measure == "raw":
        return "the mean to compare by: of raw scores, as in the paper, for all of them are positive"
    first = section.not_positive[0]
    others = len(section.not_positive) - 1
    where = f"{describe_design(first.design)} in {first.game}" + (f" and {others} more" if others else "")
    note = (
        "the mean to compare by: of scores above random, (student - random) / (teacher - random), for raw percentages "
        f"have no geometric mean where a score is not positive ({where})"
    )
    floored = [f"{describe_design(mean.design)} in {game}" for mean in section.means for game in mean.floored]
    if floored:
        note += f"; {floor_note(floored)}"
    return note


def _paper_notes(figures: Sequence[PaperFigure | None]) -> list[str]:
    if not any(figures):
        return []
    notes = ["paper: Rusu et al. (2016), % of the teacher's raw score, from human starts"]
    if any(figure is not None and not figure.verified for figure in figures):
        notes.append(f"{_UNVERIFIED} quoted from memory and not found again in a second source: a lead, not a bar")
    return notes


def _design_columns(rows: Sequence[Row], design_of: Callable[[Row], Design]) -> list[Column]:
    parts = [_parts(design_of(row)) for row in rows]
    names = ("network", "loss", "settings")
    return [Column(name, cells, "left") for name, cells in zip(names, zip(*parts, strict=True), strict=True)]


def loss_of(design: Design) -> str:
    """Such as ``KL, τ = 0.01``."""
    recipe = design.recipe
    loss = _UNDEFINED if recipe.loss is None else loss_name(recipe.loss)
    if recipe.temperature is not None:
        loss += f", τ = {_temperatures(recipe.temperature)}"
    elif recipe.loss is not None and recipe.command != "train-teacher" and needs_temperature(recipe.loss, "none"):
        loss += ", default τ"
    return loss + " on rewards" if recipe.command == "train-teacher" else loss


def _parts(design: Design) -> tuple[str, str, str]:
    """Network, loss, and whatever else tells a design from others of the same recipe."""
    recipe, loss = design.recipe, loss_of(design)
    others = [f"{len(recipe.together)} games in one"] if recipe.together else []
    others += [recipe.command] if recipe.command not in ("distill", "train-teacher") else []
    others += [f"{recipe.checkpoint} checkpoint"] if recipe.checkpoint != "newest" else []
    others += [design.letter or design.describe_settings()]
    return recipe.network, loss, ", ".join(filter(None, others))


def _temperatures(temperature: float | tuple[float, ...] | str) -> str:
    if isinstance(temperature, str):
        return temperature
    return " / ".join(f"{each:g}" for each in (temperature if isinstance(temperature, tuple) else (temperature,)))


def _column(
    header: str,
    rows: Sequence[Row],
    cell: Callable[[Row], str],
    justify: Literal["left", "right"] = "right",
    dispensable: int = 0,
) -> Column:
    return Column(header, tuple(map(cell, rows)), justify, dispensable)


def _used(columns: Sequence[Column]) -> tuple[Column, ...]:
    """Those that say anything."""
    return tuple(column for column in columns if any(column.cells))


def _score(score: Score | None) -> str:
    return _UNDEFINED if score is None else format_score(score.mean, score.standard_error)


def _plain(number: float) -> str:
    return format_score(number, None)


def _interval(score: Score | None) -> str:
    return (
        ""
        if score is None or score.low is None or score.high is None
        else f"{_plain(score.low)} to {_plain(score.high)}"
    )


def _percent_interval(percent: Percent) -> str:
    return "" if percent.low is None or percent.high is None else f"{percent.low:.1f} to {percent.high:.1f} %"


def _paper(figure: PaperFigure | None, games: int = 1) -> str:
    if figure is None:
        return ""
    over = f" ({figure.games} games)" if figure.games != games else ""
    return f"{format_percent(figure.percent)}{over}{'' if figure.verified else f' {_UNVERIFIED}'}"


def _games(mean: Mean) -> str:
    names = list(dict.fromkeys(cell.game for cell in mean.cells))
    return names[0] if len(names) == 1 else f"{len(names)}: {', '.join(names)}"


def _parameters(mean: Mean) -> str:
    results = [result for cell in mean.cells for result in cell.results]
    sizes = sorted({result.student_parameters for result in results if result.student_parameters is not None})
    return "" if not sizes else f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"


def _updates(*cells: Cell) -> str:
    numbers = [cell.results[0].updates for cell in cells]
    return "" if None in numbers else " and ".join(f"{number:,}" for number in numbers)


def _rich_table(grid: Grid, without: int) -> Table:
    columns = [column for column in grid.columns if column.dispensable < without]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in columns:
        header = "\n".join(textwrap.wrap(column.header, max(8, *map(len, column.header.split()))))
        table.add_column(header, justify=column.justify, no_wrap=True)
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*map(Text, row))
    return table


def _width(grid: Grid, without: int) -> int:
    return Console(width=_UNLIMITED).measure(_rich_table(grid, without)).maximum


def _markdown_table(grid: Grid) -> list[str]:
    rows = [[column.header for column in grid.columns]]
    rows.append(["---:" if column.justify == "right" else "---" for column in grid.columns])
    rows += [list(map(_escape, row)) for row in zip(*(column.cells for column in grid.columns), strict=True)]
    return [f"| {' | '.join(row)} |" for row in rows]


def _escape(text: str) -> str:
    """Text as Markdown shows it; a name with a bar or a bracket stays a name."""
    for letter, safe in (
        ("\\", "\\\\"),
        ("&", "&amp;"),
        ("<", "&lt;"),
        ("|", "\\|"),
        ("[", "\\["),
        ("*", "\\*"),
        ("`", "\\`"),
    ):
        text = text.replace(letter, safe)
    return text
