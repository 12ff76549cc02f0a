"""What there is to say about teachers: their table, and everything about one of them."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pd_jax.config.yaml import write_yaml
from pd_jax.report.terminal import format_score
from pd_jax.report.terminal_plot import draw_curve, format_count
from pd_jax.teachers.catalogue import Entry

_UNKNOWN = "–"
# Wider than any table; a table is only as wide as it needs to be.
_UNLIMITED = 1_000


class _Column(NamedTuple):
    header: str
    cell: Callable[[Entry], str]
    justify: Literal["left", "right"] = "right"
    # Of the columns that do not fit a terminal, those with the highest number are left out first.
    dispensable: int = 0


_COLUMNS = (
    _Column("name", lambda entry: entry.name, "left"),
    _Column("game", lambda entry: entry.metadata.env_id, "left", 5),
    _Column("network", lambda entry: describe_network(entry), "left"),
    _Column("parameters", lambda entry: f"{entry.parameters:,}", dispensable=2),
    _Column("score", lambda entry: _score(entry)),
    _Column("episodes", lambda entry: _evaluated(entry, "episodes", ",")),
    _Column("ε", lambda entry: _evaluated(entry, "epsilon", "g"), dispensable=4),
    _Column("random", lambda entry: _reference(entry.random_score)),
    _Column("human", lambda entry: _reference(entry.human_score), dispensable=1),
    _Column("steps", lambda entry: _steps(entry), dispensable=3),
    _Column("algorithm", lambda entry: entry.metadata.algorithm, "left", 7),
    _Column("licence", lambda entry: _line(entry.metadata.licence), "left", 6),
    _Column("size", lambda entry: format_size(entry.size_bytes), dispensable=8),
)


_OUTPUTS = {
    "q": "Q-values",
    "logits": "logits of a policy",
    "gaussian": "Gaussians of continuous actions",
    "means": "continuous actions",
}


def teachers_table(entries: Sequence[Entry], *, without: int | None = None, style: box.Box = box.SIMPLE_HEAD) -> Table:
    """One row per teacher.

    Args:
      entries: what `pd_jax.teachers.catalogue.bundled` gives.
      without: leave out the columns that are as dispensable as this number, or more so.
      style: the table's lines.
    """
    columns = [column for column in _COLUMNS if without is None or column.dispensable < without]
    table = Table(box=style, pad_edge=style is box.MARKDOWN, collapse_padding=style is not box.MARKDOWN)
    for column in columns:
        table.add_column(column.header, justify=column.justify, no_wrap=True)
    for entry in entries:
        table.add_row(*(Text(column.cell(entry)) for column in columns))
    return table


def teachers_notes(entries: Sequence[Entry]) -> list[str]:
    """The lines below the table."""
    return [
        "score: mean unclipped return and its standard error; LN: with LayerNorm; steps: of training up to these "
        "weights, each of 4 frames in Atari games; human: Mnih et al. (2015)",
        f"{len(entries)} teachers, {format_size(sum(entry.size_bytes for entry in entries))}; "
        "pd-jax teachers show NAME tells more",
    ]


def print_teachers(entries: Sequence[Entry], *, file: TextIO | None = None) -> None:
    """Prints table and notes, on stdout unless ``file`` is given; in a terminal only the columns that fit."""
    console = Console(file=file or sys.stdout, highlight=False)
    if not console.is_terminal:
        console.width = _UNLIMITED
    without = max(column.dispensable for column in _COLUMNS) + 1
    while without > 1 and _width(teachers_table(entries, without=without)) > console.width:
        without -= 1
    console.print(teachers_table(entries, without=without))
    notes = teachers_notes(entries)
    omitted = [column.header for column in _COLUMNS if column.dispensable >= without]
    if omitted:
        notes.append(f"a wider terminal, a pipe and --json also show {', '.join(omitted)}")
    for note in notes:
        console.print(f"  {note}", markup=False, style="dim", soft_wrap=True)


def markdown_table(entries: Sequence[Entry]) -> str:
    """The table as it stands in the documents."""
    console = Console(file=None, width=_UNLIMITED, highlight=False, color_system=None)
    with console.capture() as capture:
        console.print(teachers_table(entries, style=box.MARKDOWN))
    return "\n".join(line.strip() for line in capture.get().splitlines() if line.strip())


def fingerprints(entries: Sequence[Entry]) -> str:
    """Every teacher's name and SHA-256, a line each."""
    return "\n".join(f"{entry.name} {entry.sha256}" for entry in entries)


def describe_entry(entry: Entry) -> list[str]:
    """All that a file says of a teacher, its learning curve drawn, in lines."""
    metadata = entry.metadata
    shape = "x".join(map(str, metadata.observation["shape"]))
    details = {key: value for key, value in metadata.observation.items() if key not in ("dtype", "shape")}
    rows = {
        "name": metadata.name,
        "file": f"{entry.path}, {format_size(entry.size_bytes)}",
        "sha256": entry.sha256,
        "game": f"{metadata.game} ({metadata.env_id})",
        "actions": f"{metadata.num_actions}: {', '.join(metadata.action_names)}",
        "observation": f"{metadata.observation['dtype']} {shape}, {_compact(details)}",
        **_statistics(metadata.normalisation),
        "network": f"{describe_network(entry)}, {entry.parameters:,} parameters",
        "output": _OUTPUTS[metadata.output],
        "score": _protocol(metadata.evaluation, has_noops=metadata.observation["kind"] == "atari"),
        "references": ", ".join(f"{name} {score:,}" for name, score in entry.references.items()) or _UNKNOWN,
        "algorithm": metadata.algorithm,
        "env_steps": _UNKNOWN if metadata.env_steps is None else f"{metadata.env_steps:,}",
        "seed": _UNKNOWN if metadata.seed is None else str(metadata.seed),
        "how_made": _line(metadata.how_made),
        "licence": _line(metadata.licence),
        "created": f"{metadata.created}, by pd_jax {metadata.pd_jax_version}",
    }
    lines = [f"{name:<12} {text}" for name, text in (rows | _others(metadata)).items()]
    if metadata.learning_curve:
        lines += ["", "learning curve (score, 95 % interval)"]
        lines += draw_curve(entry.curve, references=entry.references)
    if metadata.training_config:
        lines += ["", "training_config"]
        lines += [f"  {line}" for line in write_yaml(metadata.training_config).splitlines()]
    return lines


def describe_statistics(statistics: Mapping[str, Any], output: str, epsilon: float) -> list[str]:
    """What `pd_jax.evaluation.action_gaps.describe_outputs` found, in lines."""
    what = "Q-values" if output == "q" else "logits"
    lines = [
        f"{what} in {statistics['states']:,} states of its own play (ε = {epsilon:g})",
        f"  mean |{what[0]}| {statistics['mean_absolute']:.4g}, standard deviation "
        f"{statistics['standard_deviation']:.4g}",
        f"  action gap (best minus second best): mean {statistics['mean_action_gap']:.4g}, "
        f"median {statistics['median_action_gap']:.4g}",
        "",
        f"  {'τ':>6}  {'mean gap/τ':>10}  {'median gap/τ':>12}  {'entropy':>7}  {'P(best)':>7}",
    ]
    lines += [
        f"  {row['temperature']:>6g}  {row['mean_gap']:>10.4g}  {row['median_gap']:>12.4g}  {row['entropy']:>7.3f}  "
        f"{row['best_probability']:>7.3f}"
        for row in statistics["temperatures"]
    ]
    lines += [
        f"  of softmax({what} / τ), which a student with the KL loss is to match (--loss.temperature; the paper's for",
        "  Q-values is 0.01): entropy in nats and probability of the best action, means over the states",
    ]
    return lines


def describe_network(entry: Entry) -> str:
    """Such as ``mlp 128-128 LN``."""
    metadata = entry.metadata
    widths = "-".join(map(str, metadata.hidden_sizes or metadata.head_sizes))
    return " ".join(filter(None, (metadata.network, widths, "LN" if metadata.layer_norm else "")))


def format_size(size_bytes: int) -> str:
    """Such as ``75 kB`` and ``6.8 MB``."""
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 999_500 else f"{size_bytes / 1e3:.0f} kB"


def _width(table: Table) -> int:
    console = Console(width=_UNLIMITED)
    return console.measure(table).maximum


def _score(entry: Entry) -> str:
    evaluation = entry.metadata.evaluation
    return format_score(evaluation["mean"], evaluation["standard_error"]) if evaluation else _UNKNOWN


def _evaluated(entry: Entry, name: str, form: str) -> str:
    evaluation = entry.metadata.evaluation
    return format(evaluation[name], form) if evaluation else _UNKNOWN


def _reference(score: float | None) -> str:
    return "" if score is None else f"{score:,.1f}"


def _steps(entry: Entry) -> str:
    steps = entry.metadata.env_steps
    return _UNKNOWN if steps is None else format_count(steps)


def _protocol(evaluation: Mapping[str, Any], *, has_noops: bool) -> str:
    if not evaluation:
        return "never evaluated"
    low, high = evaluation["ci95"]
    # Only the fourth format checks it.
    named = f" under {_line(evaluation['protocol'])}" if isinstance(evaluation.get("protocol"), str) else ""
    noops = f"up to {evaluation['max_noops']:,} no-ops, " if has_noops else ""
    return (
        f"{format_score(evaluation['mean'], evaluation['standard_error'])} (95 % interval {low:,.1f} to {high:,.1f}) "
        f"over {evaluation['episodes']:,} episodes{named}; ε = {evaluation['epsilon']:g}, "
        f"{noops}at most {evaluation['max_episode_steps']:,} steps, seed {evaluation['seed']}"
    )


def _statistics(normalisation: Mapping[str, Any]) -> dict[str, str]:
    """A line on what is normalised, without the statistics themselves: they may be thousands of numbers."""
    told = [f"{name} by the statistics of {value['count']:,} observations" for name, value in normalisation.items()]
    return {"normalisation": ", ".join(told)} if told else {}


_SHOWN = frozenset(
    "format_version name game env_id network layer_norm hidden_sizes num_actions action_names observation output "
    "algorithm env_steps seed training_config evaluation learning_curve how_made licence created normalisation "
    "head_sizes pd_jax_version".split()
)


def _others(metadata: Any) -> dict[str, str]:
    """Fields that have no line of their own and say something."""
    fields = {field.name: getattr(metadata, field.name) for field in dataclasses.fields(metadata)}
    told = {name: value for name, value in fields.items() if name not in _SHOWN and value not in ("", (), [], {}, None)}
    return {name: _compact(value) for name, value in told.items()}


def _compact(value: Any) -> str:
    """JSON in one line; a mapping without its braces."""
    if isinstance(value, Mapping):
        return ", ".join(f"{_line(key)} {_compact(item)}" for key, item in value.items())
    return value if isinstance(value, str) and value.isprintable() else json.dumps(value)


def _line(text: str) -> str:
    """A foreign file's text as one harmless line: what could move a terminal's cursor is spelled out."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
