"""The settings themselves: what they derive, what they refuse together, and the files in configs/."""

from __future__ import annotations

import dataclasses
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_jax.config import (
    COMMANDS,
    CollectConfig,
    CommandConfig,
    DistillConfig,
    EnvConfig,
    EvaluateConfig,
    LearnerConfig,
    LossConfig,
    PQNConfig,
    ReplayConfig,
    ScheduleConfig,
    StudentConfig,
    TrainTeacherConfig,
    check_devices,
    check_network,
)
from pd_jax.config_fields import fields
from pd_jax.config_loading import load_config, read_config, to_yaml
from pd_jax.errors import UserError
from pd_jax.tasks import get_task

ROOT = Path(__file__).parent.parent
CONFIG_FILES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml"))


def distill(
    num_lanes: int = 32, num_devices: int | None = None, game: str | None = None, **settings: int
) -> DistillConfig:
    schedule = {key: settings[key] for key in ("steps_per_round", "rollout_length") if key in settings}
    return DistillConfig(
        teacher="pong",
        out="runs/x",
        game=game,
        env=EnvConfig(num_lanes=num_lanes),
        learner=LearnerConfig(batch_size=settings.get("batch_size", 32), num_devices=num_devices),
        replay=ReplayConfig(capacity=settings.get("capacity", 540_000)),
        schedule=ScheduleConfig(**schedule),
    )


@pytest.mark.parametrize("name", CONFIG_FILES)
def test_every_file_in_configs_works_with_the_command_in_its_first_line(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(ROOT)
    first_line = Path(name).read_text().splitlines()[0]
    program, command, *argv = shlex.split(first_line.removeprefix("# "))
    assert (program, argv[:2]) == ("pd-jax", ["--config", name])
    config = load_config(COMMANDS[command], argv, command)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert read_config(COMMANDS[command], tmp_path / "config.yaml") == config


def test_every_command_has_a_file_in_configs() -> None:
    first_lines = [(ROOT / name).read_text().splitlines()[0] for name in CONFIG_FILES]
    assert {line.split()[2] for line in first_lines} == set(COMMANDS)


def test_the_papers_numbers_are_in_its_file() -> None:
    config = read_config(DistillConfig, ROOT / "configs" / "paper" / "pong.yaml")
    assert (config.replay.capacity, config.schedule.steps_per_round) == (540_000, 54_000)
    assert (config.schedule.updates_per_round, config.learner.optimizer) == (10_000, "rmsprop")
    assert 1e-4 <= config.learner.learning_rate <= 1e-3
    assert (config.epsilon, config.evaluation.epsilon, config.env.max_noops) == (0.05, 0.05, 30)
    assert (config.loss.kind, config.loss.temperature) == ("kl", 0.01)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_out_and_seed(command: str) -> None:
    known = fields(COMMANDS[command])
    assert known["seed"].kind is int
    assert known["out"].kind is str


@pytest.mark.parametrize("command", COMMANDS)
def test_every_default_is_a_possible_value_of_the_right_type(command: str) -> None:
    known = fields(COMMANDS[command])
    required: dict[str, Any] = {key: "pong" for key, field in known.items() if field.required}
    for key, field in known.items():
        value: object = COMMANDS[command](**required)
        for name in key.split("."):
            value = getattr(value, name)
        for item in value if isinstance(value, tuple) else (value,):
            if item is None:
                assert field.optional
                continue
            assert type(item) is field.kind, key
            assert not field.choices or item in field.choices
            if field.kind in (int, float):
                assert field.bounds is not None, key
                assert field.bounds.low <= item <= field.bounds.high, key  # type: ignore[operator]


@given(st.integers(1, 10**6), st.integers(1, 300), st.integers(1, 300))
def test_a_round_plays_at_least_its_steps_and_less_than_a_rollout_more(steps: int, lanes: int, length: int) -> None:
    config = distill(lanes, steps_per_round=steps, rollout_length=length)
    played = config.rollouts_per_round * lanes * length
    assert steps <= played < steps + lanes * length
    recording = CollectConfig(
        teacher="pong", out="x", steps=steps, rollout_length=length, env=EnvConfig(num_lanes=lanes)
    )
    assert recording.num_rollouts == config.rollouts_per_round


@given(st.integers(1, 10**6), st.integers(1, 300), st.integers(1, 300))
def test_a_replay_that_is_accepted_holds_a_rollout_in_every_lane(capacity: int, lanes: int, length: int) -> None:
    config = distill(lanes, capacity=capacity, rollout_length=length, batch_size=1)
    assert config.capacity_per_lane * lanes <= capacity
    assert (list(config.conflicts()) == []) == (config.capacity_per_lane >= length)


def test_temperature_depends_on_the_teachers_outputs_unless_given() -> None:
    assert LossConfig().temperature_for(teacher_gives_logits=False) == 0.01
    assert LossConfig().temperature_for(teacher_gives_logits=True) == 1.0
    assert LossConfig(temperature=0.5).temperature_for(teacher_gives_logits=True) == 0.5


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 16))
def test_devices_must_divide_lanes_and_minibatches(lanes: int, batch: int, devices: int) -> None:
    config = distill(lanes, batch_size=batch)
    fits = lanes % devices == 0 and batch % devices == 0
    assert (list(distill(lanes, devices, batch_size=batch).conflicts()) == []) == fits
    if fits:
        check_devices(config, devices)
        return
    with pytest.raises(UserError) as error:
        check_devices(config, devices)
    key, number = ("env.num_lanes", lanes) if lanes % devices else ("learner.batch_size", batch)
    multiples = [m for m in range(devices, number + devices + 1, devices) if abs(m - number) < devices]
    fitting = " and ".join(map(str, multiples)) + (" do" if len(multiples) > 1 else " does")
    assert str(error.value) == f"{key}: {number} does not split evenly over {devices} devices; {fitting}"


def conflict(config: CommandConfig) -> str:
    (key, problem), *_ = config.conflicts()
    return f"{key}: {problem}"


def test_what_is_impossible_together_is_refused() -> None:
    rollout = "32 x schedule.rollout_length 32)"
    assert conflict(distill(capacity=10)) == "learner.batch_size: 32 is more than replay.capacity (10)"
    assert conflict(distill(capacity=1023)) == (
        f"replay.capacity: 1023 holds less than one rollout, 1024 steps (env.num_lanes {rollout}"
    )
    assert conflict(distill(game="cartpole")) == "student.network: 'net2' sees frames, and cartpole has none; use 'mlp'"
    assert conflict(distill(game="pogn")).startswith("game: 'pogn' is not a game; did you mean 'pong'? (beam_rider, ")
    assert conflict(EvaluateConfig()).startswith("teacher: missing, and run too; give ")
    assert conflict(CollectConfig(teacher="x", out="y", game="")).startswith("game: '' is not a game (")
    train = TrainTeacherConfig(game="Pong-v5", out="x")
    assert list(train.conflicts()) == []
    assert conflict(dataclasses.replace(train, network="mlp")) == (
        "network: 'mlp' sees vectors, and pong shows frames; use one of dqn, net1, net2, net3"
    )
    assert conflict(dataclasses.replace(train, pqn=PQNConfig(minibatches=3))) == (
        "pqn.minibatches: 3 do not divide a rollout of 4096 steps (pqn.num_lanes 128 x pqn.rollout_length 32)"
    )
    assert conflict(dataclasses.replace(train, pqn=PQNConfig(epsilon_start=0.0))) == (
        "pqn.epsilon_end: 0.001 is more than pqn.epsilon_start (0.0)"
    )


def test_a_network_must_see_what_the_task_shows() -> None:
    for name in ("dqn", "net1", "net2", "net3"):
        check_network(name, get_task("pong"))
        with pytest.raises(
            UserError, match=f"^student.network: '{name}' sees frames, and acrobot has none; use 'mlp'$"
        ):
            check_network(name, get_task("acrobot"), "student.network")
    check_network("mlp", get_task("acrobot"))
    with pytest.raises(UserError, match=r"^network: 'mlp' sees vectors, and pong shows frames; use one of dqn, "):
        check_network("mlp", get_task("pong"))


def test_settings_are_frozen_and_have_a_help_text_each() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        StudentConfig().network = "net1"  # type: ignore[misc]
    for module in ("config.py", "config_sections.py"):
        lines = (ROOT / "pd_jax" / module).read_text().splitlines()
        for line, after in zip(lines, lines[1:], strict=False):
            if re.match(r"    [a-z_]+: .*[^(]$", line) and not line.endswith(("Config)", ",", ":")):
                assert after.startswith('    """'), line


def test_settings_are_checked_without_importing_jax_or_envpool() -> None:
    script = (
        "import sys; from pd_jax.config import DistillConfig; from pd_jax.config_loading import load_config; "
        "load_config(DistillConfig, ['--teacher', 'x', '--out', 'y', '--game', 'pong'], 'distill'); "
        "print([name for name in ('jax', 'envpool', 'flax') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
