"""``pd-jax train-teacher --algorithm ppo``: a teacher of continuous actions with the statistics that it saw by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from pd_jax import teachers
from pd_jax.config import own_networks
from pd_jax.environments.registered import register_jax
from pd_jax.evaluation.evaluator import evaluate
from support.commands import checkpoint_steps, options, read_lines, refusal, succeed
from support.jax_environments import Params, Walk

CONFIGS = Path(__file__).parents[2] / "configs"
SHORT = {
    "game": "walk",
    "algorithm": "ppo",
    "network": "mlp",
    "mlp-hidden": 8,
    "ppo.total-steps": 512,
    "ppo.num-lanes": 8,
    "ppo.rollout-length": 16,
    "ppo.epochs": 2,
    "ppo.minibatches": 2,
    "checkpoint.every-steps": 256,
    "evaluation.episodes": 4,
    "evaluation.num-lanes": 4,
    "evaluation.every-steps": 256,
    "evaluation.progress-episodes": 4,
}


@pytest.fixture(scope="module", autouse=True)
def walk() -> Any:
    return register_jax("walk", lambda: (Walk(), Params()))


@pytest.fixture(scope="module")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written to."""
    path = tmp_path_factory.mktemp("ppo") / "run"
    succeed("train-teacher", SHORT | {"out": path})
    return path


def test_the_file_says_how_its_policy_acts_and_what_it_sees_by(short_run: Path) -> None:
    teacher = teachers.load(short_run / "teacher.safetensors")
    metadata = teacher.metadata
    assert (metadata.algorithm, metadata.output, metadata.squashed) == ("ppo", "gaussian", False)
    assert (metadata.action_low, metadata.action_high, metadata.activation) == ((-0.5,), (0.5,), "relu")
    statistics = metadata.normalisation["observation"]
    # Every step but those that begin an episode; and the third component is always 1.
    assert 400 < statistics["count"] < 512.1 and statistics["clip"] == 10.0
    assert statistics["mean"][2:] == pytest.approx([1.0, 0.0], abs=1e-4)
    outputs = np.asarray(teacher(np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)))
    assert len(np.unique(outputs[:, 0])) == 6 and len(np.unique(outputs[:, 1])) == 1
    config = (short_run / "config.yaml").read_text()
    assert "ppo:" in config and "pqn:" not in config and "dqn:" not in config


def test_the_score_in_the_file_is_that_of_the_file(short_run: Path) -> None:
    """What was scored in training saw by running statistics, what plays now by the frozen ones."""
    teacher = teachers.load(short_run / "teacher.safetensors")
    told = teacher.metadata.evaluation
    played = evaluate(teacher, episodes=4, num_lanes=4, epsilon=told["epsilon"], seed=told["seed"])
    assert played.returns.mean() == pytest.approx(told["mean"], rel=1e-3)


def test_metrics_tell_what_ppo_is_watched_by(short_run: Path) -> None:
    lines = [line for line in read_lines(short_run) if "loss" in line]
    assert len(lines) == 4
    for name in ("policy_loss", "value_loss", "entropy", "approximate_kl", "clipped", "explained_variance"):
        assert all(np.isfinite(line[name]) for line in lines)
    assert all(0 <= line["clipped"] <= 1 and line["approximate_kl"] > -1e-6 for line in lines)
    summary = json.loads((short_run / "summary.json").read_text())
    assert (summary["algorithm"], summary["env_steps"], summary["updates"]) == ("ppo", 512, 16)
    # Of the policy alone: 4 x 8 + 8, and 8 x 2 + 2.
    assert teachers.load(short_run / "teacher.safetensors").num_params == 58


@pytest.mark.slow
def test_a_resumed_training_goes_on_with_its_statistics(short_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    succeed("train-teacher", SHORT | {"out": out, "ppo.total-steps": 256})
    assert checkpoint_steps(out)[-1] == 256
    before = teachers.load(out / "teacher.safetensors").metadata
    succeed("train-teacher", SHORT | {"out": out, "resume": True})
    after = teachers.load(out / "teacher.safetensors").metadata
    counts = [metadata.normalisation["observation"]["count"] for metadata in (before, after)]
    assert counts[0] < 256.1 and (counts[1] == counts[0] or 400 < counts[1] < 512.1)
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["env_steps"], summary["updates"]) == (512, 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"game": "cartpole"}, "--algorithm: ppo is for continuous actions, and cartpole has 2 single ones"),
        ({"game": ["walk", "cartpole"]}, "--algorithm: ppo trains one task at a time"),
        ({"init-from": "cartpole"}, "--init-from: ppo begins from scratch: a teacher file has no critic"),
        ({"layer-norm": True}, "--layer-norm: is for pqn and dqn"),
        ({"ppo.minibatches": 3}, "--ppo.minibatches: 3 do not divide a rollout of 128 steps"),
        ({"network": "net1"}, "--network: 'net1' sees frames"),
        ({"pqn.epochs": 3}, "--pqn.epochs: is a setting of pqn, and algorithm is 'ppo'"),
        (
            {"ppo.no-normalise-observations": True, "ppo.observation-clip": 3},
            "--ppo.observation-clip: is of normalised observations",
        ),
        ({"ppo.clip": 0}, "--ppo.clip: 0 is out of range"),
        ({"ppo.activation": "sigmoid"}, "--ppo.activation: 'sigmoid' is not an activation"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, Any], message: str, tmp_path: Path, capfd: Any) -> None:
    values = SHORT | change | {"out": tmp_path / "run"}
    values = {key: value for key, value in values.items() if (values["network"], key) != ("net1", "mlp-hidden")}
    assert refusal(capfd, "train-teacher", *options(values)).startswith(f"pd-jax train-teacher: {message}")
    assert list(tmp_path.iterdir()) == []


def test_a_network_of_ones_own_is_refused_before_it_trains_another(
    tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(own_networks.registered, "own", None)
    message = refusal(capfd, "train-teacher", *options(SHORT | {"network": "own", "out": tmp_path / "run"}))
    why = "--network: ppo trains an mlp, and 'own' is one of your own; pqn and dqn train these"
    assert message == f"pd-jax train-teacher: {why}"
    assert list(tmp_path.iterdir()) == []


def test_q_learning_of_continuous_actions_is_refused(tmp_path: Path, capfd: Any) -> None:
    given = {"game": "walk", "network": "mlp", "out": tmp_path / "run"}
    message = refusal(capfd, "train-teacher", *options(given))
    assert message.startswith("pd-jax train-teacher: algorithm: pqn learns the values of single actions")
    assert message.endswith("--algorithm ppo is for these")


@pytest.mark.slow
def test_half_cheetah_runs_after_minutes(tmp_path: Path) -> None:
    given = {"config": CONFIGS / "train" / "half_cheetah.yaml", "ppo.total-steps": 512_000, "out": tmp_path / "run"}
    succeed("train-teacher", given | {"evaluation.episodes": 20})
    told = teachers.load(tmp_path / "run" / "teacher.safetensors").metadata.evaluation
    print(f"HalfCheetah-v5 after 512,000 steps: {told['mean']:,.0f} +- {told['standard_error']:,.0f}")
    assert told["mean"] > 2000
    jax.clear_caches()
