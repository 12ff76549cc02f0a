"""Figures of reports: what is in them, looked up in the axes, and that they become files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.image import imread

from pd_jax.environments.tasks import PAPER_GAMES
from pd_jax.report import comparisons
from pd_jax.report.comparisons import plot_compression, plot_scores
from pd_jax.report.groups import Section, build_report
from pd_jax.report.results import Result
from support.made_runs import result


def section(*results: Result) -> Section:
    (only,) = build_report(results).sections
    return only


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved, which are still saved."""
    figures: list[Figure] = []
    save = comparisons.save_figure

    def keep(figure: Figure, *arguments: Any) -> None:
        figures.append(figure)
        save(figure, *arguments)

    monkeypatch.setattr(comparisons, "save_figure", keep)
    return figures


def heights(figure: Figure) -> list[float]:
    bars = [item for item in figure.axes[0].containers if isinstance(item, BarContainer)]
    return [float(patch.get_height()) for container in bars for patch in container.patches]  # type: ignore[attr-defined]


def diamonds(figure: Figure) -> list[float]:
    lines = [line for line in figure.axes[0].lines if line.get_marker() == "D"]
    return sorted(float(y) for line in lines for y in np.atleast_1d(line.get_ydata()))


def test_every_cell_is_a_bar_and_the_papers_means_are_marked(tmp_path: Path, drawn: list[Figure]) -> None:
    students = {("pong", "net1"): 16.0, ("pong", "net2"): 9.0, ("qbert", "net1"): 25.0, ("qbert", "net2"): 20.0}
    results = [result(game=game, network=network, student=s) for (game, network), s in students.items()]
    assert plot_scores(section(*results), tmp_path / "scores.png")
    (figure,) = drawn
    # Of a teacher's 20: 80, 125 and 45, 100; their geometric means are 100 and 30 times the root of 5.
    assert heights(figure) == pytest.approx([80, 125, 100, 45, 100, 30 * 5**0.5])
    assert diamonds(figure) == [101.7, 108.3]
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["pong", "qbert", "geometric\nmean"]
    assert imread(tmp_path / "scores.png").std() > 0


def test_scores_above_random_do_not_stand_beside_the_papers_raw_ones(tmp_path: Path, drawn: list[Figure]) -> None:
    results = [result(network=name, student=s, random_score=-20.0) for name, s in (("net1", 18.0), ("net2", -5.0))]
    assert plot_scores(section(*results), tmp_path / "scores.png")
    (figure,) = drawn
    assert heights(figure) == pytest.approx([95.0, 37.5])
    assert diamonds(figure) == []
    assert figure.axes[0].get_ylabel().startswith("score above random")


def test_compression_lies_on_the_sizes_of_the_students(tmp_path: Path, drawn: list[Figure]) -> None:
    percents = {"net1": 19.0, "net2": 18.0, "net3": 15.0}
    assert plot_compression(section(*(result(network=n, student=s) for n, s in percents.items())), tmp_path / "c.png")
    axes = drawn[0].axes[0]
    (line,) = [line for line in axes.lines if line.get_label() == "KL, τ = 0.01 (pong)"]
    assert np.asarray(line.get_xdata()) == pytest.approx([1_693_362 / n for n in (427_874, 113_346, 61_954)])
    assert np.asarray(line.get_ydata()) == pytest.approx([95.0, 90.0, 75.0])
    assert diamonds(drawn[0]) == [83.9, 101.7, 108.3]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["net1\n4.0x", "net2\n14.9x", "net3\n27.3x"]


def test_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    without = section(result(teacher=None))
    assert not plot_scores(without, tmp_path / "scores.png")
    assert not plot_compression(without, tmp_path / "compression.png")
    assert not plot_compression(section(result(network="net2"), result(loss="nll")), tmp_path / "compression.png")
    assert list(tmp_path.iterdir()) == []


def test_one_wide_interval_does_not_flatten_the_rest(tmp_path: Path, drawn: list[Figure]) -> None:
    wide = [result(seed=seed, student=mean) for seed, mean in enumerate((10.0, 20.0, 30.0))]
    assert plot_scores(section(*wide, result(network="net1", student=19.0)), tmp_path / "scores.png")
    bottom, top = drawn[0].axes[0].get_ylim()
    # t with two degrees of freedom is 4.303: the interval of 100 % is of 124 points to either side.
    assert (bottom, top < 150) == (0.0, True)


@pytest.mark.parametrize(
    "results",
    [
        [result()],
        [result(loss="nll", student=0.0)],
        [result(student=-400.0, random_score=-500.0)],
        [result(student=1e9, teacher=1e-3)],
        [result(game=game, network=f"net{n}", seed=s) for game in PAPER_GAMES for n in (1, 2, 3) for s in (0, 1)],
        [result(game=f"game {n}") for n in range(110)],
        [result(game=f"game {n}", temperature=t) for n in range(3) for t in np.geomspace(0.01, 10, 8)],
        [result(settings={"a" * 300: n}, seed=n) for n in range(30)],
    ],
)
def test_figures_of_every_size_become_files(results: Sequence[Result], tmp_path: Path) -> None:
    with np.errstate(all="raise", under="ignore"):
        drawn = plot_scores(section(*results), tmp_path / "scores.png")
    assert drawn == (tmp_path / "scores.png").exists()
    if drawn:
        assert imread(tmp_path / "scores.png").std() > 0


def test_the_same_report_gives_the_same_file(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        plot_scores(section(result(), result(network="net1")), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
