"""``pd-jax teachers``: what it prints, writes and refuses."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pd_jax.cli import main
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.teachers import bundled_names, load
from pd_jax.teachers.files import params_fingerprint, read_teacher
from pd_jax.teachers.metadata import TeacherMetadata
from support.commands import contents, refusal, run, write_teacher


def output(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    assert main(["teachers", *argv]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("argv", [[], ["list"]])
def test_the_bundled_teachers_are_listed(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    lines = output(capsys, *argv).splitlines()
    for name in bundled_names():
        evaluation = load(name).metadata.evaluation
        (row,) = [line for line in lines if line.startswith(f" {name} ")]
        digits = 0 if evaluation["mean"] >= 1_000 else 1
        assert f" {evaluation['mean']:,.{digits}f} ± {evaluation['standard_error']:.{digits}f} " in row
        assert f" {evaluation['episodes']} " in row and " Apache-2.0 " in row


@pytest.mark.parametrize("argv", [["--json"], ["list", "--json"]])
def test_the_list_as_json(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(output(capsys, *argv))
    assert [row["name"] for row in rows] == list(bundled_names())
    for row in rows:
        assert row["score"] == load(row["name"]).metadata.evaluation["mean"]
        assert row["random_score"] == get_task(row["game"]).random_score


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("-h", "--help"):
        text = output(capsys, option)
        assert text.startswith("usage: pd-jax teachers ")
        assert all(f"\n  {name} " in text for name in ("list", "show", "import"))
    for command in ("list", "show", "import"):
        assert output(capsys, command, "--help").startswith(f"usage: pd-jax teachers {command} ")


def test_one_teacher_is_shown_with_its_curve(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = output(capsys, "show", "Pong", "--plot", str(tmp_path / "new" / "pong.png"))
    metadata = load("pong").metadata
    assert metadata.how_made in text and f"\nenv_steps    {metadata.env_steps:,}\n" in text
    assert text.count("●") >= 2 and "--states 2000 measures" in text
    width, height = Image.open(tmp_path / "new" / "pong.png").size
    assert width > height > 300


def test_a_terminal_without_our_letters_is_no_traceback() -> None:
    for argv in (["teachers"], ["teachers", "show", "pong"]):
        ended = run([sys.executable, "-m", "pd_jax", *argv], PYTHONIOENCODING="ascii")
        assert (ended.code, ended.stderr) == (0, "")
        assert "pong" in ended.stdout and "?" in ended.stdout


def test_one_teacher_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    shown = json.loads(output(capsys, "show", "acrobot", "--json"))
    metadata = json.loads(json.dumps(dataclasses.asdict(load("acrobot").metadata)))
    assert (shown["metadata"], shown["statistics"]) == (metadata, None)
    assert shown["parameters"] == load("acrobot").num_params


def test_values_of_continuous_actions_are_not_measured(capfd: pytest.CaptureFixture[str]) -> None:
    message = refusal(capfd, "teachers", "show", "cartpole_swingup_v1", "--states", "20")
    assert message == (
        "pd-jax teachers show: --states: measures values of single actions; those of cartpole_swingup_v1 are continuous"
    )


def test_states_of_its_own_play_are_measured(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = str(write_teacher(tmp_path / "mine.safetensors", "acrobot"))
    argv = ["show", file, "--states", "300", "--epsilon", "0.5", "--seed", "4"]
    statistics = json.loads(output(capsys, *argv, "--json"))["statistics"]
    assert (statistics["states"], statistics["epsilon"], statistics["seed"]) == (300, 0.5, 4)
    assert [row["temperature"] for row in statistics["temperatures"]] == [0.001, 0.01, 0.1, 1, 10]
    entropies = [row["entropy"] for row in statistics["temperatures"]]
    assert entropies == sorted(entropies) and entropies[0] >= 0 and entropies[-1] <= np.log(3) + 1e-9
    text = output(capsys, *argv)
    assert "Q-values in 300 states of its own play (ε = 0.5)" in text
    assert f"mean {statistics['mean_action_gap']:.4g}, median {statistics['median_action_gap']:.4g}" in text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["shw"], "teachers: 'shw' is not a command; did you mean 'show'? (list, show, import)"),
        (["Zzz"], "teachers: 'Zzz' is not a command (list, show, import)"),
        (["--jsn"], "teachers: --jsn: no such option; did you mean '--json'?"),
        (
            ["show", "pogn"],
            "teachers show: 'pogn' is neither a bundled teacher nor a file; did you mean 'pong'? (bundled: ",
        ),
        (["show", "{tmp}/none.safetensors"], "teachers show: {tmp}/none.safetensors: no such file"),
        (["show", "{tmp}"], "teachers show: {tmp}: is a directory, not a file"),
        (
            ["show", "agent.zip"],
            "teachers show: agent.zip: is not read as it is; pd-jax teachers import FILE --game NAME --out ",
        ),
        (["show", "hf://o/r/t.safetensors"], "teachers show: hf://o/r/t.safetensors: is not read as it is; "),
        (["show"], "teachers show: name_or_file: missing; set it in the configuration file or give NAME_OR_FILE"),
        (["show", "pong", "--plot", "/proc/nowhere/a.png"], "teachers show: /proc/nowhere: "),
        (["import", "a.zip", "--game", "pogn", "--out", "{tmp}/a.safetensors"], "teachers import: --game: 'pogn' is "),
        (["import", "a.zip", "--game", "pong", "--out", "{tmp}/a"], "teachers import: --out: '{tmp}/a' does not end "),
    ],
)
def test_bad_input_is_one_line(argv: list[str], message: str, tmp_path: Path, capfd: Any) -> None:
    argv, message = [text.replace("{tmp}", str(tmp_path)) for text in argv], message.replace("{tmp}", str(tmp_path))
    assert refusal(capfd, "teachers", *argv).startswith(f"pd-jax {message}")
    assert contents(tmp_path) == {}


Importer = Callable[[str, str], tuple[dict[str, Any], TeacherMetadata]]


@pytest.fixture
def importer(monkeypatch: pytest.MonkeyPatch) -> Callable[[Importer], None]:
    """Sets what reads other libraries' files; here it is our own reader, or one that refuses."""

    def use(function: Importer) -> None:
        module = types.ModuleType("pd_jax.teachers.importers")
        module.import_teacher = lambda path, game, statistics: function(path, game)  # type: ignore[attr-defined]
        module.hides_normalisation = lambda metadata: False  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "pd_jax.teachers.importers", module)

    return use


def read_ours(path: str, game: str) -> tuple[dict[str, Any], TeacherMetadata]:
    params, metadata = read_teacher(path)
    assert metadata.game == game
    return params, metadata


def test_an_imported_teacher_is_the_agent_and_can_be_scored(
    tmp_path: Path, importer: Callable[[Importer], None], capsys: pytest.CaptureFixture[str]
) -> None:
    importer(read_ours)
    agent, out = write_teacher(tmp_path / "agent.safetensors", "cartpole"), tmp_path / "new" / "teacher.safetensors"
    text = output(capsys, "import", str(agent), "--game", "cartpole", "--out", str(out))
    assert text == (
        f"{out}: mlp for cartpole with 58 parameters, gives Q-values of 2 actions; "
        "not evaluated (--evaluate-episodes)\n"
    )
    assert out.read_bytes() == agent.read_bytes()

    scored = tmp_path / "scored.safetensors"
    argv = [
        "import",
        str(agent),
        "--game",
        "cartpole",
        "--out",
        str(scored),
        "--evaluate-episodes",
        "20",
        "--seed",
        "5",
    ]
    text = output(capsys, *argv, "--epsilon", "0")
    params, metadata = read_teacher(scored)
    assert params_fingerprint(params) == params_fingerprint(read_teacher(agent)[0])
    evaluation = metadata.evaluation
    assert (evaluation["episodes"], evaluation["epsilon"], evaluation["max_episode_steps"]) == (20, 0.0, 500)
    assert evaluation["seed"] == 1_000_005
    assert 8 <= evaluation["mean"] < 100, "an untrained network lets the pole fall"
    assert f"{evaluation['mean']:.1f} ± {evaluation['standard_error']:.1f} over 20 episodes" in text
    # The score is that of pd-jax evaluate with the same settings.
    same = ["--seed", "5", "--evaluation.episodes", "20", "--evaluation.epsilon", "0"]
    assert main(["evaluate", "--teacher", str(scored), *same, "--out", str(tmp_path / "evaluation")]) == 0
    summary = json.loads((tmp_path / "evaluation" / "summary.json").read_text())
    assert summary["games"]["cartpole"]["teacher_score"] == evaluation["mean"]


def test_an_existing_file_is_never_overwritten(
    tmp_path: Path, importer: Callable[[Importer], None], capfd: Any
) -> None:
    def must_not_be_called(path: str, game: str) -> Any:
        raise AssertionError

    importer(must_not_be_called)
    file, link = tmp_path / "mine.safetensors", tmp_path / "link.safetensors"
    file.write_text("mine")
    os.symlink("nowhere", link)
    for out in (file, link):
        message = refusal(capfd, "teachers", "import", "a.zip", "--game", "pong", "--out", str(out))
        assert message == f"pd-jax teachers import: --out: {out} exists; name another file"
    assert file.read_text() == "mine" and not link.exists()


def test_nothing_is_written_when_the_agent_is_refused_or_does_not_fit(
    tmp_path: Path, importer: Callable[[Importer], None], capfd: Any
) -> None:
    agent, out = write_teacher(tmp_path / "agent.safetensors", "cartpole"), tmp_path / "out.safetensors"
    before = contents(tmp_path)
    argv = ["teachers", "import", str(agent), "--game", "acrobot", "--out", str(out)]

    def refuses(path: str, game: str) -> Any:
        raise UserError(f"{path}: no agent")

    importer(refuses)
    assert refusal(capfd, *argv) == f"pd-jax teachers import: {agent}: no agent"

    def another_game(path: str, game: str) -> Any:
        params, metadata = read_teacher(path)
        return params, dataclasses.replace(metadata, game="acrobot", env_id="Acrobot-v1")

    importer(another_game)
    assert refusal(capfd, *argv) == f"pd-jax teachers import: {agent}: has 2 actions, acrobot has 3"

    def diverged(path: str, game: str) -> Any:
        params, metadata = read_teacher(path)
        params["head"]["output"]["bias"] = np.full(2, np.nan, np.float32)
        return params, metadata

    importer(diverged)
    message = refusal(capfd, *argv)
    assert message.startswith(f"pd-jax teachers import: {agent}: not written: head/output/bias holds NaN")
    assert contents(tmp_path) == before
