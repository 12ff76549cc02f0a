"""The page of a run, read back by an HTML parser."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pd_jax.cli import main
from pd_jax.config.distill import DistillConfig
from pd_jax.config.loading import to_mapping
from pd_jax.config.sections import StudentConfig
from pd_jax.deploy.lineage import verify_lineage
from pd_jax.evaluation.comparison import MOMENTS
from pd_jax.report.page import MOST_VIDEO_BYTES, run_page, write_run_page
from pd_jax.runs.details import read_details
from pd_jax.runs.directory import RunDirectory, read_run
from pd_jax.runs.lineage import Parent, read_lineage, write_lineage
from pd_jax.runs.summary import Summary
from support.commands import contents
from support.made_pages import comparison, write_details, write_metrics, write_whole_run
from support.summaries import summary_of as made_summary

VOID = {"meta", "img", "link", "br", "input"}
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Page(HTMLParser):
    """Cells of tables by the class of the table, text by tag, and what the page wants to load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.texts: dict[str, list[str]] = {}
        self.sources: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self._rows: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.tags.append((tag, values))
        self.sources += [value or "" for name, value in attributes if name in ("src", "href", "poster", "action")]
        if tag == "table":
            self._rows = self.tables.setdefault(values.get("class") or "", [])
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        data = data.replace("\N{NO-BREAK SPACE}", " ")
        if not self.open:
            return
        self.texts[self.open[-1]][-1] += data
        if "td" in self.open or "th" in self.open:
            self._rows[-1][-1] += data

    @property
    def policy(self) -> str | None:
        return next(values["content"] for _, values in self.tags if values.get("http-equiv"))


def page_of(path: Path) -> Page:
    return Page(run_page(read_run(path)))


def write_run(path: Path, summary: Summary | None, *games: str, **settings: Any) -> RunDirectory:
    """A run whose summary is this."""
    config = DistillConfig(teacher=games, game=games, out="runs/made", student=StudentConfig(network="mlp"), **settings)
    with RunDirectory.create(path, "distill", to_mapping(config)) as run:
        if summary is not None:
            run.write_summary(summary.to_json())
    return read_run(path)


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


def test_the_page_says_what_the_summary_says_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    write_run(tmp_path / "run", summary_of("pong"), "pong", seed=3)
    page = page_of(tmp_path / "run")
    header, row = page.tables["scores"]
    assert header[0] == "game" and row[0] == "pong"
    # 12 and 9 are the means, 2 and 1 their standard errors; (9 - 2) / (12 - 2) of what lies above random play.
    assert row[1].startswith("9.0 ± 1.0 (8.0 to 10.0") and row[2].startswith("12.0 ± 2.0 (10.0 to 14.0")
    assert row[3:6] == ["75.0 %", "70.0 %", "2"]
    assert page.texts["pre"][-1] == (tmp_path / "run" / "config.yaml").read_text()
    assert page.sources == ["data:,"] and page.policy == POLICY
    assert not page.open
    assert page.texts["h1"] == ["pong into mlp"]
    assert "pd-jax distill --config config.yaml --out runs/again" in page.texts["pre"][0]
    # The emulators' seeds are the run's own and an offset of a million.
    assert ["seed", "3; the emulators of the scores have 1,000,003 and the seeds after it"] in page.tables["about"]


def test_several_games_end_in_their_geometric_mean(tmp_path: Path) -> None:
    write_run(tmp_path / "run", summary_of("pong", "breakout"), "pong", "breakout")
    rows = page_of(tmp_path / "run").tables["scores"]
    assert [row[0] for row in rows] == ["game", "pong", "breakout", "geometric mean"]
    assert rows[-1][3:5] == ["75.0 %", "–"], "breakout has no random score here"


def test_the_mean_counts_what_is_no_better_than_random_as_one_percent_as_all_tables_do(tmp_path: Path) -> None:
    # One tenth of what lies between random play and the teacher below random play, and as good as the teacher.
    summary = made_summary(
        {"pong": [12.0], "qbert": [12.0]},
        {"pong": [1.0], "qbert": [12.0]},
        random_scores={"pong": 2.0, "qbert": 2.0},
        student_parameters=100,
        teacher_parameters=1500,
    )
    write_run(tmp_path / "run", summary, "pong", "qbert")
    text = run_page(read_run(tmp_path / "run"))
    assert Page(text).tables["scores"][-1][4] == "10.0 %"
    assert "stands for students no better than random, or hardly so (pong)" in text


HOSTILE = ("<script>alert(1)</script>", "</pre><img src=x>", "&amp;", "' onload='x", '" onmouseover="x')


@pytest.mark.parametrize("hostile", HOSTILE)
def test_nothing_that_is_shown_becomes_markup(hostile: str, tmp_path: Path) -> None:
    """Names out of every file that the page is made of."""
    run = write_whole_run(tmp_path / "run")
    run.write_summary(summary_of(hostile).to_json() | {"platform": hostile, "time_shares": {hostile: 1.0}})
    details = json.loads(run.details_path.read_text())
    details["games"] = {hostile: details["games"]["pong"] | {"actions": [hostile] * 6}}
    details["teachers"] = [{"game": hostile, "name": hostile, "source": hostile, "sha256": hostile}]
    details["code"] = {"pd_jax": hostile, "revision": hostile, "source_sha256": hostile}
    details["versions"] = {hostile: hostile}
    run.details_path.write_text(json.dumps(details))
    config = run.config_path.read_text().replace("teacher: pong", f"teacher: {json.dumps(hostile)}")
    run.config_path.write_text(config.replace("network: net2", f"network: {json.dumps(hostile)}") + f"# {hostile}\n")
    page = page_of(tmp_path / "run")
    assert page.tables["scores"][1][0] == hostile
    assert page.tables["confusion"][0][1] == hostile
    assert page.texts["pre"][-1] == run.config_path.read_text()
    assert not page.open
    tags = {tag for tag, _ in page.tags}
    assert "script" not in tags and not any(name.startswith("on") for _, values in page.tags for name in values)
    assert all(source.startswith("data:") for source in page.sources)


def test_confusion_and_moments_are_those_that_the_run_has_kept(tmp_path: Path) -> None:
    run = write_whole_run(tmp_path / "run")
    page, kept = page_of(run.path), comparison()
    rows = page.tables["confusion"]
    # Whole per cent of each row of counts, nothing for none; then each action's share of all.
    for row, counts in zip(rows[1:-1], kept.confusion.tolist(), strict=True):
        assert row[1:-1] == [f"{100 * count / sum(counts):.0f}" if count else "" for count in counts]
        assert row[-1] == f"{100 * sum(counts) / 300:.1f} %"
    pictures = [values["src"] for tag, values in page.tags if tag == "img"]
    assert len(pictures) == 4 * MOMENTS == 4 * len(kept.moments)
    assert sum("chosen-taught" in (values.get("class") or "") for tag, values in page.tags if tag == "tr") == MOMENTS
    first = kept.moments[0]
    rows = page.tables["choices"][: len(kept.actions)]
    assert [row[0] for row in rows] == list(kept.actions)
    told = [float(row[1].replace("−", "-")) for row in rows]
    np.testing.assert_allclose(told, first.teacher_outputs, atol=0.006)
    assert [row[2] for row in rows] == [f"{100 * share:.0f} %" for share in first.student_probabilities]
    share = 100 * np.trace(kept.confusion) / 300
    assert f"{share:.1f} %" in page.texts["b"]


def test_vectors_are_shown_as_numbers(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", summary_of("cartpole"), "cartpole")
    write_details(run, ["cartpole"])
    page = page_of(run.path)
    values = [text.replace("−", "-") for text in page.texts["dd"]]
    kept = [value for moment in comparison("cartpole").moments for value in moment.observation]
    np.testing.assert_allclose([float(value) for value in values], kept, rtol=0.005, atol=1e-9)
    assert "img" not in {tag for tag, _ in page.tags}


def test_curves_show_loss_agreement_and_scores_and_times_are_shares(tmp_path: Path) -> None:
    page = page_of(write_whole_run(tmp_path / "run").path)
    titles = [title for title in page.texts["h3"] if "moment" not in title and "choice" not in title]
    assert titles == ["Loss", "Agreement with the teacher over time", "Score, pong"]
    bar = [values for tag, values in page.tags if tag == "i" and "%" in (values.get("title") or "")]
    assert [values["style"] for values in bar[:4]] == ["width:65.00%", "width:20.00%", "width:10.00%", "width:5.00%"]
    assert "1 h 2 min" in " ".join(page.texts["p"])


def test_how_to_reproduce_names_code_versions_and_the_teachers_checksum(tmp_path: Path) -> None:
    run = write_whole_run(tmp_path / "run")
    details = read_details(run.details_path)
    assert details is not None
    page = page_of(run.path)
    about = dict(page.tables["about"])  # type: ignore[arg-type]
    assert about["teacher"].startswith("pong-dqn (pong)") and about["teacher"].endswith(details.teachers[0].sha256)
    assert f"numpy {np.__version__}" in about["versions"]
    if "revision" in details.code:
        assert page.texts["pre"][0].startswith(f"git checkout {details.code['revision']}\n")


def test_an_older_run_has_the_page_without_what_it_does_not_know_and_says_so(tmp_path: Path) -> None:
    run = write_whole_run(tmp_path / "run")
    run.details_path.unlink()
    parent = Parent(role="teacher", name="old", sha256="ab" * 32, about={"game": "pong"})
    write_lineage(run.path, "distill", [parent])
    page = page_of(run.path)
    assert "confusion" not in page.tables and "choices" not in page.tables
    assert any("details.json: there is none, as in older runs" in line for line in page.texts["li"])
    about = dict(page.tables["about"])  # type: ignore[arg-type]
    assert about["teacher"].endswith("ab" * 32), "of its lineage"


def test_a_run_that_has_not_ended_says_how_far_it_is(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", None, "pong", "breakout")
    write_metrics(run, ["pong", "breakout"], updates=2000)
    schedule = DistillConfig(teacher="pong", out="x").schedule
    total = schedule.rounds * schedule.updates_per_round
    page = page_of(run.path)
    banner = " ".join(page.texts["p"])
    assert f"its metrics reach update 2,000 of {total:,} ({2000 / total:.0%}".replace("%", " %") in banner
    assert "scores" not in page.tables and page.texts["h1"] == ["pong, breakout into mlp"]
    assert "Agreement with the teacher over time" in page.texts["h3"]
    # Two of three and a half seconds went into updates.
    assert any("57.1 %" in text for text in page.texts["span"])


def test_a_run_that_has_only_begun_has_a_page(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run", None, "pong").path)
    assert any("update 0 of" in text for text in page.texts["p"])


@pytest.mark.parametrize("name", ["details.json", "metrics.jsonl", "summary.json", "lineage.json"])
def test_a_damaged_file_is_named_in_the_page_and_the_rest_is_there(name: str, tmp_path: Path) -> None:
    run = write_whole_run(tmp_path / "run")
    if name == "lineage.json":
        run.details_path.unlink()
    (run.path / name).write_text("{\n}\n")
    page = page_of(run.path)
    if name != "lineage.json":
        assert any(name in line for line in page.texts["li"])
    assert page.texts["h1"] == ["pong into net2"] and "Configuration" in page.texts["summary"]
    assert ("scores" in page.tables) == (name != "summary.json")


def test_a_video_is_put_into_the_page_if_it_is_small_and_named_beside_it_if_not(tmp_path: Path) -> None:
    run = write_whole_run(tmp_path / "run")
    page = page_of(run.path)
    assert any("There is none yet" in text for text in page.texts["p"])
    assert any(text.startswith("pd-jax video --run") for text in page.texts["code"])
    run.video_path.write_bytes(b"film")
    page = page_of(run.path)
    film = base64.b64encode(b"film").decode()
    assert page.sources == ["data:,", f"data:video/mp4;base64,{film}", "video.mp4", *page.sources[3:]]
    assert page.policy == f"{POLICY}; media-src data:"
    run.video_path.write_bytes(bytes(MOST_VIDEO_BYTES + 1))
    page = page_of(run.path)
    assert "video" not in {tag for tag, _ in page.tags} and "video.mp4" in page.sources
    assert any("takes more than the 8.0 MB" in text for text in page.texts["p"])
    (run.path / "video.gif").write_bytes(b"GIF89a")
    page = page_of(run.path)
    assert f"data:image/gif;base64,{base64.b64encode(b'GIF89a').decode()}" in page.sources
    assert "video.mp4" in page.sources
    run.video_path.unlink()
    page = page_of(run.path)
    assert "video.gif" in page.sources and "video.mp4" not in page.sources and page.policy == POLICY


def test_a_finished_run_has_its_page_and_what_it_is_made_of(finished_run: Path) -> None:
    text = (finished_run / "report.html").read_text()
    page = Page(text)
    assert page.tables["scores"][1][0] == "cartpole"
    assert page.texts["pre"][-1] == (finished_run / "config.yaml").read_text()
    details = read_details(finished_run / "details.json")
    assert details is not None
    (found,) = details.games.values()
    # Four games of 40 decisions, all of which were asked about.
    assert (found.states, found.every, found.actions) == (160, 1, ("LEFT", "RIGHT"))
    lineage = read_lineage(finished_run)
    assert lineage is not None
    assert [teacher.sha256 for teacher in details.teachers] == [
        parent.sha256 for parent in lineage.parents if parent.role == "teacher"
    ]
    assert not re.search(r"20\d\d-\d\d-\d\d", text), "the same run has the same page"


def test_pages_are_written_anew_when_asked_for_and_the_lineage_knows(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = write_whole_run(tmp_path / "runs" / "one")
    write_run_page(run)
    write_lineage(run.path, "distill", [])
    unfinished = write_run(tmp_path / "runs" / "two", None, "pong")
    before = contents(tmp_path)
    assert main(["report", str(tmp_path / "runs")]) == 0
    assert contents(tmp_path) == before, "nothing is written unasked"
    run.video_path.write_bytes(b"film")
    assert main(["report", str(tmp_path / "runs"), "--pages"]) == 0
    shown = capfd.readouterr().out.splitlines()
    assert shown[-2:] == [str(run.report_path), str(unfinished.report_path)]
    assert "data:video/mp4" in run.report_path.read_text()
    assert verify_lineage(run.path).all_faults == ()
    # Of one that goes on there is nothing to report.
    assert main(["report", str(unfinished.path), "--pages"]) == 0
    assert capfd.readouterr().out == f"{unfinished.report_path}\n"
    assert main(["report", str(unfinished.path), "--pages", "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()
