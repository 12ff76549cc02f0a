"""A run's student, read from its checkpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from pd_jax.config.distill import DistillConfig
from pd_jax.config.loading import read_config
from pd_jax.config.online import OnlineConfig
from pd_jax.config.train_teacher import TrainTeacherConfig
from pd_jax.deploy.publication import read_publication
from pd_jax.distill.counters import DistillCounters, GameCounters
from pd_jax.errors import UserError
from pd_jax.networks.student import Student
from pd_jax.online.state import OnlineCounters, state_template
from pd_jax.runs.directory import RunDirectory, read_run
from pd_jax.runs.students import Choice, network_label, read_distilled, restore_student, student_of
from pd_jax.system.progress import print_warning
from pd_jax.teachers import load
from pd_jax.teachers.checks import build_student
from pd_jax.teachers.files import check_params, fingerprint, read_games
from pd_jax.teachers.formats import PUBLISHED_NAME
from pd_jax.teachers.hub import naming_address


@dataclasses.dataclass(frozen=True)
class TrainedStudent:
    """A run's student, read from one of its checkpoints; or a network that learnt its games from rewards.

    Attributes:
      student: the network and its games.
      variables: its parameters, NumPy arrays.
      config: the run's.
      counters: where the run stood.
    """

    student: Student
    variables: Any
    config: DistillConfig | TrainTeacherConfig
    counters: DistillCounters

    @property
    def network(self) -> str:
        """Its network's name."""
        return self.config.network if isinstance(self.config, TrainTeacherConfig) else self.config.student.network

    def temperature(self, place: int) -> float | None:
        """What the outputs of a game's teacher were divided by, if that was found from the play."""
        return self.counters.games[place].temperature if place < len(self.counters.games) else None

    @property
    def names(self) -> tuple[str, ...]:
        """The games it plays, in the order of its heads."""
        return tuple(task.name for task in self.student.tasks)


def load_trained(
    path: str, *, checkpoint: Choice = "newest", warn: Callable[[str], None] = print_warning
) -> TrainedStudent:
    """Reads the student of a ``distill`` or ``online`` run; the run may still be going.

    A ``train-teacher`` run has one too, once it has ended: the weights that it kept. What ``pd-jax push`` left or sent
    holds one student, and stands for the run that it is of.

    Args:
      path: the run's directory; or what ``pd-jax push`` made of it: its folder, or its address on the hub.
      checkpoint: the newest intact one, or the one with the best score on the way.
      warn: is told of damaged checkpoints that were passed over.

    Returns:
      all that was read; `pd_jax.deploy.policy.load_student` makes a policy of it.

    Raises:
      UserError: not such a run, none of its checkpoints is intact, or none was scored and the best is wanted.
    """
    run = read_run(path)
    if (run.path / PUBLISHED_NAME).is_file():
        with naming_address(path, run.path):
            return _load_published(path, run, checkpoint)
    if run.command == "train-teacher":
        return _load_trained_from_rewards(run)
    if run.command == "online":
        return _load_trained_online(run, checkpoint, warn)
    if run.command != "distill":
        raise UserError(f"{path}: is a run of pd-jax {run.command}, which has no student")
    found = read_distilled(run, checkpoint=checkpoint, warn=warn)
    return TrainedStudent(found.student, found.variables, found.config, DistillCounters.from_metadata(found.metadata))


def _load_trained_online(run: RunDirectory, checkpoint: Choice, warn: Callable[[str], None]) -> TrainedStudent:
    online = read_config(OnlineConfig, run.config_path)
    config = online.distillation
    student = student_of(config, run)
    template = state_template(online, student)
    state, metadata = restore_student(run, template, checkpoint=checkpoint, network=None, warn=warn)
    at, label = OnlineCounters.from_metadata(metadata), network_label(config.student, student.tasks)
    counters = DistillCounters(updates=at.updates, wall_seconds=at.wall_seconds, network=label, games=[at.play])
    return TrainedStudent(student, state.student.student_variables, config, counters)


def _load_published(path: str, run: RunDirectory, checkpoint: Choice) -> TrainedStudent:
    """The student of a folder that ``pd-jax push`` left, which may have been sent by anybody."""
    if checkpoint != "newest":
        raise UserError(
            f"{path}: holds one student, not the checkpoints of its run; leave out --checkpoint {checkpoint}"
        )
    if run.command == "online":
        config = read_config(OnlineConfig, run.config_path).distillation
    elif run.command == "distill":
        config = read_config(DistillConfig, run.config_path)
    else:
        raise UserError(f"{path}: is of pd-jax {run.command}, which has no student")
    student, file = student_of(config, run), run.path / PUBLISHED_NAME
    params, games = read_games(file)
    names, network = [metadata.game for metadata in games], games[0].network
    wanted = [task.name for task in student.tasks]
    if (names, network) != (wanted, config.student.network):
        raise UserError(
            f"{path}: {file.name} is a {network} for {', '.join(names)}, and its {run.config_path.name} says "
            f"{config.student.network} for {', '.join(wanted)}"
        )
    template = jax.eval_shape(student.init, jax.random.key(0))["params"]
    check_params(params, jax.tree.map(lambda leaf: leaf.shape, template), f"{path}: {file.name}")
    publication = read_publication(run.path)
    for name, sha256 in publication.files.items():
        if name in (run.config_path.name, file.name) and fingerprint(run.path / name) != sha256:
            raise UserError(f"{path}: {name} is not the one that was pushed (SHA-256 differs)")
    return TrainedStudent(student, {"params": params}, config, publication.counters)


def _load_trained_from_rewards(run: RunDirectory) -> TrainedStudent:
    """The network of a ``train-teacher`` run, as the baseline of students of its games."""
    config = read_config(TrainTeacherConfig, run.config_path)
    summary = run.read_summary_json()
    if summary is None:
        raise UserError(f"{run.path}: has not ended, and has no student yet")
    file = run.path / "teacher.safetensors"
    teacher = load(file, config.game[0])
    try:
        # The steps of all games, which they have had equally many of.
        steps, updates = int(summary["env_steps"]) // config.num_games, int(summary["updates"])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{run.summary_path}: does not say how much the run has learnt from") from None
    games = [GameCounters(name=name, env_steps=steps) for name in config.game]
    counters = DistillCounters(updates=updates, network=config.network, games=games)
    several = config.num_games > 1
    student = build_student(teacher.metadata) if several else Student(teacher.network, (teacher.task,))
    return TrainedStudent(student, teacher.variables, config, counters)
