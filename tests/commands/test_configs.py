"""``pd-jax configs``: what comes with the program is listed, printed and copied, from any directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pd_jax.cli import main
from pd_jax.config.commands import COMMANDS
from pd_jax.config.loading import load_config

ROOT = Path(__file__).parents[2]
NAMES = {path.relative_to(ROOT / "configs").with_suffix("").as_posix() for path in (ROOT / "configs").rglob("*.yaml")}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_all_are_listed_with_command_time_and_what_they_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs"]) == 0
    *lines, _, _ = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} == NAMES
    # The first steps come first.
    assert [("/" in line.split()[0]) for line in lines] == sorted("/" in name for name in NAMES)
    (pong,) = [line for line in lines if line.startswith("pong ")]
    assert "  pd-jax distill " in pong and "  three minutes on two CPU cores " in pong
    assert pong.endswith("  The bundled Pong teacher into net2, fifteen times smaller.")


def test_they_are_listed_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs", "--json"]) == 0
    told = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert set(told) == NAMES
    assert told["monitor"]["command"] == "monitor fit"
    assert told["pong"]["takes"] == "three minutes on two CPU cores" and told["paper/pong"]["takes"] is None
    assert told["evaluate"]["line"] == "pd-jax evaluate --config configs/evaluate.yaml --run runs/pong"


def test_one_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("pong", "configs/pong.yaml"):
        assert main(["configs", name]) == 0
        assert capsys.readouterr().out == (ROOT / "configs" / "pong.yaml").read_text()
    assert main(["configs", "quick/multi3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["name"] == "quick/multi3" and told["text"] == (ROOT / "configs" / "quick" / "multi3.yaml").read_text()


def test_a_copy_can_be_changed_and_run(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs", "dagger_net3", "--out", "mine.yaml"]) == 0
    out = capsys.readouterr().out
    assert out == "mine.yaml: a copy of quick/dagger_net3; change it, then: pd-jax distill --config mine.yaml\n"
    text = (elsewhere / "mine.yaml").read_text()
    assert text == (ROOT / "configs" / "quick" / "dagger_net3.yaml").read_text()
    (elsewhere / "mine.yaml").write_text(text.replace("out: ", "out: my-"))
    assert load_config(COMMANDS["distill"], ["--config", "mine.yaml"], "distill").out.startswith("my-")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["pogn"], "pogn: no such settings; did you mean 'pong'?; pd-jax configs lists them"),
        (["losses"], "losses: may be paper/losses or quick/losses; give one of these names"),
        (["pong", "--out", "there.yaml"], "--out: there.yaml exists; name another file"),
        (["pong", "--out", "."], "--out: . exists; name another file"),
        (["pong", "--out", "no/x.yaml"], "--out: no/x.yaml: there is no directory {here}/no"),
        # What it is written to first has a longer name.
        (["pong", "--out", "x" * 250], f"--out: {'x' * 250}: cannot be written: File name too long"),
        (["--out", "x.yaml"], "--out: is for a copy of one; give its NAME"),
        (["pong", "cartpole"], "'cartpole': unexpected argument; settings are given as --name value"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(
    argv: list[str], message: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (elsewhere / "there.yaml").write_text("mine")
    assert main(["configs", *argv]) == 2
    assert capsys.readouterr().err == f"pd-jax configs: {message.format(here=elsewhere)}\n"
    assert {path.name: path.read_text() for path in elsewhere.iterdir()} == {"there.yaml": "mine"}
