"""The result of a run as a table in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pd_jax.evaluation.scores import Score
from pd_jax.evaluation.statistics import floor_note
from pd_jax.report.forgetting import forgetting_notes, forgotten_in, has_forgotten
from pd_jax.report.guidance import summary_lines
from pd_jax.runs.summary import Summary
from pd_jax.system.text import format_seconds, printable

_UNDEFINED = "–"
_LOSSES = {
    "kl": "KL",
    "nll": "NLL",
    "mse": "MSE",
    "reverse_kl": "reverse KL",
    "jsd": "JSD",
    "expected_entropy": "expected entropy",
    "huber": "Huber",
    "advantage_mse": "advantage MSE",
    "advantage_huber": "advantage Huber",
    "pqn": "PQN",
    "dqn": "DQN",
}


def summary_table(summary: Summary) -> Table:
    """One row per game, and the geometric mean when there are several.

    Args:
      summary: of students and teachers.
    """
    games = summary.games
    normalised = any(game.percent_of_teacher_normalised is not None for game in games.values())
    table = Table(box=box.SIMPLE_HEAD, show_footer=len(games) > 1, pad_edge=False, collapse_padding=True)
    # Ten games and all columns fit in 80 characters.
    table.add_column("game", footer="geometric mean", no_wrap=True)
    for name in ("teacher", "student"):
        table.add_column(name, justify="right", no_wrap=True)
    mean = format_percent(summary.geometric_mean_percent)
    table.add_column("of\nteacher", justify="right", footer=mean, no_wrap=True)
    if normalised:
        mean = format_percent(summary.above_random["geometric_mean_percent_normalised_floored"])
        table.add_column("above\nrandom", justify="right", footer=mean, no_wrap=True)
    tells_forgotten = has_forgotten(summary)
    # In the place of the episodes: more does not fit in 80 characters.
    for name in ("before", "for-\ngotten") if tells_forgotten else ("episodes",):
        table.add_column(name, justify="right", no_wrap=True)
    for name, game in games.items():
        percentages = [format_percent(game.percent_of_teacher)]
        if normalised:
            percentages.append(format_percent(game.percent_of_teacher_normalised))
        if tells_forgotten:
            own = forgotten_in(game)
            before = _UNDEFINED if own is None else format_score(own.before, None)
            percentages += [before, format_percent(None if own is None else own.percent)]
        scores = [format_score(score.mean, score.standard_error) for score in (game.teacher, game.student) if score]
        table.add_row(Text(name), *scores, *percentages, *([] if tells_forgotten else [f"{game.episodes:,}"]))
    return table


def _why_stopped(game: Any) -> str:
    if game.about.get("play_stopped_seeing"):
        return f"it showed NaN or infinite numbers ({game.about['play_stopped_seeing']})"
    return "its teacher gave NaN or infinite outputs"


def summary_notes(summary: Summary, *, with_cost: bool = True) -> list[str]:
    """The lines below the table: sizes, the cost of the training, and what the table's columns mean."""
    games = summary.games.values()
    student, teacher = summary.student_parameters or 0, summary.teacher_parameters or 0
    size = f"{teacher / student:.1f}x smaller" if teacher >= student else f"{student / max(1, teacher):.1f}x larger"
    # A teacher that is a function has parameters of which nothing is known here.
    compared = f", {size} than the {teacher:,} of its teacher{'s' * (len(games) > 1)}" if teacher else ""
    cost = (
        f"cost: {format_seconds(summary.wall_seconds or 0.0)} for {summary.env_steps or 0:,} environment steps "
        f"and {summary.updates or 0:,} updates"
    )
    notes = [f"student: {student:,} parameters{compared}", "± is one standard error of the mean"]
    if with_cost:
        notes.insert(1, cost)
    if any(game.percent_of_teacher_normalised is not None for game in games):
        notes.append("above random: 0 % plays as badly as random actions, 100 % as well as the teacher")
    if len(games) > 1 and (mean := summary.above_random)["geometric_mean_percent_normalised_floored"] is not None:
        floored = mean["floored_games"]
        notes += [f"geometric mean above random: {floor_note(floored)}"] if floored else []
    notes += [
        f"{name}: {_why_stopped(game)} at step {game.about['play_stopped_at']:,}; "
        "of its play from there on nothing was learnt"
        for name, game in summary.games.items()
        if game.about.get("play_stopped_at") is not None
    ]
    notes += _notes_on_committees(summary)
    notes += _temperature_note(summary)
    notes += forgetting_notes(summary)
    if any(game.percent_of_teacher is None for game in games):
        notes.append(f"{_UNDEFINED}: a share of a score that is not positive means nothing")
    return notes


def _notes_on_committees(summary: Summary) -> list[str]:
    """How far several teachers of a game contradict each other, and whom of them nothing is learnt from any more."""
    notes, told = [], summary.get("committees")
    for name, committee in told.items() if isinstance(told, dict) else ():
        rate = committee.get("contradiction_rate") if isinstance(committee, dict) else None
        members = committee.get("members") if isinstance(committee, dict) else None
        if isinstance(rate, float) and isinstance(members, list):
            share = f"in {100 * rate:.1f} % of states"
            notes.append(f"{name}: its teachers contradict each other {share}; they count {_weights(members)}")
    for name, game in summary.games.items():
        left_out = game.about.get("teachers_left_out")
        for teacher, step in left_out.items() if isinstance(left_out, dict) else ():
            if isinstance(step, int):
                who = printable(str(teacher))
                notes.append(f"{name}: {who} gave NaN or infinite outputs at step {step:,}, and does not count since")
    return notes


def _weights(members: Sequence[Any]) -> str:
    known = [member for member in members if isinstance(member, dict) and isinstance(member.get("weight"), float)]
    return ", ".join(f"{printable(str(member.get('teacher')))} {member['weight']:.2f}" for member in known)


def _temperature_note(summary: Summary) -> list[str]:
    """Of a run that has found temperatures from its play, a line that says which."""
    target, told = summary.get("target_entropy"), summary.get("temperature")
    if not isinstance(target, float) or told is None:
        return []
    each = told if isinstance(told, list) else [told]
    return [
        f"temperature: {' / '.join(f'{value:.4g}' for value in each)}, from the play: auto, for a policy of the "
        f"teacher with {target:.1%} of the largest entropy"
    ]


def print_summary(summary: Summary, *, with_cost: bool = True, file: TextIO | None = None) -> None:
    """Prints table and notes, on stdout unless ``file`` is given."""
    console = Console(file=file or sys.stdout, highlight=False)
    console.print(summary_table(summary))
    for note in summary_notes(summary, with_cost=with_cost):
        console.print(f"  {note}", markup=False, style="dim", soft_wrap=True)


def loss_name(kind: str, otherwise: str | None = None) -> str:
    """What a loss, or an algorithm, is called in tables and sentences; of others ``otherwise``, or as they are."""
    return _LOSSES.get(kind, kind if otherwise is None else otherwise)


def format_score(score: float, standard_error: float | None) -> str:
    """Such as ``18.9 ± 0.3``: one decimal below a thousand, none above."""
    digits = 1 if abs(score) < 1000 else 0
    text = f"{score:,.{digits}f}"
    return text if standard_error is None else f"{text} ± {standard_error:,.{digits}f}"


def format_percent(percent: float | None) -> str:
    """Such as ``101.7 %``."""
    return _UNDEFINED if percent is None else f"{percent:.1f} %"


def print_distillation(summary: Summary, out: str, *, file: TextIO | None = None) -> None:
    """Prints what ``pd-jax distill`` made: the table, and what is in the run's directory ``out``."""
    print_summary(summary, file=file)
    # Those of committees and of games that pull against each other are drawn for some runs only.
    drawn = sorted(path.name for path in Path(out).glob("*.png"))
    files = ", ".join(["summary.json", "report.html", *drawn, "metrics.jsonl", "tb/", "checkpoints/"])
    print(f"{Path(out)}: {files}", file=file or sys.stdout)


def print_evaluation(summary: Summary, *, file: TextIO | None = None) -> None:
    """Prints what ``pd-jax evaluate`` found: the table if two policies were compared, or the line of the only one."""
    if summary.is_comparison:
        print_summary(summary, with_cost=False, file=file)
        return
    for name, game in summary.games.items():
        for who, score in (("teacher", game.teacher), ("student", game.student)):
            if score is not None:
                print(describe_score(f"{name} {who}", score), file=file or sys.stdout)


def print_teacher(summary: Summary, *, file: TextIO | None = None) -> None:
    """Prints what ``pd-jax train-teacher`` made."""
    file = file or sys.stdout
    for name, game in summary.games.items():
        assert game.teacher is not None
        print(describe_score(f"{name} teacher", game.teacher), file=file)
    for line in summary_lines(summary):
        print(f"  {line}", file=file)
    print(f"{summary.env_steps or 0:,} steps in {format_seconds(summary.wall_seconds or 0.0)}", file=file)
    if "env_steps_per_second" in summary:
        shares = summary["time_shares"]
        told = "the machine was too busy to tell what bounds it"
        if shares is not None:
            told = ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items())
        print(f"{summary['env_steps_per_second']:,.0f} steps a second ({told})", file=file)
    print(f"teacher file: {summary['teacher']}", file=file)


def describe_score(name: str, score: Score) -> str:
    """One line: the mean, its standard error, its 95 % interval and the number of episodes."""
    line = f"{name}: {format_score(score.mean, score.standard_error)}"
    if score.low is not None:
        line += f" (95 % interval {score.low:.1f} to {score.high:.1f})"
    return f"{line} over {score.episodes} episodes"
