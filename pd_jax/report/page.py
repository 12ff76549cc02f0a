"""The result of a run as one page that needs nothing beside it: ``report.html``."""

from __future__ import annotations

import base64
import dataclasses
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from pd_jax.config.sections import needs_temperature
from pd_jax.config.yaml import write_yaml
from pd_jax.environments.tasks import TASKS
from pd_jax.errors import UserError
from pd_jax.evaluation.comparison import Comparison, Moment
from pd_jax.evaluation.protocol import Rules
from pd_jax.evaluation.scores import Score
from pd_jax.report.charts import COLOURS, Line, interval_rail, line_chart
from pd_jax.report.conflicts import conflicts_section
from pd_jax.report.document import MINUS, NOTHING, SPACE, confusion_table, document, held, percent, table, tiles
from pd_jax.report.drawing import frames
from pd_jax.report.forgetting import forgotten_in, has_forgotten
from pd_jax.report.page_style import RUN_STYLE
from pd_jax.report.terminal import format_percent, format_score, loss_name, summary_notes
from pd_jax.runs.details import Details, read_details
from pd_jax.runs.directory import RunDirectory
from pd_jax.runs.lineage import list_anew, read_lineage
from pd_jax.runs.metrics import read_metrics
from pd_jax.runs.summary import GameSummary, Summary
from pd_jax.system.files import write_atomically
from pd_jax.system.text import printable, spell_bytes, spell_count
from pd_jax.system.values import section, show_setting

PAGE_NAME = "report.html"
PAGE_COMMANDS = ("distill", "online")
"""The commands whose runs have a page."""
MOST_VIDEO_BYTES = 8 * 10**6
"""Of a video that is put into the page; in base64 it takes a third more."""
_OPEN_GAMES = 3
_TIMES = ("updates", "stepping", "inference", "play", "input", "teacher")
_ABOUT_TIMES = {
    "updates": "updates of the student",
    "stepping": "emulators that are waited for",
    "inference": "networks that choose actions, waited for",
    "play": "play that is waited for",
    "input": "data on its way into the replay",
    "teacher": "the teacher that learns",
}


@dataclasses.dataclass(frozen=True, eq=False)
class _Run:
    """What a run's files say, as far as they can be read.

    Attributes:
      directory: the run's.
      summary, details: None where there is none.
      records: of its metrics.
      missing: lines on what is not there.
    """

    directory: RunDirectory
    summary: Summary | None
    details: Details | None
    records: Sequence[Mapping[str, Any]]
    missing: Sequence[str]

    @property
    def games(self) -> tuple[str, ...]:
        """Their names."""
        if self.summary is not None:
            return tuple(self.summary.games)
        game = self.directory.config.get("game")
        return tuple(map(show_setting, game if isinstance(game, list) else [game])) if game else ()


def write_run_page(run: RunDirectory) -> None:
    """Writes a run's ``report.html`` from the files that it has by now; a damaged one is named in the page.

    Args:
      run: of `PAGE_COMMANDS`; it may be unfinished.

    Raises:
      OSError: the page cannot be written.
    """
    write_atomically(run.report_path, run_page(run))


def renew_run_page(run: RunDirectory) -> None:
    """As :func:`write_run_page`, of a run that may have its lineage already, which then knows the new page.

    Raises:
      OSError: the page or the lineage cannot be written.
    """
    write_run_page(run)
    list_anew(run.path, [run.report_path.name])


def run_page(run: RunDirectory) -> str:
    """A self-contained page: scores, curves, the video, what the student chooses otherwise, and how to do it again.

    Args:
      run: of `PAGE_COMMANDS`; it may be unfinished.
    """
    read = _read(run)
    return document(
        _title(read),
        [
            _head(read),
            _unfinished(read),
            _scores(read),
            _video(read),
            _curves(read),
            conflicts_section(read.records),
            _decisions(read),
            _committees(read),
            _times(read),
            _again(read),
            _configuration(read),
            _missing(read),
        ],
        style=RUN_STYLE,
        has_video=run.video_path.is_file(),
    )


def _read(run: RunDirectory) -> _Run:
    missing: list[str] = []
    summary = details = None
    records: Sequence[Mapping[str, Any]] = ()
    try:
        summary = run.read_summary()
    except UserError as error:
        missing.append(str(error))
    try:
        details = read_details(run.details_path)
        if details is None and summary is not None:
            missing.append(
                f"{run.details_path.name}: there is none, as in older runs: which choices are taken for which, the "
                "moments that cost most, and the versions that it ran with are not known"
            )
    except UserError as error:
        missing.append(f"{error}; it is left out")
    try:
        records = read_metrics(run.metrics_path)
    except UserError as error:
        missing.append(f"{error}; the curves are left out")
    return _Run(run, summary, details, records, tuple(missing))


def _title(read: _Run) -> str:
    games = ", ".join(read.games) if len(read.games) <= 3 else f"{len(read.games)} games"
    network = show_setting(section(read.directory.config, "student", "").get("network", "a student"))
    return f"{games} into {network}" + (", online" if read.directory.command == "online" else "")


def _head(read: _Run) -> str:
    summary, cells = read.summary, []
    if summary is not None and summary.is_comparison:
        if len(summary.games) == 1:
            (game,) = summary.games.values()
            cells += [("student's score", _score(game.student)), ("teacher's score", _score(game.teacher))]
            share = game.percent_of_teacher_normalised
            cells.append(("of the teacher's, above random play", held(format_percent(share))))
        else:
            floored = summary.above_random["geometric_mean_percent_normalised_floored"]
            for name, share in (("scores", summary.geometric_mean_percent), ("scores above random play", floored)):
                if share is not None:
                    cells.append((f"of the teachers' {name}, geometric mean", held(format_percent(share))))
    shares = [each.agreement for each in read.details.games.values()] if read.details is not None else []
    known = [share for share in shares if share is not None]
    if known:
        cells.append(("of its choices are the teacher's", percent(sum(known) / len(known))))
    if summary is not None and summary.student_parameters:
        size = f"; its teacher has {summary.teacher_parameters:,}" if summary.teacher_parameters else ""
        cells.append((f"parameters{size}", f"{summary.student_parameters:,}"))
    made = f"<p>{escape(_in_words(read))}</p>"
    return f"<header><h1>{escape(_title(read))}</h1>\n{made}{tiles(cells) if cells else ''}</header>"


def _in_words(read: _Run) -> str:
    config = read.directory.config
    loss = section(config, "loss", "")
    kind = show_setting(loss.get("kind", "?"))
    told = read.summary.get("temperature") if read.summary is not None else loss.get("temperature")
    has_temperature = needs_temperature(kind, show_setting(loss.get("weights", "none"))) and told is not None
    temperature = f" at temperature {_listed(told)}" if has_temperature else ""
    if has_temperature and read.summary is not None and read.summary.get("target_entropy") is not None:
        temperature += " (found from the play)"
    teacher = config.get("teacher")
    by = "a teacher that learns meanwhile" if read.directory.command == "online" else _listed(teacher)
    seed = show_setting(config.get("seed", 0))
    return f"Policy distillation from {by}, by {loss_name(kind)}{temperature}{_balance(read)}, seed {seed}."


def _balance(read: _Run) -> str:
    """How the games are weighed, unless all count the same."""
    about: Mapping[str, Any] = read.summary or {}
    by = {"uncertainty": "uncertainty", "gradnorm": "GradNorm", "pcgrad": "PCGrad"}.get(
        show_setting(about.get("balance"))
    )
    weights = about.get("game_weights")
    hand = f", games weighed {_listed(weights)}" if weights is not None else ""
    return hand + (f", games balanced by {by}" if by is not None else "")


def _listed(value: Any) -> str:
    return ", ".join(map(show_setting, value)) if isinstance(value, list) else show_setting(value)


def _unfinished(read: _Run) -> str:
    if read.summary is not None:
        return ""
    schedule = section(read.directory.config, "schedule", "")
    rounds, each = schedule.get("rounds"), schedule.get("updates_per_round")
    done = max((int(_x(record)) for record in read.records if "loss" in record), default=0)
    stands = f"update {done:,}"
    if type(rounds) is int and type(each) is int and rounds * each > 0:
        stands += f" of {rounds * each:,} ({100 * done / (rounds * each):.0f}{SPACE}%)"
    damaged = read.directory.summary_path.exists()
    why = "Its summary cannot be read" if damaged else "This run has not ended"
    return (
        f'<section class="banner"><p><b>{why}:</b> its metrics reach {stands}. There are no final scores; what there '
        "is follows.</p></section>"
    )


def _scores(read: _Run) -> str:
    summary = read.summary
    if summary is None:
        return ""
    tells_forgotten = has_forgotten(summary)
    more = ["before", "forgotten"] if tells_forgotten else []
    names = ["game", "student", "teacher", "of teacher", "above random", *more, "episodes", ""]
    rows = [f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in names)}</tr>"]
    for name, game in summary.games.items():
        cells = [
            escape(name),
            _with_interval(game.student),
            _with_interval(game.teacher),
            held(format_percent(game.percent_of_teacher)),
            held(format_percent(game.percent_of_teacher_normalised)),
            *(_forgotten(game) if tells_forgotten else ()),
            f"{game.episodes:,}",
        ]
        rows.append(_score_row(cells, names, _rail(game)))
    if len(summary.games) > 1:
        floored = summary.above_random["geometric_mean_percent_normalised_floored"]
        means = (summary.geometric_mean_percent, floored)
        rows.append(
            _score_row(
                ["geometric mean", "", "", *(held(format_percent(mean)) for mean in means), *("" for _ in more), ""],
                names,
                "",
            )
        )
    rules = Rules.of_run(read.directory.config, summary, TASKS.get(read.games[0]), "")
    notes = [
        *summary_notes(summary),
        f"in brackets the 95 % interval over the games played; {rules.describe()}",
    ]
    listed = "".join(f"<li>{held(note)}</li>" for note in notes)
    return (
        f'<section><h2>Scores</h2><div class="scroll"><table class="scores">{"".join(rows)}</table></div>'
        '<p class="legend"><span class="key own">student</span><span class="key taught">teacher</span>'
        f'<small>from random play (or 0) to the highest</small></p><ul class="note">{listed}</ul></section>'
    )


def _forgotten(game: GameSummary) -> tuple[str, str]:
    """Of an old game that others were added to, the score before and what is forgotten of it."""
    own = forgotten_in(game)
    return ("", "") if own is None else (held(format_score(own.before, None)), held(format_percent(own.percent)))


def _score_row(cells: Sequence[str], names: Sequence[str], rail: str) -> str:
    first, *rest = cells
    told = "".join(
        f'<td data-name="{escape(name)}"><span>{cell}</span></td>' if cell else "<td></td>"
        for name, cell in zip(names[1:-1], rest, strict=True)
    )
    return f'<tr><td>{first}</td>{told}<td class="interval">{rail}</td></tr>'


def _rail(game: GameSummary) -> str:
    marks = [
        (css_class, score.mean, score.low, score.high)
        for css_class, score in (("own", game.student), ("taught", game.teacher))
        if score is not None
    ]
    ends = [value for _, *values in marks for value in values if value is not None]
    least = game.random_score if game.random_score is not None else 0.0
    low, high = min([least, *ends]), max([least, *ends])
    return interval_rail((low, high + 0.02 * (high - low)), marks)


def _video(read: _Run) -> str:
    run = read.directory
    path = run.video_path
    animation = path.with_suffix(".gif")
    if not path.is_file() and not animation.is_file():
        command = f"pd-jax video --run {shlex.quote(str(run.path))}"
        return (
            '<section><h2>Video</h2><p class="note">There is none yet. '
            f"<code>{escape(command)}</code> plays teacher and student side by side, "
            "and puts it here.</p></section>"
        )
    # Without ffmpeg there is no other.
    film = path if path.is_file() else animation
    size = film.stat().st_size
    link = f'<a href="{film.name}">{film.name}</a> ({spell_bytes(size)})'
    if film is path and size <= MOST_VIDEO_BYTES:
        body = _embedded("video", path.read_bytes(), "video/mp4")
    elif animation.is_file() and animation.stat().st_size <= MOST_VIDEO_BYTES:
        body = _embedded("img", animation.read_bytes(), "image/gif")
    else:
        limit = spell_bytes(MOST_VIDEO_BYTES)
        body = (
            f'<p class="note">It takes more than the {limit} that are put into a page; it is in the file beside it.</p>'
        )
    return (
        f'<section><h2>Video</h2>{body}<p class="note">Teacher and student from the same start: {link}.</p></section>'
    )


def _embedded(tag: str, content: bytes, kind: str) -> str:
    data = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    if tag == "img":
        return f'<img class="film" alt="teacher and student side by side" src="{data}">'
    return f'<video controls loop muted playsinline src="{data}"></video>'


def _curves(read: _Run) -> str:
    if not read.records:
        return ""
    charts = [
        line_chart("Loss", _metric_lines(read, "loss"), x_label="updates", about="loss over the updates", is_log=True),
        line_chart(
            "Agreement with the teacher over time",
            _metric_lines(read, "agreement", scale=100.0),
            x_label="updates",
            about="per cent of states in which student and teacher choose the same action, over the updates",
            is_percent=True,
            bounds=(0.0, 100.0),
        ),
    ]
    charts += _online_chart(read) if read.directory.command == "online" else _score_chart(read)
    return (
        f'<section><h2>Over the training</h2><div class="charts">{"".join(charts)}</div>'
        '<p class="note">Loss and agreement are of minibatches out of the replay. Of many points: their means, over a '
        "band from the least to the largest.</p></section>"
    )


def _metric_lines(read: _Run, name: str, scale: float = 1.0) -> list[Line]:
    """One for each game where there are several and each was recorded; else of all."""
    if len(read.games) > 1:
        lines = [
            Line(game, _points(read.records, f"{game}/{name}", scale), _colour(place))
            for place, game in enumerate(read.games)
        ]
        if any(len(line.points) for line in lines):
            return [line for line in lines if len(line.points)]
    return [Line(name, _points(read.records, name, scale), "own")]


def _points(records: Sequence[Mapping[str, Any]], name: str, scale: float = 1.0) -> np.ndarray:
    return _points_of(records, [name], _x) * [1.0, scale]


def _score_chart(read: _Run) -> list[str]:
    """The scores on the way, if there were any; the last point is the final evaluation's."""
    summary, games = read.summary, read.games
    rows = {game: _scores_on_the_way(read.records, game) for game in games}
    if not any(len(found) for found in rows.values()):
        return []
    last = max(_x(record) for record in read.records)
    if len(games) == 1:
        return [_chart_of_one(games[0], rows[games[0]], None if summary is None else summary.games[games[0]], last)]
    lines = []
    for place, game in enumerate(games):
        final = None if summary is None else summary.games[game]
        if final is None or final.teacher is None or final.student is None:
            lines.append(Line(game, rows[game], _colour(place)))
            continue
        random = final.random_score or 0.0
        span = final.teacher.mean - random
        if span <= 0:
            continue
        points = np.vstack([rows[game][rows[game][:, 0] < last][:, :2], [[last, final.student.mean]]])
        points[:, 1] = 100 * (points[:, 1] - random) / span
        lines.append(Line(game, points, _colour(place)))
    label = "score" if summary is None else "score above random play, of the teacher's"
    return [
        line_chart(
            f"{label[0].upper()}{label[1:]}",
            [*lines, *([Line.level("teacher", 100.0, "quiet")] if summary is not None else [])],
            x_label="updates",
            about=f"{label}, over the updates",
            is_percent=summary is not None,
        )
    ]


def _chart_of_one(name: str, rows: np.ndarray, final: GameSummary | None, last: float) -> str:
    lines = []
    if final is not None and final.student is not None:
        ends = [np.nan if end is None else end for end in final.student.ci95]
        rows = np.vstack([rows[rows[:, 0] < last], [[last, final.student.mean, *ends]]])
    if final is not None and final.teacher is not None:
        lines.append(Line.level("teacher", final.teacher.mean, "taught", (final.teacher.low, final.teacher.high)))
    if final is not None and final.random_score is not None:
        lines.append(Line.level("random play", final.random_score, "quiet"))
    return line_chart(
        f"Score, {name}",
        [Line("student", rows, "own"), *lines],
        x_label="updates",
        about="the student's score with 95 % intervals, over the updates",
    )


def _online_chart(read: _Run) -> list[str]:
    (game,) = read.games
    ends = ("", "_low", "_high")
    # The student last, so that it is drawn on top.
    classes = {"teacher": "line0", "target": "line2", "student": "own"}
    lines = [
        Line(who, _points_of(read.records, [f"{game}/{who}_score{end}" for end in ends], _teacher_steps), css_class)
        for who, css_class in classes.items()
    ]
    final = None if read.summary is None else read.summary.games[game]
    if final is not None and final.random_score is not None:
        lines.append(Line.level("random play", final.random_score, "quiet"))
    return [
        line_chart(
            f"Score, {game}",
            lines,
            x_label="control steps of the teacher's training",
            about="scores of the learning teacher, of its best snapshot (the target) and of the student",
        )
    ]


def _decisions(read: _Run) -> str:
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


def _committees(read: _Run) -> str:
    """Pictures of teachers that are several of one game."""
    if not any(read.directory.path.glob("committee_*.png")):
        return ""
    # Matplotlib, which draws them, is not needed by other pages.
    from pd_jax.report.committees import committee_section

    return committee_section(read.directory.path)


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


def _times(read: _Run) -> str:
    shares = _time_shares(read)
    if not shares:
        return ""
    bars = "".join(
        f'<i class="line{place}" style="width:{100 * share:.2f}%" title="{escape(name)} {100 * share:.1f} %"></i>'
        for place, (name, share) in enumerate(shares.items())
    )
    names = "".join(
        f'<span class="key line{place}">{escape(_ABOUT_TIMES.get(name, name))} {percent(share)}</span>'
        for place, (name, share) in enumerate(shares.items())
    )
    of = "the training by what it waited for, "
    if read.summary is not None and read.summary.get("time_shares"):
        of += "without its first round, in which all is compiled, and without scores on the way"
    else:
        of += "out of its metrics"
    total = ""
    if read.summary is not None and read.summary.wall_seconds is not None:
        total = f" The whole run took {_duration(read.summary.wall_seconds)}."
    return (
        f'<section><h2>Where the time went</h2><div class="shares">{bars}</div><p class="keys">{names}</p>'
        f'<p class="note">Shares of {of}.{total}</p></section>'
    )


def _time_shares(read: _Run) -> dict[str, float]:
    told = None if read.summary is None else read.summary.get("time_shares")
    # A run that had nothing left to do when it was gone on with has none in its summary.
    if isinstance(told, dict):
        seconds = told
    else:
        seconds = {
            name: sum(record[key] for record in read.records if _is_number(record.get(key := f"seconds/{name}")))
            for name in _TIMES
        }
    sound = {name: float(seconds[name]) for name in _TIMES if _is_number(seconds.get(name)) and seconds[name] > 0}
    total = sum(sound.values())
    return {name: value / total for name, value in sound.items()}


def _again(read: _Run) -> str:
    run = read.directory
    code, versions, teachers = _origin(read)
    version, revision = code.get("pd_jax"), code.get("revision")
    lines = [f"pd-jax {run.command} --config config.yaml --out runs/again"]
    if revision:
        lines = [f"git checkout {revision}", "pip install -c requirements.lock -e .", *lines]
    elif version:
        lines.insert(0, f"pip install pd-jax=={version}")
    rows = [["seed", escape(_seeds(run))]]
    if version:
        rows.append(["pd_jax", escape(version) + (f" at <code>{escape(revision)}</code>" if revision else "")])
    if "source_sha256" in code:
        rows.append(["SHA-256 of its source", f"<code>{escape(code['source_sha256'])}</code>"])
    for game, name, sha256 in teachers:
        of = f" of {escape(game)}" if len(teachers) > 1 else ""
        digest = f"<br>SHA-256 of its file <code>{escape(sha256)}</code>" if sha256 else ""
        rows.append([f"teacher{of}", f"{escape(name)}{digest}"])
    if versions:
        rows.append(["versions", escape(", ".join(f"{name} {found}" for name, found in versions.items()))])
    if read.summary is not None and "platform" in read.summary:
        devices = show_setting(read.summary.get("devices", 1))
        rows.append(["computed on", escape(f"{devices} x {show_setting(read.summary['platform'])}")])
    return (
        f'<section><h2>How to reproduce it</h2><pre class="commands">{escape(chr(10).join(lines))}</pre>'
        '<p class="note"><code>config.yaml</code> lies in the run\'s directory, and is below word for word. It has '
        "every setting as it was resolved.</p>"
        f"{table([], rows, 'about')}</section>"
    )


def _seeds(run: RunDirectory) -> str:
    seed, offset = run.config.get("seed", 0), section(run.config, "evaluation", "").get("seed_offset")
    if run.command != "distill" or type(seed) is not int or type(offset) is not int:
        return show_setting(seed)
    return f"{seed}; the emulators of the scores have {seed + offset:,} and the seeds after it"


def _origin(read: _Run) -> tuple[Mapping[str, str], Mapping[str, str], list[tuple[str, str, str]]]:
    """Code, versions, and ``(game, name, SHA-256)`` of the teachers; of an older run what its lineage says."""
    if read.details is not None:
        teachers = [
            (
                teacher.game,
                teacher.name if teacher.source in ("", teacher.name) else f"{teacher.name} ({teacher.source})",
                teacher.sha256,
            )
            for teacher in read.details.teachers
        ]
        return read.details.code, read.details.versions, teachers
    try:
        lineage = read_lineage(read.directory.path)
    except UserError:
        lineage = None
    if lineage is not None:
        code = {name: printable(value) for name, value in lineage.code.items() if isinstance(value, str) and value}
        found = [parent for parent in lineage.parents if parent.role in ("teacher", "learning teacher")]
        return (
            code,
            {},
            [
                (printable(str(parent.about.get("game", ""))), printable(parent.name), parent.sha256 or "")
                for parent in found
            ],
        )
    named = read.directory.config.get("teacher")
    names = named if isinstance(named, list) else [named] if named else []
    return {}, {}, [(game, show_setting(name), "") for game, name in zip(read.games, names, strict=False)]


def _configuration(read: _Run) -> str:
    path = read.directory.config_path
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        text = write_yaml(read.directory.config)
    return (
        f'<section class="long"><details><summary>Configuration</summary><pre>{escape(text)}</pre></details></section>'
    )


def _missing(read: _Run) -> str:
    if not read.missing:
        return ""
    lines = "".join(f"<li>{held(line)}</li>" for line in read.missing)
    return f'<section><h2>What is missing here</h2><ul class="note">{lines}</ul></section>'


def _scores_on_the_way(records: Sequence[Mapping[str, Any]], game: str) -> np.ndarray:
    """``[evaluations, (x, score, low, high)]``."""
    return _points_of(records, [f"{part}/{game}" for part in ("score", "score_low", "score_high")], _x)


def _points_of(
    records: Sequence[Mapping[str, Any]], names: Sequence[str], x_of: Callable[[Mapping[str, Any]], float]
) -> np.ndarray:
    """``[lines, (x, one value for each name)]`` of the lines that have the first; NaN where another is missing."""
    rows = [
        (x_of(record), *(record[name] if _is_number(record.get(name)) else math.nan for name in names))
        for record in records
        if _is_number(record.get(names[0]))
    ]
    return np.array(rows, float).reshape(-1, 1 + len(names))


def _teacher_steps(record: Mapping[str, Any]) -> float:
    """Control steps of an online run's teacher."""
    steps = record.get("teacher_env_steps")
    return float(steps) if steps is not None and _is_number(steps) else math.nan


def _x(record: Mapping[str, Any]) -> float:
    updates = record.get("updates")
    return float(updates) if updates is not None and _is_number(updates) else float(record["step"])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _colour(place: int) -> str:
    return f"line{place % COLOURS}" + (" dashed" if place >= COLOURS else "")


def _score(score: Score | None) -> str:
    return NOTHING if score is None else held(format_score(score.mean, None))


def _with_interval(score: Score | None) -> str:
    if score is None:
        return NOTHING
    text = f"<b>{held(format_score(score.mean, score.standard_error))}</b>"
    if score.low is None or score.high is None:
        return text
    low, high = (format_score(end, None) for end in (score.low, score.high))
    return f"{text} <small>({low} to {high})</small>"


def _number(value: float) -> str:
    """Three digits that count."""
    if not math.isfinite(value):
        return NOTHING
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return text.replace("-", MINUS)


def _duration(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    parts = [f"{hours} h"] * (hours > 0) + [f"{minute} min"] * (minutes > 0) + [f"{second} s"] * (hours == 0)
    return " ".join(parts)
