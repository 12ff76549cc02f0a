"""Tables of a report, read back cell by cell."""

from __future__ import annotations

import dataclasses
import io
import re

import pytest

from pd_jax.report.groups import Design, Report, build_report
from pd_jax.report.results import Recipe, Result
from pd_jax.report.tables import Grid, describe_design, markdown, print_report, report_grids
from support.made_runs import result


def rows(grid: Grid) -> list[dict[str, str]]:
    return [
        dict(zip([column.header for column in grid.columns], cells, strict=True))
        for cells in zip(*(column.cells for column in grid.columns), strict=True)
    ]


def grids(*results: Result) -> list[Grid]:
    return [grid for _, group in report_grids(build_report(results)) for grid in group]


def test_a_row_says_all_of_a_cell() -> None:
    scores, means = grids(result(student=18.0, teacher=20.0, random_score=-20.0))
    (row,) = rows(scores)
    # Half widths 1 and 1: 100/20 and 90/20 points.
    assert row == {
        "game": "pong",
        "network": "net2",
        "loss": "KL, τ = 0.01",
        "teacher's score": "20.0 ± 0.5",
        "student's score": "18.0 ± 0.5",
        "95 % interval": "17.0 to 19.0",
        "seeds": "1",
        "episodes": "30",
        "of teacher": "90.0 %",
        "interval of %": "83.3 to 96.7 %",
        "above random": "95.0 %",
    }
    (row,) = rows(means)
    assert (row["of teacher ¹"], row["above random"], row["interval ¹"]) == ("90.0 %", "95.0 %", "83.3 to 96.7 %")
    assert (row["parameters"], row["smaller"], row["paper"]) == ("113,346", "14.9x", "101.7 % (10 games)")
    assert (scores.title, row["over"]) == ("Scores (ε = 0.05, up to 30 no-ops)", "pong")


def test_seeds_show_their_spread() -> None:
    scores, _ = grids(*(result(seed=seed, student=mean) for seed, mean in enumerate((15.0, 18.0, 21.0))))
    (row,) = rows(scores)
    # Standard deviation 3 and standard error sqrt(3); t with two degrees of freedom is 4.303.
    assert (row["seeds"], row["spread"], row["student's score"]) == ("3", "3.0", "18.0 ± 1.7")
    assert row["95 % interval"] == "10.5 to 25.5"
    assert any("Student's t over seeds" in note for note in scores.notes)


def test_two_seeds_show_their_range_and_say_so() -> None:
    scores, means = grids(*(result(seed=seed, student=mean) for seed, mean in enumerate((15.0, 18.0))))
    (row,) = rows(scores)
    assert (row["interval"], row["spread"]) == ("15.0 to 18.0", "2.1")
    assert "95 % interval" not in row
    note = "two seeds: the interval is from the lower to the higher of their scores, and no 95 % interval"
    assert note in scores.notes and note in means.notes
    assert not any("Student's t" in note for note in scores.notes)


def test_the_footnote_says_which_mean_and_why() -> None:
    _, means = grids(result(student=18.0, random_score=0.0))
    assert means.notes[0] == "¹ the mean to compare by: of raw scores, as in the paper, for all of them are positive"
    bad = result(network="net3", student=-3.0, teacher=20.0, random_score=0.0)
    _, means = grids(result(student=18.0, random_score=0.0), bad)
    assert [row["above random ¹"] for row in rows(means)] == ["90.0 %", "1.0 %"]
    assert [row["of teacher"] for row in rows(means)] == ["90.0 %", "–"]
    assert means.notes[0] == (
        "¹ the mean to compare by: of scores above random, (student - random) / (teacher - random), for raw "
        "percentages have no geometric mean where a score is not positive (net3, KL, τ = 0.01 in pong); 1 % stands for "
        "students no better than random, or hardly so (net3, KL, τ = 0.01 in pong)"
    )
    assert sum("the mean to compare by" in note for note in means.notes) == 1


def test_what_is_quoted_from_memory_is_marked() -> None:
    scores, means = grids(result(network="dqn", loss="mse"), result(network="dqn", loss="kl"))
    assert [row["paper"] for row in rows(scores)] == ["100.9 % †", "94.4 % †"]
    assert any(note.startswith("† quoted from memory") for note in scores.notes)
    assert "paper" not in rows(means)[0], "the paper has no mean over these"
    assert not any("†" in note for note in means.notes)


def test_no_column_without_content() -> None:
    scores, _ = grids(result(network="mlp 16"))
    assert {"paper", "spread", "settings", "teacher"}.isdisjoint(column.header for column in scores.columns)


def test_settings_are_told_by_letter_where_they_are_long() -> None:
    long = [{f"section.number_{index}": index + seed for index in range(9)} for seed in range(2)]
    scores, _ = grids(*(result(seed=seed, settings=settings) for seed, settings in enumerate(long)))
    assert [row["settings"] for row in rows(scores)] == ["A", "B"]
    assert any(note.startswith("settings A: section.number_0 0, section.number_1 1,") for note in scores.notes)


def test_protocols_have_tables_of_their_own() -> None:
    titles = [grid.title for grid in grids(result(epsilon=0.05), result(epsilon=0.0))]
    assert titles == [
        f"{name} ({protocol}, up to 30 no-ops)"
        for protocol in ("ε = 0.05", "ε = 0")
        for name in ("Scores", "Geometric means over games")
    ]


def test_teachers_of_one_game_are_told_apart() -> None:
    scores, means = grids(result(teacher_name="early"), result(teacher_name="late", seed=1))
    assert [row["teacher"] for row in rows(scores)] == ["early", "late"]
    assert "net2, KL, τ = 0.01: no mean: pong has students of different teachers" in means.notes


def test_a_design_is_described_by_what_tells_it_apart() -> None:
    kl, cold, mixed, nll = (
        Design(Recipe("distill", "net2", loss, temperature))
        for loss, temperature in (("kl", None), ("kl", 0.01), ("kl", (0.1, 0.3)), ("nll", None))
    )
    assert describe_design(mixed) == "net2, KL, τ = 0.1 / 0.3"
    several = Design(Recipe("online", "multi3", "kl", 0.01, ("a", "b", "c"), "best"), (("epsilon", 0.1),))
    assert describe_design(kl) == "net2, KL, default τ"
    assert describe_design(cold, [cold]) == "net2"
    assert describe_design(cold, [cold, nll]) == "net2, KL, τ = 0.01"
    assert describe_design(several) == "multi3, KL, τ = 0.01, 3 games in one, online, best checkpoint, epsilon 0.1"
    joint = Design(Recipe("train-teacher", "multi3", "dqn", None, ("a", "b", "c")))
    assert describe_design(joint) == "multi3, DQN on rewards, 3 games in one"


def many() -> Report:
    return build_report(
        [
            result(game=game, network=network, seed=seed, student=10_000.0 + seed, teacher=12_000.0)
            for game in ("pong", "space_invaders")
            for network in ("net1", "net2")
            for seed in (0, 1)
        ]
    )


@pytest.mark.parametrize("width", [80, 120, 300])
def test_a_terminal_shows_the_columns_that_fit(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    file = Terminal()
    print_report(many(), file=file)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue()).splitlines()
    table = [line for line in lines if "space_invaders  net" in line]
    assert len(table) == 2
    assert all(len(line) <= width for line in table)
    assert all("83.3 %" in line and "10,000 ± 0" in line for line in table), "10,000.5 of 12,000"
    assert any("a wider terminal, a pipe and --out also show" in line for line in lines) == (width < 300)


def test_a_pipe_gets_all_columns() -> None:
    file = io.StringIO()
    print_report(many(), file=file)
    text = file.getvalue()
    assert all(word in text for word in ("interval", "spread", "episodes", "parameters", "2: pong, space_invaders"))
    assert "a wider terminal" not in text


def test_markdown_has_the_same_cells() -> None:
    report = many()
    text = markdown(report, {0: [("scores.png", "all scores")]}, version="1.2")
    lines = text.splitlines()
    for _, group in report_grids(report):
        for grid in group:
            assert f"## {grid.title}" in lines
            for cells in zip(*(column.cells for column in grid.columns), strict=True):
                assert f"| {' | '.join(cells)} |" in lines
    assert "![all scores](scores.png)" in lines
    assert lines[-1] == "Written by pd_jax 1.2."
    tables = [line for line in lines if line.startswith("|")]
    widths = {len(grid.columns) + 1 for _, group in report_grids(report) for grid in group}
    assert {line.count("|") for line in tables} == widths, "each table has one width"


def test_names_stay_names_in_markdown() -> None:
    hostile = "a|b<script>[x](y)`*"
    item = dataclasses.replace(result(), game=hostile, run=hostile)
    text = markdown(build_report([item], [hostile]), {}, version="1")
    assert "<script>" not in text
    escaped = "a\\|b&lt;script>\\[x](y)\\`\\*"
    assert text.count(escaped) == 4, "two tables, the warning and the list of runs"
    assert "](y)" not in text.replace(escaped, "")


def test_markup_of_rich_stays_text() -> None:
    item = dataclasses.replace(result(), game="[bold]x[/bold]")
    console = io.StringIO()
    print_report(build_report([item]), file=console)
    assert "[bold]x[/bold]" in console.getvalue()


def test_interference_has_a_row_for_each_game_and_a_mean() -> None:
    games = ("breakout", "pong")
    results = [
        result(game=game, network="multi3", student=score, together=together)
        for together, scores in ((games, (30.0, 10.0)), ((), (40.0, 20.0)))
        for game, score in zip(games, scores, strict=True)
    ]
    (grid,) = [grid for grid in grids(*results) if grid.title.startswith("Interference")]
    columns = {column.header: column.cells for column in grid.columns}
    assert columns["game"] == games
    assert columns["% of its own"] == ("75.0 %", "50.0 %")
    assert columns["updates"] == ("100 and 100",) * 2
    assert grid.notes[-1] == "geometric mean above random: 61.2 %"
    assert not any(grid.title.startswith("Interference") for grid in grids(*results[2:]))
