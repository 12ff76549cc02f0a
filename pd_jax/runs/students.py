"""The student of a distillation, read from its run directory: as it is, and as a teacher of others."""

from __future__ import annotations

import dataclasses
import datetime
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from pd_jax.config.credibility import CredibilityConfig
from pd_jax.config.distill import DistillConfig
from pd_jax.config.games import MLPS
from pd_jax.config.loading import read_config, to_mapping
from pd_jax.config.sections import StudentConfig
from pd_jax.environments.senses import Senses, make_senses
from pd_jax.environments.spaces import simulator_of
from pd_jax.environments.tasks import RAM_SUFFIX, Task, get_task, ram_task
from pd_jax.errors import UserError
from pd_jax.learner.learner import learner_template
from pd_jax.networks.joint import PlayedNetwork
from pd_jax.networks.partition import part_sizes
from pd_jax.networks.sensing import beside_of
from pd_jax.networks.student import Student, make_student
from pd_jax.replay.observations import MAIN
from pd_jax.runs.checkpoints import Checkpointer
from pd_jax.runs.directory import OF_ONE_START, RunDirectory, read_run
from pd_jax.runs.parts import EARLIER
from pd_jax.system.computing import computing
from pd_jax.system.files import expand_home
from pd_jax.system.progress import print_warning
from pd_jax.teachers import Teacher, load
from pd_jax.teachers.catalogue import bundled_files
from pd_jax.teachers.committee import load_committee
from pd_jax.teachers.files import params_fingerprint
from pd_jax.teachers.formats import is_run_of_students
from pd_jax.teachers.joined import split
from pd_jax.teachers.metadata import TeacherMetadata
from pd_jax.version import __version__

Choice = Literal["newest", "best"]


@dataclasses.dataclass(frozen=True)
class Distilled:
    """A student of a ``distill`` run as one of its checkpoints has it.

    Attributes:
      student: the network and its games.
      variables: its parameters, NumPy arrays.
      config: the run's.
      metadata: of the checkpoint: where the run stood.
    """

    student: Student
    variables: Any
    config: DistillConfig
    metadata: Mapping[str, Any]


@computing()
def load_teacher(
    name_or_path: str | os.PathLike[str],
    game: str | None = None,
    credibility: CredibilityConfig | None = None,
    *,
    in_play: bool = False,
) -> Teacher:
    """Loads a bundled teacher by name, a teacher file, the agent of another library, or a run's; or several of a game.

    Args:
      name_or_path: what `pd_jax.teachers.load` takes; or the directory of a ``distill`` run, whose newest student is
        the teacher then; or several of these of one game, joined by ``+``, which are one teacher together.
      game: what it plays, for files that do not say so, and of a file or a run of several games, which one is meant.
      credibility: what each of several counts; None is the default.
      in_play: whether it is only asked as it plays or looks on, step by step. Then a run's student may have a state,
        senses of its own or several torsos; otherwise such a one is refused.

    Returns:
      a teacher. Of a run, its ``sha256`` is that of the student's parameters: as the run goes on, it is another one.

    Raises:
      UserError: no such name, file or run; it is damaged, or does not fit its network or the game; or it has several
        games, and none of them is given.
    """
    members = split(os.fspath(name_or_path))
    if len(members) > 1:
        return load_committee(os.fspath(name_or_path), members, lambda name: load_teacher(name, game), credibility)
    text = expand_home(members[0])
    # A bundled name is that teacher, also where a run's directory is called so.
    if text.lower() in bundled_files() or not is_run_of_students(text):
        return load(members[0], game)
    run = read_run(text)
    if run.command != "distill":
        raise UserError(f"{text}: is a run of pd-jax {run.command} that has not left a teacher.safetensors")
    distilled = read_distilled(run)
    goes_along = in_play and _goes_along(text, distilled.student)
    shown = distilled.student.shown if goes_along else taught_tasks(text, distilled.student)
    names = [task.name for task in shown]
    if game is None and len(names) > 1:
        raise UserError(f"{text}: its student plays {', '.join(names)}; say with --game which one is meant")
    wanted = names[0] if game is None else get_task(game).name
    if wanted not in names:
        raise UserError(f"{text}: its student plays {', '.join(names)}, not {wanted}")
    params = distilled.variables["params"]
    updates = int(distilled.metadata["updates"])
    if goes_along:
        return _teacher_in_play(text, distilled, names.index(wanted), updates)
    metadata = student_metadata(text, distilled.student, distilled.config, updates)[names.index(wanted)]
    return Teacher(metadata, params, text, params_fingerprint(params))


def _goes_along(path: str, student: Student) -> bool:
    """Whether a student is no function of what its game shows, or not one that a teacher file could hold."""
    if student.memory is not None or student.layouts:
        return True
    try:
        taught_tasks(path, student)
    except UserError:
        return True
    return False


def _teacher_in_play(path: str, distilled: Distilled, place: int, updates: int) -> Teacher:
    """A run's student as a teacher that goes along with the play."""
    student, config, params = distilled.student, distilled.config, distilled.variables["params"]
    if config.student.quantisation != "none":
        raise UserError(f"{path}: its student has quantisation {config.student.quantisation}; pd-jax export writes it")
    player = student.player(place)
    if (beside := beside_of(player)) is not None:
        raise UserError(
            f"{path}: its student senses {beside} beside what {student.shown[place].name} shows, and a teacher sees "
            "what its game shows"
        )
    metadata = _describe(student.shown[place], path, config, updates, {})
    # Of what the student sees, they are inside its network.
    metadata = dataclasses.replace(metadata, normalisation={})
    return Teacher(metadata, params, path, params_fingerprint(params), PlayedNetwork(player))


def read_distilled(
    run: RunDirectory, *, checkpoint: Choice = "newest", warn: Callable[[str], None] = print_warning
) -> Distilled:
    """Reads the student of a ``distill`` run, which may still be going.

    Args:
      run: the directory.
      checkpoint: the newest intact one, or the one with the best score on the way.
      warn: is told of damaged checkpoints that were passed over.

    Raises:
      UserError: none of its checkpoints is intact, or none was scored and the best is wanted.
    """
    config = read_config(DistillConfig, run.config_path)
    student = student_of(config, run)
    template = learner_template(student, config.learner, config.loss, config.adding)
    label = network_label(config.student, student.tasks)
    state, metadata = restore_student(run, template, checkpoint=checkpoint, network=label, warn=warn)
    return Distilled(student, state.student_variables, config, metadata)


def student_of(config: DistillConfig, run: RunDirectory) -> Student:
    """The network that a run's resolved configuration names; a UserError if it is none."""
    if config.game is None:
        raise UserError(f"{run.config_path}: names no game; it is not the resolved configuration of a run")
    student = make_student(config.student, [get_task(game) for game in config.game])
    return student.with_sizes(part_sizes(config.parts, EARLIER))


def restore_student(
    run: RunDirectory,
    template: Any,
    *,
    checkpoint: Choice,
    network: str | None,
    warn: Callable[[str], None],
) -> tuple[Any, Mapping[str, Any]]:
    """A state as a checkpoint of a run has it, and the checkpoint's metadata.

    Args:
      run: the directory.
      template: the state's shapes and dtypes.
      checkpoint: the newest intact one, or the one with the best score on the way.
      network: what checkpoints call the network, to be checked; None checks the shapes alone.
      warn: is told of damaged checkpoints that were passed over.

    Raises:
      UserError: as `read_distilled`.
    """
    with Checkpointer(run.checkpoints, read_only=True, warn=warn) as checkpointer:
        step = checkpointer.best_step() if checkpoint == "best" else None
        if checkpoint == "best" and step is None:
            raise UserError(f"{run.path}: no checkpoint has a score; evaluation.every_rounds is what scores them")
        restored = checkpointer.restore(template, step, network=network)
    if restored is None:
        raise UserError(f"{run.path}: has no checkpoint yet")
    state, metadata, _ = restored
    return state, metadata


def network_label(student: StudentConfig, tasks: Sequence[Task]) -> str:
    """What checkpoints call a student's network: its name, and its heads where there are several."""
    heads = f" for {', '.join(task.name for task in tasks)}" if len(tasks) > 1 else ""
    return f"{student.network}{heads}"


def student_metadata(path: str, student: Student, config: DistillConfig, updates: int) -> list[TeacherMetadata]:
    """What a teacher file of a run's student says of it, for each of its games.

    A student with quantisation or memory is no teacher: it is refused.

    Args:
      path: the run's directory.
      student: the network and its games.
      config: the run's.
      updates: that the student has had.

    Returns:
      as `pd_jax.teachers.save_teacher` takes it. A student that was to match Q-values (MSE, Huber) gives these, others
      the logits of a policy.

    Raises:
      UserError: the student has quantisation, or memory, or senses that no game shows.
    """
    if student.memory is not None:
        raise UserError(f"{path}: its student has memory ({config.student.memory}), and teacher files have none")
    if student.layouts:
        has = "sees its last actions" if student.last_actions else "has several torsos"
        raise UserError(f"{path}: its student {has}, and teacher files have none of that")
    if config.student.quantisation != "none":
        raise UserError(f"{path}: its student has quantisation {config.student.quantisation}; pd-jax export writes it")
    widths: dict[str, Any] = {name: getattr(config.student, name) for name in ("channels", "hidden")}
    if len(student.tasks) > 1 or config.student.network in ("multi3", "multi10"):
        widths["head_hidden"] = config.student.head_hidden
    if len(student.tasks) > 1:
        widths["games"] = tuple(task.name for task in student.tasks)
    return [_describe(task, path, config, updates, widths) for task in taught_tasks(path, student)]


def taught_tasks(path: str, student: Student) -> tuple[Task, ...]:
    """The games that a student teaches: a teacher sees what its game shows. A student that senses a console's whole
    memory is a teacher of the game that shows it, such as ``pong_ram``.

    Args:
      path: the run's directory.
      student: its student.

    Raises:
      UserError: there is no game that shows what the student senses.
    """
    return tuple(_taught(path, senses) for senses in student.senses) or student.tasks


def _taught(path: str, senses: Senses) -> Task:
    if senses.is_plain:
        return senses.task
    if senses.task.is_console:
        game = get_task(senses.task.name.removesuffix(RAM_SUFFIX))
        for task in (game, ram_task(game)):
            if make_senses(senses.task, source="ram" if task.ram else "frames") == senses:
                return task
    raise UserError(
        f"{path}: its student senses {senses.describe()}, and a teacher sees what its game shows; distil it from the "
        "same teacher as that was"
    )


def _outputs_of(task: Task, config: DistillConfig) -> dict[str, Any]:
    """What the student gives; of a continuous task also its range, its simulator, and what it normalises by."""
    if not task.is_continuous:
        return {"output": "q" if config.loss.gives_q else "logits"}
    gives_actions = config.student.actions == "means"
    return {
        "output": "means" if gives_actions else "gaussian",
        "squashed": task.squashed and not gives_actions,
        "action_low": task.action_low,
        "action_high": task.action_high,
        "simulator": simulator_of(task.env_id),
    }


def _statistics_of(config: DistillConfig) -> dict[str, Any]:
    """The statistics that the student normalises by, as teacher files have them."""
    settings = config.student.normalisation
    if settings.mean is None or settings.variance is None or settings.source not in ("given", "teacher", "play"):
        return {}
    told: dict[str, Any] = {name: getattr(settings, name) for name in ("mean", "variance", "epsilon")}
    clip = {} if settings.clip is None else {"clip": settings.clip}
    # Of how many observations they are is not among the settings; one is the least that a file can say.
    return {"normalisation": {MAIN: told | clip | {"count": 1}}}


def _describe(task: Task, path: str, config: DistillConfig, updates: int, widths: dict[str, Any]) -> TeacherMetadata:
    is_atari = task.kind == "atari"
    atari = {"frame_stack": 4, "frame_skip": 4, "grey": True, "scaling": "1/255, inside the network"}
    return TeacherMetadata(
        name=f"{task.name}-{config.student.network}-student",
        game=task.name,
        env_id=task.env_id,
        network=config.student.network,
        layer_norm=config.student.layer_norm,
        hidden_sizes=config.student.mlp_hidden if config.student.network in MLPS else (),
        **widths,
        **_statistics_of(config),
        num_actions=task.num_actions,
        action_names=task.action_names,
        observation={"kind": task.kind, "shape": list(task.observation_shape), "dtype": task.observation_dtype}
        | (atari if is_atari else {}),
        **_outputs_of(task, config),
        algorithm="policy-distillation",
        env_steps=None,
        seed=config.seed,
        training_config={key: value for key, value in to_mapping(config).items() if key not in ("out", *OF_ONE_START)},
        evaluation={},
        learning_curve=[],
        how_made=f"the student of {path!r} after {updates} updates",
        licence="that of its teachers",
        created=datetime.date.today().isoformat(),
        pd_jax_version=__version__,
    )
