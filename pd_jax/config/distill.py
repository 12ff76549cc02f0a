"""The settings of ``pd-jax distill``, and what is impossible in them together."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from pd_jax.config.adding import AddingConfig, adding_conflicts, idle_adding, uneven_adding
from pd_jax.config.credibility import credibility_conflicts
from pd_jax.config.distillation import DistillationSettings
from pd_jax.config.games import MLPS, games_conflicts
from pd_jax.config.idle import Idle, idle_joint, idle_learner, idle_loss, idle_memory, idle_statistics, idle_student
from pd_jax.config.memory import STACKED_BEFORE, memory_conflicts
from pd_jax.config.mixed import mixed_conflicts
from pd_jax.config.protocols import protocol_conflicts
from pd_jax.config.sections import Paths
from pd_jax.environments.senses import SIZES
from pd_jax.errors import UserError
from pd_jax.system.text import spell_count


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillConfig(DistillationSettings):
    """Distil teachers into a student: one teacher, or several of different games."""

    video: bool = False
    """Show teacher and student side by side at the end, as pd-jax video does: video.mp4 and video.gif in the run."""
    add_teacher: Paths | None = None
    """Teachers of games that are added to the student of init_from, a run: teacher is then of that run's games, in any
    order, or left out. All that is not given is as in that run."""
    add_data: Paths | None = None
    """Directories of recorded play of the games that are added, one for each of add_teacher."""
    adding: AddingConfig = dataclasses.field(default_factory=AddingConfig)

    @property
    def num_games(self) -> int:
        return len(self.teacher) + len(self.add_teacher or ())

    @property
    def num_old_games(self) -> int:
        """Games that the student plays already, to which others are added; 0 if none are."""
        if self.add_teacher is not None:
            return len(self.teacher)
        return len(self.teacher) - len(self.adding.games) if self.adding.games else 0

    def is_learnt(self, game: int) -> bool:
        """Whether a game is played and learnt from: all are, but for old ones beside added ones that are held."""
        return game >= self.num_old_games or self.adding.replays

    @property
    def old_rollouts(self) -> int:
        """Rollouts of the old game with the fewest lanes that are looked at and not learnt from."""
        if not self.num_old_games or not self.adding.samples:
            return 0
        return math.ceil(self.adding.old_steps / min(map(self.steps_per_rollout, range(self.num_old_games))))

    def steps_per_rollout(self, game: int = 0) -> int:
        """Control steps of one rollout of a game in all lanes together."""
        return self.lanes[game] * self.schedule.rollout_length

    def rollouts_per_round(self, game: int = 0) -> int:
        """Rollouts of a game that give at least ``schedule.steps_per_round``.

        Rounding up rather than refusing keeps the paper's 54,000 steps usable with any number of lanes.
        """
        return math.ceil(self.schedule.steps_per_round / self.steps_per_rollout(game))

    @property
    def is_shuffled(self) -> bool:
        """Whether play comes in rollouts that do not follow one another."""
        return self.data is not None and self.data_order == "shuffled"

    @property
    def steps_before(self) -> int:
        """Steps before a rollout that are stored with it, for the stacks of its first steps reach back to them, and a
        student with memory goes through some before it learns."""
        if not self.is_shuffled:
            return 0
        observation = self.student.observation
        stacked = max(STACKED_BEFORE, observation.window_steps - 1, observation.last_actions)
        return stacked + (0 if self.student.memory == "none" else self.learner.burn_in)

    @property
    def stored_length(self) -> int:
        """Steps of each lane that are stored at once: a rollout, and those before it."""
        return self.schedule.rollout_length + self.steps_before

    def capacity_per_lane(self, game: int = 0) -> int:
        """Steps of each lane of a game that the replay keeps; of shuffled play whole rollouts, so that all of them stay
        equally long."""
        capacity = self.replay.capacity // self.lanes[game]
        if not self.is_learnt(game):
            capacity = max(1, self.old_rollouts) * self.stored_length
        return capacity // self.stored_length * self.stored_length if self.is_shuffled else capacity

    def rollouts_held(self, game: int = 0) -> int:
        """Whole rollouts of a game that the replay keeps."""
        return self.capacity_per_lane(game) // self.stored_length

    def plays_ahead(self, platform: str) -> bool:
        """Whether the round to come is played (or, of a recording, read) during updates on devices of this platform."""
        if self.actors.overlap is not None or self.behaviour.student_acts:
            return bool(self.actors.overlap)
        return self.data is not None or platform != "cpu"

    def idle(self) -> Iterator[Idle]:
        yield from super().idle()
        if self.data is None:
            yield Idle("data_order", "data", "is for recorded play, and there is no data")
        yield from idle_loss(self.loss)
        yield from idle_learner(self.learner, self.num_games)
        yield from idle_memory(self.student)
        yield from idle_statistics(self.student)
        yield from idle_joint(self.student, self.num_games)
        yield from idle_student(self.student, self.num_games)
        yield from idle_adding(self.adding, is_added=self.num_old_games > 0)

    def uneven(self) -> Iterator[tuple[str, str]]:
        if self.add_teacher is None and self.adding.games is None:
            yield from super().uneven()
        else:
            yield from uneven_adding(self)

    def conflicts(self) -> Iterator[tuple[str, str]]:
        yield from self.tracking_conflicts()
        counts = list(self.uneven())
        yield from counts
        yield from credibility_conflicts(self.credibility, self.teacher)
        yield from adding_conflicts(self)
        yield from actor_conflicts(self)
        capacity = self.replay.capacity
        if self.learner.sampling != "uniform" and self.learner.games == "alternating" and self.num_games > 1:
            yield (
                "learner.sampling",
                f"{self.learner.sampling!r} prefers examples of every game at once, and learner.games is 'alternating'",
            )
        if self.learner.batch_size > capacity:
            yield "learner.batch_size", f"{self.learner.batch_size} is more than replay.capacity ({capacity})"
        # A recording has lanes of its own, which are checked once it is open.
        if self.data is None and not counts:
            widest = max(range(self.num_games), key=lambda game: self.lanes[game])
            if capacity < self.steps_per_rollout(widest):
                yield (
                    "replay.capacity",
                    f"{capacity} holds less than one rollout, {self.steps_per_rollout(widest)} steps "
                    f"({self.lanes_key} {self.lanes[widest]} x "
                    f"schedule.rollout_length {self.schedule.rollout_length})",
                )
            if self.learner.num_devices is not None:
                yield from device_conflicts(self, self.learner.num_devices)
        if self.data is not None and self.behaviour.student_acts:
            yield (
                "behaviour.policy",
                f"{self.behaviour.policy!r} needs live play, and data is a recording of the teacher's; leave one out",
            )
        if self.data is not None and self.checkpoint.replay:
            yield "checkpoint.replay", "a replay of recorded play is filled again bit for bit; leave it out"
        # Of an added game the name may not be known yet.
        games = [game for game in self.game or () if game]
        yield from games_conflicts(games, self.student.network, self.student.observation)
        yield from observation_conflicts(self)
        yield from _balance_conflicts(self)
        yield from _quantisation_conflicts(self)
        yield from memory_conflicts(self)
        yield from mixed_conflicts(self)
        yield from protocol_conflicts(self)


def observation_conflicts(config: DistillConfig) -> Iterator[tuple[str, str]]:
    """Yields, as `CommandConfig.conflicts` does, what a student cannot see, or cannot do with what it sees."""
    observation = config.student.observation
    if observation.is_plain:
        return
    if observation.size is not None and observation.size not in SIZES:
        yield "student.observation.size", f"{observation.size} is none of {', '.join(map(str, SIZES))} pixels"
    if observation.source == "ram" and config.env.backend == "ale":
        yield "student.observation.source", "'ram' is read by EnvPool, and env.backend is 'ale'"
    if observation.also != "none" and config.env.backend == "ale":
        yield "student.observation.also", f"{observation.also!r} is read by EnvPool, and env.backend is 'ale'"
    if config.student.quantisation != "none":
        yield (
            "student.quantisation",
            f"{config.student.quantisation!r} is for students that see what their teachers see; leave out "
            "student.observation",
        )


def _balance_conflicts(config: DistillConfig) -> Iterator[tuple[str, str]]:
    """Yields, as `CommandConfig.conflicts` does, what is impossible between games."""
    learner = config.learner
    if isinstance(learner.game_weights, tuple):
        if not any(learner.game_weights):
            yield "learner.game_weights", "all are 0, and nothing would be learnt"
        if learner.balance in ("uncertainty", "gradnorm"):
            yield "learner.game_weights", f"given, and learner.balance {learner.balance!r} finds them; leave one out"
    if config.num_games > 1 and config.student.network in MLPS and not config.student.mlp_hidden:
        for key, is_set in (
            ("learner.balance", learner.is_by_game),
            ("learner.gradient_cosines_every", learner.gradient_cosines_every > 0),
        ):
            if is_set:
                yield key, "is about the layers that games share, and student.mlp_hidden has none"


def _quantisation_conflicts(config: DistillConfig) -> Iterator[tuple[str, str]]:
    """Yields, as `CommandConfig.conflicts` does, why a student cannot learn with quantisation."""
    if config.student.quantisation == "none":
        return
    if config.init_from is None:
        yield (
            "student.quantisation",
            f"{config.student.quantisation!r} goes on from a student that has learnt; give it as --init-from RUN",
        )
    if config.student.compute_dtype != "float32":
        yield (
            "student.quantisation",
            f"{config.student.quantisation!r} learns in float32, and student.compute_dtype is "
            f"{config.student.compute_dtype!r}",
        )


def check_devices(config: DistillConfig, num_devices: int) -> None:
    """Checks that lanes and minibatches split evenly over the devices that were found.

    Raises:
      UserError: they do not; the message names the key and the nearest numbers that would.
    """
    for key, problem in device_conflicts(config, num_devices):
        raise UserError(f"{key}: {problem}")


def device_conflicts(config: DistillConfig, num_devices: int) -> Iterator[tuple[str, str]]:
    """Yields what does not split evenly over ``num_devices``, as `CommandConfig.conflicts` does."""
    lanes = ((config.lanes_key, number) for number in dict.fromkeys(config.lanes))
    for key, number in (*lanes, ("learner.batch_size", config.learner.batch_size)):
        if number % num_devices:
            yield key, f"{number} does not split evenly over {num_devices} devices; {_fitting(number, num_devices)}"
    batch_size, accumulate = config.learner.batch_size, config.learner.accumulate
    parts = num_devices * accumulate
    if batch_size % num_devices == 0 and batch_size % parts:
        yield (
            "learner.batch_size",
            f"{batch_size} does not split evenly into learner.accumulate {accumulate} parts on each of {num_devices} "
            f"devices; {_fitting(batch_size, parts)}",
        )
    elif config.student.memory != "none" and parts > 1:
        steps = parts * config.learner.sequence_length
        if batch_size % steps:
            yield (
                "learner.batch_size",
                f"{batch_size} does not split into {parts} parts of whole sequences of learner.sequence_length "
                f"{config.learner.sequence_length} steps; {_fitting(batch_size, steps)}",
            )


def _fitting(number: int, parts: int) -> str:
    below = number // parts * parts
    return f"{below} and {below + parts} do" if below else f"{parts} does"


def actor_conflicts(config: DistillConfig) -> Iterator[tuple[str, str]]:
    """Yields what is impossible in where and when the play takes place."""
    actors, games = config.actors, config.num_games
    if actors.overlap and config.behaviour.student_acts:
        yield (
            "actors.overlap",
            f"true, and behaviour.policy is {config.behaviour.policy!r}: the student that acts in a round is the one "
            "that the round before has made; leave it out",
        )
    if actors.num_devices > games:
        yield (
            "actors.num_devices",
            f"{actors.num_devices} for {spell_count(games, 'game')}; each game plays on one device",
        )
    if actors.num_devices and config.data is not None:
        yield "actors.num_devices", f"{actors.num_devices}, and data is a recording, which needs none; leave one out"
