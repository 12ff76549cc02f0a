"""Metrics, progress, summaries, tables and figures."""

from __future__ import annotations

import io
import json
import math
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from rich.console import Console
from tensorboardX.proto.event_pb2 import Event, SessionLog

from pd_jax.errors import UserError
from pd_jax.evaluation.scores import Score
from pd_jax.evaluation.statistics import bootstrap_ci, geometric_mean, percent_of_teacher
from pd_jax.report.figures import plot_learning_curve, plot_run
from pd_jax.report.terminal import print_summary
from pd_jax.runs.metrics import MetricsWriter, read_metrics, score_values
from pd_jax.runs.summary import Summary
from pd_jax.system.progress import Progress
from pd_jax.system.text import format_seconds
from support.summaries import summary_of


def read_events(directory: Path) -> list[Event]:
    """Reads TensorBoard's record format: length, its checksum, the event, its checksum."""
    events = []
    for path in sorted(directory.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        content, position = path.read_bytes(), 0
        while position < len(content):
            length = int.from_bytes(content[position : position + 8], "little")
            events.append(Event.FromString(content[position + 12 : position + 12 + length]))
            position += 16 + length
    return events


def test_metrics_are_strict_json_and_come_back(tmp_path: Path) -> None:
    before = time.time()
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, {"loss": jnp.float32(0.5), "updates": 100})
        writer.write(2, {"loss": float("nan"), "score/pong": -math.inf, "score_low/pong": None})
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    first, second = read_metrics(tmp_path / "metrics.jsonl")
    assert before - 0.001 <= first.pop("time") <= time.time()
    assert first == {"step": 1, "loss": 0.5, "updates": 100}
    assert second == {"step": 2, "time": second["time"], "loss": None, "score/pong": None, "score_low/pong": None}


def test_tensorboard_has_the_same_values(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path) as writer:
        writer.write(7, {"loss": 0.25, "score/pong": -3.0, "absent": None})
    (event,) = [event for event in read_events(tmp_path / "tb") if event.HasField("summary")]
    assert event.step == 7
    assert {value.tag: value.simple_value for value in event.summary.value} == {"loss": 0.25, "score/pong": -3.0}
    with MetricsWriter(tmp_path / "tb", tensorboard=False) as writer:
        writer.write(1, {"loss": 1.0})
    assert not (tmp_path / "tb" / "tb").exists()


def test_resuming_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(tmp_path) as writer:
        for step in range(5):
            writer.write(step, {"loss": step})
    kept = path.read_text().splitlines()[:3]
    with MetricsWriter(tmp_path) as writer:
        assert writer.truncate_after(2) == 2
        assert path.read_text().splitlines() == kept
        writer.write(3, {"loss": 30})
        assert writer.truncate_after(3) == 0
    assert [(line["step"], line["loss"]) for line in read_metrics(path)] == [(0, 0), (1, 1), (2, 2), (3, 30)]
    first, restart, *events = read_events(tmp_path / "tb")
    # A TensorBoard that looks on forgets what it has read.
    assert first.file_version and (restart.session_log.status, restart.step) == (SessionLog.START, 0)
    assert [(event.step, event.summary.value[0].simple_value) for event in events] == [(0, 0), (1, 1), (2, 2), (3, 30)]


@given(cut=st.integers(0, 200))
@settings(max_examples=25, deadline=None)
def test_a_torn_last_line_is_no_line(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    directory = tmp_path_factory.mktemp("torn")
    path = directory / "metrics.jsonl"
    with MetricsWriter(directory, tensorboard=False) as writer:
        for step in range(3):
            writer.write(step, {"loss": 0.1 * step})
    content = path.read_bytes()[: -cut or None]
    path.write_bytes(content)
    whole = list(range(content.count(b"\n")))
    assert [line["step"] for line in read_metrics(path)] == whole
    with MetricsWriter(directory, tensorboard=False) as writer:
        writer.write(9, {})
    assert [line["step"] for line in read_metrics(path)] == [*whole, 9]


def test_kill_leaves_whole_lines(tmp_path: Path) -> None:
    script = """
import sys
from pd_jax.runs.metrics import MetricsWriter
writer = MetricsWriter(sys.argv[1])
step = 0
while True:
    writer.write(step, {"loss": 1.0})
    print(step, flush=True)
    step += 1
"""
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(50):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        printed = process.stdout.read().split("\n")
    steps = [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert steps == list(range(len(steps)))
    assert len(steps) >= 50 + len(printed) - 2


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"loss": 2}\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics.jsonl:2: is not a line of metrics: b'\{\"loss\": 2\}'"):
        read_metrics(path)
    assert read_metrics(tmp_path / "absent.jsonl") == []


def test_a_full_disk_costs_metrics_and_one_warning_but_no_torn_line(tmp_path: Path) -> None:
    warnings: list[str] = []
    with MetricsWriter(tmp_path, tensorboard=False, warn=warnings.append) as writer:
        writer.write(1, {"loss": 1.0})
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            # Room for a part of the next line.
            size = (tmp_path / "metrics.jsonl").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limits[1]))
            writer.write(2, {"loss": 2.0})
            writer.write(3, {"loss": 3.0})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        writer.write(4, {"loss": 4.0})
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 4]
    assert len(warnings) == 1
    assert "metrics cannot be written" in warnings[0]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_does_not_block_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr("pd_jax.runs.event_writer.open", lambda *_: open("/dev/full", "wb"), raising=False)
    with MetricsWriter(tmp_path, warn=warnings.append) as writer:
        for step in range(100):
            writer.write(step, {"loss": 1.0})
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 100
    assert any("No space left" in warning for warning in warnings)


def test_the_writers_own_names_are_refused(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path) as writer, pytest.raises(ValueError, match="step and time"):
        writer.write(1, {"time": 2.0})


def test_in_a_log_file_a_line_comes_at_most_every_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("pd_jax.system.progress.time.monotonic", lambda: now[0])
    out = io.StringIO()
    with Progress("distill pong", console=Console(file=out, width=80)) as progress:
        rounds, updates = progress.add("rounds", 10, completed=2), progress.add("updates", 10_000)
        for _ in range(192):
            now[0] += 0.125
            updates.advance(25)
        progress.status("loss 0.031")
        rounds.set(3)
    # 24 seconds: lines at 10, 20 and the end. 200 updates a second from the start; one round in 24 s, seven to go.
    assert out.getvalue().splitlines() == [
        "distill pong: rounds 2/10, updates 2,000/10,000 (200/s, 0:00:40 left)",
        "distill pong: rounds 2/10, updates 4,000/10,000 (200/s, 0:00:30 left)",
        "distill pong: rounds 3/10 (0:02:48 left), updates 4,800/10,000 (200/s, 0:00:26 left), loss 0.031",
    ]


def test_progress_goes_to_stderr_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("evaluate") as progress:
        progress.add("episodes", 3).advance()
        progress.print("a line [not markup]")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("a line [not markup]\nevaluate: episodes 1/3")


def test_on_a_terminal_there_are_bars_and_a_status() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, height=20, _environ={"TERM": "xterm"})
    with Progress("distill pong", console=console) as progress:
        meter = progress.add("updates", 2_000_000)
        meter.set(1_000_000)
        progress.status("agreement 94 %")
        progress.print("checkpoint saved")
    text = out.getvalue()
    assert "checkpoint saved" in text
    assert "distill pong" in text
    assert "━" in text
    assert "1,000,000/2,000,000" in text
    assert "agreement 94 %" in text


def test_an_unused_or_failing_block_prints_nothing_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("nothing"):
        pass
    with pytest.raises(KeyError), Progress("nothing"):
        raise KeyError
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0:00:00"), (59.6, "0:01:00"), (3723, "1:02:03"), (172_799, "47:59:59"), (180_000, "2 days 2 h")],
)
def test_format_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


finite_scores = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20)


@given(finite_scores)
@settings(max_examples=30, deadline=None)
def test_the_interval_lies_within_the_scores_and_is_reproducible(scores: list[float]) -> None:
    low, high = bootstrap_ci(scores, resamples=200)
    slack = 1e-9 * max(map(abs, scores))
    assert min(scores) - slack <= low <= high <= max(scores) + slack
    assert (low, high) == bootstrap_ci(np.array(scores), resamples=200)


def test_the_interval_is_the_normal_one_for_normal_scores() -> None:
    scores = np.random.default_rng(5).normal(20, 4, size=2_000)
    low, high = bootstrap_ci(scores)
    half_width = 1.96 * scores.std() / math.sqrt(scores.size)
    assert low == pytest.approx(scores.mean() - half_width, abs=0.05 * half_width)
    assert high == pytest.approx(scores.mean() + half_width, abs=0.05 * half_width)
    assert bootstrap_ci(scores, level=0.5)[0] > low


def test_a_score_is_the_textbooks() -> None:
    # Mean 5; squared deviations 9, 1, 1, 1, 0, 0, 4, 16 add up to 32; 32 / 7 and / 8 under the root.
    score = Score.of([2, 4, 4, 4, 5, 5, 7, 9])
    assert score.mean == 5
    assert score.standard_error == pytest.approx(math.sqrt(32 / 7 / 8))
    assert score.episodes == 8
    assert Score.of([3.0]) == Score(3.0, None, None, None, 1)
    assert Score.of([3.0]).to_json() == {"mean": 3.0, "standard_error": None, "ci95": [None, None], "episodes": 1}
    assert Score.of([3.0, 3.0]).ci95 == [3.0, 3.0]


@pytest.mark.parametrize("scores", [[], [1.0, math.nan], [math.inf], [[1.0]]])
def test_what_is_no_list_of_scores_is_refused(scores: list[Any]) -> None:
    with pytest.raises(ValueError, match="at least one finite number"):
        Score.of(scores)


def test_percentages_and_their_geometric_mean() -> None:
    assert percent_of_teacher(30.0, 40.0) == 75
    assert percent_of_teacher(-1.0, 19.0, -21.0) == 50
    assert percent_of_teacher(-12.0, -5.0) is None
    assert percent_of_teacher(1.0, 0.0) is None
    assert geometric_mean([50.0, 200.0]) == pytest.approx(100)
    assert geometric_mean([0.0, 100.0]) == 0
    for undefined in ([], [100.0, None], [100.0, -1.0]):
        assert geometric_mean(undefined) is None


def make_summary(**changes: Any) -> Summary:
    arguments: dict[str, Any] = {
        "teachers": {"breakout": [300.0, 500.0], "pong": [19.0, 21.0]},
        "students": {"breakout": [180.0, 220.0], "pong": [18.0, 18.0, 18.0]},
        "student_parameters": 100_000,
        "teacher_parameters": 3_000_000,
        "wall_seconds": 60.0,
        "env_steps": 1_000,
        "updates": 500,
        "random_scores": {"pong": -20.0},
    }
    return summary_of(**{**arguments, **changes})


def test_a_summary_has_the_fixed_entries_and_is_read_back_as_it_was() -> None:
    made = make_summary(command="distill")
    summary = json.loads(json.dumps(made.to_json(), allow_nan=False))
    assert Summary.from_json(summary) == made
    assert dict(made) == made.to_json()
    breakout, pong = summary["games"]["breakout"], summary["games"]["pong"]
    assert breakout["percent_of_teacher"] == 50
    assert breakout["percent_of_teacher_normalised"] is None
    assert (pong["percent_of_teacher"], pong["percent_of_teacher_normalised"]) == (90, 95)
    assert (pong["teacher_score"], pong["student_score"]) == (20, 18)
    assert (pong["episodes"], pong["teacher_episodes"]) == (3, 2)
    assert pong["teacher_standard_error"] == pytest.approx(1.0)
    assert pong["student_ci95"] == [18, 18]
    assert summary["geometric_mean_percent"] == pytest.approx(math.sqrt(50 * 90))
    assert summary["geometric_mean_percent_normalised"] is None
    assert summary["compression"] == 30
    assert summary["command"] == "distill"


def test_a_student_is_compared_with_the_teachers_of_its_own_games() -> None:
    with pytest.raises(ValueError, match="teachers play"):
        make_summary(teachers={"pong": [19.0, 21.0]})


def printed(summary: Summary) -> str:
    out = io.StringIO()
    print_summary(summary, file=out)
    return out.getvalue()


def test_the_table_shows_each_game_and_the_geometric_mean() -> None:
    text = printed(make_summary(random_scores={"pong": -20.0, "breakout": 0.0}))
    (pong,) = [line.split() for line in text.splitlines() if line.split()[:1] == ["pong"]]
    assert pong == ["pong", "20.0", "±", "1.0", "18.0", "±", "0.0", "90.0", "%", "95.0", "%", "3"]
    (mean,) = [line.split() for line in text.splitlines() if "geometric" in line]
    assert mean == ["geometric", "mean", "67.1", "%", "68.9", "%"]
    assert "100,000 parameters, 30.0x smaller than the 3,000,000 of its teachers" in text
    assert "0:01:00 for 1,000 environment steps and 500 updates" in text


def test_a_game_played_worse_than_random_counts_as_one_percent_and_is_named() -> None:
    summary = make_summary(
        teachers={"pong": [19.0, 21.0], "breakout": [100.0]},
        students={"pong": [-21.0], "breakout": [100.0]},
        random_scores={"pong": -20.0, "breakout": 0.0},
    )
    assert summary["geometric_mean_percent_normalised"] is None, "of the percentages as they are"
    assert summary["geometric_mean_percent_normalised_floored"] == pytest.approx(10.0)
    assert summary["floored_games"] == ["pong"]
    before = {key: value for key, value in summary.items() if "floored" not in key}
    for content in (summary, Summary.from_json(before)):
        text = printed(content)
        (mean,) = [line.split() for line in text.splitlines() if line.split()[:3] == ["geometric", "mean", "–"]]
        assert mean == ["geometric", "mean", "–", "10.0", "%"]
        assert "geometric mean above random: 1 % stands for students no better than random, or hardly so (pong)" in text


def test_one_game_has_no_mean_and_an_undefined_percentage_is_explained() -> None:
    text = printed(make_summary(teachers={"pong": [-5.0]}, students={"pong": [-12.0]}))
    assert "geometric" not in text
    assert " – " in text
    assert "a share of a score that is not positive means nothing" in text
    assert "30.0x smaller than the 3,000,000 of its teacher\n" in text
    assert "2.0x larger" in printed(make_summary(teacher_parameters=50_000))


def test_ten_games_fit_80_columns() -> None:
    names = ["space_invaders", *(f"game{n}" for n in range(9))]
    scores = {name: [10_000.0, 12_345.6] for name in names}
    text = printed(make_summary(teachers=scores, students=scores, random_scores=dict.fromkeys(names, 1.0)))
    assert max(map(len, text.splitlines()[:15])) <= 80
    assert "11,173 ± 1,173" in text


@pytest.mark.parametrize("games", [["pong"], ["breakout", "pong"], [f"game{n}" for n in range(10)]])
@pytest.mark.parametrize("evaluations", [0, 5])
def test_a_run_is_drawn_with_and_without_evaluations(tmp_path: Path, games: list[str], evaluations: int) -> None:
    rng = np.random.default_rng(0)
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        for step in range(100):
            values: dict[str, Any] = {"updates": step * 50, "loss": float(rng.uniform(0, 1)), "agreement": step / 100}
            if evaluations and step % (100 // evaluations) == 0:
                for game in games:
                    values |= score_values(game, Score.of(rng.normal(step, 5, size=5)))
            writer.write(step, values)
    scores = {game: [90.0, 110.0] for game in games}
    summary = make_summary(teachers=scores, students=scores, random_scores=dict.fromkeys(games, 0.0))
    plot_run(tmp_path / "metrics.jsonl", summary, tmp_path / "figures" / "run.png")
    height, width, _ = imread(tmp_path / "figures" / "run.png").shape
    assert width > 2 * height


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [{"step": 0, "loss": None}],
        [{"step": 0, "loss": 0.0}, {"step": 1, "loss": -1.0}],
        [{"step": 0, "pong/loss": 1.0, "breakout/loss": 3.0}],
        [{"step": 5, "score/pong": 3.0, "score_low/pong": None, "score_high/pong": None}],
        [{"step": 1, "agreement": 0.5}, {"step": 2, "other": 1.0}],
    ],
)
def test_an_unfinished_run_is_drawn_from_whatever_there_is(tmp_path: Path, lines: list[dict[str, Any]]) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with np.errstate(all="raise"):
        plot_run(path, None, tmp_path / "run.png")
    assert imread(tmp_path / "run.png").std() > 0


@pytest.mark.parametrize("curve", [[], [(0, 1.0)], [(0, -20.0, -21.0, -19.0), (1e6, 18.0, None, None)]])
def test_learning_curves_are_drawn(tmp_path: Path, curve: list[Any]) -> None:
    plot_learning_curve(curve, tmp_path / "curve.png", title="PQN, Pong", references={"random": -20.7, "human": 14.6})
    assert imread(tmp_path / "curve.png").std() > 0


def test_the_same_data_gives_the_same_file(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        plot_learning_curve([(0, 1.0), (1, 2.0)], tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
