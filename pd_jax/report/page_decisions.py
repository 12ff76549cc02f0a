"""What a student chooses where its teacher chooses otherwise, on a run's page: confusions and the worst moments."""

from __future__ import annotations

import math
from html import escape

import numpy as np

from pd_jax.evaluation.comparison import Comparison, Moment
from pd_jax.report.document import MINUS, NOTHING, SPACE, confusion_table, percent
from pd_jax.report.drawing import frames
from pd_jax.report.page_files import RunFiles
from pd_jax.system.text import spell_count

_OPEN_GAMES = 3


def decisions_section(read: RunFiles) -> str:
    """Confusion and the worst moments, game by game."""
    details = read.details
    if details is None or not details.games:
        return ""
    parts = []
    for name, found in details.games.items():
        body = _comparison(found)
        if len(details.games) > 1:
            share = NOTHING if found.agreement is None else percent(found.agreement)
            is_open = " open" if len(details.games) <= _OPEN_GAMES else ""
            body = (
                f"<details{is_open}><summary>{escape(name)} <small>agrees in {share}</small></summary>{body}</details>"
            )
        parts.append(body)
    return (
        '<section class="long"><h2>Where student and teacher choose otherwise</h2>'
        '<p class="note">The student plays its final games, and the teacher is asked what it would do.</p>'
        f"{''.join(parts)}</section>"
    )


def _comparison(found: Comparison) -> str:
    if not found.states:
        return "<p>There was no state about which both gave finite outputs.</p>"
    share = found.agreement or 0.0
    unit = "log probability" if found.gives_logits else "value"
    worst = "".join(_moment(found, moment) for moment in found.moments)
    every = "all decisions" if found.every == 1 else f"one of {found.every:,} decisions in each lane"
    pictures = '<p class="note">None: wherever they were compared, the student chooses what its teacher chooses.</p>'
    if worst:
        pictures = (
            '<p class="legend"><span class="key taught">teacher</span><span class="key own">student</span></p>'
            f'<div class="grid moments">{worst}</div>'
        )
    return (
        f"<p>They agree in <b>{percent(share)}</b> of {found.states:,} states: {every}.</p>"
        "<h3>Which choice is taken for which</h3>"
        f"{confusion_table(found.actions, found.confusion.tolist())}"
        '<p class="note">Per cent of the states in which the teacher makes the choice of the row. The last row and '
        "column are shares of all states.</p>"
        f"<h3>The {spell_count(len(found.moments), 'moment')} that cost{'s' * (len(found.moments) == 1)} most</h3>"
        f"{pictures}<p class=\"note\">Cost: the teacher's {unit} of its own choice less its {unit} of the student's. "
        f"Over all states it is {_number(found.mean_cost)} in the mean. Two moments of one game are at least 30 "
        "decisions apart. "
        f"Bars: the teacher's {unit}, from the least to the largest, and the student's probability.</p>"
    )


def _moment(found: Comparison, moment: Moment) -> str:
    lane, game = moment.game
    where = f"lane {lane + 1}, game {game + 1}, step {moment.step:,}"
    if moment.observation.dtype == np.uint8:
        seen = frames(moment.observation, where)
    else:
        cells = "".join(
            f"<dt>x<sub>{place}</sub></dt><dd>{_number(value)}</dd>" for place, value in enumerate(moment.observation)
        )
        seen = f'<dl class="values">{cells}</dl>'
    least, most = float(np.nanmin(moment.teacher_outputs)), float(np.nanmax(moment.teacher_outputs))
    # As many as tell them apart.
    digits = min(max(2 - math.floor(math.log10(moment.cost)), 0), 6) if moment.cost > 0 else 2
    rows = []
    for place, name in enumerate(found.actions):
        value, likely = float(moment.teacher_outputs[place]), float(moment.student_probabilities[place])
        length = (value - least) / (most - least) if most > least else 0.0
        chosen = [
            css_class
            for css_class, choice in (("chosen-taught", moment.teacher_choice), ("chosen-own", moment.student_choice))
            if choice == place
        ]
        share = f"{100 * likely:.0f}{SPACE}%"
        # Nothing is less than nothing.
        shown = f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", MINUS)
        rows.append(
            f'<tr class="{" ".join(chosen)}"><td>{escape(name)}</td>'
            f"<td>{_bar('taught', length, shown)}</td><td>{_bar('own', likely, share)}</td></tr>"
        )
    teacher, student = found.actions[moment.teacher_choice], found.actions[moment.student_choice]
    return (
        f'<figure class="moment">{seen}<figcaption><span class="taught">{escape(teacher)}</span>'
        f'<span class="own">{escape(student)}</span><br>costs <b>{_number(moment.cost)}</b>; {where}</figcaption>'
        f'<table class="choices">{"".join(rows)}</table></figure>'
    )


def _bar(css_class: str, share: float, text: str) -> str:
    share = min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0
    return f'<span class="cell"><i class="{css_class}" style="width:{100 * share:.0f}%"></i><b>{text}</b></span>'


def _number(value: float) -> str:
    """Three digits that count."""
    if not math.isfinite(value):
        return NOTHING
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return text.replace("-", MINUS)
