"""The table of a sweep against means worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pd_jax.sweep.summary import build_table, format_table


def cell(network: str, game: str, seed: int, student: float | None, **more: Any) -> dict[str, Any]:
    """A cell whose teacher scores 20 and random play -20 (pong), or 300 and 0 (enduro)."""
    teacher, random = (20.0, -20.0) if game == "pong" else (300.0, 0.0)
    entry = {"cell": f"{game}-{network}-{seed}", "game": game, "network": network, "loss": "kl", "temperature": 0.01}
    entry |= {"learning_rate": 1e-3, "seed": seed}
    if student is None:
        return entry | more
    return entry | {
        "student_score": student,
        "student_standard_error": 0.5,
        "student_ci95": [student - 1, student + 1],
        "teacher_score": teacher,
        "teacher_standard_error": 0.25,
        "random_score": random,
        "percent_of_teacher": 100 * student / teacher,
        "percent_of_teacher_normalised": 100 * (student - random) / (teacher - random),
    }


CELLS = [
    cell("net1", "pong", 0, 10.0),
    cell("net1", "pong", 1, 18.0),
    cell("net3", "pong", 0, -4.0),
    cell("net3", "pong", 1, None, failure="out of memory"),
    cell("net1", "enduro", 0, 270.0),
    cell("net1", "enduro", 1, 330.0),
    cell("net3", "enduro", 0, 75.0),
    cell("net3", "enduro", 1, 75.0),
]


def test_rows_are_means_over_seeds_and_geometric_means_over_games() -> None:
    net1, net3 = build_table(CELLS)["rows"]
    assert (net1["network"], net1["loss"], net1["temperature"], net1["learning_rate"]) == ("net1", "kl", 0.01, 1e-3)
    pong, enduro = net1["games"]["pong"], net1["games"]["enduro"]
    # Two scores of 10 and 18: their mean's standard error is sqrt(32) / sqrt(2).
    assert (pong["seeds"], pong["student_score"], pong["standard_error"]) == (2, 14.0, pytest.approx(4.0))
    assert (pong["percent"], pong["percent_normalised"]) == (pytest.approx(70.0), pytest.approx(85.0))
    assert (enduro["percent"], enduro["percent_normalised"]) == (100.0, 100.0)
    assert net1["geometric_mean_percent"] == pytest.approx(math.sqrt(70 * 100))
    assert net1["geometric_mean_percent_normalised"] == pytest.approx(math.sqrt(85 * 100))
    assert (net1["failed"], net3["failed"]) == (0, 1)
    # Of the seeds that finished there is one; a negative percentage has no geometric mean, the normalised one has.
    assert (net3["games"]["pong"]["seeds"], net3["games"]["pong"]["standard_error"]) == (1, None)
    assert net3["games"]["pong"]["percent"] == pytest.approx(-20.0)
    assert net3["geometric_mean_percent"] is None
    assert net3["geometric_mean_percent_normalised"] == pytest.approx(math.sqrt(40 * 25))


def test_a_game_without_a_finished_cell_leaves_no_geometric_mean() -> None:
    (row,) = build_table([cell("net1", "pong", 0, None, failure="x"), cell("net1", "enduro", 0, 150.0)])["rows"]
    assert list(row["games"]) == ["enduro"]
    assert row["geometric_mean_percent"] is None


def test_a_student_no_better_than_random_counts_as_one_percent_in_the_mean_and_below_the_table() -> None:
    table = build_table([cell("net3", "pong", 0, -24.0), cell("net3", "enduro", 0, 300.0), cell("net1", "pong", 0, 20)])
    net3, net1 = table["rows"]
    assert (net3["geometric_mean_percent_normalised"], net3["floored_games"]) == (None, ["pong"])
    # -10 % above random counts as 1 %, beside 100 %.
    assert net3["geometric_mean_percent_normalised_floored"] == pytest.approx(10.0)
    assert net1["geometric_mean_percent_normalised_floored"] is None, "a game without a cell is not a bad game"
    text = format_table(table)
    (row,) = [line for line in text.splitlines() if "net3" in line and "geometric mean" in line]
    assert [part.strip() for part in row.split("|")][-3:-1] == ["–", "10.0 %"]
    note = "Geometric mean above random: 1 % stands for students no better than random, or hardly so (net3 in pong).\n"
    assert note in text


def test_the_text_has_every_cell_and_every_row() -> None:
    lines = format_table(build_table(CELLS)).splitlines()
    assert len({len(line) for line in lines[:10]}) == 1, "columns stand below one another"
    cells = {row[1]: row[2:-1] for row in ([part.strip() for part in line.split("|")] for line in lines[2:10])}
    assert cells["pong-net1-1"] == ["18.0 ± 0.5", "17.0 to 19.0", "20.0 ± 0.2", "90.0 %", "95.0 %"]
    assert cells["pong-net3-1"] == ["failed", "", "", "", ""]
    rows = [[part.strip() for part in line.split("|")][1:-1] for line in lines[13:19]]
    assert rows[0] == ["net1", "pong", "2", "14.0 ± 4.0", "20.0", "70.0 %", "85.0 %"]
    assert rows[2] == ["net1", "geometric mean", "", "", "", "83.7 %", "92.2 %"]
    assert rows[5] == ["net3", "geometric mean", "", "", "", "–", "31.6 %"]
    assert lines[-1] == "Failed: pong-net3-1: out of memory"


def test_axes_that_vary_are_the_columns_of_the_rows() -> None:
    cells = [
        cell("net1", "pong", seed, 1.0) | {"loss": loss, "temperature": t}
        for seed in (0, 1)
        for loss, t in (("kl", 0.01), ("kl", 1.0), ("nll", None))
    ]
    header = format_table(build_table(cells)).splitlines()[9]
    assert [part.strip() for part in header.split("|")][1:4] == ["loss", "temperature", "game"]


def test_one_seed_of_one_game_needs_no_means() -> None:
    text = format_table(build_table([cell("net1", "pong", 0, 1.0), cell("net2", "pong", 0, None)]))
    assert text.count("| cell") == 1
    assert "| to do" in text
    assert "| seeds" not in text
