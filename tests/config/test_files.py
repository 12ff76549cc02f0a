"""The files in configs/: each is parsed, resolved and said to fit; the quick ones run, for a few updates."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import jax
import pytest

from pd_jax.cli import main
from pd_jax.config.audit import AuditConfig
from pd_jax.config.base import CommandConfig
from pd_jax.config.collect import CollectConfig
from pd_jax.config.commands import COMMANDS
from pd_jax.config.distill import DistillConfig
from pd_jax.config.evaluate import EvaluateConfig
from pd_jax.config.export import ExportConfig
from pd_jax.config.loading import load_config
from pd_jax.config.online import OnlineConfig
from pd_jax.config.report import ReportConfig
from pd_jax.config.sections import StudentConfig
from pd_jax.config.sweep import SweepConfig
from pd_jax.config.train_teacher import TrainTeacherConfig
from pd_jax.distill.setup import make_setup
from pd_jax.environments.tasks import PAPER_GAMES
from pd_jax.online.setup import make_online_setup
from pd_jax.resources import memory
from pd_jax.resources.memory import MemoryEstimate
from pd_jax.resources.parts import collection_memory, evaluation_memory
from pd_jax.sweep.setup import make_plan
from pd_jax.teachers import bundled_names, load
from pd_jax.trainers.setup import make_training_setup
from support.commands import options, succeed, write_teacher
from support.made_runs import write_student_run

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml"))
QUICK = [name for name in FILES if name.startswith("quick/")]
GIB = 2**30

EVALUATION = {"evaluation.episodes": 2, "evaluation.num-lanes": 2, "evaluation.max-episode-steps": 8}
STUDENT = {
    "env.num-lanes": 2,
    "learner.batch-size": 2,
    "learner.updates-per-call": 3,
    "replay.capacity": 64,
    "schedule.rounds": 1,
    "schedule.steps-per-round": 16,
    "schedule.updates-per-round": 3,
    "schedule.rollout-length": 8,
    "checkpoint.every-updates": 3,
}
TINY: dict[str, dict[str, Any]] = {
    "distill": STUDENT | EVALUATION,
    "sweep": STUDENT | EVALUATION | {"record": 16, "grid.seeds": 0},
    "online": STUDENT
    | EVALUATION
    | {
        "evaluation.progress-episodes": 2,
        "pqn.total-steps": 32,
        "pqn.num-lanes": 4,
        "pqn.rollout-length": 8,
        "pqn.minibatches": 4,
    },
    "train-teacher": EVALUATION
    | {
        "evaluation.progress-episodes": 2,
        "dqn.total-steps": 96,
        "dqn.num-lanes": 2,
        "dqn.rollout-length": 8,
        "dqn.batch-size": 2,
        "dqn.replay-capacity": 64,
        "dqn.learning-starts": 16,
    },
}
"""What makes the run of each command as short as it gets, with the file's own games, networks and losses."""
OWN: dict[str, dict[str, Any]] = {
    "quick/cartpole_acrobot.yaml": {"env.lanes": [2, 2], "env.num-lanes": None},
    "quick/cartpole_acrobot_lunarlander.yaml": {"env.lanes": [2, 2, 2], "env.num-lanes": None},
    "quick/memory_cartpole.yaml": {"learner.sequence-length": 2, "learner.burn-in": 1},
    "quick/sweep_cartpole.yaml": {"grid.temperatures": 0.1},
    # Other files run the other networks.
    "quick/compression.yaml": {"grid.networks": "net1"},
    "quick/reinforce_pong.yaml": {
        "pqn.total-steps": 32,
        "pqn.num-lanes": 4,
        "pqn.rollout-length": 8,
        "pqn.minibatches": 4,
    }
    | dict.fromkeys(key for key in TINY["train-teacher"] if key.startswith("dqn.")),
    "quick/ppo_pendulum.yaml": {
        "ppo.total-steps": 64,
        "ppo.num-lanes": 4,
        "ppo.rollout-length": 8,
        "ppo.minibatches": 2,
    }
    | dict.fromkeys(key for key in TINY["train-teacher"] if key.startswith("dqn.")),
    # A teacher of files has nothing to learn; None leaves an option out.
    "quick/online_snapshots.yaml": {"schedule.rounds": 5}
    | dict.fromkeys(("pqn.total-steps", "pqn.num-lanes", "pqn.rollout-length", "pqn.minibatches")),
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands are given: with an untrained teacher in the place of each that a file has to be made for, and
    a short recording in that of another."""
    path = tmp_path_factory.mktemp("configs")
    for game in set(PAPER_GAMES) - set(bundled_names()):
        write_teacher(path / "runs" / f"train-{game}" / "teacher.safetensors", game)
    # The student that `quick/pong_int8.yaml` goes on from.
    write_teacher(path / "runs" / "pong" / "teacher.safetensors", "pong", network="net2")
    # The weak teacher of `quick/reinforce_pong.yaml`, and its student.
    write_teacher(path / "runs" / "weak" / "teacher.safetensors", "pong")
    write_teacher(path / "runs" / "weak-student" / "teacher.safetensors", "pong", network="net1", output="logits")
    # One of the teachers of `quick/committee_cartpole.yaml`.
    write_teacher(path / "runs" / "cartpole" / "teacher.safetensors", "cartpole", output="logits")
    # The student that `quick/cartpole_acrobot_lunarlander.yaml` adds a game to.
    mlp = StudentConfig(network="mlp", mlp_hidden=(64, 64), head_hidden=32)
    write_student_run(path / "runs" / "cartpole-acrobot", ("cartpole", "acrobot"), mlp)
    for steps in (200_704, 401_408, 600_064, 800_768, 1_001_472):
        file = path / "runs" / "snapshots-pong" / "snapshots" / f"{steps:012d}.safetensors"
        write_teacher(file, "pong", name=f"pong-{steps}", env_steps=steps)
    play = {"teacher": "pong", "steps": 256, "env.num-lanes": 2, "rollout-length": 64}
    succeed("collect", play | {"out": path / "recordings" / "pong"})
    return path


def command_of(name: str) -> tuple[str, list[str]]:
    """The command and the arguments in a file's first line."""
    first_line = (CONFIGS / name).read_text().splitlines()[0]
    program, command, *argv = shlex.split(first_line.removeprefix("# "))
    assert (program, argv[:2]) == ("pd-jax", ["--config", f"configs/{name}"])
    return command, ["--config", str(CONFIGS / name), *argv[2:]]


def memory_of(config: CommandConfig) -> MemoryEstimate:
    """What a command takes, found out as the command finds it out."""
    match config:
        case SweepConfig():
            return make_plan(config).memory
        case DistillConfig():
            return make_setup(config).memory
        case OnlineConfig():
            return make_online_setup(config).student_setup.memory
        case TrainTeacherConfig():
            return make_training_setup(config).memory()
        case CollectConfig():
            teacher = load(config.teacher, config.game)
            return collection_memory(config, teacher.task, (teacher.network.apply, teacher.variables))
        case EvaluateConfig() | ExportConfig() | AuditConfig():
            teacher = load("pong")
            return evaluation_memory(config.evaluation, [(teacher.network.apply, teacher.variables)], [teacher.task])
        case _:
            raise AssertionError(config)


LONGER = ("quick/memory_of_pong.yaml", "quick/pong_int8.yaml", "paper/compression.yaml")
"""Whose networks take seconds to compile; others of the kind do not."""


# A plan compiles for devices, and takes nothing of this machine's. A monitor holds no replay and no gradients, nor does
# what is pushed. A video is of a run that is there. What renews distils and exports, each of which looks for itself.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in LONGER))
        for name in FILES
        if not name.startswith(("plan/", "monitor", "push", "renew", "video"))
    ],
)
def test_every_file_is_resolved_and_its_memory_estimated_without_taking_it(
    name: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(directory)
    # Those at the paper's scale are for larger machines than this one may be.
    monkeypatch.setattr(memory, "host_memory_bytes", lambda: 2**50)
    usage = shutil.disk_usage(directory)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**50))
    command, argv = command_of(name)
    config = load_config(COMMANDS[command], argv, command)
    assert list(config.conflicts()) == []
    if isinstance(config, ReportConfig):
        return
    estimate = memory_of(config)
    assert all(leaf.nbytes < 100e6 for leaf in jax.live_arrays())
    estimate.check()
    assert 0.3 * GIB < estimate.total < (4 * GIB if name in QUICK else 60 * GIB), estimate.describe()
    shows_vectors = any(part in name for part in ("cartpole", "half_cheetah", "memory_of_pong"))
    if isinstance(config, DistillConfig | SweepConfig) and not shows_vectors:
        games = 1 if isinstance(config, SweepConfig) else config.num_games
        # A recording that is shuffled fills whole blocks of the capacity.
        assert 0.99 < estimate.bytes_of("replay") / (config.replay.capacity * 84 * 84 * games) < 1.05


# Three games are a dozen programs to compile, ten are forty; quicker files and other tests run the same commands and
# networks.
SLOW = tuple(
    f"quick/{name}.yaml"
    for name in (
        *(
            "all_losses",
            "cartpole_acrobot",
            "committee_cartpole",
            "compression",
            "dagger_net3",
            "game_weights",
            "losses",
            "multi3",
            "multi10",
        ),
        *("multi_dqn", "multi_dqn_vector", "online_cartpole", "online_pong", "online_snapshots", "pong_int8"),
        *("same_play_net3", "reinforce_pong", "ppo_pendulum", "half_cheetah", "cartpole_swingup"),
        *("cartpole_acrobot_lunarlander", "memory_cartpole", "memory_of_pong", "sensors_cartpole"),
        *("last_actions_cartpole", "mixed_pong_cartpole"),
    )
)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in QUICK])
def test_the_quick_ones_run(
    name: str, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(directory)
    command, argv = command_of(name)
    tiny = TINY[command] | OWN.get(name, {}) | {"out": tmp_path / "run"}
    tiny = {key: value for key, value in tiny.items() if value is not None}
    assert main([command, *argv, *options(tiny)]) == 0, capfd.readouterr().err
    assert sum(line.startswith("memory: ") for line in capfd.readouterr().err.splitlines()) == 1
    if command == "sweep":
        cells = json.loads((tmp_path / "run" / "table.json").read_text())["cells"]
        assert all(cell["updates"] == 3 for cell in cells)
        return
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["updates"] >= 1


def test_the_quick_students_of_three_games_see_equally_many_steps() -> None:
    distilled = load_config(DistillConfig, command_of("quick/multi3.yaml")[1], "distill")
    joint = load_config(TrainTeacherConfig, command_of("quick/multi_dqn.yaml")[1], "train-teacher")
    games, schedule = len(distilled.teacher), distilled.schedule
    assert distilled.teacher == joint.game
    assert distilled.student.network == joint.network
    steps = schedule.rounds * distilled.rollouts_per_round() * distilled.steps_per_rollout()
    assert (games, steps, games * steps) == (3, 102_400, joint.dqn.total_steps)


@pytest.mark.parametrize(("name", "games"), [("multi3", 3), ("multi10", 10)])
def test_the_papers_numbers_are_in_the_files_of_its_students_of_several_games(name: str, games: int) -> None:
    config = load_config(DistillConfig, command_of(f"paper/{name}.yaml")[1], "distill")
    assert (len(config.teacher), config.student.network) == (games, name)
    assert (config.replay.capacity, config.schedule.steps_per_round) == (540_000, 54_000)
    assert (config.schedule.updates_per_round, config.learner.optimizer) == (10_000, "rmsprop")
    assert (config.epsilon, config.evaluation.epsilon, config.env.max_noops) == (0.05, 0.05, 30)
    assert (config.loss.kind, config.loss.temperature) == ("kl", (0.01,))
    if games == 10:
        assert config.game == PAPER_GAMES
