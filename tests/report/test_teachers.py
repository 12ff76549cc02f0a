"""The table of teachers and the description of one: every number stands where it belongs, at any width."""

from __future__ import annotations

import dataclasses
import io
import re
from pathlib import Path
from typing import Any

import pytest

from pd_jax.evaluation.action_gaps import describe_outputs
from pd_jax.report.figures import plot_learning_curves
from pd_jax.report.teachers import (
    describe_entry,
    describe_statistics,
    fingerprints,
    format_size,
    markdown_table,
    print_teachers,
)
from pd_jax.teachers.catalogue import Entry, find
from support.commands import write_teacher

EVALUATION = {
    "mean": -12.34,
    "standard_error": 0.56,
    "ci95": [-13.4, -11.2],
    "episodes": 1_040,
    "epsilon": 0.05,
    "max_noops": 30,
    "max_episode_steps": 27_000,
    "seed": 3,
}
POINTS = [
    {"env_steps": 100_000, "mean": -20.0, "standard_error": 0.1, "episodes": 10},
    {"env_steps": 200_000, "mean": -12.0, "standard_error": 0.5, "episodes": 10},
]


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    folder = tmp_path_factory.mktemp("teachers")
    changes: dict[str, Any] = {
        "pong": {
            "evaluation": EVALUATION,
            "learning_curve": POINTS,
            "env_steps": 200_000,
            "algorithm": "pqn",
            "training_config": {"pqn": {"gamma": 0.99}, "seed": 0},
        },
        "cartpole": {"env_steps": None, "licence": "MIT"},
    }
    return [
        dataclasses.replace(find(str(write_teacher(folder / f"{game}.safetensors", game, **changes[game]))), name=game)
        for game in changes
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def printed(entries: list[Entry], monkeypatch: pytest.MonkeyPatch, columns: int | None) -> list[str]:
    """The lines printed to a terminal of so many columns, or to a pipe."""
    monkeypatch.setenv("COLUMNS", str(columns or 80))
    monkeypatch.setenv("TERM", "xterm")
    file = io.StringIO() if columns is None else Terminal()
    print_teachers(entries, file=file)
    text = re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())
    return [line.rstrip() for line in text.splitlines()]


def test_a_pipe_gets_every_column(entries: list[Entry], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(entries, monkeypatch, None)
    (pong,) = [line.split() for line in lines if line.startswith(" pong ")]
    size = format_size(entries[0].size_bytes).split()
    parameters = f"{entries[0].parameters:,}"
    score = ["-12.3", "±", "0.6", "1,040", "0.05", "-20.7", "14.6"]
    assert pong == ["pong", "Pong-v5", "net3", parameters, *score, "200", "k", "pqn", "Apache-2.0", *size]
    (cartpole,) = [line.split() for line in lines if line.startswith(" cartpole ")]
    assert cartpole[:5] == ["cartpole", "CartPole-v1", "mlp", "8", f"{entries[1].parameters:,}"]
    assert cartpole[5:10] == ["–", "–", "–", "22.2", "–"] and "MIT" in cartpole
    assert "2 teachers, " in lines[-1]


@pytest.mark.parametrize("columns", [60, 80, 100, 120, 140])
def test_a_terminal_gets_the_columns_that_fit_and_is_told_of_the_others(
    columns: int, entries: list[Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = printed(entries, monkeypatch, columns)
    (header,) = [line for line in lines if line.startswith(" name")]
    (rule,) = [line for line in lines if line.startswith(" ─")]
    omitted = lines[-1].partition(" also show ")[2].split(", ") if " also show " in lines[-1] else []
    every = "name game network parameters score episodes ε random human steps algorithm licence size".split()
    assert header.split() == [name for name in every if name not in omitted]
    assert {"name", "network", "score", "episodes", "random"} <= set(header.split())
    assert len(rule) <= columns
    assert any(line.startswith(" pong ") and " -12.3 ± 0.6 " in f"{line} " for line in lines)
    assert (columns == 140) == (not omitted)


def test_the_markdown_table_has_the_same_cells(entries: list[Entry], monkeypatch: pytest.MonkeyPatch) -> None:
    header, rule, pong, cartpole = markdown_table(entries).splitlines()
    cells = [cell.strip() for cell in pong.split("|")[1:-1]]
    assert cells[:2] == ["pong", "Pong-v5"] and "-12.3 ± 0.6" in cells and "200 k" in cells
    assert set(rule) == {"|", "-"}
    assert {line.count("|") for line in (header, rule, pong, cartpole)} == {14}
    (line,) = [line for line in printed(entries, monkeypatch, None) if line.startswith(" pong ")]
    assert " ".join(filter(None, cells)).split() == line.split()


def test_a_description_says_all_that_the_file_says(entries: list[Entry]) -> None:
    lines = describe_entry(entries[0])
    rows = {line[:12].strip(): line[13:] for line in lines[:16]}
    assert rows["name"] == "untrained-pong"
    assert rows["game"] == "pong (Pong-v5)"
    assert rows["actions"] == "6: NOOP, FIRE, RIGHT, LEFT, RIGHTFIRE, LEFTFIRE"
    assert rows["observation"] == "uint8 84x84x4, kind atari"
    assert rows["score"] == (
        "-12.3 ± 0.6 (95 % interval -13.4 to -11.2) over 1,040 episodes; ε = 0.05, up to 30 no-ops, "
        "at most 27,000 steps, seed 3"
    )
    assert rows["references"] == "random -20.7, human 14.6"
    assert (rows["env_steps"], rows["seed"], rows["how_made"]) == ("200,000", "0", "by a test")
    assert rows["created"] == "2024-01-01, by pd_jax 0"
    assert rows["sha256"] == entries[0].sha256
    curve = lines[lines.index("learning curve (score, 95 % interval)") + 1 :]
    assert sum(line.count("●") for line in curve) == 2
    assert any(line.endswith("human") for line in curve) and any("200 k steps" in line for line in curve)
    assert lines[lines.index("training_config") :] == ["training_config", "  pqn:", "    gamma: 0.99", "  seed: 0"]


def test_a_teacher_of_vectors_has_no_noops_and_one_without_a_score_says_so(entries: list[Entry]) -> None:
    lines = describe_entry(entries[1])
    assert "score        never evaluated" in lines and "env_steps    –" in lines
    assert not any("learning curve" in line or "training_config" in line for line in lines)
    metadata = dataclasses.replace(entries[1].metadata, evaluation=EVALUATION)
    scored = describe_entry(dataclasses.replace(entries[1], metadata=metadata))
    assert not any("no-ops" in line for line in scored) and any("-12.3 ± 0.6" in line for line in scored)


def test_a_foreign_files_text_cannot_steer_the_terminal(entries: list[Entry]) -> None:
    metadata = dataclasses.replace(
        entries[0].metadata,
        how_made="\x1b[2Jgone\nname  fake",
        licence="MIT\r",
        training_config={"\x1b[2J": "\x9b2J\n"},
        observation=entries[0].metadata.observation | {"scaling": "\x1b[31m", "\x07": {"a": ["\x1b"]}},
    )
    entry = dataclasses.replace(entries[0], metadata=metadata)
    lines = describe_entry(entry)
    assert all(line.isprintable() for line in lines)
    assert r"how_made     \x1b[2Jgone\nname  fake" in lines
    assert markdown_table([entry]).replace("\n", "").isprintable()


def test_fields_without_a_line_of_their_own_are_shown_too(entries: list[Entry]) -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Newer(type(entries[0].metadata)):  # type: ignore[misc]
        weather: dict[str, Any]
        remark: str = ""

    newer = Newer(**vars(entries[0].metadata), weather={"degrees": 25, "raining": False})
    lines = describe_entry(dataclasses.replace(entries[0], metadata=newer))
    assert "weather      degrees 25, raining false" in lines
    assert not any("remark" in line for line in lines), "it says nothing"


def test_statistics_are_printed_with_their_temperatures() -> None:
    statistics = describe_outputs([[0.0, 0.5], [1.0, 0.0]], [0.01, 1.0])  # type: ignore[arg-type]
    lines = describe_statistics(statistics, "q", 0.05)
    assert lines[0] == "Q-values in 2 states of its own play (ε = 0.05)"
    assert lines[1] == "  mean |Q| 0.375, standard deviation 0.4146"
    assert lines[2] == "  action gap (best minus second best): mean 0.75, median 0.75"
    # The gap over the temperature; and at 1.0 the probabilities 1 / (1 + exp(-0.5)) and 1 / (1 + exp(-1)).
    assert lines[5].split() == ["0.01", "75", "75", "0.000", "1.000"]
    assert lines[6].split()[:3] == ["1", "0.75", "0.75"] and lines[6].split()[4] == "0.677"
    assert describe_statistics(statistics, "logits", 0.0)[0] == "logits in 2 states of its own play (ε = 0)"


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 kB"), (74_736, "75 kB"), (999_499, "999 kB"), (999_500, "1.0 MB"), (6_759_136, "6.8 MB")]
)
def test_sizes_are_short(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_every_curve_gets_a_panel_of_the_same_size(count: int, entries: list[Entry], tmp_path: Path) -> None:
    from PIL import Image

    curves = {f"game {index}": (entries[0].curve, entries[0].references) for index in range(count)}
    plot_learning_curves(curves, tmp_path / "curves.png", description=fingerprints(entries))
    image = Image.open(tmp_path / "curves.png")
    columns, rows = {1: (1, 1), 2: (2, 1), 4: (2, 2), 7: (3, 3)}[count]
    assert image.size == (576 * columns, 400 * rows)
    assert image.text["Description"] == "".join(f"{e.name} {e.sha256}\n" for e in entries).strip()
