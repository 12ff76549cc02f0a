"""The result of a run as one page that needs nothing beside it: ``report.html``."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from pd_jax.config.sections import needs_temperature
from pd_jax.config.yaml import write_yaml
from pd_jax.environments.tasks import TASKS
from pd_jax.errors import UserError
from pd_jax.evaluation.protocol import Rules
from pd_jax.evaluation.scores import Score
from pd_jax.report.charts import interval_rail
from pd_jax.report.conflicts import conflicts_section
from pd_jax.report.document import NOTHING, SPACE, document, held, percent, table, tiles
from pd_jax.report.forgetting import forgotten_in, has_forgotten
from pd_jax.report.page_curves import curves_section
from pd_jax.report.page_decisions import decisions_section
from pd_jax.report.page_files import RunFiles, is_number, read_files, updates_at
from pd_jax.report.page_style import RUN_STYLE
from pd_jax.report.terminal import format_percent, format_score, loss_name, summary_notes
from pd_jax.runs.directory import RunDirectory
from pd_jax.runs.lineage import list_anew, read_lineage
from pd_jax.runs.summary import GameSummary
from pd_jax.system.files import write_atomically
from pd_jax.system.text import printable, spell_bytes
from pd_jax.system.values import section, show_setting

PAGE_NAME = "report.html"
PAGE_COMMANDS = ("distill", "online")
"""The commands whose runs have a page."""
MOST_VIDEO_BYTES = 8 * 10**6
"""Of a video that is put into the page; in base64 it takes a third more."""
_TIMES = ("updates", "stepping", "inference", "play", "input", "teacher")
_ABOUT_TIMES = {
    "updates": "updates of the student",
    "stepping": "emulators that are waited for",
    "inference": "networks that choose actions, waited for",
    "play": "play that is waited for",
    "input": "data on its way into the replay",
    "teacher": "the teacher that learns",
}


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
    read = read_files(run)
    return document(
        _title(read),
        [
            _head(read),
            _unfinished(read),
            _scores(read),
            _video(read),
            curves_section(read),
            conflicts_section(read.records),
            decisions_section(read),
            _committees(read),
            _times(read),
            _again(read),
            _configuration(read),
            _missing(read),
        ],
        style=RUN_STYLE,
        has_video=run.video_path.is_file(),
    )


def _title(read: RunFiles) -> str:
    games = ", ".join(read.games) if len(read.games) <= 3 else f"{len(read.games)} games"
    network = show_setting(section(read.directory.config, "student", "").get("network", "a student"))
    return f"{games} into {network}" + (", online" if read.directory.command == "online" else "")


def _head(read: RunFiles) -> str:
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


def _in_words(read: RunFiles) -> str:
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


def _balance(read: RunFiles) -> str:
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


def _unfinished(read: RunFiles) -> str:
    if read.summary is not None:
        return ""
    schedule = section(read.directory.config, "schedule", "")
    rounds, each = schedule.get("rounds"), schedule.get("updates_per_round")
    done = max((int(updates_at(record)) for record in read.records if "loss" in record), default=0)
    stands = f"update {done:,}"
    if type(rounds) is int and type(each) is int and rounds * each > 0:
        stands += f" of {rounds * each:,} ({100 * done / (rounds * each):.0f}{SPACE}%)"
    damaged = read.directory.summary_path.exists()
    why = "Its summary cannot be read" if damaged else "This run has not ended"
    return (
        f'<section class="banner"><p><b>{why}:</b> its metrics reach {stands}. There are no final scores; what there '
        "is follows.</p></section>"
    )


def _scores(read: RunFiles) -> str:
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


def _video(read: RunFiles) -> str:
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


def _committees(read: RunFiles) -> str:
    """Pictures of teachers that are several of one game."""
    if not any(read.directory.path.glob("committee_*.png")):
        return ""
    # Matplotlib, which draws them, is not needed by other pages.
    from pd_jax.report.committees import committee_section

    return committee_section(read.directory.path)


def _times(read: RunFiles) -> str:
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


def _time_shares(read: RunFiles) -> dict[str, float]:
    told = None if read.summary is None else read.summary.get("time_shares")
    # A run that had nothing left to do when it was gone on with has none in its summary.
    if isinstance(told, dict):
        seconds = told
    else:
        seconds = {
            name: sum(record[key] for record in read.records if is_number(record.get(key := f"seconds/{name}")))
            for name in _TIMES
        }
    sound = {name: float(seconds[name]) for name in _TIMES if is_number(seconds.get(name)) and seconds[name] > 0}
    total = sum(sound.values())
    return {name: value / total for name, value in sound.items()}


def _again(read: RunFiles) -> str:
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


def _origin(read: RunFiles) -> tuple[Mapping[str, str], Mapping[str, str], list[tuple[str, str, str]]]:
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


def _configuration(read: RunFiles) -> str:
    path = read.directory.config_path
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        text = write_yaml(read.directory.config)
    return (
        f'<section class="long"><details><summary>Configuration</summary><pre>{escape(text)}</pre></details></section>'
    )


def _missing(read: RunFiles) -> str:
    if not read.missing:
        return ""
    lines = "".join(f"<li>{held(line)}</li>" for line in read.missing)
    return f'<section><h2>What is missing here</h2><ul class="note">{lines}</ul></section>'


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


def _duration(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    parts = [f"{hours} h"] * (hours > 0) + [f"{minute} min"] * (minutes > 0) + [f"{second} s"] * (hours == 0)
    return " ".join(parts)
