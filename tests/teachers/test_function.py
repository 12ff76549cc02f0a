"""Functions as teachers: traced ones and those of the host play, teach and are known again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from pd_jax.config.commands import COMMANDS
from pd_jax.config.loading import load_config
from pd_jax.deploy.scoring import run_evaluate
from pd_jax.distill.collect import collect
from pd_jax.distill.session import distill
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.evaluation.evaluator import evaluate
from pd_jax.networks.registry import make_network
from pd_jax.teachers import from_function, load
from support import commands

OBSERVATIONS = np.random.default_rng(0).standard_normal((7, 4)).astype(np.float32)


def balance(observations: Any) -> Any:
    """A competent CartPole policy: push to where the pole falls. Works on NumPy, JAX and PyTorch arrays."""
    lean = observations[:, 2] + 0.5 * observations[:, 3] + 0.02 * observations[:, 0] + 0.1 * observations[:, 1]
    library = torch if isinstance(observations, torch.Tensor) else jnp if isinstance(lean, jax.Array) else np
    return library.stack([-lean, lean], 1)


def with_torch(observations: np.ndarray) -> Any:
    assert isinstance(observations, np.ndarray) and observations.flags.writeable
    with torch.inference_mode():
        return balance(torch.from_numpy(observations))


TRACED: dict[str, Any] = {"fingerprint": "balance, first version"}
HOST: dict[str, Any] = TRACED | {"host": True}


@pytest.mark.parametrize(("fn", "options"), [(balance, TRACED), (balance, HOST), (with_torch, HOST)])
def test_a_function_answers_plays_and_is_scored(fn, options):
    teacher = from_function(fn, kind="q", game="CartPole-v1", **options)
    outputs = teacher(OBSERVATIONS)
    assert outputs.dtype == jnp.float32 and not teacher.gives_logits
    np.testing.assert_allclose(outputs, balance(OBSERVATIONS), rtol=1e-6)
    scores = evaluate(
        teacher.network.apply, teacher.variables, teacher.task, episodes=4, num_lanes=4, epsilon=0.0, seed=1
    )
    assert scores.returns.min() == 500.0


def test_a_flax_network_is_known_by_its_variables():
    network = make_network("mlp", 2, hidden_sizes=(8,))
    variables = network.init(jax.random.key(0), OBSERVATIONS)
    teacher = from_function(network.apply, kind="logits", game="cartpole", variables=variables)
    np.testing.assert_allclose(teacher(OBSERVATIONS), network.apply(variables, OBSERVATIONS), rtol=1e-6)
    assert teacher.gives_logits and teacher.num_params == 4 * 8 + 8 + 8 * 2 + 2

    def sha256(**changes: Any) -> str:
        settings: dict[str, Any] = {"kind": "logits", "game": "cartpole", "variables": variables}
        return from_function(network.apply, **(settings | changes)).sha256

    other = jax.tree.map(lambda leaf: leaf + 1e-7, variables)
    different = [sha256(variables=other), sha256(kind="q"), sha256(fingerprint="x"), teacher.sha256]
    assert len(set(different)) == 4
    assert sha256(variables=jax.tree.map(np.asarray, variables)) == teacher.sha256


@pytest.mark.parametrize(
    ("fn", "options", "complaint"),
    [
        (balance, {}, "give variables=..., or fingerprint="),
        (balance, TRACED | {"kind": "values"}, "kind: 'values' is neither 'q' nor 'logits'"),
        (balance, TRACED | {"game": "cartpol"}, "did you mean 'cartpole'"),
        (balance, TRACED | {"game": "acrobot"}, "it returns [2, 2] for 2 observations, and acrobot needs [2, 3]"),
        (balance, HOST | {"game": "acrobot"}, "it returned [2, 2], and acrobot needs [2, 3]"),
        (balance, HOST | {"variables": {"w": np.ones(1)}}, "variables go to functions of JAX"),
    ],
)
def test_what_cannot_be_a_teacher_is_refused(fn, options, complaint):
    with pytest.raises(UserError) as refused:
        from_function(fn, **({"kind": "q", "game": "cartpole"} | options))
    assert complaint in str(refused.value) and "\n" not in str(refused.value)


QUICK: dict[str, Any] = {
    "student.network": "mlp",
    "student.mlp-hidden": 16,
    "learner.learning-rate": 3e-3,
    "replay.capacity": 2048,
    "schedule.rounds": 2,
    "schedule.steps-per-round": 2048,
    "schedule.updates-per-round": 300,
    "evaluation.episodes": 4,
    "evaluation.num-lanes": 4,
    "evaluation.epsilon": 0.0,
}


def config_of(command: str, **values: Any) -> Any:
    return load_config(COMMANDS[command], commands.options(values), command)


@pytest.mark.parametrize("stepping", ["jit", "host"])
def test_a_student_learns_from_a_host_function(stepping, tmp_path):
    teacher = from_function(with_torch, kind="q", game="cartpole", name="balance", **HOST)
    config = config_of("distill", **QUICK, **{"teacher": "mine", "out": tmp_path / "run", "env.stepping": stepping})
    summary = distill(config, teacher=teacher)
    game = summary["games"]["cartpole"]
    assert game["teacher_score"] == 500.0 and game["student_score"] > 150
    assert (summary["teacher"], summary["teacher_network"]) == ("balance", "function")


def test_a_run_is_resumed_with_the_same_function_only(tmp_path):
    teacher = from_function(balance, kind="q", game="cartpole", **TRACED)
    config = config_of("distill", **QUICK, teacher="mine", out=tmp_path / "run")
    distill(config, teacher=teacher)
    longer = dataclasses.replace(config, resume=True, schedule=dataclasses.replace(config.schedule, rounds=3))
    other = from_function(balance, kind="q", game="cartpole", fingerprint="balance, second version")
    with pytest.raises(UserError, match="was begun with another teacher"):
        distill(longer, teacher=other)
    assert distill(longer, teacher=from_function(balance, kind="q", game="cartpole", **TRACED))["updates"] == 900
    # The name in the configuration is a label, which nothing can be loaded by.
    with pytest.raises(UserError, match="'mine' is neither a bundled teacher nor a file"):
        distill(dataclasses.replace(config, out=str(tmp_path / "other")))


def test_a_recording_of_a_function_is_learnt_from(tmp_path):
    teacher = from_function(balance, kind="logits", game="cartpole", **TRACED)
    played = collect(
        config_of("collect", teacher="mine", out=tmp_path / "data", steps=1024, **{"env.num-lanes": 8}), teacher=teacher
    )
    assert (played.teacher_fingerprint, played.teacher_output) == (teacher.sha256, "logits")
    recorded = QUICK | {"data": tmp_path / "data", "schedule.steps-per-round": 512, "schedule.updates-per-round": 20}
    config = config_of("distill", **recorded, teacher="mine", out=tmp_path / "run")
    assert distill(config, teacher=teacher)["games"]["cartpole"]["episodes"] == 4
    with pytest.raises(UserError, match="of another fingerprint"):
        distill(dataclasses.replace(config, out=str(tmp_path / "b")), teacher=load("cartpole"))


def test_a_function_is_evaluated(tmp_path):
    config = config_of("evaluate", teacher="mine", **{"evaluation.episodes": 3, "evaluation.epsilon": 0.0})
    teacher = from_function(balance, kind="q", game="cartpole", **TRACED)
    assert run_evaluate(config, teacher=teacher)["games"]["cartpole"]["teacher_score"] == 500.0


def test_a_host_function_sees_frames_and_plays_them():
    seen: list[tuple[Any, ...]] = []

    def fire(observations: np.ndarray) -> np.ndarray:
        seen.append((observations.shape, observations.dtype))
        return np.eye(6, dtype=np.float64)[observations[:, 40, 40, 3] % 6]

    teacher = from_function(fire, kind="q", game="pong", host=True, fingerprint="fire")
    scores = evaluate(
        teacher.network.apply,
        teacher.variables,
        get_task("pong"),
        episodes=2,
        num_lanes=2,
        environment_options={"max_episode_steps": 50},
    )
    assert len(scores.returns) == 2 and set(seen) == {((2, 84, 84, 4), np.dtype(np.uint8))} and len(seen) >= 50


def test_the_documents_example_runs(tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "docs" / "teachers.md").read_text()
    (example,) = (block for block in text.split("```python\n")[1:] if "from_function" in block)
    lines = example.split("```")[0]
    assert len(lines.strip().splitlines()) <= 16
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_agent.py").write_text("import torch\n\nnet = torch.nn.Linear(4, 2)\n")
    monkeypatch.syspath_prepend(tmp_path)
    quick = "schedule=ScheduleConfig(rounds=1, steps_per_round=1024, updates_per_round=10)"
    assert "schedule=" not in lines
    lines = lines.replace('out="runs/mine"', f'out="runs/mine", {quick}')
    exec(compile("from pd_jax.config import ScheduleConfig\n" + lines, "teachers.md", "exec"), {})
    assert (tmp_path / "runs" / "mine" / "summary.json").exists()
