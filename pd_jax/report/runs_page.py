"""The report of many runs as one page that needs nothing beside it: filtered, sorted, and with a way to each run's own.

What can be filtered is all there in the page; without JavaScript it is the full table.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from pd_jax.evaluation.scores import Score
from pd_jax.report.aggregates import Aggregates, aggregates_of
from pd_jax.report.charts import COLOURS, Line, interval_rail, line_chart
from pd_jax.report.document import NOTHING, SPACE, document, held, table, tiles
from pd_jax.report.groups import Cell, Design, Report, Section
from pd_jax.report.page import PAGE_NAME
from pd_jax.report.page_style import RUN_STYLE, RUNS_STYLE
from pd_jax.report.results import Result
from pd_jax.report.runs_page_script import SCRIPT
from pd_jax.report.statistics import Percent
from pd_jax.report.tables import Grid, describe_design, loss_of, report_grids
from pd_jax.report.terminal import format_percent, format_score
from pd_jax.system.text import spell_count

_REFERENCES = (("teacher", "their teachers"), ("human", "a human"))
_FILTERS = ("game", "network", "loss", "teacher")


class _Row(NamedTuple):
    """A run in one game, with the percentages that its cell has."""

    result: Result
    cell: Cell
    section: Section


def runs_page(report: Report, out: Path | None, *, version: str, title: str = "Policy distillation: report") -> str:
    """A self-contained page.

    Args:
      report: what to say.
      out: the directory that the page is going to be in, from where runs are linked; None links none.
      version: of pd_jax.
      title: of the page.
    """
    rows = [_Row(result, cell, section) for section, cell, result in _students(report)]
    grids = dict(_grids(report))
    parts = [_head(report, rows, title), _runs(rows, report, out)]
    for index, section in enumerate(report.sections):
        parts += [_against(section), _aggregates(section), *map(_grid, grids.get(index, ()))]
    parts += map(_grid, grids.get(-1, ()))
    parts += [
        _listed("To be kept in mind", report.warnings),
        f'<p class="note">Written by pd_jax {escape(version)}.</p>',
    ]
    return document(title, parts, style=RUN_STYLE + RUNS_STYLE, script=SCRIPT if rows else "")


def _students(report: Report) -> Iterator[tuple[Section, Cell, Result]]:
    for section in report.sections:
        for cell in section.cells:
            for result in cell.results:
                yield section, cell, result


def _grids(report: Report) -> Iterator[tuple[int, list[Grid]]]:
    """By the place of the section; -1 is of teachers that were scored alone."""
    for index, (section, grids) in enumerate(report_grids(report)):
        yield (-1 if section is None else index), grids


def _head(report: Report, rows: Sequence[_Row], title: str) -> str:
    games = dict.fromkeys(row.result.game for row in rows)
    designs = dict.fromkeys(row.cell.design for row in rows)
    runs = dict.fromkeys(row.result.run for row in rows)
    counts = {"run": len(runs), "game": len(games), "design": len(designs)}
    cells = [(name if count == 1 else f"{name}s", f"{count:,}") for name, count in counts.items()]
    if len(report.sections) == 1:
        best = max(
            (mean for mean in report.sections[0].means if report.sections[0].measured(mean).value is not None),
            key=lambda mean: report.sections[0].measured(mean).value or 0.0,
            default=None,
        )
        if best is not None:
            value = report.sections[0].measured(best).value
            measure = "of the teachers' scores" if report.sections[0].measure == "raw" else "above random play"
            cells.append((f"{measure}, the best design: {describe_design(best.design)}", held(format_percent(value))))
    return f"<header><h1>{escape(title)}</h1>\n{tiles(cells)}</header>"


def _runs(rows: Sequence[_Row], report: Report, out: Path | None) -> str:
    if not rows:
        return ""
    several = len(report.sections) > 1
    columns: list[tuple[str, Callable[[_Row], tuple[str, Any]]]] = [
        ("run", lambda row: (_link(row.result.run, out), row.result.run)),
        ("game", lambda row: (escape(row.result.game), row.result.game)),
        ("network", lambda row: _plain(_network(row))),
        ("loss", lambda row: _plain(_loss(row))),
        ("teacher", lambda row: _plain(row.result.teacher_name)),
        ("seed", lambda row: (escape(str(row.result.seed)), row.result.seed)),
        ("student", lambda row: (_score(row.result.student), _mean(row.result.student))),
        ("of teacher", lambda row: _share(row, 0.0)),
        ("above random", lambda row: _share(row, row.cell.random_score)),
        ("smaller", lambda row: _smaller(row.result)),
        ("updates", lambda row: (f"{row.result.updates:,}" if row.result.updates else NOTHING, row.result.updates)),
    ]
    if several:
        columns.append(("protocol", lambda row: _plain(row.section.rules.describe())))
    names = [name for name, _ in columns]
    body = []
    for row in rows:
        cells = "".join(
            f'<td data-name="{name}" data-sort="{escape(_key(key))}">{shown}</td>'
            for (name, of) in columns
            for shown, key in [of(row)]
        )
        values = {
            "game": row.result.game,
            "network": _network(row),
            "loss": _loss(row),
            "teacher": row.result.teacher_name,
        }
        kinds = "".join(f' data-{name}="{escape(values[name])}"' for name in _FILTERS)
        body.append(f"<tr{kinds}>{cells}</tr>")
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    count = spell_count(len(rows), "row")
    return (
        f"<section><h2>Runs</h2>{_filters(rows, names)}"
        f'<p class="count note" role="status">{count}</p>'
        f'<div class="scroll"><table class="runs" id="runs"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
        '<p class="note">A row for each run and game; ± is one standard error over its games. Filters choose rows of '
        "this table; what follows below is of all runs.</p></section>"
    )


def _filters(rows: Sequence[_Row], names: Sequence[str]) -> str:
    """Hidden until the script shows them: without it they would do nothing."""
    parts = []
    for name, of in (
        ("game", lambda row: row.result.game),
        ("network", _network),
        ("loss", _loss),
        ("teacher", lambda row: row.result.teacher_name),
    ):
        values = sorted({of(row) for row in rows})
        options = "".join(f'<option value="{escape(value)}">{escape(value)}</option>' for value in values)
        parts.append(
            f'<label>{name}<select name="{name}"><option value="">all{SPACE}({len(values)})</option>{options}'
            "</select></label>"
        )
    orders = "".join(f'<option value="{place}">{name}</option>' for place, name in enumerate(names))
    return (
        f'<form class="filters" hidden>{"".join(parts)}'
        '<label class="free">text<input name="text" type="search" placeholder="any of the row" autocomplete="off">'
        f'</label><label>sort by<select name="sort"><option value="">as read</option>{orders}</select></label>'
        '<label>order<select name="order"><option value="up">rising</option><option value="down">falling</option>'
        '</select></label><button type="reset">reset</button></form>'
    )


def _network(row: _Row) -> str:
    return row.cell.design.recipe.network


def _loss(row: _Row) -> str:
    return loss_of(row.cell.design)


def _plain(text: str) -> tuple[str, str]:
    return escape(text) or NOTHING, text


def _score(score: Score | None) -> str:
    return NOTHING if score is None else held(format_score(score.mean, score.standard_error))


def _mean(score: Score | None) -> float | None:
    return None if score is None else score.mean


def _share(row: _Row, random: float | None) -> tuple[str, float | None]:
    """Of the teacher that the run itself has scored, or else its cell's."""
    student, teacher = row.result.student, row.result.teacher or row.cell.teacher
    if student is None or teacher is None or random is None or teacher.mean <= random:
        return NOTHING, None
    share = 100 * (student.mean - random) / (teacher.mean - random)
    return held(format_percent(share)), share


def _smaller(result: Result) -> tuple[str, float | None]:
    if not result.student_parameters or not result.teacher_parameters:
        return NOTHING, None
    factor = result.teacher_parameters / result.student_parameters
    return f"{factor:.1f}x", factor


def _key(value: Any) -> str:
    """What rows are sorted by: numbers as they are, and nothing for what is not known, which comes last."""
    return "" if value is None else str(value)


def _link(run: str, out: Path | None) -> str:
    """The way to the run's own page, if it has one; else its directory's name."""
    name = escape(os.path.basename(os.path.normpath(run)) or run)
    page = Path(run, PAGE_NAME)
    if out is None or not page.is_file():
        return f'<span title="{escape(run)}">{name}</span>'
    way = quote(Path(os.path.relpath(page.absolute(), out.absolute())).as_posix())
    # A first part with a colon would be taken for a scheme.
    return f'<a href="{way if way.startswith(".") else f"./{way}"}" title="{escape(run)}">{name}</a>'


def _against(section: Section) -> str:
    """Every game and design: the percentage that is compared, on a rail."""
    measured = [(cell, section.measured(cell)) for cell in section.cells]
    known = [(cell, percent) for cell, percent in measured if percent.value is not None]
    if not known:
        return ""
    means = [(mean, section.measured(mean)) for mean in section.means if len(mean.cells) > 1]
    bounds = _bounds([percent for _, percent in [*known, *means]])
    designs = [mean.design for mean in section.means]
    games = dict.fromkeys(cell.game for cell, _ in known)
    bodies = []
    for game in games:
        rows = [_rail_row(cell.design, designs, percent, bounds) for cell, percent in known if cell.game == game]
        bodies.append(f'<tr class="group"><th colspan="3">{escape(game)}</th></tr>{"".join(rows)}')
    shown = [_rail_row(mean.design, designs, percent, bounds) for mean, percent in means if percent.value is not None]
    if shown:
        bodies.append(f'<tr class="group"><th colspan="3">geometric mean over games</th></tr>{"".join(shown)}')
    measure = "score, % of the teacher's" if section.measure == "raw" else "score above random, % of the teacher's"
    return (
        f"<section><h2>Students against their teachers</h2>"
        f'<table class="rails-table">{"".join(bodies)}</table>'
        f'<p class="note">{escape(measure[0].upper() + measure[1:])} ({escape(section.rules.describe())}). '
        f"Rails go from {bounds[0]:.0f} to {bounds[1]:.0f}{SPACE}%, where wider intervals are cut; the line on them is "
        f"100{SPACE}%, the teacher.</p></section>"
    )


def _rail_row(design: Design, among: Sequence[Design], percent: Percent, bounds: tuple[float, float]) -> str:
    assert percent.value is not None
    name = describe_design(design, among)
    return f"<tr><td>{escape(name)}</td><td>{_rail(percent, bounds)}</td><td>{_percent(percent)}</td></tr>"


def _rail(percent: Percent, bounds: tuple[float, float], line: float = 100.0) -> str:
    if percent.value is None:
        return ""
    return interval_rail(bounds, [("own", percent.value, percent.low, percent.high)], line=line)


def _percent(percent: Percent) -> str:
    text = f"<b>{held(format_percent(percent.value))}</b>"
    if percent.low is None or percent.high is None:
        return text
    return f"{text} <small>({percent.low:.1f} to {percent.high:.1f})</small>"


def _bounds(percents: Iterable[Percent]) -> tuple[float, float]:
    """Of rails: 0 and 100 are on them, and of wide intervals what lies near."""
    known = [percent for percent in percents if percent.value is not None]
    values = [percent.value for percent in known if percent.value is not None]
    low, high = min([0.0, *values]), max([100.0, *values])
    ends = [percent.high for percent in known if percent.high is not None]
    high = min(max([high, *ends]), 1.25 * high)
    return (10 * float(np.floor(low / 10)) if low < 0 else 0.0), 10 * float(np.ceil((high + 2) / 10))


def _aggregates(section: Section) -> str:
    """Interquartile means and their like on rails, and performance profiles as curves."""
    found = aggregates_of(section)
    if not found:
        return ""
    designs = [mean.design for mean in section.means]
    parts = []
    for reference, who in _REFERENCES:
        own = [each for each in found if each.reference == reference]
        if own:
            bounds = _bounds(percent for each in own for _, percent, _ in _measures(each))
            blocks = "".join(_block(each, describe_design(each.design, designs), bounds) for each in own)
            parts.append(f"<h3>100 % is {who}</h3>{blocks}")
    charts = "".join(
        _profiles(own, designs, f"Runs above a share of the scores of {who}")
        for reference, who in _REFERENCES
        if (own := [each for each in found if each.reference == reference])
    )
    return (
        f"<section><h2>Seeds and games together</h2>{''.join(parts)}"
        f'<div class="charts">{charts}</div>'
        '<p class="note">Scores above random play, by the definitions of Agarwal et al. (2021), with 95 % intervals of '
        "a bootstrap over seeds in each game apart. Profiles: the share of runs that score more than x, with 95 % "
        "bands.</p></section>"
    )


def _measures(each: Aggregates) -> list[tuple[str, Percent, float]]:
    """What each is called, its value, and what it would be of a student that is as good as the reference."""
    return [
        ("interquartile mean", each.iqm, 100.0),
        ("median", each.median, 100.0),
        ("mean", each.mean, 100.0),
        ("optimality gap (less is better)", each.optimality_gap, 0.0),
    ]


def _block(each: Aggregates, name: str, bounds: tuple[float, float]) -> str:
    cells = "".join(
        f"<div><span>{measure}</span>{_percent(percent)}{_rail(percent, bounds, aim)}</div>"
        for measure, percent, aim in _measures(each)
    )
    runs = f"{spell_count(each.seeds, 'seed')} of {spell_count(len(each.games), 'game')}"
    return f'<div class="measures"><p><b>{escape(name)}</b><small>{runs}</small></p>{cells}</div>'


def _profiles(own: Sequence[Aggregates], designs: Sequence[Design], title: str) -> str:
    lines = []
    for place, each in enumerate(own):
        thresholds, shares, (low, high) = each.profile()
        # Steps, of which few pixels tell.
        chosen = np.unique(np.linspace(0, len(thresholds) - 1, 90).astype(int))
        points = 100 * np.column_stack([thresholds / 100, shares, low, high])[chosen]
        css_class = f"line{place % COLOURS}" + (" dashed" if place >= COLOURS else "")
        lines.append(Line(describe_design(each.design, designs), points, css_class))
    return line_chart(
        title,
        lines,
        x_label="score above random play, %",
        about="the share of runs above each score",
        is_percent=True,
        bounds=(0.0, 100.0),
    )


def _grid(grid: Grid) -> str:
    head = [column.header for column in grid.columns]
    rows = [[held(cell) for cell in row] for row in zip(*(column.cells for column in grid.columns), strict=True)]
    left = [place for place, column in enumerate(grid.columns) if column.justify == "left"]
    notes = "".join(f"<li>{held(note)}</li>" for note in grid.notes)
    return (
        f'<section class="long"><details><summary>{escape(grid.title)}</summary>'
        f'{table(head, rows, "grid-table", left=left)}<ul class="note">{notes}</ul></details></section>'
    )


def _listed(title: str, lines: Sequence[str]) -> str:
    if not lines:
        return ""
    listed = "".join(f"<li>{held(line)}</li>" for line in lines)
    return f'<section><h2>{escape(title)}</h2><ul class="note">{listed}</ul></section>'
