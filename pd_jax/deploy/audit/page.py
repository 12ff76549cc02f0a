"""``audit.html``: the whole audit on one page that asks for nothing, in light and dark, on wide and narrow screens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np

from pd_jax.report.document import NOTHING, confusion_table, document, held, percent, table
from pd_jax.report.drawing import frames, interval_bar, picture, strip, two_bars

_FAMILIES = (
    ("loss", "On the way to a loss"),
    ("gap", "By how clear the teacher's call is"),
    ("action", "By what the teacher chooses"),
    ("number", "By the numbers of the observation"),
)
_NUMBER_ROWS = 12
_KINDS_OF_FINDINGS = {
    "bias": "bias of an action",
    "disagreement": "does not follow",
    "teacher_return": "wrong teacher",
    "teacher_reference": "wrong teacher",
    "score": "score",
    "tail": "worst games",
    "outside": "outside",
}


class Pictures(NamedTuple):
    """What was seen.

    Attributes:
      worst: stacks ``[84, 84, 4]``, in the order of the report's worst states; none of a task without frames.
      exemplars: frames ``[84, 84]`` by number of the cluster.
    """

    worst: Sequence[np.ndarray]
    exemplars: Mapping[int, Sequence[np.ndarray]]


def audit_page(report: Mapping[str, Any], pictures: Pictures) -> str:
    """A self-contained page.

    Args:
      report: what ``audit.json`` holds.
      pictures: of states.
    """
    title = f"Audit of {report['student']['name']}"
    parts = [
        _head(report, title),
        _findings(report, pictures),
        _scores(report),
        _outside(report),
        _confusion(report),
        _kinds(report),
        _clusters(report, pictures),
        _worst(report, pictures),
        _teacher(report),
        _about(report),
    ]
    return document(title, parts)


def _head(report: Mapping[str, Any], title: str) -> str:
    student, teacher, states = report["student"], report["teacher"], report["states"]
    agreement = report["agreement"]["overall"]
    tiles = [
        ("agrees with its teacher", _share(agreement["agreement"])),
        ("score", _score(report["scores"]["student"])),
        ("teacher's score", _score(report["scores"]["teacher"])),
        (f"parameters; its teacher has {teacher['parameters']:,}", f"{student['parameters']:,}"),
    ]
    cells = "".join(f"<div><b>{value}</b><span>{escape(name)}</span></div>" for name, value in tiles)
    return (
        f"<header><h1>{escape(title)}</h1>\n<p>{escape(report['game'])}, with its teacher "
        f"<b>{escape(teacher['name'])}</b>, over {states['count']:,} states of {escape(states['of'])}.</p>\n"
        f'<div class="tiles">{cells}</div></header>'
    )


def _findings(report: Mapping[str, Any], pictures: Pictures) -> str:
    found, inherited = report["findings"], ""
    if report["inherited"]:
        inherited = (
            '<p class="note">Inherited: student and teacher alike lose half of their score above random play, or more, '
            f"with {held(', '.join(report['inherited']))}.</p>"
        )
    if not found:
        return (
            '<section class="findings none"><h2>Findings</h2><p class="headline">Nothing stands out: no measure is '
            f"beyond its bound.</p>{inherited}</section>"
        )
    items = []
    for place, finding in enumerate(found):
        images = "".join(
            picture(image, f"cluster {finding['cluster']}", "small")
            for image in pictures.exemplars.get(finding["cluster"] or 0, ())
        )
        kind = _KINDS_OF_FINDINGS[finding["kind"]]
        items.append(
            f'<li class="{"first" if place == 0 else ""}"><span class="tag">{escape(kind)}</span>'
            f"<p>{held(finding['sentence'])}</p>{images}"
            f"<small>a finding from {finding['bound']:g} on (<code>{escape(finding['setting'])}</code>)</small></li>"
        )
    count = f"{len(found)} finding{'s' * (len(found) > 1)}"
    return (
        f'<section class="findings"><h2>{count}</h2>\n<ol>{"".join(items)}</ol>\n'
        '<p class="note">Causes stand first, by the share of all states that they are about; then what may follow from '
        f"them, by the share of the score.</p>{inherited}</section>"
    )


def _scores(report: Mapping[str, Any]) -> str:
    scores = report["scores"]
    present = [(who, scores[who]) for who in ("student", "teacher") if scores[who] is not None]
    if not present:
        return "<section><h2>Scores</h2><p>The play was cut (<code>steps</code>): there are none.</p></section>"
    rows = [
        [
            who,
            _value(each["mean"]) + _between(each["ci95"]),
            _value(each["cvar10"]["value"]) + _between(each["cvar10"]["ci95"]),
            _value(each["worst"]),
            str(each["episodes"]),
        ]
        for who, each in present
    ]
    means = table(["", "mean", "worst tenth (CVaR 10 %)", "worst game", "games"], rows)
    return (
        f"<section><h2>Scores</h2>{means}{strip([(who, each['returns']) for who, each in present])}"
        '<p class="note">Both from the same starts. In brackets 95 % bootstrap intervals over games.</p></section>'
    )


def _outside(report: Mapping[str, Any]) -> str:
    if not report["outside"]:
        return ""
    overall = report["agreement"]["overall"]["agreement"]
    own = report["scores"]
    rows = [["as it was taught", *(_mean(own[who]) for who in ("student", "teacher")), "", "", _share(overall)]]
    for row in report["outside"]:
        lost = [percent(row[key]["value"]) if row[key] else NOTHING for key in ("student_lost", "teacher_lost")]
        agreement = _share(row["agreement"]["agreement"])
        rows.append([escape(row["name"]), _mean(row["student"]), _mean(row["teacher"]), *lost, agreement])
    head = ["played with", "student", "teacher", "student loses", "teacher loses", "agreement"]
    return (
        f"<section><h2>Outside what was taught</h2>{table(head, rows)}"
        '<p class="note">Mean scores with 95 % intervals; what is lost is a share of the own score above random play. '
        "Agreement is on the student's play.</p></section>"
    )


def _confusion(report: Mapping[str, Any]) -> str:
    confusion = report["confusion"]
    return (
        "<section><h2>Which choice is taken for which</h2>"
        f"{confusion_table(confusion['actions'], confusion['counts'])}"
        '<p class="note">Per cent of the states in which the teacher makes the choice of the row. The last row and '
        "column are shares of all states.</p></section>"
    )


def _kinds(report: Mapping[str, Any]) -> str:
    overall = report["agreement"]["overall"]
    parts = [_kind_table([overall | {"name": "all states"}], overall)]
    for family, title in _FAMILIES:
        rows = [row for row in report["agreement"]["kinds"] if row["family"] == family and row["states"]]
        if family == "number":
            # There are many, of which the ends are told.
            rows = sorted(rows, key=lambda row: row["agreement"]["value"])[:_NUMBER_ROWS]
        if rows:
            parts.append(f"<h3>{escape(title)}</h3>{_kind_table(rows, overall, has_head=False)}")
    return (
        f"<section><h2>Agreement by kind of state</h2>{''.join(parts)}"
        '<p class="note">The bar is the share of states in which both choose the same, the thin line on it the 95 % '
        "interval, the mark that of all states. KL is from the teacher's policy to the student's in nats; cost is what "
        "the student's choices are worth less by the teacher's own outputs.</p></section>"
    )


def _kind_table(rows: Sequence[Mapping[str, Any]], overall: Mapping[str, Any], *, has_head: bool = True) -> str:
    cells = [
        [
            escape(row["name"]),
            f"{row['states']:,}",
            _agreement_bar(row, overall),
            _share(row["agreement"]),
            _value(row["kl"]["value"]),
            _value(row["cost"]["value"]),
        ]
        for row in rows
    ]
    head = ["states", "how many", "", "agreement", "KL", "cost"] if has_head else []
    return table(head, cells, "kinds")


def _clusters(report: Mapping[str, Any], pictures: Pictures) -> str:
    rows = [row for row in report["agreement"]["kinds"] if row["family"] == "cluster" and row["states"]]
    overall = report["agreement"]["overall"]
    if not pictures.exemplars:
        body = _kind_table(rows, overall)
    else:
        body = "".join(
            f'<figure class="cluster">{_exemplars(pictures, row["cluster"])}<figcaption><b>{escape(row["name"])}</b> '
            f"{percent(row['share'])} of the states<br>{_agreement_bar(row, overall)}"
            f"agrees {_share(row['agreement'])}, KL {_value(row['kl']['value'])}</figcaption></figure>"
            for row in rows
        )
        body = f'<div class="grid">{body}</div>'
    return (
        f"<section><h2>Groups of alike states</h2>{body}"
        '<p class="note">Clusters (k-means) of the features that the student itself sees in its observations'
        f"{', each with some of its frames' if pictures.exemplars else ''}.</p></section>"
    )


def _exemplars(pictures: Pictures, number: int) -> str:
    images = "".join(picture(image, f"cluster {number}", "small") for image in pictures.exemplars.get(number, ()))
    return f'<div class="exemplars">{images}</div>'


def _worst(report: Mapping[str, Any], pictures: Pictures) -> str:
    names = report["action_names"]
    cards = []
    for place, state in enumerate(report["worst"]):
        caption = (
            f"game {state['game'] + 1}, step {state['step']}; KL {_value(state['kl'])}, cost {_value(state['cost'])}"
        )
        if pictures.worst:
            seen = frames(pictures.worst[place], caption)
        else:
            numbers = ", ".join(f"{number:.3g}" for number in state["observation"])
            seen = f'<p class="numbers">{numbers}</p>'
        bars = two_bars(names, state["teacher_probabilities"], state["student_probabilities"])
        choices = (
            f'<span class="taught">{escape(names[state["teacher_choice"]])}</span> '
            f'<span class="own">{escape(names[state["student_choice"]])}</span>'
        )
        cards.append(f'<figure class="state">{seen}{bars}<figcaption>{choices}<br>{caption}</figcaption></figure>')
    if not cards:
        return ""
    return (
        f"<section><h2>The {len(cards)} states in which they are furthest apart</h2>"
        '<p class="legend"><span class="taught">teacher</span> <span class="own">student</span></p>'
        f'<div class="grid">{"".join(cards)}</div>'
        '<p class="note">Probabilities of the actions, at the temperature of the distillation; no two states of one '
        "moment.</p></section>"
    )


def _teacher(report: Mapping[str, Any]) -> str:
    errors, parts = report["teacher_errors"], []
    by_return, by_reference = errors["by_return"], errors["by_reference"]
    if "why_not" in by_return:
        parts.append(f"<p>By its own later return it cannot be told: {escape(by_return['why_not'])}.</p>")
    elif by_return["kinds"]:
        rows = sorted(by_return["kinds"], key=lambda row: -row["shortfall"]["value"] * row["share"])
        cells = [
            [
                escape(row["name"]),
                percent(row["share"]),
                _value(row["expected"]["value"]),
                _value(row["came"]["value"]),
                _value(row["shortfall"]["value"]) + _between(row["shortfall"]["ci95"]),
                _value(row["returned"]["value"]),
                _share(row["copied"]),
            ]
            for row in rows[:_NUMBER_ROWS]
        ]
        head = ["states", "share", "expected", "came", "short by", "in the end", "copied by the student"]
        rewards = "clipped rewards" if by_return["clips_rewards"] else "rewards"
        parts.append(
            f"<h3>By its own later return</h3>{table(head, cells)}"
            f'<p class="note">What the teacher expects of its choice (its value), and what has come of it in its own '
            f"play {by_return['steps']} steps later: {rewards} until then, and what it then expects, discounted by "
            f"{by_return['discount']:g} ({escape(by_return['source'])}). In the end: the whole later return. Over "
            f"{by_return['states']:,} states. Every teacher is off by something: what counts is where it is off by "
            "more.</p>"
        )
    if by_reference is not None:
        rows = sorted(by_reference["kinds"], key=lambda row: row["agreement"]["value"])
        cells = [
            [escape(row["name"]), percent(row["share"]), _share(row["agreement"]), _share(row["copied"])]
            for row in rows[:_NUMBER_ROWS]
        ]
        head = ["states", "share", "agrees with the reference", "copied by the student"]
        parts.append(
            f"<h3>Beside {escape(by_reference['name'])}</h3><p>Agrees in {_share(by_reference['agreement'])}.</p>"
            f"{table(head, cells)}"
        )
    return f"<section><h2>Where the teacher itself may be wrong</h2>{''.join(parts)}</section>"


def _about(report: Mapping[str, Any]) -> str:
    student, teacher = report["student"], report["teacher"]
    taught = {True: "yes", False: "no", None: "not known"}[teacher["taught_the_student"]]
    protocol = ", ".join(f"{key} {value}" for key, value in report["protocol"].items() if value is not None)
    rows = [
        ["student", f"{escape(student['name'])} ({escape(student['network'])}), from {escape(student['source'])}"],
        ["its parameters' SHA-256", f"<code>{student['parameters_sha256']}</code>"],
        ["teacher", f"{escape(teacher['name'])} ({escape(teacher['network'])}), licence {escape(teacher['licence'])}"],
        ["its file's SHA-256", f"<code>{escape(teacher['file_sha256'])}</code>"],
        ["taught this student", taught],
        ["protocol", escape(protocol)],
        ["temperature", f"{report['temperature']['teacher']:g}"],
        ["made", f"{escape(report['created'])} by pd_jax {escape(report['versions']['pd_jax'])}"],
    ]
    return f"<section><h2>About this audit</h2>{table([], rows, 'about')}</section>"


def _agreement_bar(row: Mapping[str, Any], overall: Mapping[str, Any]) -> str:
    value = row["agreement"]["value"]
    mark = None if row["states"] == overall["states"] else overall["agreement"]["value"]
    return interval_bar(value, *row["agreement"]["ci95"], mark=mark)


def _score(summary: Mapping[str, Any] | None) -> str:
    return NOTHING if summary is None else _value(summary["mean"])


def _mean(summary: Mapping[str, Any] | None) -> str:
    return NOTHING if summary is None else _value(summary["mean"]) + _between(summary["ci95"])


def _share(share: Mapping[str, Any]) -> str:
    if share["value"] is None:
        return NOTHING
    low, high = share["ci95"]
    between = "" if low is None else f" <small>({100 * low:.0f} to {100 * high:.0f})</small>"
    return f"{percent(share['value'])}{between}"


def _value(value: float | None) -> str:
    if value is None:
        return NOTHING
    if value and abs(value) < 0.001:
        return f"{value:.1e}"
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.2g}" if abs(value) < 0.1 else f"{value:.3g}"


def _between(ends: Sequence[float | None]) -> str:
    low, high = ends
    return "" if low is None else f" <small>({_value(low)} to {_value(high)})</small>"
