"""The settings themselves: what they derive, what they refuse together, and the files in configs/."""

from __future__ import annotations

import ast
import dataclasses
import graphlib
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_jax.config.algorithms import DQNConfig, PQNConfig
from pd_jax.config.base import CommandConfig
from pd_jax.config.collect import CollectConfig
from pd_jax.config.commands import COMMANDS, TABLE
from pd_jax.config.distill import DistillConfig, check_devices
from pd_jax.config.evaluate import EvaluateConfig
from pd_jax.config.fields import fields
from pd_jax.config.games import check_network
from pd_jax.config.loading import load_config, read_config, to_yaml
from pd_jax.config.sections import (
    BehaviourConfig,
    EnvConfig,
    LearnerConfig,
    LossConfig,
    OneGameEnvConfig,
    ReplayConfig,
    ScheduleConfig,
    StudentConfig,
)
from pd_jax.config.train_teacher import TrainTeacherConfig
from pd_jax.environments.tasks import PAPER_GAMES, get_task
from pd_jax.errors import UserError

ROOT = Path(__file__).parents[2]
LOOKS = {"lineage", "explain", "configs", "doctor", "completion"}
"""Commands that leave no run, and draw nothing at random."""
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
    words, _, own = first_line.removeprefix("# ").partition(" --")
    program, *command = shlex.split(words)
    argv = shlex.split(f"--{own}")
    assert (program, argv[:2]) == ("pd-jax", ["--config", name])
    entry: Any = TABLE[command[0]]
    config_class = entry.commands[command[1]].settings if len(command) > 1 else entry.settings
    config: Any = load_config(config_class, argv, " ".join(command))
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert read_config(config_class, tmp_path / "config.yaml") == config


def test_every_command_has_a_file_in_configs() -> None:
    first_lines = [(ROOT / name).read_text().splitlines()[0] for name in CONFIG_FILES]
    # And one of the groups.
    assert {line.split()[2] for line in first_lines} == {*COMMANDS, "monitor"} - LOOKS


def test_the_papers_numbers_are_in_its_file() -> None:
    config = read_config(DistillConfig, ROOT / "configs" / "paper" / "pong.yaml")
    assert (config.replay.capacity, config.schedule.steps_per_round) == (540_000, 54_000)
    assert (config.schedule.updates_per_round, config.learner.optimizer) == (10_000, "rmsprop")
    assert 1e-4 <= config.learner.learning_rate <= 1e-3
    assert (config.epsilon, config.evaluation.epsilon, config.env.max_noops) == (0.05, 0.05, 30)
    assert (config.loss.kind, config.loss.temperature) == ("kl", (0.01,))


# What is pushed is there, and nothing in it is drawn at random.
@pytest.mark.parametrize("command", sorted(set(COMMANDS) - LOOKS - {"push"}))
def test_every_command_takes_out_and_seed(command: str) -> None:
    known = fields(COMMANDS[command])
    assert known["seed"].kind is int
    assert known["out"].kind is str


@pytest.mark.parametrize("command", COMMANDS)
def test_every_default_is_a_possible_value_of_the_right_type(command: str) -> None:
    known = fields(COMMANDS[command])
    required: dict[str, Any] = {
        key: field.choices[0] if field.choices else "pong" for key, field in known.items() if field.required
    }
    for key, field in known.items():
        value: object = COMMANDS[command](**required)
        for name in key.split("."):
            value = getattr(value, name)
        for item in value if isinstance(value, tuple) else (value,):
            if item is None:
                assert field.optional
                continue
            if item in field.words:
                continue
            assert type(item) is field.kind, key
            assert not field.choices or item in field.choices
            if field.kind in (int, float):
                assert field.bounds is not None, key
                assert field.bounds.low <= item <= field.bounds.high, key  # type: ignore[operator]


@given(st.integers(1, 10**6), st.integers(1, 300), st.integers(1, 300))
def test_a_round_plays_at_least_its_steps_and_less_than_a_rollout_more(steps: int, lanes: int, length: int) -> None:
    config = distill(lanes, steps_per_round=steps, rollout_length=length)
    played = config.rollouts_per_round() * lanes * length
    assert steps <= played < steps + lanes * length
    recording = CollectConfig(
        teacher="pong", out="x", steps=steps, rollout_length=length, env=OneGameEnvConfig(num_lanes=lanes)
    )
    assert recording.num_rollouts == config.rollouts_per_round()


@given(st.integers(1, 10**6), st.integers(1, 300), st.integers(1, 300))
def test_a_replay_that_is_accepted_holds_a_rollout_in_every_lane(capacity: int, lanes: int, length: int) -> None:
    config = distill(lanes, capacity=capacity, rollout_length=length, batch_size=1)
    assert config.capacity_per_lane() * lanes <= capacity
    assert (list(config.conflicts()) == []) == (config.capacity_per_lane() >= length)


def test_temperature_depends_on_the_teachers_outputs_unless_given() -> None:
    assert LossConfig().temperature_for(teacher_gives_logits=False) == 0.01
    assert LossConfig().temperature_for(teacher_gives_logits=True) == 1.0
    assert LossConfig(temperature=0.5).temperature_for(teacher_gives_logits=True) == 0.5


@pytest.mark.parametrize(
    ("policy", "start", "end", "fraction", "expected"),
    [
        ("teacher", 0.3, 0.7, 0.5, [0, 0, 0, 0, 0, 0]),
        ("student", 0.3, 0.7, 0.5, [1, 1, 1, 1, 1, 1]),
        ("mixture", 0.0, 1.0, 0.5, [0, 1 / 3, 2 / 3, 1, 1, 1]),
        ("mixture", 0.2, 0.8, 1.0, [0.2, 0.3, 0.4, 0.5, 0.6, 0.7]),
        ("mixture", 0.9, 0.1, 1 / 3, [0.9, 0.5, 0.1, 0.1, 0.1, 0.1]),
        # At once, and in the course of the first round.
        ("mixture", 0.0, 0.6, 0.0, [0.6, 0.6, 0.6, 0.6, 0.6, 0.6]),
        ("mixture", 0.0, 0.6, 0.1, [0.0, 0.6, 0.6, 0.6, 0.6, 0.6]),
        ("mixture", 0.4, 0.4, 1.0, [0.4, 0.4, 0.4, 0.4, 0.4, 0.4]),
    ],
)
def test_the_students_share_of_the_actions_goes_linearly_from_start_to_end(
    policy: Any, start: float, end: float, fraction: float, expected: list[float]
) -> None:
    behaviour = BehaviourConfig(
        policy=policy, student_share_start=start, student_share_end=end, student_share_change_fraction=fraction
    )
    assert [behaviour.student_share(finished, 6) for finished in range(6)] == pytest.approx(expected)
    assert behaviour.student_acts == (policy != "teacher")
    assert behaviour.student_share_changes == (policy == "mixture" and start != end)


@settings(deadline=None)
@given(*[st.floats(0, 1)] * 3, st.integers(1, 10**6), st.floats(0, 1))
def test_the_students_share_is_a_probability(
    start: float, end: float, fraction: float, rounds: int, way: float
) -> None:
    behaviour = BehaviourConfig(
        policy="mixture", student_share_start=start, student_share_end=end, student_share_change_fraction=fraction
    )
    share = behaviour.student_share(min(int(way * rounds), rounds - 1), rounds)
    assert min(start, end) * (1 - 1e-12) <= share <= max(start, end) * (1 + 1e-12)
    assert 0 <= share <= 1


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


def test_what_dqn_cannot_do_is_refused() -> None:
    def refused(**changes: Any) -> str:
        return conflict(TrainTeacherConfig(game="pong", out="x", algorithm="dqn", dqn=DQNConfig(**changes)))

    assert list(TrainTeacherConfig(game="pong", out="x", algorithm="dqn").conflicts()) == []
    assert refused(steps_per_update=3) == (
        "dqn.steps_per_update: 3 does not divide a rollout of 256 steps (dqn.num_lanes 32 x dqn.rollout_length 8)"
    )
    assert refused(replay_capacity=255, learning_starts=1) == (
        "dqn.replay_capacity: 255 leaves 7 steps to each of 32 lanes; it takes 8"
    )
    assert refused(replay_capacity=10_001, learning_starts=10_000) == (
        "dqn.learning_starts: 10000 is more than the replay holds (9984)"
    )
    assert refused(epsilon_start=0.05) == "dqn.epsilon_end: 0.1 is more than dqn.epsilon_start (0.05)"
    # The settings of the algorithm that is not in use do not matter.
    assert list(TrainTeacherConfig(game="pong", out="x", dqn=DQNConfig(steps_per_update=3)).conflicts()) == []


def test_layer_norm_is_the_algorithms_own_unless_given() -> None:
    for algorithm, layer_norm, uses in (
        ("pqn", None, True),
        ("pqn", False, False),
        ("dqn", None, False),
        ("dqn", True, True),
    ):
        config = TrainTeacherConfig(game="pong", out="x", algorithm=algorithm, layer_norm=layer_norm)  # type: ignore[arg-type]
        assert config.uses_layer_norm is uses


def test_the_numbers_of_the_dqn_paper_are_its_defaults() -> None:
    # Mnih et al. (2015), extended data table 1; its 0.01 is for sums over 32 samples.
    config = DQNConfig()
    assert (config.batch_size, config.replay_capacity, config.target_every) == (32, 1_000_000, 10_000)
    assert (config.gamma, config.steps_per_update, config.learning_starts) == (0.99, 4, 50_000)
    assert (config.learning_rate, config.rmsprop_decay, config.optimizer) == (2.5e-4, 0.95, "rmsprop")
    assert config.rmsprop_epsilon * 32**2 == pytest.approx(0.01)
    assert (config.epsilon_start, config.epsilon_end) == (1.0, 0.1)
    assert config.epsilon_decay_fraction * config.total_steps == pytest.approx(1_000_000)


def test_the_numbers_of_pqns_authors_are_its_defaults_and_those_of_the_ten_games() -> None:
    for game in PAPER_GAMES:
        config = read_config(TrainTeacherConfig, ROOT / "configs" / "train" / "atari" / f"{game}.yaml")
        pqn = config.pqn
        assert (config.game, config.algorithm, config.network, config.uses_layer_norm) == ((game,), "pqn", "dqn", True)
        assert (pqn.num_lanes, pqn.rollout_length, pqn.epochs, pqn.minibatches) == (128, 32, 2, 32)
        assert (pqn.td_lambda, pqn.learning_rate, pqn.learning_rate_decay) == (0.65, 2.5e-4, True)
        assert (pqn.epsilon_start, pqn.epsilon_end, pqn.epsilon_decay_fraction) == (1.0, 0.001, 0.1)
        assert 10_000_000 <= pqn.total_steps <= 50_000_000


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
    for path in (ROOT / "pd_jax" / "config").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ClassDef) or not node.name.endswith(("Config", "Settings")):
                continue
            for statement, after in zip(node.body, [*node.body[1:], None], strict=True):
                if isinstance(statement, ast.AnnAssign) and not ast.unparse(statement.annotation).endswith("Config"):
                    assert isinstance(after, ast.Expr), (node.name, ast.unparse(statement))


def test_settings_are_checked_without_importing_jax_or_envpool() -> None:
    script = (
        "import sys; from pd_jax.config.distill import DistillConfig; from pd_jax.config.loading import load_config; "
        "load_config(DistillConfig, ['--teacher', 'x', '--out', 'y', '--game', 'pong'], 'distill'); "
        "print([name for name in ('jax', 'envpool', 'flax') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_settings_import_one_another_in_one_direction_under_type_checking_too() -> None:
    directory, name = ROOT / "pd_jax" / "config", "pd_jax.config."
    imported: dict[str, set[str]] = {}
    for path in directory.glob("*.py"):
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        assert not any(node.module == "pd_jax.config" for node in nodes), path
        imported[path.stem] = {node.module.removeprefix(name) for node in nodes if (node.module or "").startswith(name)}
    graphlib.TopologicalSorter(imported).prepare()
    assert imported["sweep"] >= {"distill", "distillation"} and not imported["fields"]
