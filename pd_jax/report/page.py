"""The result of a run as one page that needs nothing beside it: ``report.html``."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

from pd_jax.evaluation.scores import Score
from pd_jax.report.terminal import format_percent, format_score, summary_notes
from pd_jax.runs.summary import Summary
from pd_jax.system.files import write_atomically

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .3rem .9rem; text-align: right; border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums }
th:first-child, td:first-child { text-align: left }
img { max-width: 100% }
ul { color: #555; padding-left: 1.2rem }
pre { background: #f6f6f6; padding: 1rem; overflow-x: auto }
"""


def report_page(title: str, summary: Summary, *, picture: bytes | None, config: str) -> str:
    """A self-contained HTML page: the table of scores, the plot, and the configuration that leads there again.

    Args:
      title: of the page.
      summary: of students and teachers.
      picture: a PNG to show, None if there is none.
      config: text of the resolved ``config.yaml``.
    """
    notes = "".join(f"<li>{escape(note)}</li>" for note in summary_notes(summary))
    image = ""
    if picture is not None:
        data = base64.b64encode(picture).decode()
        image = f'<img alt="loss, agreement and score over the updates" src="data:image/png;base64,{data}">\n'
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n{_scores(summary)}<ul>{notes}</ul>\n"
        f"{image}<details><summary>Configuration</summary><pre>{escape(config)}</pre></details>\n</body>\n</html>\n"
    )


def write_report(path: Path, title: str, summary: Summary, *, picture: Path, config: Path) -> None:
    """Writes :func:`report_page` from a run's files; without a picture if it is not there.

    Raises:
      OSError: the configuration cannot be read or the page cannot be written.
    """
    image = picture.read_bytes() if picture.exists() else None
    page = report_page(title, summary, picture=image, config=config.read_text(encoding="utf-8"))
    write_atomically(path, page)


def _scores(summary: Summary) -> str:
    rows = [_row("th", "game", "teacher", "student", "of teacher", "above random", "episodes")]
    for name, game in summary.games.items():
        rows.append(
            _row(
                "td",
                name,
                _score_with_interval(game.teacher),
                _score_with_interval(game.student),
                format_percent(game.percent_of_teacher),
                format_percent(game.percent_of_teacher_normalised),
                f"{game.episodes:,}",
            )
        )
    if len(summary.games) > 1:
        raw, normalised = (
            summary.geometric_mean_percent,
            summary.above_random["geometric_mean_percent_normalised_floored"],
        )
        rows.append(_row("th", "geometric mean", "", "", format_percent(raw), format_percent(normalised), ""))
    return f"<table>\n{''.join(rows)}</table>\n"


def _score_with_interval(score: Score | None) -> str:
    assert score is not None
    text = format_score(score.mean, score.standard_error)
    return text if score.low is None else f"{text} ({score.low:,.1f} to {score.high:,.1f})"


def _row(tag: str, *cells: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>\n"
