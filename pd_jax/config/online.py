"""The settings of ``pd-jax online``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Literal

from pd_jax.config.algorithms import PQNConfig
from pd_jax.config.base import TrackedConfig
from pd_jax.config.distill import DistillConfig
from pd_jax.config.fields import Choice
from pd_jax.config.games import MLPS
from pd_jax.config.idle import (
    ATARI_KEYS,
    Idle,
    idle_atari,
    idle_joint,
    idle_learner,
    idle_loss,
    idle_memory,
    idle_statistics,
    idle_student,
)
from pd_jax.config.protocols import ProtocolSettings, idle_backend
from pd_jax.config.sections import (
    ActorsConfig,
    CheckpointConfig,
    Count,
    CountOrZero,
    DistillCheckpointConfig,
    EnvConfig,
    EvaluationConfig,
    LearnerConfig,
    LossConfig,
    OneGameEnvConfig,
    PartsConfig,
    Paths,
    PathText,
    Probability,
    ReplayConfig,
    ScheduleConfig,
    StudentConfig,
    StudentEvaluationConfig,
    TeacherEvaluationConfig,
    Width,
    Words,
)
from pd_jax.config.train_teacher import TrainTeacherConfig, unsure_scores

_MULTI_GAME = "is a network for several games, and the learning teacher has one"
_Network = Annotated[
    Literal["dqn", "net1", "net2", "net3", "mlp", "mlp_bits"],
    Choice("a network", refused=(("multi3", _MULTI_GAME), ("multi10", _MULTI_GAME))),
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnlineEvaluationConfig(EvaluationConfig):
    """The protocol of a score, and when to take one on the way."""

    every_rounds: Count = 5
    """Rounds between the teacher's and the student's scores on the way; those of the teacher say which snapshot is
    best."""
    progress_episodes: Count = 10
    """Episodes of an evaluation on the way."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnlineConfig(ProtocolSettings, TrackedConfig):
    """Distil a teacher into a student while the teacher is still learning."""

    out: PathText
    """Directory of the run."""
    resume: bool = False
    """Go on with the run that is in the directory."""
    init_from: PathText | None = None
    """What the student starts from: the directory of a distill run, of which the newest student is taken, or a teacher
    file of such a network and this game; None starts from scratch."""
    game: Words | None = None
    """Name or EnvPool id of the game; None is what the teacher plays."""
    teacher: Paths | None = None
    """Name or file of a teacher whose weights the learning teacher starts from; None starts from nothing."""
    teacher_snapshots: Paths | None = None
    """Files of a teacher along its training, in that order: they are the teacher, each for an equal share of the
    rounds, and nothing is trained; None trains a teacher."""
    teacher_network: _Network | None = None
    """The learning teacher's network; None is that of the teacher it starts from, and from nothing dqn, or mlp for
    vector observations."""
    mlp_hidden: tuple[Width, ...] | None = None
    """Units of the hidden layers of a teacher that is an mlp; None is as for teacher_network, and from nothing 128
    128."""
    layer_norm: bool | None = None
    """Normalise each hidden layer of the teacher; None is as for teacher_network, and from nothing true."""
    pqn: PQNConfig = dataclasses.field(default_factory=PQNConfig)
    target: Annotated[Literal["best", "latest"], Choice("a target")] | None = None
    """Whose play the student learns: the teacher's best snapshot so far, as the paper has it, or the teacher as it
    is; None is best, and of teacher_snapshots, which all are to teach, latest."""
    stale: Annotated[Literal["relabel", "age_out", "keep"], Choice("a way with stale outputs")] = "relabel"
    """What becomes of stored outputs once the target is another: computed anew, dropped, or left as they are."""
    max_stale_steps: CountOrZero | None = None
    """With age_out: a step that an older target labelled is learnt from while it is among so many newest control steps
    of all lanes together; None is 0, which drops it at once."""
    epsilon: Probability = 0.05
    """Chance of a random action in the target's play."""
    env: OneGameEnvConfig = dataclasses.field(default_factory=OneGameEnvConfig)
    student: StudentConfig = dataclasses.field(default_factory=StudentConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    learner: LearnerConfig = dataclasses.field(default_factory=LearnerConfig)
    parts: PartsConfig = dataclasses.field(default_factory=PartsConfig)
    replay: ReplayConfig = dataclasses.field(default_factory=ReplayConfig)
    schedule: ScheduleConfig = dataclasses.field(default_factory=ScheduleConfig)
    evaluation: OnlineEvaluationConfig = dataclasses.field(default_factory=OnlineEvaluationConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)

    @property
    def only_game(self) -> str | None:
        """The one game, if it is named."""
        return self.game[0] if self.game else None

    @property
    def only_teacher(self) -> str | None:
        """The one teacher to start from, if there is one."""
        return self.teacher[0] if self.teacher else None

    @property
    def teacher_rollouts(self) -> int:
        """Rollouts that give the teacher at least ``pqn.total_steps`` control steps."""
        return -(-self.pqn.total_steps // self.pqn.steps_per_rollout)

    def teacher_steps_after(self, rounds: int) -> int:
        """Control steps that the teacher has learnt from once so many rounds are over: the same in each, as nearly as
        whole rollouts allow."""
        return self.teacher_rollouts * rounds // self.schedule.rounds * self.pqn.steps_per_rollout

    @property
    def distillation(self) -> DistillConfig:
        """The student's part, as a distillation from a teacher that stays the same would have it."""
        evaluation = {field.name: getattr(self.evaluation, field.name) for field in _fields(self.evaluation)}
        return DistillConfig(
            teacher="the learning teacher",
            out=self.out,
            resume=self.resume,
            seed=self.seed,
            init_from=self.init_from,
            game=self.game,
            protocol=self.protocol,
            epsilon=self.epsilon,
            # The target of a round is the best teacher that the rounds before have made.
            actors=ActorsConfig(overlap=False),
            env=EnvConfig(**{field.name: getattr(self.env, field.name) for field in _fields(self.env)}),
            student=self.student,
            loss=self.loss,
            learner=self.learner,
            parts=self.parts,
            replay=self.replay,
            schedule=self.schedule,
            evaluation=StudentEvaluationConfig(**evaluation),
            checkpoint=DistillCheckpointConfig(**dataclasses.asdict(self.checkpoint)),
        )

    def training(self, game: str) -> TrainTeacherConfig:
        """The teacher's part, as a training that nobody learns from would have it."""
        evaluation = {field.name: getattr(self.evaluation, field.name) for field in _fields(EvaluationConfig)}
        return TrainTeacherConfig(
            out=self.out,
            seed=self.seed,
            game=game,
            protocol=self.protocol,
            init_from=self.only_teacher,
            network=self.teacher_network or "dqn",
            mlp_hidden=self.mlp_hidden or (128, 128),
            layer_norm=self.layer_norm,
            pqn=self.pqn,
            parts=self.parts,
            env=self.env,
            evaluation=TeacherEvaluationConfig(
                progress_episodes=self.evaluation.progress_episodes, every_steps=0, **evaluation
            ),
        )

    def idle(self) -> Iterator[Idle]:
        yield from super().idle()
        if self.teacher_snapshots is not None:
            for key in ("teacher_network", "mlp_hidden", "layer_norm", "pqn"):
                yield Idle(key, "teacher_snapshots", "is of a teacher that learns, and teacher_snapshots are its files")
        if self.teacher_network not in (None, *MLPS):
            why = f"is a setting of mlp, and teacher_network is {self.teacher_network!r}"
            yield Idle("mlp_hidden", "teacher_network", why)
        yield from idle_loss(self.loss)
        yield from idle_learner(self.learner, 1)
        yield from idle_memory(self.student)
        yield from idle_statistics(self.student)
        yield from idle_joint(self.student, 1)
        yield from idle_student(self.student, 1)
        games, because = (self.game, "game") if self.game else (self.teacher, "teacher")
        if not games and self.teacher_snapshots:
            return
        yield from idle_atari(games or (), because, (*ATARI_KEYS, "pqn.episodic_life", "learner.random_shift"))
        yield from idle_backend(self)

    def conflicts(self) -> Iterator[tuple[str, str]]:
        yield from self.tracking_conflicts()
        for key in ("game", "teacher"):
            named = getattr(self, key) or ()
            if len(named) > 1:
                yield key, f"{len(named)} {key}s, and pd-jax online takes one; give each game a run of its own"
                return
        if self.teacher_snapshots is not None:
            yield from self._snapshot_conflicts(self.teacher_snapshots)
            return
        if self.game is None and self.teacher is None:
            yield "game", "missing, and teacher too; give --game NAME, or --teacher NAME_OR_FILE to start from"
            return
        # Without a game nothing can be said about networks yet.
        training = self.training(self.only_game or "")
        for key, problem in training.conflicts():
            if key == "network" and self.teacher_network is not None:
                yield "teacher_network", problem
            elif key == "algorithm":
                yield "game", f"{self.only_game!r} is continuous, and a teacher that learns here chooses among actions"
            elif key not in ("game", "network"):
                yield key, problem
        yield from self._student_conflicts()

    def _student_conflicts(self) -> Iterator[tuple[str, str]]:
        if not self.student.observation.is_plain and self.stale == "relabel":
            yield (
                "stale",
                "'relabel' asks the target about what is stored, which is what the student sees with a "
                "student.observation of its own; say --stale age_out or keep",
            )
        if self.max_stale_steps is not None and self.stale != "age_out":
            yield "max_stale_steps", f"{self.max_stale_steps}, and stale is {self.stale}; it says what age_out drops"
        yield from self.distillation.conflicts()

    def _snapshot_conflicts(self, snapshots: Paths) -> Iterator[tuple[str, str]]:
        if self.teacher is not None:
            yield (
                "teacher",
                "is what a teacher that learns starts from, and teacher_snapshots are all of one; leave it out",
            )
        elif len(snapshots) > self.schedule.rounds:
            yield (
                "teacher_snapshots",
                f"{len(snapshots)} files, and each is to teach in one of schedule.rounds ({self.schedule.rounds}) at "
                "least; give more rounds or fewer files",
            )
        else:
            # They go into the file that the run leaves.
            yield from unsure_scores(self.evaluation)
            yield from self._student_conflicts()


def _fields(settings: object) -> tuple[dataclasses.Field[object], ...]:
    return dataclasses.fields(settings)  # type: ignore[arg-type]
