"""The page of a run, read back by an HTML parser."""

from __future__ import annotations

import base64
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pd_jax.report.page import report_page
from pd_jax.runs.summary import Summary
from support.summaries import summary_of as made_summary

PNG = b"\x89PNG not really"


class Page(HTMLParser):
    """Cells of the table, text of the configuration, and what the page wants to load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.config = ""
        self.sources: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attributes if name in ("src", "href")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        if self.open and self.open[-1] == "pre":
            self.config += data


def summary_of(*games: str) -> Summary:
    return made_summary(
        {game: [10.0, 14.0] for game in games},
        {game: [8.0, 10.0] for game in games},
        random_scores={"pong": 2.0},
        student_parameters=100,
        teacher_parameters=1500,
        wall_seconds=61.0,
        env_steps=2048,
        updates=50,
    )


def test_the_page_says_what_the_summary_says_and_loads_nothing_from_elsewhere() -> None:
    page = Page(report_page("pong into net2", summary_of("pong"), picture=PNG, config="seed: 1\n"))
    header, row = page.rows
    assert header[0] == "game" and row[0] == "pong"
    # 12 and 9 are the means, 2 and 1 their standard errors; (9 - 2) / (12 - 2) of what lies above random play.
    assert row[1].startswith("12.0 ± 2.0 (") and row[2].startswith("9.0 ± 1.0 (")
    assert row[3:] == ["75.0 %", "70.0 %", "2"]
    assert page.config == "seed: 1\n"
    assert page.sources == ["data:image/png;base64," + base64.b64encode(PNG).decode()]
    assert not page.open


def test_several_games_end_in_their_geometric_mean() -> None:
    rows = Page(report_page("two games", summary_of("pong", "breakout"), picture=None, config="")).rows
    assert [row[0] for row in rows] == ["game", "pong", "breakout", "geometric mean"]
    assert rows[-1][3:5] == ["75.0 %", "–"], "breakout has no random score here"


def test_the_mean_counts_what_is_no_better_than_random_as_one_percent_as_all_tables_do() -> None:
    # One tenth of what lies between random play and the teacher below random play, and as good as the teacher.
    summary = made_summary(
        {"pong": [12.0], "qbert": [12.0]},
        {"pong": [1.0], "qbert": [12.0]},
        random_scores={"pong": 2.0, "qbert": 2.0},
        student_parameters=100,
        teacher_parameters=1500,
    )
    page = report_page("two games", summary, picture=None, config="")
    assert Page(page).rows[-1][4] == "10.0 %"
    assert "1 % stands for students no better than random, or hardly so (pong)" in page


@pytest.mark.parametrize("hostile", ["<script>alert(1)</script>", "</pre><img src=x>", "&amp;"])
def test_nothing_that_is_shown_becomes_markup(hostile: str) -> None:
    page = Page(report_page(hostile, summary_of(hostile), picture=None, config=hostile))
    assert page.rows[1][0] == hostile
    assert page.config == hostile
    assert page.sources == []


def test_a_finished_run_has_its_page(finished_run: Path) -> None:
    page = Page((finished_run / "report.html").read_text())
    assert page.rows[1][0] == "cartpole"
    assert page.config == (finished_run / "config.yaml").read_text()
    picture = base64.b64encode((finished_run / "progress.png").read_bytes()).decode()
    assert page.sources == [f"data:image/png;base64,{picture}"]
