"""``pd-jax train-teacher`` on several games at once, through the real command."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from pd_jax import teachers
from pd_jax.cli import main
from pd_jax.config.yaml import read_yaml
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.teachers.files import read_games
from support.commands import checkpoint_steps, contents, options, read_lines, refusal, stop_when, succeed

CONFIGS = Path(__file__).parents[2] / "configs" / "quick"
GAMES = ["cartpole", "acrobot"]
COMMON: dict[str, Any] = {
    "game": GAMES,
    "network": "mlp",
    "mlp-hidden": 8,
    "head-hidden": 4,
    "checkpoint.every-steps": 1024,
    "evaluation.episodes": 4,
    "evaluation.num-lanes": 4,
    "evaluation.max-episode-steps": 40,
    "evaluation.every-steps": 2048,
    "evaluation.progress-episodes": 4,
}
SHORT_DQN = COMMON | {
    "algorithm": "dqn",
    "dqn.total-steps": 4096,
    "dqn.num-lanes": 4,
    "dqn.rollout-length": 32,
    "dqn.steps-per-update": 64,
    "dqn.replay-capacity": 1024,
    "dqn.learning-starts": 256,
    "dqn.target-every": 10,
}
SHORT_PQN = COMMON | {
    "pqn.total-steps": 4096,
    "pqn.num-lanes": 4,
    "pqn.rollout-length": 32,
    "pqn.minibatches": 4,
}


@pytest.fixture(scope="module")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that has learnt next to nothing. Not to be written to."""
    path = tmp_path_factory.mktemp("joint") / "short"
    succeed("train-teacher", SHORT_DQN | {"out": path})
    return path


@pytest.mark.slow
def test_cartpole_and_acrobot_are_learnt_at_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["train-teacher", "--config", str(CONFIGS / "multi_dqn_vector.yaml"), "--out", str(out)]) == 0
    games = json.loads((out / "summary.json").read_text())["games"]
    output = capfd.readouterr().out
    for game, at_least in (("cartpole", 100), ("acrobot", -250)):
        own = games[game]
        # Far above chance, which is 22 and -499: some tens of standard errors.
        assert own["teacher_score"] >= at_least, games
        assert own["random_score"] == get_task(game).random_score
        assert own["episodes"] == 100
        assert f"{game} teacher: {own['teacher_score']:.1f} ± " in output
    assert f"teacher file: {out / 'teacher.safetensors'}\n" in output


def test_a_run_tells_of_every_game_and_of_all_together(short_run: Path) -> None:
    names = {"config.yaml", "metrics.jsonl", "summary.json", "checkpoints", "tb", "learning_curve.png"}
    assert {path.name for path in short_run.iterdir()} - {".lock"} == names | {"teacher.safetensors", "lineage.json"}
    summary = json.loads((short_run / "summary.json").read_text())
    assert list(summary["games"]) == GAMES
    assert (summary["algorithm"], summary["env_steps"], summary["network"]) == ("dqn", 4096, "mlp")
    # Of 4,096 steps the first 256 are too few, of each game 128; then there are 4 updates for every 256.
    assert summary["updates"] == 4 * 15
    # 6 x 8 + 8 in the torso, 8 x 4 + 4 twice, and 4 weights and a bias for each of 5 actions.
    assert summary["teacher_parameters"] == 56 + 2 * 36 + 25
    shares = [own["normalised_score"] for own in summary["games"].values()]
    assert summary["normalised_score"] == pytest.approx(np.mean(shares))
    for game, own in summary["games"].items():
        random, reference = own["random_score"], own["reference_score"]
        assert own["reference"] == f"teacher {game}"
        assert own["normalised_score"] == pytest.approx((own["teacher_score"] - random) / (reference - random))
    lines = read_lines(short_run)
    learnt = [line for line in lines if "loss" in line]
    assert [line["step"] for line in learnt] == list(range(512, 4097, 256))
    for line in learnt:
        assert line["loss"] == pytest.approx(np.mean([line[f"{game}/loss"] for game in GAMES]), rel=1e-5)
    scores = [line for line in lines if "score/acrobot" in line]
    assert [line["step"] for line in scores] == [2048, 4096]
    assert all("score/cartpole" in line and "normalised_score" in line for line in scores)


def test_the_file_holds_all_games_and_their_own_learning_curves(short_run: Path) -> None:
    summary = json.loads((short_run / "summary.json").read_text())
    _, both = read_games(short_run / "teacher.safetensors")
    for metadata, game in zip(both, GAMES, strict=True):
        assert (metadata.game, metadata.games, metadata.head_hidden) == (game, tuple(GAMES), 4)
        assert metadata.evaluation["mean"] == summary["games"][game]["teacher_score"]
        curve = [point["games"][game] | {"env_steps": point["env_steps"]} for point in summary["learning_curve"]]
        assert metadata.learning_curve == curve
        assert metadata.training_config["game"] == GAMES
    # What was kept is the best by the mean of the normalised scores, or the last.
    means = [point["mean"] for point in summary["learning_curve"]]
    assert summary["teacher_env_steps"] in (summary["learning_curve"][int(np.argmax(means))]["env_steps"], 4096)


def test_the_network_is_scored_against_teachers_as_a_student_is(
    short_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores"
    quick = {"evaluation.episodes": 2, "evaluation.num-lanes": 2, "evaluation.max-episode-steps": 40}
    succeed("evaluate", {"teacher": GAMES, "run": short_run, "out": out} | quick)
    scored = json.loads((out / "summary.json").read_text())
    run = json.loads((short_run / "summary.json").read_text())
    assert list(scored["games"]) == GAMES
    assert scored["games"]["cartpole"]["teacher_score"] == 40, "as long as a game lasts here"
    assert scored["student_parameters"] == run["teacher_parameters"]
    assert [scored[name] for name in ("student_network", "env_steps", "updates")] == ["mlp", 4096, run["updates"]]
    # What report makes of it: a student, and one that learnt from rewards.
    assert main(["report", str(out), "--out", str(tmp_path / "report")]) == 0
    assert "DQN on rewards" in capfd.readouterr().out


@pytest.mark.slow
def test_a_network_that_teaches_both_games_counts_once(short_run: Path, tmp_path: Path) -> None:
    quick = {"evaluation.episodes": 2, "evaluation.num-lanes": 2, "evaluation.max-episode-steps": 40}
    tiny = {"schedule.rounds": 1, "schedule.steps-per-round": 64, "schedule.updates-per-round": 2, "env.num-lanes": 2}
    teacher, out = short_run / "teacher.safetensors", tmp_path / "run"
    student = {"student.network": "mlp", "student.mlp-hidden": 8, "replay.capacity": 128}
    succeed("distill", quick | tiny | student | {"teacher": [teacher, teacher], "game": GAMES, "out": out})
    summary = json.loads((out / "summary.json").read_text())
    # 6 inputs, 8; for each game 8 to 4 to its actions.
    torso, heads = 7 * 8, 2 * 9 * 4 + 5 * (2 + 3)
    assert summary["teacher_parameters"] == torso + heads
    succeed("evaluate", quick | {"teacher": [teacher, teacher], "run": out, "out": tmp_path / "scores"})
    assert json.loads((tmp_path / "scores" / "summary.json").read_text())["teacher_parameters"] == torso + heads


def test_a_run_that_has_not_ended_has_no_student(
    short_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(short_run, out)
    (out / "summary.json").unlink()
    assert refusal(capfd, "evaluate", "--run", str(out)).endswith(f"{out}: has not ended, and has no student yet")
    (out / "summary.json").write_text("{}")
    message = refusal(capfd, "evaluate", "--run", str(out))
    assert message.endswith("summary.json: does not say how much the run has learnt from")


def test_pqn_learns_several_games_too(tmp_path: Path) -> None:
    out = tmp_path / "run"
    succeed("train-teacher", SHORT_PQN | {"out": out})
    summary = json.loads((out / "summary.json").read_text())
    # 16 rollouts of 256 steps, two epochs of 4 minibatches each.
    assert (summary["algorithm"], summary["env_steps"], summary["updates"]) == ("pqn", 4096, 16 * 8)
    _, both = read_games(out / "teacher.safetensors")
    assert [metadata.layer_norm for metadata in both] == [True, True]
    line = [line for line in read_lines(out) if "loss" in line][-1]
    assert {"cartpole/loss", "acrobot/loss", "cartpole/mean_q", "acrobot/mean_q"} <= line.keys()


@pytest.mark.slow
def test_training_that_was_killed_goes_on_from_its_checkpoint(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    endless = SHORT_DQN | {"dqn.total-steps": 1_000_000_000, "out": out, "resume": True}
    killed = stop_when(lambda: len(checkpoint_steps(out)) > 1, signal.SIGKILL, "train-teacher", *options(endless))
    assert killed.code == -signal.SIGKILL
    saved = checkpoint_steps(out)[-1]
    succeed("train-teacher", endless | {"dqn.total-steps": saved + 1024})
    assert f"resumed at step {saved:,}, with fresh episodes and empty replays" in capfd.readouterr().err
    summary = json.loads((out / "summary.json").read_text())
    assert summary["env_steps"] == saved + 1024
    steps = [line["step"] for line in read_lines(out) if "epsilon" in line]
    assert steps == list(range(256, saved + 1025, 256)), "no step twice, and none missing"
    assert [point["env_steps"] for point in summary["learning_curve"]][-1] == saved + 1024


def test_training_starts_from_the_weights_of_the_same_games(short_run: Path, tmp_path: Path) -> None:
    source, out = short_run / "teacher.safetensors", tmp_path / "run"
    still = {"dqn.learning-rate": 1e-12, "dqn.total-steps": 512, "init-from": source, "seed": 9, "out": out}
    succeed("train-teacher", SHORT_DQN | still)
    before, after = read_games(source)[0], read_games(out / "teacher.safetensors")[0]
    # The rate is too small for anything to show: what comes out is what went in.
    jax.tree.map(lambda found, wanted: np.testing.assert_allclose(found, wanted, atol=1e-8), after, before)


def test_weights_of_other_games_or_widths_are_refused(
    short_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source, out = short_run / "teacher.safetensors", tmp_path / "run"
    settings = SHORT_DQN | {"init-from": source, "out": out}
    for change, message in (
        (
            {"game": GAMES[::-1]},
            "is a mlp for cartpole, acrobot (layer_norm False), and the run wants a mlp for acrobot",
        ),
        ({"game": "cartpole", "head-hidden": None}, "is a mlp for cartpole, acrobot (layer_norm False), and the run"),
        ({"head-hidden": 5}, "has head_hidden 4, and the run wants 5"),
        ({"game": ["lunarlander", "acrobot"]}, "is a network of several games, and lunarlander is none of them"),
        ({"init-from": "cartpole"}, "is a mlp for cartpole (layer_norm True), and the run wants a mlp for cartpole, "),
    ):
        values = {name: value for name, value in (settings | change).items() if value is not None}
        refused = refusal(capfd, "train-teacher", *options(values))
        assert message in refused, refused
    assert not out.exists()


def test_a_run_does_not_go_on_with_other_games(
    short_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(short_run, out)
    before = contents(out)
    message = refusal(
        capfd, "train-teacher", *options(SHORT_DQN | {"out": out, "resume": True, "game": [*GAMES, "lunarlander"]})
    )
    assert f"{out}: holds a different run: game is " in message
    assert contents(out) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"game": ["cartpole", "CartPole-v1"]}, "--game: cartpole is there 2 times; a network has one head for a game"),
        ({"game": ["cartpole", "pong"]}, "--game: pong shows frames and cartpole vectors; the games of one network"),
        ({"game": ["cartpole", "pogn"]}, "--game: 'pogn' is not a game; did you mean 'pong'?"),
        ({"game": "cartpole"}, "--head-hidden: is for networks of several games, and there is one"),
        ({"network": "multi3"}, "--network: 'multi3' sees frames, and cartpole has none; use 'mlp'"),
        ({"channels": [4, 4, 4]}, "channels and hidden are widths of convolutional torsos, and 'mlp' has none"),
        (
            {"dqn.steps-per-update": 3},
            "--dqn.steps-per-update: 3 does not divide a rollout of 256 steps (dqn.num_lanes",
        ),
        ({"dqn.games": "together,"}, "--dqn.games: 'together,' is not a schedule of games; did you mean 'together'?"),
    ],
)
def test_what_cannot_be_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    refused = refusal(capfd, "train-teacher", *options(SHORT_DQN | change | {"out": tmp_path / "run"}))
    assert refused.startswith(f"pd-jax train-teacher: {message}")
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_one_game_says_nothing_of_several(tmp_path: Path) -> None:
    out = tmp_path / "run"
    one = {name: value for name, value in SHORT_DQN.items() if name != "head-hidden"}
    succeed("train-teacher", one | {"game": ["cartpole"], "dqn.total-steps": 512, "out": out})
    config = read_yaml(out / "config.yaml")
    assert config["game"] == "cartpole"
    assert not {"channels", "hidden", "head_hidden"} & config.keys() and "games" not in config["dqn"]
    assert "games" not in json.loads((out / "summary.json").read_text())
    assert teachers.load(out / "teacher.safetensors").metadata.format_version == 2
    with pytest.raises(UserError):
        teachers.load(out / "nothing.safetensors", "cartpole")
