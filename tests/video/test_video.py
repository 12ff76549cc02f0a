"""``pd-jax video``: what it leaves, and that it leaves nothing where something is wrong."""

from __future__ import annotations

import base64
import json
import shlex
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import pd_jax
from pd_jax.cli import main
from pd_jax.config.sections import StudentConfig
from pd_jax.config.video import VideoConfig
from pd_jax.errors import UserError
from pd_jax.runs.directory import read_run
from pd_jax.runs.lineage import file_sha256, read_lineage
from pd_jax.system.interrupts import Interrupted
from pd_jax.video import files, video
from pd_jax.video.files import find_ffmpeg
from support.cartpole_players import UNITS, cartpole_params, write_cartpole_teacher
from support.commands import contents, options, refusal, succeed
from support.made_runs import write_distillation, write_student_run

LIMIT = 40
STEPS_A_SECOND = 50


def cut_games(run: Path, limit: int = LIMIT) -> Path:
    """The same run, whose evaluation cuts games early."""
    header, _, text = (run / "config.yaml").read_text().partition("\n")
    config = yaml.safe_load(text)
    config["evaluation"] |= {"max_episode_steps": limit, "episodes": 6, "num_lanes": 3}
    (run / "config.yaml").write_text(f"{header}\n{yaml.safe_dump(config)}")
    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of CartPole that steers well and its teacher, which likes to push right. Not to be written to."""
    path = tmp_path_factory.mktemp("made")
    write_cartpole_teacher(path / "teacher.safetensors", "biased", raised=0.05)
    student = StudentConfig(network="mlp", mlp_hidden=(UNITS,))
    cut_games(write_student_run(path / "run", ("cartpole",), student, params=cartpole_params(scale=100.0)))
    write_student_run(path / "two", ("cartpole", "acrobot"), StudentConfig(network="mlp", mlp_hidden=(8,)))
    return path


@pytest.fixture(scope="module")
def shown(made: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A video of both of its whole games on lanes 2 and 0, and its JSON. Not to be written to."""
    out = tmp_path_factory.mktemp("shown") / "<b> & 'play'.mp4"
    values = {"run": made / "run", "teacher": made / "teacher.safetensors", "out": out, "lanes": [2, 0]}
    succeed("video", values | {"gif-length": 0.5})
    return out, json.loads(out.with_suffix(".json").read_text())


def test_a_video_is_of_the_run_s_own_starts_under_its_own_protocol(
    made: Path, shown: tuple[Path, dict[str, Any]]
) -> None:
    _, report = shown
    student = pd_jax.load_student(made / "run")
    # The seed of the run is 0, and its evaluation's lies a million beyond.
    rules: dict[str, Any] = {"episodes": 6, "num_lanes": 3, "epsilon": 0.05, "seed": 1_000_000}
    for who, policy in (("student", student), ("teacher", pd_jax.load_teacher(made / "teacher.safetensors"))):
        scores = pd_jax.evaluate(policy, environment_options={"max_episode_steps": LIMIT}, **rules)
        # Lane after lane, two games of each; the first one is shown.
        expected = scores.returns[[4, 0]]
        assert [pair[who]["score"] for pair in report["pairs"]] == expected.tolist()
        assert all(pair[who]["has_ended"] for pair in report["pairs"])
    assert [pair["seed"] for pair in report["pairs"]] == [1_000_002, 1_000_000]
    assert [pair["lane"] for pair in report["pairs"]] == [2, 0]


def test_what_is_told_of_a_pair_fits_together(shown: tuple[Path, dict[str, Any]]) -> None:
    _, report = shown
    for pair in report["pairs"]:
        for who in ("teacher", "student"):
            entry = pair[who]
            assert len(entry["actions"]) == entry["decisions"] == entry["score"] <= LIMIT
            assert entry["agreement"] == pytest.approx(1 - len(entry["differing_steps"]) / entry["decisions"])
    # The teacher likes to push right, and the student does not.
    assert any(pair["student"]["differing_steps"] for pair in report["pairs"])
    assert report["format"] == "pd-jax video" and report["run"] == "run"
    assert "/" not in json.dumps({key: report[key] for key in ("files", "run", "settings")})


def test_files_have_the_frames_that_are_told(shown: tuple[Path, dict[str, Any]]) -> None:
    out, report = shown
    assert sorted(path.name for path in out.parent.iterdir()) == report["files"]
    command = [find_ffmpeg(), "-v", "error", "-i", str(out), "-f", "rawvideo", "-pix_fmt", "gray", "-"]
    raw = subprocess.run(command, check=True, capture_output=True).stdout
    assert len(raw) == report["frames"] * report["width"] * report["height"]
    # 50 decisions a second, every second one of which is shown, and 1.5 seconds of the end.
    assert report["frames_per_second"] == 25
    longest = max(pair[who]["decisions"] for pair in report["pairs"] for who in ("teacher", "student"))
    assert report["frames"] == -(-longest // 2) + round(1.5 * 25)
    with Image.open(out.with_suffix(".gif")) as image:
        assert image.size == (report["width"], report["height"])


def test_a_video_that_is_there_is_replaced_and_another_file_is_not(
    made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"run": made / "run", "teacher": made / "teacher.safetensors", "length": 0.1}
    out = tmp_path / "a.gif"
    # No ffmpeg is needed for a GIF.
    monkeypatch.setattr(video, "find_ffmpeg", lambda: pytest.fail("asked for ffmpeg"))
    succeed("video", values | {"out": out})
    first = contents(tmp_path)
    assert set(first) == {"a.gif", "a.json"}
    succeed("video", values | {"out": out, "lanes": 1, "bars": "values"})
    second = contents(tmp_path)
    assert set(second) == set(first) and second["a.gif"] != first["a.gif"]
    (tmp_path / "b.gif").write_text("mine")
    before = contents(tmp_path)
    message = refusal(capfd, "video", *options(values | {"out": tmp_path / "b.gif"}))
    assert message == f"pd-jax video: {tmp_path}/b.gif: is there, and no video of pd-jax; choose another --out"
    assert contents(tmp_path) == before


def test_several_games_are_in_one_grid(made: Path, tmp_path: Path) -> None:
    report = video.run_video(
        VideoConfig(run=str(made / "two"), out=str(tmp_path / "a.gif"), lanes=(1, 0), length=0.2, gif_length=0.1)
    )
    assert [(pair["game"], pair["lane"]) for pair in report["pairs"]] == [
        ("cartpole", 1),
        ("cartpole", 0),
        ("acrobot", 1),
        ("acrobot", 0),
    ]
    # The run tells of other teachers, of a file that nobody has any more.
    assert all(pair["taught_the_student"] is False for pair in report["pairs"])


def test_a_video_begins_and_ends_where_it_is_told_to(made: Path, tmp_path: Path) -> None:
    given = {"run": str(made / "run"), "teacher": str(made / "teacher.safetensors"), "out": str(tmp_path / "a.gif")}
    report = video.run_video(VideoConfig(**given, start=10, length=0.4, speed=0.5, gif_length=0.1))  # type: ignore[arg-type]
    # 25 decisions a second for 0.4 seconds, after the first 10.
    assert [report["pairs"][0][who]["decisions"] for who in ("teacher", "student")] == [20, 20]
    assert report["frames_per_second"] == 25 and report["frames"] == 9 + round(1.5 * 25)


def test_a_video_cannot_begin_after_the_games(made: Path, tmp_path: Path) -> None:
    given = {"run": str(made / "run"), "teacher": str(made / "teacher.safetensors"), "out": str(tmp_path / "a.gif")}
    with pytest.raises(
        UserError, match=r"^start: 41, and both games of lane 0 end before, after \d+ and 40 decisions$"
    ):
        video.run_video(VideoConfig(**given, start=41))  # type: ignore[arg-type]
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"lanes": 3}, "lanes: 3, and the run's evaluation has 3, from 0 to 2"),
        ({"lanes": [1, 1]}, "--lanes: 1 is there 2 times"),
        ({"out": "a.avi"}, "--out: 'a.avi' is no name of a video; end it in .mp4 or .gif"),
        ({"out": "nowhere/a.mp4"}, "nowhere: there is no such directory; make it, or choose another --out"),
        ({"out": "s3://bucket/a.mp4"}, "s3:/bucket/a.mp4: is an address; a video goes into a local file"),
        ({"gif-start": 60}, "--gif-start: 60, and the video ends after 60 seconds"),
        ({"game": "pong"}, "{run}: its student plays cartpole, not pong"),
        ({"checkpoint": "best"}, "{run}: no checkpoint has a score; evaluation.every_rounds is what scores them"),
        ({"teacher": "acrobot"}, "teacher acrobot: plays acrobot with 3 actions; cartpole has 2"),
        ({"teacher": "nobody.safetensors"}, "teacher: nobody.safetensors: no such file"),
        ({"teacher": ["cartpole", "cartpole"]}, "teacher: 2 for 1 games; give one for each"),
        ({"scale": 9}, "--scale: 9 is out of range (at most 4)"),
        ({"run": "nothing"}, "nothing: is not a run directory: there is no such directory"),
    ],
)
def test_what_does_not_fit_is_one_line_and_nothing_is_left(
    made: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    more: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    values: dict[str, Any] = {"run": made / "run", "teacher": made / "teacher.safetensors", "out": tmp_path / "a.mp4"}
    said = refusal(capfd, "video", *options(values | more))
    assert said.startswith(f"pd-jax video: {message.format(run=made / 'run')}")
    assert contents(tmp_path) == {}


def test_a_run_that_has_not_ended_and_one_without_a_student_are_refused(
    made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    student = StudentConfig(network="mlp", mlp_hidden=(UNITS,))
    going = write_student_run(tmp_path / "going", ("cartpole",), student)
    (going / "summary.json").unlink()
    assert "has not ended, and its student has no score yet" in refusal(capfd, "video", "--run", str(going))
    without = write_distillation(tmp_path / "without", game="cartpole", network="mlp")
    assert "has no checkpoint yet" in refusal(capfd, "video", "--run", str(without))
    assert not list(tmp_path.rglob("video.*"))


def test_no_ffmpeg_is_one_line_before_anything_is_played(
    made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    said = refusal(capfd, "video", "--run", str(made / "run"), "--out", str(tmp_path / "a.mp4"))
    assert said == (
        "pd-jax video: an MP4 needs ffmpeg, and imageio-ffmpeg is not installed: pip install 'pd-jax[video]'; or give "
        "--out FILE.gif, which needs none"
    )
    assert contents(tmp_path) == {}


def test_a_video_that_is_stopped_leaves_nothing(made: Path, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        video.run_video(VideoConfig(run=str(made / "two"), out=str(tmp_path / "a.mp4")), stop=stop)
    assert contents(tmp_path) == {}


@pytest.fixture
def quick(recorded_run_options: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """A distillation of a second, in a directory with a name of markup."""
    return recorded_run_options | {
        "out": tmp_path / '<i>run & "run"</i>',
        "evaluation.episodes": 2,
        "evaluation.num-lanes": 2,
        "evaluation.max-episode-steps": 20,
    }


@pytest.mark.slow
def test_a_distillation_ends_with_a_video_and_is_resumed_without(quick: dict[str, Any]) -> None:
    succeed("distill", quick | {"video": True})
    run: Path = quick["out"]
    report = json.loads((run / "video.json").read_text())
    assert report["files"] == ["video.gif", "video.json", "video.mp4"] and report["run"] == run.name
    assert report["pairs"][0]["taught_the_student"] is True
    assert 0 < (run / "video.mp4").stat().st_size < 3e6
    assert not {name for name in read_lineage(run).files if "video" in name}  # type: ignore[union-attr]
    # The run's page shows it, and its lineage knows that page.
    shown = base64.b64encode((run / "video.mp4").read_bytes()).decode()
    assert shown in (run / "report.html").read_text()
    assert read_lineage(run).files["report.html"] == file_sha256(run / "report.html")  # type: ignore[union-attr]
    # No setting of the run, and no result of one that goes on.
    assert "video" not in yaml.safe_load((run / "config.yaml").read_text())
    read_run(run).remove_results()
    assert not list(run.glob("video.*"))


def test_a_video_that_fails_is_a_warning_and_the_run_is_whole(
    quick: dict[str, Any], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(video, "write_mp4", fails)
    assert main(["distill", *options(quick | {"video": True})]) == 0
    err, run = capfd.readouterr().err, quick["out"]
    assert f"warning: no video: {run}: cannot be written: No space left on device; the run is whole" in err
    assert f"pd-jax video --run {shlex.quote(str(run))} tries again" in err
    assert (run / "summary.json").exists() and not [path for path in run.iterdir() if "video" in path.name]


def test_bars_are_the_softened_teacher_and_the_student_s_probabilities(made: Path) -> None:
    everyone = video.load_players(VideoConfig(run=str(made / "run"), teacher=str(made / "teacher.safetensors")))
    (players,) = everyone
    tracks = [
        video.play_tracks(players.task, players.policies, actor, players.protocol, (0,), decisions=5)[0]
        for actor in ("teacher", "student")
    ]
    pair = video.Shown(players, (tracks[0], tracks[1]))
    bars = video._Bars(VideoConfig(run="x"), pair)
    for track, temperature in zip(tracks, (0.01, 1.0), strict=True):
        outputs = track.outputs[track.actor][3].astype(np.float64) / temperature
        expected = np.exp(outputs - outputs.max()) / np.exp(outputs - outputs.max()).sum()
        shares, labels = bars.of(track, 3)
        np.testing.assert_allclose(shares, expected, rtol=1e-5)
        assert labels == [f"{round(100 * share)} %" for share in expected]


def test_the_picture_of_the_front_page_is_a_small_video_of_a_distilled_student() -> None:
    root = Path(__file__).parents[2]
    path = root / "docs" / "pictures" / "pong.gif"
    assert "](docs/pictures/pong.gif)" in (root / "README.md").read_text().partition("\n## ")[0]
    assert path.stat().st_size <= 2_000_000
    report = json.loads(path.with_suffix(".json").read_text())
    (pair,) = report["pairs"]
    start, length = report["settings"]["start"], report["settings"]["gif_length"]
    assert (pair["game"], pair["student"]["network"], pair["taught_the_student"]) == ("pong", "net2", True)
    # 15 decisions a second, each of them a frame.
    assert pair["student"]["decisions"] == start + 15 * length
    with Image.open(path) as image:
        assert image.size == (report["width"], report["height"])
        assert getattr(image, "n_frames", 1) == 15 * length
