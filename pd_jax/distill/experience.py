"""What a student learns from: one replay for each game, and the play that fills them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import jax
import numpy as np

from pd_jax.actors.inference_time import InferenceTimer
from pd_jax.actors.live import LivePlay
from pd_jax.actors.play import Play, action_gap, first_unsound_step
from pd_jax.actors.prefetch import PrefetchedPlay
from pd_jax.actors.recorded import RecordedPlay
from pd_jax.actors.rollout import ActingStudent
from pd_jax.actors.side_by_side import SideBySide
from pd_jax.distill.counters import GameCounters
from pd_jax.distill.memory import rollouts_ahead
from pd_jax.distill.setup import DistillSetup
from pd_jax.environments.seeds import fresh_seed
from pd_jax.errors import UserError
from pd_jax.learner.learner import Games
from pd_jax.replay import rings
from pd_jax.replay.rings import ReplayState
from pd_jax.resources.ledger import INPUT, PLAY, Ledger
from pd_jax.system.interrupts import Interrupts
from pd_jax.system.progress import Meter, print_warning
from pd_jax.types import Trajectory


class UnsoundTeacherError(UserError):
    """A teacher's outputs are NaN or infinite, and without its game the run cannot go on. What was learnt is sound."""


class ExperienceLike(Protocol):
    """What a run needs of its lessons; see :class:`Lessons`."""

    def open(self) -> None: ...
    def close(self) -> None: ...
    def refill(self, rounds: int, *, in_mid_round: bool, say: Callable[[str], None]) -> None: ...
    def play_round(self) -> None: ...
    def play_ahead(self) -> None: ...
    def take_values(self) -> dict[str, float]: ...


class Lessons:
    """The replays of a run, and the teachers' play.

    A teacher whose outputs become NaN or infinite plays no more. Nothing of the rollout in which that happened is
    stored; what its replay holds from before is still learnt from.

    Args:
      setting: of the run.
      at: where each game stands; ``env_steps`` and ``stopped_at`` are kept up to date.
      meter: counts the steps that are new to the run.
      interrupts: heeded after every rollout.
      ledger: is told what the training waits for; one of its own by default.

    Attributes:
      stored: a replay for each game, with a device axis.
      ledger: the same.
    """

    def __init__(
        self,
        setting: DistillSetup,
        at: Sequence[GameCounters],
        meter: Meter,
        interrupts: Interrupts,
        ledger: Ledger | None = None,
    ) -> None:
        self.ledger = ledger or Ledger()
        self._setting = setting
        self._config = setting.config
        self._plays_ahead = setting.config.plays_ahead(setting.devices.platform)
        self._at = at
        self._meter = meter
        self._interrupts = interrupts
        self._insert = setting.devices.here.map(rings.insert, donate=(0,))
        self._values: dict[str, float] = {}
        self._play: SideBySide | None = None
        self._live: list[LivePlay] = []
        self._timer = InferenceTimer(self._live)
        self.stored: tuple[ReplayState, ...] = tuple(map(self._empty_replay, range(len(setting.tasks))))

    def open(self) -> None:
        """Starts the teachers' play, or opens what was recorded of it."""
        self._live.clear()
        self._play = SideBySide([self._open_play(game) for game in range(len(self._setting.tasks))])
        self.ledger.plays = [play.time for play in self._live]
        for game, at in enumerate(self._at):
            # A recording stops again where it did.
            if at.stopped_at is not None and self._setting.datasets[game] is None:
                self._play.stop(game)
        for game in sorted(self._play.stopped) if len(self._play.stopped) < len(self._at) else ():
            print_warning(f"{self._describe(game)}; it does not play again, and the other games go on")

    def close(self) -> None:
        """Ends the play; the replays stay."""
        if self._play is not None:
            self._timer.close()
            self._play.close()
            self._play = None
        self.ledger.close()

    def refill(self, rounds: int, *, in_mid_round: bool, say: Callable[[str], None]) -> None:
        """Brings the replays back: from recordings exactly as they were, from live play with fresh episodes.

        Args:
          rounds: that the run has finished.
          in_mid_round: whether it has begun another.
          say: is told, in one line, where the play differs from what it was.
        """
        if self._config.data is not None:
            self._collect(rounds + in_mid_round, [0] * len(self._at))
            return
        say("the replay starts again with fresh episodes: a live emulator cannot be saved")
        if in_mid_round:
            self._collect(1, [at.env_steps for at in self._at])

    def play_round(self) -> None:
        """Stores the play of one more round."""
        if self._live and not self._plays_ahead:
            self.ledger.on_stage(PLAY)
        before = [at.env_steps for at in self._at]
        for at, steps in zip(self._at, self._collect(1, before, is_new=True), strict=True):
            at.env_steps += steps
        if self._config.schedule.rounds > 1:
            self._timer.note_round()

    def play_ahead(self) -> None:
        """Lets the teachers begin with the round to come, if they are to play while the updates of this one run."""
        assert self._play is not None
        for game, play in enumerate(self._play.plays):
            if isinstance(play, PrefetchedPlay) and game not in self._play.stopped:
                play.expect(self._config.rollouts_per_round(game))

    def let_act(self, student: ActingStudent) -> None:
        """Has the student act in the rounds to come, in all games."""
        assert self._play is not None
        for play in self._play.plays:
            if isinstance(play, LivePlay):
                play.let_act(student)
        self._values["student_share"] = float(student.share)

    @property
    def games(self) -> Games:
        """Places of the games that there is something to learn of; None is all of them.

        A game whose teacher gave NaN at once has nothing, nor has one whose live play stopped before a run was resumed.
        """
        assert self._play is not None
        stopped = self._play.stopped
        held = tuple(game for game in range(len(self._at)) if game not in stopped or self._holds_any(game))
        return None if len(held) == len(self._at) else held

    def take_values(self) -> dict[str, float]:
        """Metrics of the play, and of where the time went, since they were last taken."""
        values, self._values = self._values, {}
        return values | self.ledger.take_values()

    def _prefix(self, game: int) -> str:
        """What the names of a game's metrics begin with: nothing if there is only one."""
        return f"{self._setting.names[game]}/" if len(self._setting.tasks) > 1 else ""

    def _collect(self, rounds: int, before: Sequence[int], *, is_new: bool = False) -> list[int]:
        """Stores some rounds of play, ``before`` which each game had so many steps; returns the steps stored."""
        play, config = self._play, self._config
        assert play is not None
        steps, stopped_before = [0] * len(self._at), play.stopped
        latest: dict[int, Trajectory] = {}
        self._meter.reset(completed=self._meter.completed)
        counts = [rounds * config.rollouts_per_round(game) for game in range(len(self._at))]
        with contextlib.closing(play.rollouts(counts)) as rollouts, self.ledger.during(INPUT):
            for game, trajectory in self.ledger.waits(rollouts, PLAY if self._live else INPUT):
                if game not in play.stopped and not self._stops(play, game, trajectory, before[game] + steps[game]):
                    self._store(game, trajectory)
                    latest[game] = trajectory
                    steps[game] += config.steps_per_rollout(game)
                    if is_new:
                        self._meter.advance(config.steps_per_rollout(game))
                self._interrupts.check_alone()
        self._note_play(play, latest if is_new else {})
        self._check_enough_is_left(play)
        for game in sorted(play.stopped - stopped_before):
            learnt = "" if self._holds_any(game) else ", nothing of it can be learnt"
            print_warning(f"{self._describe(game)}; its play stops there{learnt}, and the other games go on")
        return steps

    def _store(self, game: int, trajectory: Trajectory) -> None:
        rollout = self._setting.devices.split(trajectory, axis=1)
        stored = self._insert(self.stored[game], rollout)
        self.stored = (*self.stored[:game], stored, *self.stored[game + 1 :])

    def _stops(self, play: SideBySide, game: int, trajectory: Trajectory, step: int) -> bool:
        """Whether a rollout, which begins at ``step``, is unsound; then the game's play ends."""
        unsound = first_unsound_step(trajectory)
        if unsound is None:
            return False
        play.stop(game)
        at, is_news = self._at[game], self._at[game].stopped_at is None
        at.stopped_at = step + unsound * self._config.lanes[game]
        if is_news:
            self._values[f"{self._prefix(game)}play_stopped_at"] = at.stopped_at
        if self._setting.devices.num_processes > 1:
            # The other processes do not know, and would count what is not stored.
            raise UnsoundTeacherError(self._describe(game))
        return True

    def _describe(self, game: int) -> str:
        source, at = self._setting.teachers[game].source, self._at[game]
        return f"{self._setting.names[game]}: teacher {source} gave NaN or infinite outputs at step {at.stopped_at:,}"

    def _check_enough_is_left(self, play: SideBySide) -> None:
        """Raises unless some game goes on."""
        if len(play.stopped) == len(self._at):
            raise UnsoundTeacherError("; ".join(map(self._describe, sorted(play.stopped))))

    def _holds_any(self, game: int) -> bool:
        return int(self._setting.devices.first(self.stored[game].size)) > 0

    def _note_play(self, play: SideBySide, latest: dict[int, Trajectory]) -> None:
        for game, source in enumerate(play.plays):
            prefix = self._prefix(game)
            if source.finished_returns:
                returns, source.finished_returns = source.finished_returns, []
                # Of play in which the student acts, even now and then, the returns are not the teacher's.
                who = "play" if self._config.behaviour.student_acts else "teacher"
                self._values[f"{prefix}{who}_return"] = float(np.mean(returns))
                self._values[f"{prefix}{who}_episodes"] = len(returns)
            if game in latest and (gap := action_gap(latest[game])) is not None:
                self._values[f"{prefix}teacher_action_gap"] = gap

    def _empty_replay(self, game: int) -> ReplayState:
        devices, config, task = self._setting.devices, self._config, self._setting.tasks[game]
        init = functools.partial(
            rings.init,
            config.lanes[game] // devices.size,
            config.capacity_per_lane(game),
            task.frame_shape,
            task.observation_dtype,
            task.num_actions,
        )
        stored: ReplayState = devices.here.map(lambda _: init())(np.zeros(devices.here.size))
        return stored

    def _open_play(self, game: int) -> Play:
        play = self._open_source(game)
        if not self._plays_ahead:
            return play
        return PrefetchedPlay(play, rollouts_ahead(self._config, self._setting.tasks[game], game))

    def _open_source(self, game: int) -> Play:
        setting, config = self._setting, self._config
        dataset, length = setting.datasets[game], config.schedule.rollout_length
        lanes = config.lanes[game] // setting.devices.num_processes
        first_lane = lanes * jax.process_index()
        if dataset is not None:
            return RecordedPlay(
                dataset,
                rollout_length=length,
                num_steps=self._at[game].recorded_steps,
                lanes=slice(first_lane, first_lane + lanes),
            )
        live = LivePlay(
            setting.teachers[game],
            setting.tasks[game],
            dataclasses.replace(config.env, num_lanes=lanes, lanes=None),
            rollout_length=length,
            epsilon=config.epsilon,
            # Lane i of a process has its seed plus i.
            seed=fresh_seed(config.seed, sum(at.env_steps for at in self._at), game) + first_lane,
            student=setting.student.policy(game) if config.behaviour.student_acts else None,
            device=setting.actor(game),
        )
        self._live.append(live)
        return live
