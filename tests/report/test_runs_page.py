"""The page of many runs: every row, its numbers, the way to each run's own page, and nothing that becomes markup."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from report.test_page import HOSTILE, Page

from pd_jax.cli import main
from pd_jax.evaluation.aggregates import interquartile_mean
from pd_jax.report.aggregates import aggregates_of
from pd_jax.report.groups import build_report
from pd_jax.report.page import write_run_page
from pd_jax.report.report import leave_runs_page, read_report
from pd_jax.report.runs_page import runs_page
from pd_jax.runs.directory import read_run
from support.made_runs import result, write_distillation

GAMES = {"pong": (18.0, -20.7), "breakout": (300.0, 1.7), "qbert": (9000.0, 163.9)}


def write_runs(path: Path, seeds: int = 3) -> Path:
    """Two networks, three games, some seeds; the smaller network plays worse."""
    for game, (teacher, random) in GAMES.items():
        for network, share in (("net1", 0.95), ("net3", 0.7)):
            for seed in range(seeds):
                mean = random + (teacher - random) * (share + 0.02 * seed)
                returns = {"teacher": (teacher - 1, teacher + 1), "student": (mean - 1, mean + 1)}
                write_distillation(path / f"{game}-{network}-{seed}", game=game, network=network, seed=seed, **returns)
    return path


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of these runs, of which one has a page. Not to be written to."""
    path = tmp_path_factory.mktemp("runs page")
    write_runs(path / "runs")
    write_run_page(read_run(path / "runs" / "qbert-net3-2"))
    assert main(["report", str(path / "runs"), "--out", str(path / "reports" / "all")]) == 0
    return path / "reports" / "all"


def rows_of(page: Page) -> list[dict[str, str]]:
    head, *rows = page.tables["runs"]
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_a_row_for_each_run_with_its_numbers(out: Path) -> None:
    rows = rows_of(Page((out / "report.html").read_text()))
    assert len(rows) == 18
    (row,) = (row for row in rows if row["run"] == "breakout-net3-1")
    assert (row["game"], row["network"], row["loss"], row["seed"]) == ("breakout", "net3", "KL, τ = 0.01", "1")
    student = 1.7 + (300 - 1.7) * 0.72
    # Two games, one above and one below the mean: the standard error is 1.
    assert row["student"] == f"{student:.1f} ± 1.0"
    assert row["of teacher"] == f"{100 * student / 300:.1f} %" and row["above random"] == "72.0 %"
    assert row["smaller"] == f"{1_693_362 / 61_954:.1f}x"


def test_a_run_is_linked_by_a_relative_way_if_it_has_a_page(out: Path) -> None:
    page = Page((out / "report.html").read_text())
    ways = [values["href"] for tag, values in page.tags if tag == "a"]
    assert len(ways) == 1 and ways[0] is not None and ways[0].startswith("../../runs/")
    assert (out / unquote(ways[0])).resolve() == (out / "../../runs/qbert-net3-2/report.html").resolve()


def test_seeds_and_games_together_are_the_numbers_of_the_report(out: Path) -> None:
    page = Page((out / "report.html").read_text())
    (section,) = read_report([str(out.parents[1] / "runs")]).sections
    for found in aggregates_of(section):
        assert f"{100 * float(interquartile_mean(found.scores)):.1f} %" in page.texts["b"]
        assert found.seeds == 3 and len(found.games) == 3
    charts = [title for title in page.texts["h3"] if title.startswith("Runs above")]
    assert len(charts) == 2, "against teachers, and against humans"
    assert [title.split(" (")[0] for title in page.texts["summary"]] == [
        "Scores", "Geometric means over games", "Seeds and games together", "Probability of improvement",
    ]  # fmt: skip


def test_all_is_in_the_page_without_its_script_and_only_that_script_may_run(out: Path) -> None:
    page = Page((out / "report.html").read_text())
    assert page.sources[0] == "data:," and all(source.startswith(("data:", "../")) for source in page.sources)
    assert page.policy is not None and page.policy.startswith("default-src 'none'; img-src data:")
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/]{43}='$", page.policy)
    (form,) = (values for tag, values in page.tags if tag == "form")
    assert "hidden" in form
    assert not any("hidden" in values for tag, values in page.tags if tag == "tr")
    assert not page.open


@pytest.mark.parametrize("hostile", HOSTILE)
def test_names_stay_names(hostile: str, tmp_path: Path) -> None:
    results = [
        result(game=game, network=hostile, seed=seed, teacher_name=hostile, run=f"runs/{hostile}")
        for game in (hostile, "pong")
        for seed in (0, 1)
    ]
    text = runs_page(build_report(results, [hostile]), tmp_path, version=hostile, title=hostile)
    page = Page(text)
    assert not page.open
    assert {row["network"] for row in rows_of(page)} == {hostile}
    assert page.texts["h1"] == [hostile] and [tag for tag, _ in page.tags].count("script") == 1
    assert not any(name.startswith("on") for _, values in page.tags for name in values)


def test_a_run_whose_name_begins_like_an_address_is_linked_as_a_directory(tmp_path: Path) -> None:
    write_distillation(tmp_path / "javascript:alert(1)")
    write_run_page(read_run(tmp_path / "javascript:alert(1)"))
    leave_runs_page(tmp_path, "All")
    (way,) = re.findall(r'<a href="([^"]*)"', (tmp_path / "report.html").read_text())
    assert way == "./javascript%3Aalert%281%29/report.html"


def test_of_teachers_alone_there_is_a_table_and_no_script(tmp_path: Path) -> None:
    alone = result(student=None, settings={"network": "dqn", "algorithm": "pqn"})
    page = Page(runs_page(build_report([alone]), None, version="1"))
    assert page.texts["summary"] == ["Teachers"] and "script" not in {tag for tag, _ in page.tags}


def test_a_directory_without_a_finished_run_has_no_page(tmp_path: Path) -> None:
    write_distillation(tmp_path / "one")
    (tmp_path / "one" / "summary.json").unlink()
    leave_runs_page(tmp_path, "All")
    assert not (tmp_path / "report.html").exists()
