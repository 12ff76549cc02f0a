"""What a student learns from: a replay of each game, and the play that fills it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from pd_jax.actors.inference_time import InferenceTimer
from pd_jax.actors.live import LivePlay
from pd_jax.actors.play import Play, action_gap, first_unsound_observation, first_unsound_step
from pd_jax.actors.prefetch import PrefetchedPlay
from pd_jax.actors.recorded import RecordedPlay
from pd_jax.actors.rollout import ActingStudent
from pd_jax.actors.shuffled import ShuffledPlay
from pd_jax.actors.side_by_side import SideBySide
from pd_jax.distill.contradictions import ask_of_play
from pd_jax.distill.counters import GameCounters
from pd_jax.distill.memory import rollouts_ahead
from pd_jax.distill.setup import DistillSetup
from pd_jax.environments.seeds import fresh_seed
from pd_jax.errors import UnsoundObservationsError, UnsoundTeacherError
from pd_jax.learner.learner import Games
from pd_jax.replay.replay import Replay, RingSize
from pd_jax.resources.ledger import INPUT, PLAY, Ledger
from pd_jax.system import hosts
from pd_jax.system.interrupts import Interrupts
from pd_jax.system.progress import Meter, print_warning
from pd_jax.teachers import Committee, Teacher
from pd_jax.types import Trajectory


@dataclasses.dataclass(frozen=True)
class OpenPlay:
    """The play is to begin."""


@dataclasses.dataclass(frozen=True)
class Refill:
    """The replay of a run that is resumed is to be brought back; see :meth:`Experience.refill`."""

    rounds: int
    in_mid_round: bool


@dataclasses.dataclass(frozen=True)
class LetAct:
    """The student is to act in the rounds to come."""

    student: ActingStudent


@dataclasses.dataclass(frozen=True)
class PlayRound:
    """One more round is to be played and stored; answered by where every game stands."""


@dataclasses.dataclass(frozen=True)
class PlayAhead:
    """The round to come may be played."""


@dataclasses.dataclass(frozen=True)
class SettleTemperatures:
    """The temperatures of some games are to be found from the play so far, for the updates to come; answered by a
    list of `pd_jax.learner.learner.FoundTemperature`.

    Attributes:
      games: places of those of which there is something to learn.
    """

    games: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class MeasureCosines:
    """The angles between the games' gradients are to be measured; answered as by
    `pd_jax.learner.learner.Learner.gradient_cosines`."""


PlayRequest = OpenPlay | Refill | LetAct | PlayRound | PlayAhead
"""What a session asks for: it trains one student, and what that learns from may be other students' too."""


class Experience:
    """The replay of a run, and the teachers' play that fills it.

    A teacher whose outputs become NaN or infinite plays no more, nor does one that is shown such numbers. Nothing of
    the rollout in which that happened is stored; what its replay holds from before is still learnt from.

    Args:
      setup: of the run.
      games: where each game stands; ``env_steps`` and ``stopped_at`` are kept up to date.
      meter: counts the steps that are new to the run.
      interrupts: heeded after every rollout.
      ledger: is told what the training waits for; one of its own by default.

    Attributes:
      replay: of all games.
      games: the same.
      ledger: the same.
    """

    def __init__(
        self,
        setup: DistillSetup,
        games: Sequence[GameCounters],
        meter: Meter,
        interrupts: Interrupts,
        ledger: Ledger | None = None,
    ) -> None:
        self.ledger = ledger or Ledger()
        self.games = games
        self._setup = setup
        self._config = setup.config
        self._plays_ahead = setup.config.plays_ahead(setup.devices.platform)
        self._meter = meter
        self._interrupts = interrupts
        self._values: dict[str, float] = {}
        self._play: SideBySide | None = None
        self._live: list[LivePlay] = []
        self._shuffled: dict[int, ShuffledPlay] = {}
        self._live_from: list[int] = []
        for at, teacher in zip(games, setup.teachers, strict=True):
            leave_out_again(teacher, at)
        self._teaching = [teacher.variables for teacher in setup.teachers]
        self._timer = InferenceTimer(self._live)
        self.replay = Replay([self._ring_size(game) for game in range(len(setup.tasks))], setup.devices)

    def perform(self, request: PlayRequest, *, say: Callable[[str], None]) -> Sequence[GameCounters] | None:
        """Does what a session asks for, and returns the answer.

        Args:
          request: what is asked for.
          say: is told, in one line, where the play differs from what it was.
        """
        match request:
            case OpenPlay():
                self.open()
            case Refill(rounds=rounds, in_mid_round=in_mid_round):
                self.refill(rounds, in_mid_round=in_mid_round, say=say)
            case LetAct(student=student):
                self.let_act(student)
            case PlayAhead():
                self.play_ahead()
            case PlayRound():
                self.play_round()
                return self.games
        return None

    def open(self) -> None:
        """Starts the teachers' play, or opens what was recorded of it."""
        self._live.clear()
        self._live_from = [game.env_steps for game in self.games]
        self._shuffled.clear()
        self._play = SideBySide([self._open_play(game) for game in range(len(self._setup.tasks))])
        self.ledger.plays = [play.time for play in self._live]
        for game, at in enumerate(self.games):
            # A recording stops again where it did.
            if at.stopped_at is not None and self._setup.datasets[game] is None:
                self._play.stop(game)
        for game in sorted(self._play.stopped) if len(self._play.stopped) < len(self.games) else ():
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
            counts = self._rollouts(rounds + in_mid_round)
            for game, play in self._shuffled.items():
                # Of all that went in, what has not been written over since; of play that stopped, all that there was.
                if self.games[game].stopped_at is None:
                    left_out = max(0, counts[game] - self._config.rollouts_held(game))
                    play.skip(left_out)
                    self.replay.skip(game, left_out * self._config.stored_length)
                    counts[game] -= left_out
            self._collect(counts, [0] * len(self.games))
            return
        say("the replay starts again with fresh episodes: a live emulator cannot be saved")
        if in_mid_round:
            stored = self._collect(self._rollouts(1), [game.env_steps for game in self.games])
            # What was played again is no news.
            self._live_from = [start - again for start, again in zip(self._live_from, stored, strict=True)]

    def play_round(self) -> None:
        """Stores the play of one more round."""
        if self._live and not self._plays_ahead:
            self.ledger.on_stage(PLAY)
        before = [game.env_steps for game in self.games]
        for at, steps in zip(self.games, self._collect(self._rollouts(1), before, is_new=True), strict=True):
            at.env_steps += steps
        if self._config.schedule.rounds > 1:
            self._timer.note_round()
        self._ask_committees()

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

    def let_teach(self, game: int, variables: Any) -> None:
        """Has a game's teacher play with other variables in the rounds to come: one that learns has new ones."""
        self._teaching[game] = variables
        for play in self._live[game : game + 1]:
            play.let_teach(variables)

    @property
    def learnable(self) -> Games:
        """Places of the games that there is something to learn of; None is all of them.

        A game whose teacher gave NaN at once has nothing, nor has one whose live play stopped before a run was resumed.
        """
        assert self._play is not None
        stopped = self._play.stopped
        held = tuple(game for game in range(len(self.games)) if game not in stopped or self._holds_any(game))
        return None if len(held) == len(self.games) else held

    def take_values(self) -> dict[str, float]:
        """Metrics of the play, and of where the time went, since they were last taken."""
        self._timer.note_call()
        values, self._values = self._values, {}
        return values | self.ledger.take_values()

    def _prefix(self, game: int) -> str:
        """What the names of a game's metrics begin with: nothing if there is only one."""
        return f"{self._setup.names[game]}/" if len(self._setup.tasks) > 1 else ""

    def _rollouts(self, rounds: int) -> list[int]:
        """Of each game, in some rounds."""
        return [rounds * self._config.rollouts_per_round(game) for game in range(len(self.games))]

    def _collect(self, counts: Sequence[int], before: Sequence[int], *, is_new: bool = False) -> list[int]:
        """Stores some rollouts of each game, ``before`` which it had so many steps; returns the steps stored."""
        play, config = self._play, self._config
        assert play is not None
        steps, stopped_before = [0] * len(self.games), play.stopped
        latest: dict[int, Trajectory] = {}
        self._meter.reset(completed=self._meter.completed)
        with contextlib.closing(play.rollouts(counts)) as rollouts, self.ledger.during(INPUT):
            for game, trajectory in self.ledger.waits(rollouts, PLAY if self._live else INPUT):
                if game not in play.stopped and not self._stops(play, game, trajectory, before[game] + steps[game]):
                    self.replay.insert(game, trajectory)
                    latest[game] = trajectory
                    steps[game] += config.steps_per_rollout(game)
                    if is_new:
                        self._meter.advance(config.steps_per_rollout(game))
                self._interrupts.check_alone()
        self._note_play(play, latest if is_new else {})
        self._note_faults()
        self._check_enough_is_left(play)
        for game in sorted(play.stopped - stopped_before):
            learnt = "" if self._holds_any(game) else ", nothing of it can be learnt"
            print_warning(f"{self._describe(game)}; its play stops there{learnt}, and the other games go on")
        return steps

    def _stops(self, play: SideBySide, game: int, trajectory: Trajectory, step: int) -> bool:
        """Whether a rollout, which begins at ``step``, is unsound; then the game's play ends."""
        unsound, seen = first_unsound_step(trajectory), first_unsound_observation(trajectory)
        if seen is not None and (unsound is None or seen.step <= unsound):
            # Whoever sees nonsense gives nonsense: the teacher is not to blame.
            unsound = seen.step
        elif unsound is not None:
            seen = None
        else:
            return False
        play.stop(game)
        at, is_news = self.games[game], self.games[game].stopped_at is None
        at.stopped_at = step + unsound * self._config.lanes[game]
        at.stopped_seeing = "" if seen is None else f"number {seen.number} of lane {seen.lane}"
        if is_news:
            self._values[f"{self._prefix(game)}play_stopped_at"] = at.stopped_at
        if self._setup.devices.num_processes > 1:
            # The other processes do not know, and would count what is not stored.
            raise self._unsound(game)
        return True

    def _ask_committees(self) -> None:
        """Notes how far the members of committees contradict each other in the play so far, and what they count."""
        if not hosts.is_primary():
            return
        for game, teacher in enumerate(self._setup.teachers):
            if isinstance(teacher, Committee) and self._holds_any(game):
                stored, steps = self.replay.stored[game], self.games[game].env_steps
                found = ask_of_play(teacher, stored, steps)
                self._values |= {} if found is None else found.values(self._prefix(game))

    def _note_faults(self) -> None:
        """Says which members of committees have been left out, and when."""
        for game, live in enumerate(self._live):
            teacher, at = self._setup.teachers[game], self.games[game]
            for member, step in live.take_faults():
                assert isinstance(teacher, Committee)
                label, step = teacher.labels[member], step + self._live_from[game]
                entry = {"teacher": label, "sha256": teacher.members[member].sha256, "step": step}
                at.left_out = [*at.left_out, entry]
                self._values[f"{self._prefix(game)}left_out_at/{label}"] = step
                told = (
                    f"{self._setup.names[game]}: {teacher.members[member].source}, one of {len(teacher.members)} "
                    f"teachers, gave NaN or infinite outputs at step {step:,}"
                )
                if self._setup.devices.num_processes > 1:
                    # The other processes do not know, and it would count there.
                    raise UnsoundTeacherError(told)
                print_warning(f"{told}; it does not count any more, and the others go on")

    def _describe(self, game: int) -> str:
        """Why a game's play stopped."""
        source, at, dataset = self._setup.teachers[game].source, self.games[game], self._setup.datasets[game]
        step = f"at step {at.stopped_at:,}"
        if at.stopped_seeing:
            whose = "the environment" if dataset is None else f"the recording {dataset.path}"
            remedy = "the environment, or the sensor that it comes from" if dataset is None else "what is recorded"
            return (
                f"{self._setup.names[game]}: {whose} shows NaN or infinite numbers {step} ({at.stopped_seeing}); mend "
                f"{remedy}"
            )
        found = "gave NaN or infinite outputs"
        if dataset is not None:
            return f"{self._setup.names[game]}: in the recording {dataset.path} teacher {source} {found} {step}"
        leaves_out = bool(self._setup.student.senses) and self._setup.tasks[game].kind == "vector"
        maybe = ", or was shown such numbers where the student sees nothing" if leaves_out else ""
        return f"{self._setup.names[game]}: teacher {source} {found} {step}{maybe}"

    def _unsound(self, *games: int) -> UnsoundTeacherError | UnsoundObservationsError:
        """The error of these games, whose play has stopped."""
        sees = all(self.games[game].stopped_seeing for game in games)
        kind = UnsoundObservationsError if sees else UnsoundTeacherError
        return kind("; ".join(map(self._describe, games)))

    def _check_enough_is_left(self, play: SideBySide) -> None:
        """Raises unless some game goes on."""
        if len(play.stopped) == len(self.games):
            raise self._unsound(*sorted(play.stopped))

    def _holds_any(self, game: int) -> bool:
        return self.replay.steps_held(game) > 0

    def _note_play(self, play: SideBySide, latest: dict[int, Trajectory]) -> None:
        for game, source in enumerate(play.plays):
            prefix = self._prefix(game)
            if source.finished_returns:
                returns, source.finished_returns = source.finished_returns, []
                # Of play in which the student acts, even now and then, the returns are not the teacher's.
                who = "play" if self._config.behaviour.student_acts else "teacher"
                self._values[f"{prefix}{who}_return"] = float(np.mean(returns))
                self._values[f"{prefix}{who}_episodes"] = len(returns)
            if self._setup.tasks[game].is_continuous:
                continue
            if game in latest and (gap := action_gap(latest[game])) is not None:
                self._values[f"{prefix}teacher_action_gap"] = gap

    def _ring_size(self, game: int) -> RingSize:
        config, task = self._config, self._setup.student.tasks[game]
        return RingSize(
            config.lanes[game],
            config.capacity_per_lane(game),
            task.frame_shape,
            task.observation_dtype,
            self._setup.teachers[game].num_outputs,
            task.stack,
            self._setup.student.last_actions,
            task.action_shape,
        )

    def _open_play(self, game: int) -> Play:
        play = self._open_source(game)
        if not self._plays_ahead:
            return play
        return PrefetchedPlay(play, rollouts_ahead(self._config, self._setup.tasks[game], game))

    def _open_source(self, game: int) -> Play:
        setup, config = self._setup, self._config
        dataset, length = setup.datasets[game], config.schedule.rollout_length
        lanes = config.lanes[game] // setup.devices.num_processes
        first_lane = lanes * jax.process_index()
        if dataset is not None and config.is_shuffled:
            self._shuffled[game] = ShuffledPlay(
                dataset,
                rollout_length=length,
                steps_before=config.steps_before,
                needs_before=setup.student.last_actions > 0,
                num_steps=self.games[game].recorded_steps,
                lanes=slice(first_lane, first_lane + lanes),
            )
            return self._shuffled[game]
        if dataset is not None:
            return RecordedPlay(
                dataset,
                rollout_length=length,
                num_steps=self.games[game].recorded_steps,
                lanes=slice(first_lane, first_lane + lanes),
            )
        live = LivePlay(
            setup.teachers[game],
            setup.tasks[game],
            dataclasses.replace(config.env, num_lanes=lanes, lanes=None),
            rollout_length=length,
            epsilon=config.epsilon,
            # Lane i of a process has its seed plus i.
            seed=fresh_seed(config.seed, sum(game.env_steps for game in self.games), game) + first_lane,
            student=setup.student.policy(game) if config.behaviour.student_acts else None,
            senses=setup.student.senses[game] if setup.student.senses else None,
            device=setup.actor(game),
        )
        live.let_teach(self._teaching[game])
        self._live.append(live)
        return live


def leave_out_again(teacher: Teacher, at: GameCounters) -> None:
    """Has those members of a committee not count that a run has left out, and all others."""
    if isinstance(teacher, Committee):
        known = {member.sha256: place for place, member in enumerate(teacher.members)}
        teacher.leave_out_all([known[entry["sha256"]] for entry in at.left_out if entry["sha256"] in known])
