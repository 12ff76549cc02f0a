"""What a distillation needs, loaded and checked against one another before anything is written or allocated."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from pd_jax.config.adding import check_head, with_added
from pd_jax.config.distill import DistillConfig, check_devices
from pd_jax.config.games import check_games, check_student_network
from pd_jax.config.loading import to_mapping
from pd_jax.config.memory import too_short, window_steps
from pd_jax.config.mixed import check_mixed
from pd_jax.config.sections import LossConfig, StudentConfig
from pd_jax.distill import continuous
from pd_jax.distill.calibration import calibrated
from pd_jax.distill.memory import distillation_parts
from pd_jax.distill.recorded import as_recorded, check_recording, warn_of_other_play
from pd_jax.environments.ale import check_backend
from pd_jax.environments.tasks import Task
from pd_jax.errors import UserError
from pd_jax.evaluation.protocol import Protocol
from pd_jax.evaluation.teacher_scores import TeacherScore
from pd_jax.learner.anchor import Adding
from pd_jax.learner.learner import Learner
from pd_jax.learner.objective import AutoTemperature, Objective, make_auto, make_objective
from pd_jax.networks.added import heads_of, old_elements
from pd_jax.networks.partition import part_sizes
from pd_jax.networks.student import Student, make_student
from pd_jax.replay.recordings import Dataset
from pd_jax.replay.sequences import Stretch
from pd_jax.resources.memory import MemoryEstimate
from pd_jax.runs.directory import OF_ONE_START, RunDirectory, differences, quote, read_run
from pd_jax.runs.parts import settle
from pd_jax.runs.start import Start, goes_on, load_start
from pd_jax.runs.students import load_teacher, network_label
from pd_jax.runs.trackers import check_trackers
from pd_jax.system import hosts
from pd_jax.system.devices import DeviceGroup
from pd_jax.system.files import expand_home, to_plain
from pd_jax.system.kept import kept
from pd_jax.system.progress import print_warning
from pd_jax.teachers import Teacher
from pd_jax.teachers.tasks import check_protocol, task_of


@dataclasses.dataclass(frozen=True)
class DistillSetup:
    """What a run needs; ``teachers``, ``tasks`` and ``datasets`` have an entry for each game, in the same order.

    Attributes:
      config: with the games, the sizes of parts and, for recorded play, the numbers of lanes filled in.
      teachers: who play, or played.
      tasks: what they play.
      datasets: the recorded play, None for live play.
      devices: that share the updates.
      student: of all the games.
      memory: what the run takes, which there is.
      teacher_scores: by game, what is known already of the scores that the teachers have under the run's protocol.
      actors: devices that only play; none if the play shares the devices of the updates.
      start: what the student starts from; None is from scratch, or from a checkpoint of the run's own.
    """

    config: DistillConfig
    teachers: tuple[Teacher, ...]
    tasks: tuple[Task, ...]
    datasets: tuple[Dataset | None, ...]
    devices: DeviceGroup
    student: Student
    memory: MemoryEstimate
    teacher_scores: Mapping[str, TeacherScore] = dataclasses.field(default_factory=dict)
    actors: tuple[jax.Device, ...] = ()
    start: Start | None = None

    def actor(self, game: int) -> jax.Device | None:
        """The device that plays a game: games are dealt out over the actors. None is the default device."""
        return self.actors[game % len(self.actors)] if self.actors else None

    @property
    def played(self) -> tuple[int, ...]:
        """Places of the games that are played and learnt from."""
        return tuple(filter(self.config.is_learnt, range(len(self.tasks))))

    @property
    def old(self) -> tuple[int, ...]:
        """Places of the games that the student plays already, to which others are added; none if none are."""
        return tuple(range(self.config.num_old_games))

    def of_games(self, places: Sequence[int], **changes: Any) -> DistillSetup:
        """What the play of some of the games needs: of the student, what it sees of them; it does not act in it.

        Args:
          places: of the games.
          **changes: to the configuration.
        """
        config, datasets = self.config, [self.datasets[place] for place in places]
        own = dataclasses.replace(
            config,
            teacher=tuple(config.teacher[place] for place in places),
            game=tuple(self.names[place] for place in places),
            data=tuple(dataset.path for dataset in datasets if dataset is not None) or None,
            env=dataclasses.replace(config.env, lanes=tuple(config.lanes[place] for place in places)),
            adding=type(config.adding)(),
            **changes,
        )
        teachers = tuple(self.teachers[place] for place in places)
        tasks = tuple(self.tasks[place] for place in places)
        student = dataclasses.replace(
            self.student,
            tasks=tuple(self.student.tasks[place] for place in places),
            senses=tuple(self.student.senses[place] for place in places) if self.student.senses else (),
        )
        return dataclasses.replace(
            self, config=own, teachers=teachers, tasks=tasks, student=student, datasets=tuple(datasets)
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The games'."""
        return tuple(task.name for task in self.tasks)

    @property
    def title(self) -> str:
        """Such as ``pong into net2``."""
        games = ", ".join(self.names) if len(self.names) <= 3 else f"{len(self.names)} games"
        return f"{games} into {self.config.student.network}"

    @property
    def gives_logits(self) -> tuple[bool, ...]:
        """Of each game's teacher, whether it gives logits; otherwise it gives Q-values."""
        return tuple(teacher.gives_logits for teacher in self.teachers)

    @property
    def network(self) -> str:
        """What checkpoints call the student's network."""
        return network_label(self.config.student, self.tasks)

    @property
    def total_updates(self) -> int:
        """Updates of the whole run."""
        return self.config.schedule.rounds * self.config.schedule.updates_per_round

    def total_env_steps(self, recorded_steps: Sequence[int]) -> tuple[int, ...]:
        """Control steps that the whole run stores of each game, in all lanes together.

        Args:
          recorded_steps: of each game, per lane, how much of the recording the run uses; live play has no such end.
        """
        config, schedule = self.config, self.config.schedule
        totals = []
        for game, dataset in enumerate(self.datasets):
            rollouts = schedule.rounds * config.rollouts_per_round(game)
            if dataset is not None and not config.is_shuffled:
                rollouts = min(rollouts, recorded_steps[game] // schedule.rollout_length)
            totals.append(rollouts * config.steps_per_rollout(game))
        return tuple(totals)

    def make_learner(self) -> Learner:
        """The student's learner; of several games it measures the divergence of each as well."""
        student, config = self.student, self.config
        objective, auto = _objective(config.loss, student, tuple(self.gives_logits))
        return Learner(
            student,
            objective.loss,
            config.learner,
            self.devices,
            total_updates=self.total_updates,
            divergence=objective.divergence,
            weigh=objective.weigh,
            auto=auto,
            adding=self.adding,
            stretch=self.stretch,
        )

    @property
    def stretch(self) -> Stretch | None:
        """Of play that is stored in rollouts that do not follow one another; None of any other."""
        return Stretch(self.config.stored_length, self.config.steps_before) if self.config.is_shuffled else None

    @property
    def adding(self) -> Adding | None:
        """How the updates of a student with added games differ; None if none are added."""
        if not self.old:
            return None
        settings = self.config.adding
        whole = jax.eval_shape(self.student.init, jax.random.key(0))["params"]
        return Adding(
            new=tuple(range(len(self.old), len(self.tasks))),
            num_games=len(self.tasks),
            old=old_elements(whole, old_shapes(self.config, self.tasks)),
            replays=settings.replays,
            head_alone=settings.learn == "head",
            penalty=settings.penalty,
            weight=settings.penalty_weight,
            new_share=settings.new_share,
            samples=settings.samples,
            gives_q=self.config.loss.gives_q,
        )

    def notes_on_recordings(self, total_env_steps: Sequence[int]) -> list[str]:
        """A line for each recording that holds less than the schedule asks for, or that is shuffled.

        Args:
          total_env_steps: of each game, what the run stores in the end.
        """
        config, lines = self.config, []
        for game, dataset in enumerate(self.datasets):
            if dataset is not None and config.is_shuffled:
                held, recorded = config.rollouts_held(game), config.lanes[game] * dataset.num_steps
                share = held * config.steps_per_rollout(game) / recorded
                lines.append(
                    f"{dataset.path} is gone through {total_env_steps[game] / recorded:.1f} times; the replay holds "
                    f"{100 * share:.0f} % of it at a time"
                    if share < 1
                    else f"{dataset.path} fits into the replay; data_order 'recorded' holds each of its steps once"
                )
                continue
            wanted = config.schedule.rounds * config.rollouts_per_round(game) * config.steps_per_rollout(game)
            if dataset is not None and total_env_steps[game] < wanted:
                lines.append(
                    f"{dataset.path} gives {total_env_steps[game]:,} of the {wanted:,} steps of the schedule; "
                    "once it is used up, the updates go on with what the replay holds"
                )
        return lines


@kept(8)
def _objective(
    loss: LossConfig, student: Student, gives_logits: tuple[bool, ...]
) -> tuple[Objective, AutoTemperature | None]:
    """The very same functions for equal settings, so that what was compiled of them is found again."""
    return make_objective(loss, student, gives_logits), make_auto(loss, student, gives_logits)


def make_setup(
    config: DistillConfig,
    teacher: Teacher | Sequence[Teacher] | None = None,
    teacher_scores: Mapping[str, TeacherScore] | None = None,
) -> DistillSetup:
    """Loads and checks everything a run refers to.

    Args:
      config: the run's.
      teacher: who plays instead of the teacher that the configuration names; several in the order of their names.
      teacher_scores: by game, what teachers are known to score.

    Raises:
      UserError: the teachers, the games, the data sets, the network, the scores or the devices do not fit together.
    """
    for key, problem in config.conflicts():
        raise UserError(f"{key}: {problem}")
    check_trackers(config.track)
    named = config.add_teacher
    config = with_added(config)
    config = dataclasses.replace(config, parts=settle(config.parts, config.out, resume=config.resume))
    sizes = part_sizes(config.parts)
    teachers = tuple(player.with_sizes(sizes) for player in _teachers(config, teacher))
    games = config.game or (None,) * len(teachers)
    tasks = tuple(task_of(game, teacher) for game, teacher in zip(games, teachers, strict=True))
    if named is not None or config.adding.games is not None:
        config = _with_added_games(config, tasks, named)
    # How samples become actions is the teacher's.
    tasks = tuple(player.task if task.is_continuous else task for player, task in zip(teachers, tasks, strict=True))
    perceived = [config.student.observation.of(task).perceived for task in tasks]
    check_games(perceived, mixes=True)
    check_student_network(config.student.network, perceived)
    check_mixed(config, perceived)
    config = continuous.settled(config, teachers, tasks)
    check_backend(config.env.backend, *tasks)
    for player in teachers:
        check_protocol(player, config)
    config = dataclasses.replace(config, game=tuple(task.name for task in tasks))
    datasets: tuple[Dataset | None, ...] = (None,) * len(tasks)
    if config.data is not None:
        recordings = tuple(map(Dataset.open, config.data))
        # Without those of old games that nobody looks at.
        first = len(tasks) - len(recordings)
        for recording, teacher, task in zip(recordings, teachers[first:], tasks[first:], strict=True):
            check_recording(recording, teacher, task, config)
            warn_of_other_play(recording, task, config)
        senses = [config.student.observation.of(task) for task in tasks[first:]]
        recordings = tuple(own.sensed_by(seen) for own, seen in zip(recordings, senses, strict=True))
        for recording in recordings:
            recording.check_finite()
        headers = [recording.header for recording in recordings]
        config, datasets = as_recorded(config, headers[:1] * first + headers), (*datasets[:first], *recordings)
    devices, actors = lay_out(config)
    check_devices(config, devices.size)
    if devices.num_processes > 1 and config.num_old_games:
        raise UserError(f"add_teacher: there are {devices.num_processes} processes; games are added in one")
    if devices.num_processes > 1 and config.checkpoint.replay:
        raise UserError(f"checkpoint.replay: true, and there are {devices.num_processes} processes; it is for one")
    check_stacks_fit(config, tasks)
    check_sequences_fit(config, datasets)
    warn_of_slow_dtype(config.student, devices)
    warn_of_sharp_temperatures(config.loss, teachers)
    student = make_student(config.student, tasks).with_sizes(sizes)
    start = start_of(config, student_at_start(config, tasks).with_sizes(sizes) if config.num_old_games else student)
    policies = [(player.network.apply, player.variables) for player in teachers]
    own = _share_of_process(config, devices.num_processes)
    memory = MemoryEstimate(distillation_parts(own, student, policies, devices.here), devices.here)
    memory.check()
    scores = teacher_scores or {}
    for task, player in zip(tasks, teachers, strict=True):
        if task.name in scores:
            scores[task.name].check_fits(Protocol.of(config, task), task, player)
    return DistillSetup(config, teachers, tasks, datasets, devices, student, memory, scores, actors, start)


def _with_added_games(config: DistillConfig, tasks: Sequence[Task], named: Sequence[str] | None) -> DistillConfig:
    """The settings with the names of the added games, checked against the run that has the student.

    Args:
      config: with the added teachers among its own.
      tasks: of all games.
      named: the added teachers, as they were given; None in a configuration that has been resolved before.
    """
    names = [task.name for task in tasks]
    new = tuple(names[len(names) - len(named or config.adding.games or ()) :])
    if named is None and config.adding.games != new:
        raise UserError(
            f"adding.games: {', '.join(config.adding.games or ())}, and the last teachers play {', '.join(new)}"
        )
    old = names[: len(names) - len(new)]
    config = dataclasses.replace(config, adding=dataclasses.replace(config.adding, games=new))
    if config.init_from is None or (old and goes_on(config.out, resume=config.resume)):
        return config
    path = expand_home(config.init_from)
    if not (Path(path) / "config.yaml").is_file():
        raise UserError(f"init_from: {config.init_from}: games are added to the student of a run of pd-jax distill")
    if not old:
        raise UserError("teacher: none is left of the student's own games, and games are added to such")
    there = read_run(path).config.get("game") or ()
    has = [there] if isinstance(there, str) else list(there)
    for game in new:
        if game in has:
            raise UserError(f"add_teacher: {config.init_from} plays {game} already ({', '.join(has)})")
    for game in old:
        if game not in has:
            raise UserError(
                f"teacher: {game} is no game of {config.init_from} ({', '.join(has)}); --add-teacher adds it"
            )
    check_head(config.student, has, config.init_from)
    return config


def student_at_start(config: DistillConfig, tasks: Sequence[Task]) -> Student:
    """The student that games are added to: of the old ones alone."""
    return make_student(config.student, tasks[: config.num_old_games])


def old_shapes(config: DistillConfig, tasks: Sequence[Task]) -> Any:
    """Shapes of its parameters, as those of a student of several games."""
    student = student_at_start(config, tasks)

    def init(key: jax.Array) -> Any:
        return heads_of(student.init(key)["params"], range(student.num_games), several=True)

    return jax.eval_shape(init, jax.random.key(0))


def start_of(config: DistillConfig, student: Student) -> Start | None:
    """What a run's student starts from; nothing is looked for where the run goes on from a checkpoint of its own.

    Raises:
      UserError: it is not there, or is another student; or the run goes on, and has begun from scratch.
    """
    if config.init_from is None:
        return None
    if goes_on(config.out, resume=config.resume):
        if read_run(config.out).config.get("init_from") is None:
            raise UserError(
                f"init_from: {config.init_from}: the run in {config.out} began from scratch, and goes on from its own "
                "checkpoint; leave it out, or choose another --out"
            )
        return None
    start = load_start(config.init_from, config.student.network, student)
    return start if config.student.quantisation == "none" else calibrated(start, student, config)


def _share_of_process(config: DistillConfig, count: int) -> DistillConfig:
    """What one of several processes keeps in memory."""
    if count == 1:
        return config
    return dataclasses.replace(
        config,
        env=dataclasses.replace(config.env, lanes=tuple(lanes // count for lanes in config.lanes)),
        learner=dataclasses.replace(config.learner, batch_size=config.learner.batch_size // count),
        replay=dataclasses.replace(config.replay, capacity=config.replay.capacity // count),
    )


def lay_out(config: DistillConfig) -> tuple[DeviceGroup, tuple[jax.Device, ...]]:
    """The devices that share the updates, and those that only play (Hessel et al. 2021), which follow them.

    Of several processes each has actors of its own, as many as ``actors.num_devices`` says.

    Raises:
      UserError: there are not that many.
    """
    num_actors, num_learners = config.actors.num_devices, config.learner.num_devices
    if not num_actors:
        return DeviceGroup.everywhere(num_learners), ()
    there, processes = jax.local_devices(), jax.process_count()
    each = len(there) - num_actors if num_learners is None else num_learners // processes
    if each < 1 or each + num_actors > len(there):
        raise UserError(
            f"actors.num_devices: {num_actors} besides {max(each, 1)} for the learner wanted, "
            f"{len(there)} {there[0].platform} found"
        )
    learners = DeviceGroup.everywhere(each * processes if num_learners is None else num_learners)
    return learners, tuple(there[each : each + num_actors])


def _teachers(config: DistillConfig, given: Teacher | Sequence[Teacher] | None) -> tuple[Teacher, ...]:
    if given is None:
        games = config.game or (None,) * config.num_games
        return tuple(
            load_teacher(name, game, config.credibility, in_play=True)
            for name, game in zip(config.teacher, games, strict=True)
        )
    teachers = (given,) if isinstance(given, Teacher) else tuple(given)
    if len(teachers) != config.num_games:
        raise UserError(f"teacher: {len(teachers)} given, and {config.num_games} named ({', '.join(config.teacher)})")
    return teachers


def check_stacks_fit(config: DistillConfig, tasks: Sequence[Task]) -> None:
    """Raises a UserError unless each lane's part of the replay holds all steps of an observation."""
    for game, shown in enumerate(tasks):
        task = config.student.observation.of(shown).perceived
        actions = config.student.observation.last_actions
        if config.is_learnt(game) and config.capacity_per_lane(game) < max(task.stack, actions + 1):
            what = "a stack of frames" if task.kind == "atari" else "a window"
            what = what if task.stack > actions else f"{actions} last actions before a step"
            raise UserError(
                f"replay.capacity: {config.replay.capacity} leaves {config.capacity_per_lane(game)} steps to each of "
                f"{config.lanes[game]} lanes; {what} needs {max(task.stack, actions + 1)}"
            )


def check_sequences_fit(config: DistillConfig, datasets: Sequence[Dataset | None]) -> None:
    """Raises a UserError unless the replays, and the recordings, hold a sequence for a student with memory."""
    if config.student.memory == "none":
        return
    steps = window_steps(config.learner)
    for game, dataset in enumerate(datasets):
        for key, problem in too_short(config, game):
            raise UserError(f"{key}: {problem}")
        if dataset is None or config.is_shuffled:
            continue
        length = config.schedule.rollout_length
        held = min(config.rollouts_per_round(game), dataset.num_steps // length) * length
        if steps > held:
            is_all = dataset.num_steps < config.rollouts_per_round(game) * length
            where = f"the {held} of {dataset.path}" if is_all else f"a lane gives in a round ({held})"
            raise UserError(
                f"learner.sequence_length: {config.learner.sequence_length} steps with learner.burn_in "
                f"{config.learner.burn_in} before them are more than {where}"
            )


def warn_of_slow_dtype(config: StudentConfig, devices: DeviceGroup) -> None:
    """Says so, once, where bfloat16 makes the updates slower: on CPUs, also those that have instructions for it.

    XLA turns the operands of all products there into float32, multiplies in float32 and rounds what comes out.
    """
    if config.compute_dtype == "bfloat16" and devices.platform == "cpu" and hosts.is_primary():
        _warn_once("student.compute_dtype: bfloat16 is slower than float32 on a CPU, where XLA multiplies in float32")


def warn_of_sharp_temperatures(config: LossConfig, teachers: Sequence[Teacher]) -> None:
    """Says so, once, where a temperature for Q-values is given to a teacher of logits, such as a student of an earlier
    run: of a policy it leaves the first choice alone."""
    for game, teacher in enumerate(teachers):
        is_discrete = not teacher.metadata.is_continuous
        if is_discrete and teacher.gives_logits and config.has_temperature and hosts.is_primary():
            value = config.temperature_for(game, teacher_gives_logits=True)
            if value <= SHARP:
                _warn_once(
                    f"loss.temperature: {value:g} is for Q-values, and {teacher.metadata.name} gives logits: it leaves "
                    "little but their first choice; 1 is the default for them"
                )


# A sweep makes a setup for each of its cells.
_warn_once = functools.cache(print_warning)


SHARP = 0.1
"""A temperature of logits from which on a policy is hardly more than its first choice."""

_MAY_CHANGE = frozenset(
    {"schedule.rounds", "evaluation", "learner.num_devices", "actors", "teacher", "data", "init_from"}
    | {"learner.gradient_cosines_every"}
)
"""What a resumed run may set anew: how long it goes on, how it is scored and looked at, on which devices and how far
ahead it plays, and where its teachers and recordings lie. That they are the same ones is checked by their fingerprints.
What it has started from does not matter any more."""
_OF_A_HOST = ("teacher", "data", "init_from", "env.num_threads", "env.stepping")
"""What processes of one run need not have alike; that teachers and recordings are is seen from their fingerprints."""
_PROTOCOL = ("epsilon", "seed_offset", "max_episode_steps")


def open_distill_run(setup: DistillSetup) -> RunDirectory:
    """The run's directory, made or taken up.

    Raises:
      UserError: something else is there, or other processes of this run were given other settings.
    """
    config = setup.config
    hosts.for_all(lambda among: _check_alike(among, setup))
    return RunDirectory.create(
        config.out,
        "distill",
        to_mapping(config),
        resume=config.resume,
        may_change=_MAY_CHANGE,
        check=functools.partial(check_resumed, config),
        is_primary=hosts.is_primary(),
    )


def _check_alike(among: hosts.Hosts, setup: DistillSetup) -> None:
    """Returns once all processes have found that they were given the same run, and can reach one another."""
    if setup.devices.devices[0].platform == "cpu":
        among.check_cpus_can_meet()
    own = {key: value for key, value in to_plain(to_mapping(setup.config)).items() if key not in OF_ONE_START}
    for name, teacher, dataset in zip(setup.names, setup.teachers, setup.datasets, strict=True):
        own[f"the fingerprint of {name}'s teacher"] = teacher.sha256
        own[f"the identity of {name}'s recording"] = dataset and [dataset.header.identity, dataset.num_steps]
    own["the fingerprint of init_from"] = setup.start and setup.start.sha256
    own["the calibration of init_from"] = setup.start and setup.start.calibration
    own = json.loads(json.dumps(own))
    for key, first, here in differences(json.loads(among.from_primary("settings", json.dumps(own))), own):
        if key not in _OF_A_HOST:
            raise UserError(
                f"{key}: is {quote(first)} in process 0 and {quote(here)} in process {among.process_id}; "
                "all processes of a run need the same"
            )
    among.wait_for_all("settings")


def check_resumed(config: DistillConfig, there: Mapping[str, Any]) -> None:
    """Raises a UserError for changes to a resumed run that would spoil what it has done so far.

    Args:
      config: with which it is to go on.
      there: the configuration with which it was begun, nested mappings of plain values.
    """
    evaluation = there["evaluation"]
    for name in _PROTOCOL if evaluation["every_rounds"] and config.evaluation.every_rounds else ():
        if getattr(config.evaluation, name) != evaluation[name]:
            raise UserError(
                f"evaluation.{name}: is {evaluation[name]} in {config.out}, whose scores on the way are to be "
                "compared; keep it, or choose another --out"
            )
    before, now = there["schedule"]["rounds"], config.schedule.rounds
    if now < before:
        raise UserError(f"schedule.rounds: {now} is less than {config.out} has ({before})")
    if now > before and config.learner.learning_rate_decay:
        raise UserError(
            f"schedule.rounds: {now} is more than {config.out} has ({before}), and its learning rate falls to 0 over "
            "these; choose another --out"
        )
    if now > before and config.behaviour.student_share_changes:
        raise UserError(
            f"schedule.rounds: {now} is more than {config.out} has ({before}), and the student's share of the actions "
            "changes over these; choose another --out"
        )
