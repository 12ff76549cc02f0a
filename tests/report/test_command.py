"""``pd-jax report``, through the real command on real directories."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from pd_jax.cli import main
from support.commands import contents, refusal, run
from support.made_runs import write_distillation, write_evaluation


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two networks, two seeds, one game."""
    for network, returns in (("net1", 19.0), ("net3", 15.0)):
        for seed in (0, 1):
            students = (returns + seed, returns + seed + 2)
            write_distillation(tmp_path / "runs" / f"{network}-{seed}", network=network, seed=seed, student=students)
    return tmp_path / "runs"


def written(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(
        (out / "report.json").read_text(), parse_constant=lambda name: pytest.fail(name)
    )
    return content


def test_a_finished_run_is_reported(finished_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report"
    assert main(["report", str(finished_run), "--out", str(out)]) == 0
    summary = json.loads((finished_run / "summary.json").read_text())["games"]["cartpole"]
    (section,) = written(out)["sections"]
    (cell,) = section["scores"]
    assert section["protocol"]["max_episode_steps"] == 40
    assert (cell["game"], cell["network"], cell["loss"], cell["temperature"]) == ("cartpole", "mlp 16", "kl", 0.01)
    assert cell["student"]["mean"] == summary["student_score"]
    assert [cell["student"]["low"], cell["student"]["high"]] == summary["student_ci95"]
    assert cell["percent_of_teacher"]["value"] == pytest.approx(summary["percent_of_teacher"])
    assert cell["percent_of_teacher_normalised"]["value"] == pytest.approx(summary["percent_of_teacher_normalised"])
    assert (cell["paper"], section["geometric_means"][0]["paper"]) == (None, None)
    assert cell["seeds"][0]["run"] == str(finished_run)
    shown = capfd.readouterr().out
    assert "cartpole" in shown and "mlp 16" in shown
    assert f"{out}: report.html, report.md, report.json, scores.png\n" in shown
    assert {path.name for path in out.iterdir()} - {".lock"} == {
        "config.yaml", "report.html", "report.json", "report.md", "scores.png",
    }  # fmt: skip


def test_several_runs_end_in_tables_and_figures(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    assert main(["report", str(runs), "--out", str(out)]) == 0
    (section,) = written(out)["sections"]
    # Seeds' means 20 and 21, 16 and 17; the teacher's are 20.
    values = [mean["percent_of_teacher"]["value"] for mean in section["geometric_means"]]
    assert values == pytest.approx([102.5, 82.5])
    assert [mean["paper"]["percent"] for mean in section["geometric_means"]] == [108.3, 83.9]
    assert [len(cell["seeds"]) for cell in section["scores"]] == [2, 2]
    assert section["scores"][0]["standard_deviation_between_seeds"] == pytest.approx(0.5**0.5)
    text = (out / "report.md").read_text()
    assert "![scores over compression](compression.png)" in text
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in ("scores.png", "compression.png"))


def test_a_report_without_out_only_prints_and_needs_no_jax(runs: Path) -> None:
    before = contents(runs)
    code = "import sys; from pd_jax.cli import main; c = main(); print('jax' in sys.modules); raise SystemExit(c)"
    ended = run([sys.executable, "-c", code, "report", str(runs)])
    assert (ended.code, ended.stderr) == (0, "")
    assert "102.5 %" in ended.stdout and "82.5 %" in ended.stdout
    assert ended.stdout.endswith("\nFalse\n")
    assert contents(runs) == before


def test_a_configuration_file_names_the_runs(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "report.yaml").write_text(f"runs: ['{runs / 'net1-0'}']\nout: {tmp_path / 'report'}\n")
    assert main(["report", "--config", str(tmp_path / "report.yaml")]) == 0
    assert written(tmp_path / "report")["runs"] == [str(runs / "net1-0")]


def test_a_report_is_written_anew_only_if_asked_for(runs: Path, tmp_path: Path, capfd: Any) -> None:
    out = str(tmp_path / "report")
    assert main(["report", str(runs), "--out", out]) == 0
    before = contents(tmp_path / "report")
    message = refusal(capfd, "report", str(runs), "--out", out)
    assert message == f"pd-jax report: {out}: holds a run; add --resume to continue it, or choose another --out"
    assert contents(tmp_path / "report") == before
    assert main(["report", str(runs / "net1-0"), "--out", out, "--resume"]) == 0
    assert written(tmp_path / "report")["runs"] == [str(runs / "net1-0")]
    assert not (tmp_path / "report" / "compression.png").exists(), "of the report before"


def test_a_damaged_run_is_named_where_only_pages_are_wanted(runs: Path, tmp_path: Path, capfd: Any) -> None:
    damaged, unfinished = tmp_path / "others" / "damaged", tmp_path / "others" / "unfinished"
    for run_path in (damaged, unfinished):
        shutil.copytree(runs / "net1-0", run_path)
    text = (damaged / "config.yaml").read_text()
    (damaged / "config.yaml").write_text(text + "student: [")
    (unfinished / "summary.json").unlink()
    assert str(damaged / "config.yaml") in refusal(capfd, "report", str(damaged), "--pages")
    assert main(["report", str(tmp_path / "others"), "--pages"]) == 0
    ended = capfd.readouterr()
    assert ended.out == f"{unfinished / 'report.html'}\n"
    assert f"{damaged / 'config.yaml'}: " in ended.err and "; its page is left as it was" in ended.err


def test_a_directory_of_something_else_is_refused(runs: Path, tmp_path: Path, capfd: Any) -> None:
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.tex").write_text("...")
    for out, problem in (
        (tmp_path / "papers", "is not empty and holds no run (thesis.tex); choose another --out"),
        (runs / "net1-0", "holds a run of pd-jax distill, not report; choose another --out"),
    ):
        before = contents(out)
        for more in ([], ["--resume"]):
            assert refusal(capfd, "report", str(runs), "--out", str(out), *more) == f"pd-jax report: {out}: {problem}"
        assert contents(out) == before


def test_runs_that_have_not_ended_are_named_and_left_out(
    runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (runs / "net1-1" / "summary.json").unlink()
    assert main(["report", str(runs), "--out", str(tmp_path / "report")]) == 0
    warning = f"{runs / 'net1-1'}: has no summary.json yet: the run has not ended, and is left out"
    assert capfd.readouterr().err == f"warning: {warning}\n"
    assert written(tmp_path / "report")["warnings"] == [warning]
    assert f"- {warning}" in (tmp_path / "report" / "report.md").read_text().splitlines()


def test_nothing_is_written_if_nothing_is_left(runs: Path, tmp_path: Path, capfd: Any) -> None:
    for path in runs.glob("*/summary.json"):
        path.unlink()
    message = refusal(capfd, "report", str(runs), "--out", str(tmp_path / "report"))
    assert message == (
        f"pd-jax report: {runs / 'net1-0'} and 3 more: no summary.json: the run has not ended, and nothing else is left"
    )
    assert not (tmp_path / "report").exists()


def test_bad_runs_are_one_line_and_nothing_is_written(runs: Path, tmp_path: Path, capfd: Any) -> None:
    out = ["--out", str(tmp_path / "report")]
    assert refusal(capfd, "report", *out).endswith("runs: missing; set it in the configuration file or give RUNS")
    assert refusal(capfd, "report", "none", *out) == "pd-jax report: none: no such directory"
    (runs / "net3-1" / "summary.json").write_text("{")
    assert refusal(capfd, "report", str(runs), "none", *out) == "pd-jax report: none: no such directory"
    said = refusal(capfd, "report", str(runs / "net3-1"), *out)
    assert said.startswith(f"pd-jax report: {runs / 'net3-1' / 'summary.json'}: is not a summary: ")
    for name in ("net1-0", "net1-1", "net3-0"):
        (runs / name / "summary.json").write_text("[]")
    said = refusal(capfd, "report", str(runs), *out)
    assert said == (
        f"pd-jax report: {runs / 'net1-0' / 'summary.json'}: is not a summary: it holds a list, not a mapping; "
        "nor can 3 more be reported"
    )
    assert not (tmp_path / "report").exists()


def test_runs_that_cannot_be_read_are_named_with_their_reason_and_the_others_are_reported(
    runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (runs / "net1-0" / "summary.json").write_text('{"accuracy": 1}')
    (runs / "net1-1" / "summary.json").write_text("[]")
    (runs / "net3-0" / "config.yaml").write_text("# pd-jax distill\n: : [\n")
    assert main(["report", str(runs), "--out", str(tmp_path / "report")]) == 0
    said = written(tmp_path / "report")
    assert said["runs"] == [str(runs / "net3-1")]
    reasons = sorted(said["warnings"])
    files = (runs / "net1-0" / "summary.json", runs / "net1-1" / "summary.json", runs / "net3-0" / "config.yaml")
    assert [reason.split(": ")[0] for reason in reasons] == list(map(str, files))
    assert reasons[1].endswith(": is not a summary: it holds a list, not a mapping; the run is left out")
    assert all(reason.endswith("; the run is left out") for reason in reasons)
    shown = capfd.readouterr().err.splitlines()
    assert sorted(shown) == [f"warning: {reason}" for reason in reasons]
    assert "net1-1/summary.json: is not a summary" in (tmp_path / "report" / "report.md").read_text()


def test_an_evaluation_with_more_games_replaces_its_runs_own(
    runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    again = write_evaluation(tmp_path / "again", runs / "net3-0", student=(8.0,) * 50, teacher=(16.0,) * 50)
    assert main(["report", str(runs), str(again), "--out", str(tmp_path / "report")]) == 0
    assert "net3-0: pong is left out" in capfd.readouterr().err
    cells = written(tmp_path / "report")["sections"][0]["scores"]
    (net3,) = [cell for cell in cells if cell["network"] == "net3"]
    assert [seed["run"] for seed in net3["seeds"]] == [str(again), str(runs / "net3-1")]
    # 8 and 17; and the teacher's 16 and 20.
    assert (net3["student"]["mean"], net3["teacher"]["mean"]) == (12.5, 18.0)
