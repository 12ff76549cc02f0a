"""``pd-jax train-teacher`` through the real command."""

from __future__ import annotations

import itertools
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
from pd_jax.config.loading import load_config
from pd_jax.config.train_teacher import TrainTeacherConfig
from pd_jax.config.yaml import read_yaml
from pd_jax.deploy.lineage import verify_lineage
from pd_jax.errors import UserError
from pd_jax.online.snapshots import read_snapshots
from pd_jax.teachers.files import read_teacher, save_teacher
from support.commands import checkpoint_steps, contents, options, read_lines, refusal, stop_when, succeed, write_teacher

CONFIGS = Path(__file__).parents[2] / "configs" / "train"
COMMON = {
    "game": "cartpole",
    "network": "mlp",
    "mlp-hidden": 8,
    "checkpoint.every-steps": 1024,
    "evaluation.episodes": 4,
    "evaluation.num-lanes": 4,
    "evaluation.every-steps": 2048,
    "evaluation.progress-episodes": 4,
}
SHORT = COMMON | {
    "pqn.total-steps": 4096,
    "pqn.num-lanes": 8,
    "pqn.rollout-length": 32,
    "pqn.minibatches": 4,
}
SHORT_DQN = COMMON | {
    "algorithm": "dqn",
    "dqn.total-steps": 4096,
    "dqn.num-lanes": 8,
    "dqn.rollout-length": 32,
    "dqn.steps-per-update": 64,
    "dqn.replay-capacity": 2048,
    "dqn.learning-starts": 512,
    "dqn.target-every": 10,
}


@pytest.fixture(scope="module")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher that has learnt next to nothing. Not to be written to."""
    path = tmp_path_factory.mktemp("teachers") / "short"
    succeed("train-teacher", SHORT | {"out": path})
    return path


@pytest.mark.parametrize(
    "settings",
    [("cartpole.yaml", "--pqn.total-steps", "150_000"), ("cartpole_dqn.yaml",)],
    ids=["pqn", "dqn"],
)
@pytest.mark.slow
def test_cartpole_is_solved_from_scratch(
    settings: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, (name, *more) = tmp_path / "run", settings
    assert main(["train-teacher", "--config", str(CONFIGS / name), "--out", str(out), *more]) == 0
    summary = json.loads((out / "summary.json").read_text())
    # Gymnasium calls CartPole-v1 solved at 475 over 100 consecutive episodes; these are greedy.
    assert (summary["episodes"], summary["epsilon"]) == (100, 0.0)
    assert summary["teacher_score"] >= 475
    output = capfd.readouterr().out
    assert f"teacher file: {out / 'teacher.safetensors'}\n" in output
    assert "over 100 episodes" in output


def test_a_teacher_file_says_all_about_itself(short_run: Path) -> None:
    teacher = teachers.load(short_run / "teacher.safetensors")
    metadata = teacher.metadata
    assert (metadata.game, metadata.env_id, metadata.network) == ("cartpole", "CartPole-v1", "mlp")
    assert (metadata.layer_norm, metadata.hidden_sizes, metadata.num_actions) == (True, (8,), 2)
    assert (metadata.output, metadata.algorithm, metadata.env_steps) == ("q", "pqn", 4096)
    assert metadata.training_config["pqn"]["num_lanes"] == 8
    assert not {"out", "resume"} & metadata.training_config.keys(), "nothing of the machine it was made on"
    assert "guidance" not in metadata.training_config.keys() | read_yaml(short_run / "config.yaml").keys()
    summary = json.loads((short_run / "summary.json").read_text())
    assert metadata.evaluation["mean"] == summary["teacher_score"]
    assert metadata.evaluation["seed"] != 1_000_000, "not the starts that chose the weights"
    assert [point["env_steps"] for point in metadata.learning_curve] == [2048, 4096]
    assert metadata.learning_curve == summary["learning_curve"]


def test_a_run_holds_what_it_should(short_run: Path) -> None:
    names = {"config.yaml", "metrics.jsonl", "summary.json", "checkpoints", "tb", "learning_curve.png"}
    assert {path.name for path in short_run.iterdir()} - {".lock"} == names | {"teacher.safetensors", "lineage.json"}
    verified = verify_lineage(short_run)
    assert (verified.all_faults, verified.title.split()[0]) == ((), "train-teacher")
    assert checkpoint_steps(short_run)[-3:] == [2048, 3072, 4096]
    lines = read_lines(short_run)
    assert [line["step"] for line in lines if "loss" in line] == list(range(256, 4097, 256))
    scores = [line for line in lines if "score/cartpole" in line]
    assert [line["step"] for line in scores] == [2048, 4096]
    # From certain chance to a thousandth of it, in the first tenth of the training.
    assert lines[0]["epsilon"] == 1.0
    assert [line for line in lines if "loss" in line][-1]["epsilon"] == pytest.approx(0.001, rel=1e-4)


@pytest.mark.parametrize(
    ("short", "algorithm"),
    [(SHORT, "pqn"), pytest.param(SHORT_DQN, "dqn", marks=pytest.mark.slow)],
    ids=["pqn", "dqn"],
)
def test_training_that_was_stopped_goes_on_and_can_be_made_longer(
    short: dict[str, Any], algorithm: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    endless = short | {f"{algorithm}.total-steps": 1_000_000_000, "out": out, "resume": True}
    argv = ["train-teacher", *options(endless)]
    killed = stop_when(lambda: len(checkpoint_steps(out)) > 1, signal.SIGKILL, *argv)
    assert killed.code == -signal.SIGKILL
    saved = checkpoint_steps(out)[-1]

    def goes_on() -> bool:
        return any(line["step"] > saved + 2048 for line in read_lines(out))

    ended = stop_when(goes_on, signal.SIGTERM, *argv)
    assert ended.code == 128 + signal.SIGTERM
    assert f"resumed at step {saved:,}, with fresh episodes" in ended.stderr
    assert ended.stderr.endswith("pd-jax train-teacher: stopped by SIGTERM; add --resume to go on\n")
    assert "Traceback" not in ended.stderr
    stopped = checkpoint_steps(out)[-1]
    assert stopped == read_lines(out)[-1]["step"], "saved where it was stopped"
    total = stopped + 2048
    succeed("train-teacher", endless | {f"{algorithm}.total-steps": total})
    assert f"resumed at step {stopped:,}, with fresh episodes" in capfd.readouterr().err
    lines, summary = read_lines(out), json.loads((out / "summary.json").read_text())
    steps = [line["step"] for line in lines if "epsilon" in line]
    assert steps == list(range(256, steps[-1] + 1, 256)), "no step twice, and none missing"
    assert total <= steps[-1] < total + 256
    check_curve(summary, lines)
    # A rollout is too few steps to learn from in SHORT_DQN, and two are enough.
    starts = [0, saved, stopped] if algorithm == "dqn" else []
    check_updates(lines, summary["updates"], starts, per_rollout={"pqn": 8, "dqn": 4}[algorithm])


def check_updates(lines: list[dict[str, Any]], updates: int, starts: list[int], *, per_rollout: int) -> None:
    """Every rollout was learnt from but the first one after each of ``starts``, when the replay was empty."""
    for line in lines:
        if "epsilon" in line:
            assert ("loss" in line) == (line["step"] - 256 not in starts), line["step"]
    assert updates == per_rollout * sum("loss" in line for line in lines)


def check_curve(summary: dict[str, Any], lines: list[dict[str, Any]]) -> None:
    """The learning curve of all sessions together, and the time they took."""
    steps = [point["env_steps"] for point in summary["learning_curve"]]
    assert all(1 <= later - earlier <= 2048 for earlier, later in itertools.pairwise([0, *steps]))
    assert steps == [line["step"] for line in lines if "score/cartpole" in line]
    assert steps[-1] == summary["env_steps"]
    seconds = [line["wall_seconds"] for line in lines if "epsilon" in line]
    assert seconds == sorted(seconds)
    # Of the last session, which is short.
    assert summary["env_steps_per_second"] > 0
    assert sum(summary["time_shares"].values()) == pytest.approx(1)
    assert summary["bound_by"] == max(summary["time_shares"], key=summary["time_shares"].get)


@pytest.mark.parametrize(
    "settings",
    [
        SHORT | {"pqn.learning-rate": 1e-12, "pqn.total-steps": 256},
        # Of a network with LayerNorm, which is not DQN's default.
        SHORT_DQN | {"dqn.learning-rate": 1e-12, "dqn.total-steps": 1024, "layer-norm": True},
    ],
    ids=["pqn", "dqn"],
)
def test_training_starts_from_another_teachers_weights(
    settings: dict[str, Any], short_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = short_run / "teacher.safetensors"
    succeed("train-teacher", settings | {"init-from": source, "seed": 9, "out": tmp_path / "run"})
    assert "epsilon_start: 1 has the play begin at random" in capfd.readouterr().err
    before, _ = read_teacher(source)
    after, _ = read_teacher(tmp_path / "run" / "teacher.safetensors")
    # The rate is too small for anything to show: what comes out is what went in.
    jax.tree.map(lambda found, wanted: np.testing.assert_allclose(found, wanted, atol=1e-8), after, before)


def test_each_algorithm_has_its_own_layers_and_settings_by_default(short_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    succeed("train-teacher", SHORT_DQN | {"out": out, "dqn.total-steps": 1024})
    metadata = teachers.load(out / "teacher.safetensors").metadata
    assert (metadata.algorithm, metadata.layer_norm, metadata.env_steps) == ("dqn", False, 1024)
    assert metadata.training_config["dqn"]["learning_starts"] == 512
    # Runs of PQN from before there was another algorithm go on: their files say the very same.
    for run, own, other in ((short_run, "pqn", "dqn"), (out, "dqn", "pqn")):
        config = read_yaml(run / "config.yaml")
        assert own in config and other not in config
        assert config["layer_norm"] is (own == "pqn")
        assert json.loads((run / "summary.json").read_text())["algorithm"] == own


def test_a_run_does_not_go_on_with_another_algorithm(
    short_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(short_run, out)
    before = contents(out)
    message = refusal(capfd, "train-teacher", *options(SHORT_DQN | {"out": out, "resume": True, "layer-norm": True}))
    assert "holds a different run: algorithm is 'pqn' there and 'dqn' here" in message
    assert contents(out) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": "mlp", "layer_norm": False}, "is a mlp for cartpole (layer_norm False), and the run wants a mlp"),
        ({"hidden_sizes": (9, 7)}, "has mlp_hidden 9 7, and the run wants 8"),
        ({"output": "logits"}, "gives logits; pqn learns Q-values"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    change: dict[str, Any], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "teacher.safetensors", tmp_path / "run"
    write_teacher(file, "cartpole", **({"layer_norm": True} | change))
    refused = refusal(capfd, "train-teacher", *options(SHORT | {"out": out, "init-from": file}))
    assert refused.startswith(f"pd-jax train-teacher: init_from: {file} {message}")
    assert not out.exists()


def test_impossible_settings_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for change, message in (
        ({"pqn.minibatches": 3}, "--pqn.minibatches: 3 do not divide a rollout of 256 steps"),
        ({"network": "dqn"}, "--network: 'dqn' sees frames, and cartpole has none; use 'mlp'"),
        ({"pqn.epsilon-end": 0.9, "pqn.epsilon-start": 0.5}, "--pqn.epsilon-end: 0.9 is more than pqn.epsilon_start"),
        ({"algorithm": "dqn", "dqn.learning-starts": 10**7}, "--dqn.learning-starts: 10000000 is more than the replay"),
        (
            {"algorithm": "dqn", "game": "pong", "network": "net3", "dqn.replay-capacity": 2**31 - 1},
            # A frame, its flags, an action and a reward each.
            f"dqn.replay_capacity: 2147483647 steps of pong take {2**31 * 7065 / 2**30:,.1f} GiB; in all the ",
        ),
        ({"dqn.batch-size": 16}, "--dqn.batch-size: is a setting of dqn, and algorithm is 'pqn'"),
        (
            {"algorithm": "dqn"},
            "--pqn.total-steps: is a setting of pqn, and algorithm is 'dqn'",
        ),
        ({"algorithm": "dqm"}, "--algorithm: 'dqm' is not an algorithm; did you mean 'dqn'? (pqn, dqn, ppo)"),
        ({"init-from": "cartpol"}, "'cartpol' is neither a bundled teacher nor a file; did you mean 'cartpole'?"),
    ):
        # As many options as the algorithm has no use for are no part of what is tested.
        base = COMMON if "dqn.learning-starts" in change or "dqn.replay-capacity" in change else SHORT
        values = base | change | {"out": tmp_path / "run"}
        # Of a convolutional network the widths of an mlp are no part either.
        values = {key: value for key, value in values.items() if (values["network"], key) != ("net3", "mlp-hidden")}
        refused = refusal(capfd, "train-teacher", *options(values))
        assert refused.startswith(f"pd-jax train-teacher: {message}")
    assert list(tmp_path.iterdir()) == []


def test_a_run_does_not_go_back_to_fewer_steps(
    short_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(short_run, out)
    before = contents(out)
    message = refusal(capfd, "train-teacher", *options(SHORT | {"out": out, "resume": True, "pqn.total-steps": 2048}))
    assert message == (
        f"pd-jax train-teacher: pqn.total_steps: 2,048 is less than the 4,096 steps that the run in {out} has behind it"
    )
    assert contents(out) == before


def test_settings_of_the_algorithm_that_an_option_deselects_may_stay_in_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "both.yaml"
    file.write_text("game: cartpole\nnetwork: mlp\nout: x\npqn: {total_steps: 1000}\ndqn: {total_steps: 2000}\n")
    assert load_config(TrainTeacherConfig, ["--config", str(file)], "train-teacher").learning.total_steps == 1000
    warning = f"warning: {file}: dqn.total_steps: is a setting of dqn, and algorithm is 'pqn'\n"
    assert capsys.readouterr().err == warning
    config = load_config(TrainTeacherConfig, ["--config", str(file), "--algorithm", "dqn"], "train-teacher")
    assert config.learning.total_steps == 2000 and capsys.readouterr().err == ""


def test_a_run_that_is_not_there_to_be_resumed_is_begun_and_says_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    succeed("train-teacher", SHORT | {"out": out, "resume": True, "pqn.total-steps": 256})
    assert f"pd-jax train-teacher: {out}: nothing to resume; begins afresh\n" in capfd.readouterr().err
    succeed("train-teacher", SHORT | {"out": out, "resume": True, "pqn.total-steps": 512})
    assert "nothing to resume" not in capfd.readouterr().err


def test_a_checkpoint_of_another_network_is_refused(
    short_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(short_run, out)
    config = (out / "config.yaml").read_text().replace("- 8\n", "- 12\n").replace(str(short_run), str(out))
    (out / "config.yaml").write_text(config)
    before = contents(out)
    settings = SHORT | {"out": out, "resume": True}
    message = refusal(capfd, "train-teacher", *options(settings))
    assert "holds a different run: mlp_hidden is [12] there and [8] here" in message
    message = refusal(capfd, "train-teacher", *options(settings | {"mlp-hidden": 12}))
    assert message.startswith(f"pd-jax train-teacher: {out}/checkpoints: checkpoint 4096 holds network mlp, the run ")
    assert contents(out) == before


def test_a_loss_that_is_not_finite_ends_the_training_before_it_is_saved(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    diverging = {"pqn.learning-rate": 1e6, "pqn.max-grad-norm": 1e6, "mlp-hidden": [8] * 6, "no-layer-norm": True}
    assert main(["train-teacher", *options(SHORT | diverging | {"out": out})]) == 2
    *_, last = capfd.readouterr().err.splitlines()
    assert last.startswith("pd-jax train-teacher: the ")
    assert last.endswith(
        "; the checkpoints before it are sound: resume with a smaller pqn.learning_rate, or mend the environment, if "
        "it shows NaN"
    )


def test_a_teacher_file_that_cannot_be_written_costs_a_warning_and_is_tried_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [UserError("teacher.safetensors: cannot be written: No space left on device")]

    def save(*args: Any) -> None:
        if failures:
            raise failures.pop()
        save_teacher(*args)

    monkeypatch.setattr("pd_jax.trainers.teacher_writer.save_teacher", save)
    out = tmp_path / "run"
    succeed("train-teacher", SHORT | {"out": out, "pqn.total-steps": 512, "evaluation.every-steps": 256})
    assert "warning: teacher.safetensors: cannot be written: No space left on device\n" in capfd.readouterr().err
    _, metadata = read_teacher(out / "teacher.safetensors")
    assert [point["env_steps"] for point in metadata.learning_curve] == [256, 512]


def test_snapshots_are_a_teacher_that_improves(tmp_path: Path) -> None:
    out = tmp_path / "run"
    few = {"pqn.total-steps": 512, "evaluation.every-steps": 256, "evaluation.snapshots": True}
    succeed("train-teacher", SHORT | few | {"out": out})
    files = sorted(out.glob("snapshots/*.safetensors"))
    assert [path.name for path in files] == ["000000000256.safetensors", "000000000512.safetensors"]
    snapshots = read_snapshots([str(path) for path in files], None)
    assert snapshots.env_steps == (256, 512)
    for metadata, point in zip(snapshots.metadata, snapshots.metadata[-1].learning_curve, strict=True):
        assert metadata.evaluation["mean"] == point["mean"], "of its own weights"
