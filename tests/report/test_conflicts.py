"""Games that pull against each other: read from metrics, on a page and in a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pd_jax.report.conflict_figure import plot_conflicts
from pd_jax.report.conflicts import conflicts_section, read_conflicts


def line(step: int, first: float | None, second: float | None, third: float | None) -> dict[str, Any]:
    """A measurement of three games in one layer, and of all layers, where games are half as far apart."""
    record: dict[str, Any] = {"step": step, "time": 0.0}
    for layer, scale in (("fc1", 1.0), ("torso", 0.5)):
        for game, norm in (("pong", 2.0), ("<i>", 1.0), ("freeway", 0.0)):
            record[f"gradient_norm/{layer}/{game}"] = norm
        for pair, value in (("pong,<i>", first), ("pong,freeway", second), ("<i>,freeway", third)):
            record[f"gradient_cosine/{layer}/{pair}"] = None if value is None else scale * value
    return record


RECORDS = [
    {"step": 0, "time": 0.0, "loss": 1.0},
    line(10, 0.4, -0.8, None),
    {"step": 20, "time": 0.0, "loss": 0.5},
    line(20, 0.2, -0.4, None),
]


def test_a_reader_has_every_measurement_and_the_means_of_those_that_say_something() -> None:
    conflicts = read_conflicts(RECORDS)
    assert conflicts is not None
    assert (conflicts.games, conflicts.layers) == (("pong", "<i>", "freeway"), ("fc1", "torso"))
    assert conflicts.updates.tolist() == [10, 20]
    np.testing.assert_allclose(
        conflicts.means[0], [[1.0, 0.3, -0.6], [0.3, 1.0, np.nan], [-0.6, np.nan, np.nan]], atol=1e-12
    )
    np.testing.assert_allclose(conflicts.norms[:, 0], [[2.0, 1.0, 0.0]] * 2)
    assert [conflicts.name(pair) for pair in conflicts.pairs] == ["pong and freeway", "pong and <i>", "<i> and freeway"]


def test_the_page_has_signs_in_words_and_in_colours_and_escapes_names() -> None:
    section = conflicts_section(RECORDS)
    assert '<td class="heat along" style="--heat:30%">0.30</td>' in section
    assert '<td class="heat" style="--heat:60%">\N{MINUS SIGN}0.60</td>' in section
    # Of 0.2 and 0.4, halved as all layers' are: half their distance.
    assert ">\N{MINUS SIGN}0.30\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.10</td>" in section
    assert "<i>" not in section.replace("<i class", "") and "&lt;i&gt;" in section
    assert "Means over 2 measurements" in section


@pytest.mark.parametrize("records", [[], RECORDS[:1], [{"step": 1, "gradient_norm/odd": 1.0}]])
def test_without_measurements_there_is_no_section(records: list[dict[str, Any]]) -> None:
    assert read_conflicts(records) is None
    assert conflicts_section(records) == ""


def test_values_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    conflicts = read_conflicts([line(1, 0.5, 0.5, 0.5) | {"gradient_cosine/fc1/pong,<i>": "x"}])
    assert conflicts is not None and np.isnan(conflicts.means[0, 0, 1])
    plot_conflicts(conflicts, tmp_path / "out.png")
    assert (tmp_path / "out.png").stat().st_size > 10_000


def test_of_many_games_the_most_opposed_are_drawn_over_time() -> None:
    games = [f"game{place}" for place in range(7)]
    record: dict[str, Any] = {"step": 5, "time": 0.0}
    for place, game in enumerate(games):
        record[f"gradient_norm/torso/{game}"] = 1.0
        for other in range(place + 1, 7):
            record[f"gradient_cosine/torso/{game},{games[other]}"] = 0.1 * (place - other)
    section = conflicts_section([record])
    assert "Drawn: the 6 pairs with the least mean." in section and "6 other pairs" in section
    assert section.count("game0 and game6") == 2 and section.count("game3 and game4") == 1
