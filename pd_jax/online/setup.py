"""What an online run needs, loaded and checked against one another before anything is written or allocated."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pd_jax.config.distill import check_devices
from pd_jax.config.games import check_network
from pd_jax.config.loading import to_mapping
from pd_jax.config.online import OnlineConfig
from pd_jax.distill.setup import (
    DistillSetup,
    check_resumed,
    check_sequences_fit,
    check_stacks_fit,
    start_of,
    warn_of_slow_dtype,
)
from pd_jax.environments.ale import check_backend
from pd_jax.environments.tasks import Task, get_task
from pd_jax.errors import UserError
from pd_jax.networks.partition import part_sizes, with_sizes
from pd_jax.networks.student import make_student
from pd_jax.online.memory import online_memory
from pd_jax.online.snapshots import Snapshots, SnapshotWriter, read_snapshots
from pd_jax.online.state import OnlineCounters, state_template
from pd_jax.runs.checkpoints import Checkpointer
from pd_jax.runs.directory import RunDirectory
from pd_jax.runs.parts import settle
from pd_jax.runs.students import load_teacher
from pd_jax.runs.trackers import check_trackers
from pd_jax.system.devices import DeviceGroup
from pd_jax.teachers import Teacher
from pd_jax.teachers.metadata import TeacherMetadata
from pd_jax.teachers.tasks import check_is_one, check_named_protocol, check_protocol, task_of
from pd_jax.trainers.learning_teacher import init_state, make_teacher_network
from pd_jax.trainers.pqn import PQNState, warm_start
from pd_jax.trainers.teacher_writer import TeacherWriter

_MAY_CHANGE = frozenset(
    {"schedule.rounds", "evaluation", "learner.num_devices", "pqn.total_steps", "pqn.learning_rate", "pqn.epsilon_end"}
    # Where they lie; what they hold is compared, or does not matter any more.
    | {"teacher_snapshots", "init_from"}
)
"""What a resumed run may set anew: how long it goes on, how it is scored, how fast the teacher learns."""


@dataclasses.dataclass(frozen=True)
class OnlineSetup:
    """What a run needs.

    Attributes:
      config: with the game, the teacher's network and the sizes of parts filled in.
      student_setup: as for a distillation; its one teacher is the target, but for the variables, which change.
      start_from: the variables that the teacher begins with; None are fresh ones.
      writer: of the target's file.
      snapshots: that are the teacher; None has one learn.
    """

    config: OnlineConfig
    student_setup: DistillSetup
    start_from: Any | None
    writer: TeacherWriter | SnapshotWriter
    snapshots: Snapshots | None = None

    @property
    def task(self) -> Task:
        """The game."""
        return self.student_setup.tasks[0]

    @property
    def target(self) -> Teacher:
        """Who plays for the student."""
        return self.student_setup.teachers[0]

    @property
    def network(self) -> Any:
        """The learning teacher's, and the target's."""
        return self.target.network

    @property
    def label(self) -> str:
        """What checkpoints call the two networks."""
        if self.snapshots is not None:
            return f"{self.student_setup.network} beside snapshots of {self.target.metadata.network}"
        return f"{self.student_setup.network} beside {self.config.teacher_network}"

    def init_teacher(self) -> PQNState:
        """The learning teacher at its beginning, where there is one."""
        state = init_state(self.network, self.task, self.config.pqn, self.config.seed)
        return state if self.start_from is None else warm_start(state, self.start_from)


def make_online_setup(config: OnlineConfig) -> OnlineSetup:
    """Loads and checks everything a run refers to.

    Raises:
      UserError: the teacher, the game, the networks or the devices do not fit together.
    """
    for key, problem in config.conflicts():
        raise UserError(f"{key}: {problem}")
    check_trackers(config.track)
    if config.teacher_snapshots is not None:
        return _setup_of_snapshots(config, config.teacher_snapshots)
    teacher = load_teacher(config.only_teacher, config.only_game) if config.only_teacher is not None else None
    if teacher is None:
        assert config.only_game is not None  # There is a game or a teacher.
        task = get_task(config.only_game)
    else:
        check_is_one(teacher, "teacher")
        task = task_of(config.only_game, teacher)
        check_protocol(teacher, config)
        _check_learns_on(teacher)
    check_backend(config.env.backend, task)
    config = _resolved(config, task, teacher)
    config = dataclasses.replace(config, parts=settle(config.parts, config.out, resume=config.resume))
    assert config.teacher_network is not None
    check_network(config.teacher_network, task, "teacher_network")
    writer = TeacherWriter(config.training(task.name), task, Path(config.out), "online")
    metadata = writer.metadata(None, env_steps=0, curve=[])
    student_setup = _student_setup(config, task, metadata, make_teacher_network(config, task))
    return OnlineSetup(config, student_setup, None if teacher is None else teacher.variables, writer)


def _setup_of_snapshots(config: OnlineConfig, sources: Sequence[str]) -> OnlineSetup:
    """The same where the teacher is a series of files."""
    snapshots = read_snapshots(sources, config.only_game)
    task = snapshots.first.task
    check_backend(config.env.backend, task)
    for source, metadata in zip(snapshots.sources, snapshots.metadata, strict=True):
        check_named_protocol(f"teacher_snapshots: {source}", metadata.named_protocol, config)
    parts = settle(config.parts, config.out, resume=config.resume)
    config = dataclasses.replace(config, game=(task.name,), target=config.target or "latest", parts=parts)
    student_setup = _student_setup(config, task, snapshots.first.metadata, snapshots.first.network)
    return OnlineSetup(config, student_setup, None, SnapshotWriter(snapshots, config, task), snapshots)


def _student_setup(config: OnlineConfig, task: Task, metadata: TeacherMetadata, network: Any) -> DistillSetup:
    """The student's part of a resolved configuration; ``metadata`` and ``network`` are the target's."""
    check_network(config.student.network, config.student.observation.of(task).perceived, "student.network")
    distillation = config.distillation
    devices = DeviceGroup.local(config.learner.num_devices)
    check_devices(distillation, devices.size)
    check_stacks_fit(distillation, (task,))
    check_sequences_fit(distillation, (None,))
    warn_of_slow_dtype(config.student, devices)
    sizes = part_sizes(config.parts)
    student = make_student(config.student, (task,)).with_sizes(sizes)
    network = with_sizes(network, sizes)
    start = start_of(distillation, student)
    memory = online_memory(config, student, network, devices)
    memory.check()
    target = Teacher(metadata, {}, f"(the {config.target} snapshot)", "", network)
    return DistillSetup(distillation, (target,), (task,), (None,), devices, student, memory, start=start)


def open_online_run(setup: OnlineSetup) -> RunDirectory:
    """The run's directory, made or taken up.

    Raises:
      UserError: something else is there.
    """
    config = setup.config

    def check(there: Mapping[str, Any]) -> None:
        check_goes_on(config, there)
        _check_follows(setup)

    return RunDirectory.create(
        config.out, "online", to_mapping(config), resume=config.resume, may_change=_MAY_CHANGE, check=check
    )


def _check_follows(setup: OnlineSetup) -> None:
    """Raises a UserError unless the snapshots go on with those that the run's newest intact checkpoint has learnt from.

    Checked again as the run takes that checkpoint up, but by then the configuration names the new files.
    """
    checkpoints = Path(setup.config.out) / "checkpoints"
    if setup.snapshots is None or not checkpoints.is_dir():
        return
    template = state_template(setup.config, setup.student_setup.student)
    # Whoever takes it up tells of damaged ones.
    with Checkpointer(checkpoints, read_only=True, warn=lambda line: None) as checkpointer:
        restored = checkpointer.restore(template, network=setup.label)
    if restored is not None:
        taught = OnlineCounters.from_metadata(restored[1]).snapshots
        setup.snapshots.check_follow(taught, setup.config.out)


def check_goes_on(config: OnlineConfig, there: Mapping[str, Any]) -> None:
    """Raises a UserError for changes to a resumed run that would spoil what it has done so far.

    Args:
      config: with which it is to go on.
      there: the configuration with which it was begun, nested mappings of plain values.
    """
    check_resumed(config.distillation, there)
    had = there.get("teacher_snapshots") is not None
    if had != (config.teacher_snapshots is not None):
        what = "snapshots for a teacher" if had else "a teacher that learns"
        raise UserError(f"teacher_snapshots: {config.out} has {what}; choose another --out")
    if had:
        return
    steps, rounds = there["pqn"]["total_steps"], there["schedule"]["rounds"]
    if steps * config.schedule.rounds != config.pqn.total_steps * rounds:
        raise UserError(
            f"pqn.total_steps: {config.pqn.total_steps} in {config.schedule.rounds} rounds is another pace than "
            f"{steps} in {rounds}, which {config.out} has; change schedule.rounds and pqn.total_steps alike"
        )


def _resolved(config: OnlineConfig, task: Task, teacher: Teacher | None) -> OnlineConfig:
    """With the game, and with the network of the teacher to start from, or the game's usual one."""
    own: dict[str, Any] = {"teacher_network": "mlp" if task.kind == "vector" else "dqn", "layer_norm": True}
    if task.kind == "vector":
        own["mlp_hidden"] = (128, 128)
    if teacher is not None:
        there = teacher.metadata
        has = {"teacher_network": there.network, "layer_norm": there.layer_norm, "mlp_hidden": there.hidden_sizes}
        own = {key: has[key] for key in own}
    for key, value in own.items():
        asked = getattr(config, key)
        if teacher is not None and asked is not None and asked != value:
            raise UserError(f"{key}: {_spell(asked)}, and teacher {teacher.source} has {_spell(value)}; leave it out")
    given = {key: getattr(config, key) for key in own if getattr(config, key) is not None}
    return dataclasses.replace(config, game=(task.name,), target=config.target or "best", **(own | given))


def _spell(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value).lower()


def _check_learns_on(teacher: Teacher) -> None:
    """Raises a UserError unless PQN can go on from this teacher's weights."""
    metadata = teacher.metadata
    if metadata.games:
        raise UserError(f"teacher: {teacher.source} is a network of {len(metadata.games)} games; a run has one")
    if teacher.gives_logits:
        raise UserError(f"teacher: {teacher.source} gives logits; a teacher that goes on learning learns Q-values")
    if what := metadata.untrainable:
        raise UserError(f"teacher: {teacher.source} has {what}; PQN trains plain networks with relu")
