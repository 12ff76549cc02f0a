"""What a run takes: part by part against what is allocated, the line that says so, and what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from pd_jax.actors.live import LivePlay
from pd_jax.cli import main
from pd_jax.config.algorithms import DQNConfig, PQNConfig
from pd_jax.config.collect import CollectConfig
from pd_jax.config.distill import DistillConfig
from pd_jax.config.online import OnlineConfig
from pd_jax.config.sections import (
    ActorsConfig,
    EnvConfig,
    EvaluationConfig,
    OneGameEnvConfig,
    PartsConfig,
    ReplayConfig,
    StudentConfig,
)
from pd_jax.config.train_teacher import TrainTeacherConfig
from pd_jax.distill.counters import DistillCounters
from pd_jax.distill.experience import Experience
from pd_jax.distill.memory import distillation_parts, rollouts_ahead
from pd_jax.distill.setup import make_setup
from pd_jax.environments.envpool import Environment
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.learner.learner import Learner
from pd_jax.learner.objective import make_loss
from pd_jax.networks.registry import make_network
from pd_jax.networks.student import Student
from pd_jax.online.setup import make_online_setup
from pd_jax.replay import rings
from pd_jax.resources import memory
from pd_jax.resources.memory import MemoryEstimate, Part
from pd_jax.resources.parts import collection_memory, evaluation_memory, rollout_part
from pd_jax.system.devices import DeviceGroup
from pd_jax.teachers import load
from pd_jax.trainers.setup import make_training_setup
from support.commands import QUICK_EVALUATION, options, write_teacher
from support.platforms import GroupOfTpus

GIB = 2**30


def two_games(**changes: Any) -> DistillConfig:
    student = StudentConfig(network="mlp", mlp_hidden=(256, 256))
    return DistillConfig(
        **{"teacher": ("cartpole", "acrobot"), "out": "-", "student": student, "replay": ReplayConfig(capacity=4096)}
        | changes
    )


def allocated(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree) if hasattr(leaf, "nbytes"))


@pytest.mark.parametrize("game", ["pong", "acrobot"])
def test_the_replay_takes_what_the_replay_allocates(game: str, tmp_path: Path) -> None:
    task = get_task(game)
    student = StudentConfig(network="net3" if task.kind == "atari" else "mlp")
    teacher = str(write_teacher(tmp_path / "teacher.safetensors", game))
    config = DistillConfig(
        teacher=teacher,
        out="-",
        student=student,
        replay=ReplayConfig(capacity=1034),
        env=dataclasses.replace(DistillConfig(teacher="x", out="-").env, num_lanes=4),
    )
    state = rings.init(4, 258, task.frame_shape, task.observation_dtype, task.num_actions)
    assert make_setup(config).memory.bytes_of("replay") == allocated(state)


def test_replays_student_and_teachers_take_what_a_run_allocates() -> None:
    setup = make_setup(two_games())
    experience = Experience(setup, DistillCounters.begin(setup).games, None, None)  # type: ignore[arg-type]
    assert setup.memory.bytes_of("replay") == allocated(experience.replay.stored)
    loss = make_loss(setup.config.loss, setup.student, setup.gives_logits)
    learner = Learner(setup.student, loss, setup.config.learner, setup.devices, total_updates=1)
    state = jax.tree.map(np.asarray, dataclasses.replace(learner.init_single(jax.random.key(0)), key=np.zeros(2, "u4")))
    # With its gradients, and the changes that they make.
    assert setup.memory.bytes_of("student") == allocated(state) + 2 * allocated(state.variables)
    assert setup.memory.bytes_of("checkpoint") == 2 * allocated(state)
    assert setup.memory.bytes_of("teachers") == sum(allocated(teacher.variables) for teacher in setup.teachers)
    assert setup.memory.total == sum(part.num_bytes for part in setup.memory.parts)


def test_updates_take_what_they_take_on_the_devices_that_make_them(tmp_path: Path) -> None:
    """Those of TPUs take a minibatch whole, through XLA's own convolutions."""
    config = DistillConfig(
        teacher=str(write_teacher(tmp_path / "teacher.safetensors", "pong")),
        out="-",
        student=StudentConfig(network="net3"),
        env=dataclasses.replace(DistillConfig(teacher="x", out="-").env, num_lanes=1),
        learner=dataclasses.replace(DistillConfig(teacher="x", out="-").learner, batch_size=256),
        parts=PartsConfig(gradient=64),
    )
    setup = make_setup(config)
    policies = [(teacher.network.apply, teacher.variables) for teacher in setup.teachers]
    native = Student(make_network("net3", setup.student.num_actions, convolution="native"), setup.student.tasks)

    def activations(student: Student, devices: DeviceGroup) -> int:
        parts = distillation_parts(setup.config, student, policies, devices)
        return sum(part.num_bytes for part in parts if part.name == "activations")

    on_tpu = activations(setup.student, GroupOfTpus(setup.devices.devices))
    assert on_tpu == activations(native, setup.devices) > 1.5 * setup.memory.bytes_of("activations")


def test_adam_has_a_moment_more_than_rmsprop() -> None:
    learner = DistillConfig(teacher="x", out="-").learner
    rmsprop = make_setup(two_games(learner=dataclasses.replace(learner, optimizer="rmsprop")))
    adam = make_setup(two_games(learner=dataclasses.replace(learner, optimizer="adam")))
    parameters = allocated(rmsprop.student.init(jax.random.key(0)))
    more = adam.memory.bytes_of("student") - rmsprop.memory.bytes_of("student")
    assert more == pytest.approx(parameters, abs=64)


def test_a_rollout_takes_four_of_what_is_played() -> None:
    task, lanes, length = get_task("cartpole"), 8, 16
    env = OneGameEnvConfig(num_lanes=lanes)
    play = LivePlay(load("cartpole"), task, env, rollout_length=length, epsilon=0.05, seed=0)
    (trajectory,) = play.rollouts(1)
    play.close()
    environment = Environment(task, lanes, 0)
    _, timestep = environment.reset()
    environment.close()
    part = rollout_part("env.num_lanes", [(task, lanes)], length)
    assert part.num_bytes == 4 * allocated(trajectory) + 2 * timestep.observations.nbytes


def test_play_that_is_ahead_takes_a_round_or_what_there_is_room_for() -> None:
    # CartPole: 4 floats, 2 flags, action, reward and 2 outputs are 34 bytes a step.
    config = two_games(teacher="cartpole", game="cartpole", env=EnvConfig(num_lanes=1000))
    schedule = dataclasses.replace(config.schedule, rollout_length=10, steps_per_round=100_000)
    config = dataclasses.replace(
        config, schedule=schedule, replay=ReplayConfig(capacity=200_000), actors=ActorsConfig(overlap=True, queue_mib=2)
    )
    task, (part,) = get_task("cartpole"), [p for p in make_setup(config).memory.parts if p.name == "play ahead"]
    # Ten rollouts of 340,000 bytes in a round; 2 MiB hold six of them.
    assert (rollouts_ahead(config, task, 0), part.num_bytes) == (6, 6 * 340_000)
    roomy = dataclasses.replace(config, actors=ActorsConfig(overlap=True, queue_mib=4))
    assert rollouts_ahead(roomy, task, 0) == 10
    by_turns = dataclasses.replace(config, actors=ActorsConfig(overlap=False))
    assert make_setup(by_turns).memory.bytes_of("play ahead") == 0


def test_students_that_train_together_take_as_much_as_each_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    alone = _sweep_memory(tmp_path / "alone", together=False, seeds=[0, 1, 2])
    together = _sweep_memory(tmp_path / "together", together=True, seeds=[0, 1, 2])
    for name in ("student", "checkpoint"):
        assert together.bytes_of(name) == 3 * alone.bytes_of(name) > 0
    assert together.bytes_of("replay") == alone.bytes_of("replay")
    # What one student takes is less than there is, and what three take is more.
    between = (alone.total + together.total) // 2
    monkeypatch.setattr(memory, "host_memory_bytes", lambda: between)
    _sweep_memory(tmp_path / "alone", together=False, seeds=[0, 1, 2])
    with pytest.raises(UserError, match=r"^student.network: \w+ .*4,016,002 parameters, 3 times, takes "):
        _sweep_memory(tmp_path / "together", together=True, seeds=[0, 1, 2])


def _sweep_memory(out: Path, *, together: bool, seeds: Sequence[int]) -> MemoryEstimate:
    from pd_jax.config.sweep import GridConfig, SweepConfig
    from pd_jax.sweep.setup import make_plan

    student = StudentConfig(network="mlp", mlp_hidden=(2000, 2000))
    grid = GridConfig(seeds=tuple(seeds))
    config = SweepConfig(
        teacher="cartpole",
        out=str(out),
        record=32768,
        together=together,
        student=student,
        grid=grid,
        replay=ReplayConfig(capacity=32768),
    )
    return make_plan(config).memory


@pytest.mark.parametrize("games", [("cartpole",), ("cartpole", "acrobot")])
@pytest.mark.parametrize("algorithm", ["pqn", "dqn"])
def test_training_a_teacher_takes_what_it_allocates(algorithm: Any, games: tuple[str, ...]) -> None:
    dqn = DQNConfig(num_lanes=4, replay_capacity=4096, learning_starts=100)
    pqn = PQNConfig(num_lanes=16, rollout_length=32)
    config = TrainTeacherConfig(game=games, out="-", algorithm=algorithm, network="mlp", pqn=pqn, dqn=dqn)
    setup = make_training_setup(config)
    estimate, tasks = setup.memory(), setup.tasks
    environments = tuple(Environment(task, config.learning.num_lanes, 0) for task in tasks)
    state = setup.init()
    state_bytes = allocated(jax.tree.map(np.asarray, dataclasses.replace(state, key=np.zeros(2, "u4"))))
    assert estimate.bytes_of("learner") == state_bytes + 2 * allocated(state.variables)
    assert estimate.bytes_of("checkpoint") == 2 * state_bytes
    play = setup.start(environments, 0)
    if algorithm == "dqn":
        stored = [own.stored for own in play] if len(games) > 1 else [play.stored]
        assert estimate.bytes_of("replay") == sum(map(allocated, stored))
    else:
        # Twice 16 x 32 whole observations, an action, two flags and three numbers.
        observed = sum(task.observation_shape[0] * 4 + 4 + 2 + 12 for task in tasks)
        assert estimate.bytes_of("rollout") == 2 * 16 * 32 * observed
    for environment in environments:
        environment.close()


def test_an_online_run_takes_both_sides() -> None:
    pqn = PQNConfig(num_lanes=16, rollout_length=32, minibatches=4)
    student = StudentConfig(network="mlp", mlp_hidden=(16, 16))
    setup = make_online_setup(OnlineConfig(out="-", game="cartpole", pqn=pqn, student=student))
    estimate = setup.student_setup.memory
    teacher = setup.init_teacher()
    assert estimate.bytes_of("target") == 2 * allocated(teacher.variables)
    assert estimate.bytes_of("learner") > 4 * allocated(teacher.variables)
    assert estimate.bytes_of("student") > 0
    assert estimate.bytes_of("checkpoint") > 2 * 4 * allocated(teacher.variables)
    assert estimate.bytes_of("replay") == 540_000 // 32 * 32 * (4 * 4 + 2 * 4 + 1) + 8
    # The rollouts of both, at least: 16 x 32 stacks twice, and 32 x 32 steps four times.
    assert estimate.bytes_of("rollout") > 2 * 16 * 32 * 16 + 4 * 32 * 32 * 16
    assert [part.name for part in estimate.parts].count("activations") == 1


def test_recording_and_scoring_take_little() -> None:
    teacher, task = load("cartpole"), get_task("cartpole")
    policy = (teacher.network.apply, teacher.variables)
    config = CollectConfig(teacher="cartpole", out="-", env=OneGameEnvConfig(num_lanes=8))
    for estimate, name in (
        (collection_memory(config, task, policy), "teacher"),
        (evaluation_memory(EvaluationConfig(), [policy], [task]), "networks"),
    ):
        assert estimate.bytes_of(name) == allocated(teacher.variables)
        assert estimate.bytes_of("activations") > 0
        assert estimate.total < GIB
        estimate.check()


def estimate_of(**sizes: float) -> MemoryEstimate:
    on_host = ("programs", "checkpoint")
    parts = tuple(Part(name, int(size), f"{name}.key: it takes", name in on_host) for name, size in sizes.items())
    return MemoryEstimate(parts, DeviceGroup.local(1))


def test_the_line_has_the_largest_parts_first_and_one_for_what_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "host_memory_bytes", lambda: 24 * GIB)
    estimate = estimate_of(student=0.1 * GIB, replay=3.8 * GIB, rollout=0.06 * GIB, a=0.03 * GIB, b=0.01 * GIB)
    assert estimate.describe() == "memory: 4.0 of 24.0 GiB (replay 3.8, student 0.1, rollout 0.1, others 0.0)"
    small = estimate_of(replay=300 * 2**20, student=10 * 2**20, rollout=1)
    assert small.describe() == "memory: 310 MiB of 24.0 GiB (replay 300, student 10, others 0)"
    assert estimate_of(replay=2 * GIB).describe() == "memory: 2.0 of 24.0 GiB (replay 2.0)"


def test_parts_of_one_name_are_one() -> None:
    parts = Part("replay", 2**20, "a: takes"), Part("replay", 3 * 2**20, "b: take")
    text = MemoryEstimate(parts, DeviceGroup.local(1)).describe()
    assert text.endswith("GiB (replay 4)")


def test_accelerators_and_their_host_are_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    class Accelerator:
        platform = "gpu"

        def memory_stats(self) -> dict[str, int]:
            return {"bytes_limit": 80 * GIB}

    monkeypatch.setattr(memory, "host_memory_bytes", lambda: 100 * GIB)
    devices = DeviceGroup((Accelerator(), Accelerator()))  # type: ignore[arg-type]
    parts = estimate_of(replay=120 * GIB, programs=2 * GIB, checkpoint=GIB).parts
    estimate = MemoryEstimate(parts, devices)
    assert estimate.describe() == (
        "memory: 120.0 of 160.0 GiB on 2 gpu (replay 120.0), "
        "3.0 of 100.0 GiB on the host (programs 2.0, checkpoint 1.0)"
    )
    assert estimate.share == 0.75
    estimate.check()
    monkeypatch.setattr(memory, "host_memory_bytes", lambda: 2 * GIB)
    with pytest.raises(UserError, match=r"^programs.key: it takes 2.0 GiB; .* and there are 2.0 GiB \(the host\)$"):
        estimate.check()
    monkeypatch.setattr(Accelerator, "memory_stats", lambda self: None)
    monkeypatch.setattr(memory, "host_memory_bytes", lambda: 100 * GIB)
    assert MemoryEstimate(parts, devices).describe().startswith("memory: 120.0 GiB on 2 gpu (replay 120.0), 3.0 of ")
    MemoryEstimate(parts, devices).check()


def test_a_container_may_have_less_than_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, unlimited, absent = (tmp_path / name for name in ("limit", "unlimited", "absent"))
    limit.write_text("123456\n")
    unlimited.write_text("max\n")
    monkeypatch.setattr(memory, "_CGROUP_LIMITS", (str(absent), str(unlimited)))
    physical = memory.host_memory_bytes()
    assert physical > 2**28
    monkeypatch.setattr(memory, "_CGROUP_LIMITS", (str(absent), str(unlimited), str(limit)))
    assert memory.host_memory_bytes() == 123456


def test_the_sum_of_all_parts_has_to_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "host_memory_bytes", lambda: 4 * GIB)
    estimate_of(replay=2 * GIB, student=2 * GIB).check()
    with pytest.raises(UserError) as refused:
        estimate_of(student=1.9 * GIB, replay=2.2 * GIB).check()
    assert str(refused.value) == (
        "replay.key: it takes 2.2 GiB; in all the run takes 4.1 GiB (replay 2.2, student 1.9), "
        "and there are 4.0 GiB (1 cpu)"
    )


def test_only_the_first_process_tells(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    estimate = estimate_of(replay=GIB)
    estimate.tell()
    out, err = capfd.readouterr()
    assert (out, err) == ("", estimate.describe() + "\n")
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    estimate.tell()
    assert capfd.readouterr().err == ""


def test_a_run_says_what_it_takes_before_it_starts(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    short = {"teacher": "cartpole", "student.network": "mlp", "schedule.rounds": 1, "schedule.steps-per-round": 256}
    short |= {"schedule.updates-per-round": 10, "schedule.rollout-length": 8, "out": tmp_path / "run"}
    assert main(["distill", *options(short | QUICK_EVALUATION)]) == 0
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("memory: ")]
    (line,) = lines
    assert line.startswith("memory: 4") and " MiB of " in line and "(programs 400, replay 13" in line
    assert main(["evaluate", *options({"teacher": "cartpole"} | QUICK_EVALUATION)]) == 0
    assert capfd.readouterr().err.count("memory: ") == 1


def test_a_student_that_no_memory_holds_is_refused_before_it_is_made() -> None:
    student = StudentConfig(network="mlp", mlp_hidden=(65_536, 65_536, 65_536))
    # 5 x 65,536 + 2 x 65,537 x 65,536 + 65,537 x 2 parameters.
    with pytest.raises(UserError, match=r"^student.network: .* 8,590,524,418 parameters takes 128\.0 GiB; in all "):
        make_setup(DistillConfig(teacher="cartpole", out="-", student=student))


def test_all_replays_together_have_to_fit() -> None:
    # Float32 [4] and 2 outputs, float32 [6] and 3 outputs, and a byte of flags each: 25 + 37 bytes a step.
    capacity = 2_000_000_000
    message = f"replay.capacity: {capacity} steps of each of 2 games take {capacity * 62 / 2**30:,.1f} GiB; in all the "
    with pytest.raises(UserError, match=f"^{message}"):
        make_setup(two_games(replay=ReplayConfig(capacity=capacity)))


def test_a_batch_that_no_memory_holds_is_refused() -> None:
    # A prime number, of which no equal parts can be taken one after another.
    learner = dataclasses.replace(DistillConfig(teacher="x", out="-").learner, batch_size=1_000_003)
    with pytest.raises(UserError, match=r"^learner.batch_size: 1000003 samples take "):
        make_setup(DistillConfig(teacher="pong", out="-", learner=learner, replay=ReplayConfig(capacity=1_024_000)))
