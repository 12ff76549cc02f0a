"""Where a student's lessons come from: teachers playing live, or play recorded before; of several games at once."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from pd_jax import rollout
from pd_jax.config import EmulatorConfig, OneGameEnvConfig
from pd_jax.dataset import Dataset
from pd_jax.envs import Environment
from pd_jax.playtime import InferenceProbe, PlayTime
from pd_jax.tasks import Task
from pd_jax.teachers import Teacher
from pd_jax.types import Trajectory


class Play(Protocol):
    """A source of consecutive rollouts, ``[T, L, ...]`` each.

    Attributes:
      num_lanes: L.
      finished_returns: unclipped returns of the games that ended since the list was last cleared; none of a recording.
    """

    num_lanes: int
    finished_returns: list[float]

    def rollouts(self, count: int) -> Iterator[Trajectory]:
        """The next ``count`` rollouts, or as many as are left."""
        ...

    def close(self) -> None:
        """Lets go of what the source holds."""
        ...


def environment_options(env: EmulatorConfig) -> dict[str, Any]:
    """Keyword arguments of :class:`pd_jax.envs.Environment` that a configuration's ``env`` section sets."""
    return {
        "max_noops": env.max_noops,
        "max_episode_steps": getattr(env, "max_episode_steps", None),
        "sticky_action_probability": env.sticky_action_probability,
        "num_threads": env.num_threads,
    }


def fresh_seed(seed: int, env_steps: int, game: int = 0) -> int:
    """A seed for play that goes on after ``env_steps`` steps; 0 keeps ``seed`` for the first game.

    Emulators cannot be saved: whoever resumes plays new games, and should not play the first ones again. Lane i has
    the seed plus i, and steps are counted in all lanes together, so no lane gets the seed of another before. Games
    differ in theirs too: teachers that play side by side do not explore in step.
    """
    # EnvPool's seeds are 31 bits wide, and the lanes' numbers, of which there are at most 2**16, are added to them.
    return (seed + env_steps + game * 2**16) % (2**31 - 2**16)


def first_unsound_step(trajectory: Trajectory) -> int | None:
    """The first of ``T`` time steps at which the teacher's outputs are NaN or infinite in any lane; None if none is."""
    sound = np.isfinite(np.asarray(trajectory.teacher_q)).all(axis=(1, 2))
    return None if sound.all() else int(np.argmin(sound))


def action_gap(trajectory: Trajectory) -> float | None:
    """Median difference between the teacher's outputs for its best and its second best action, over all decisions.

    Teachers differ in it by orders of magnitude, and the temperature has to suit it: a gap of a few τ leaves the
    student something to learn from the other actions. None if nothing was decided.
    """
    outputs = np.sort(np.asarray(trajectory.teacher_q)[np.asarray(trajectory.is_decision)], axis=-1)
    return float(np.median(outputs[:, -1] - outputs[:, -2])) if len(outputs) else None


class LivePlay:
    """A teacher that plays epsilon-greedily while the student learns, or that labels what the student plays.

    Args:
      teacher: who plays and labels.
      task: what it plays.
      env: lanes and emulator settings.
      rollout_length: steps per lane of one rollout.
      epsilon: chance of a random action.
      seed: of the emulators and the exploration.
      student: the student's policy of this task, if it is to act once :meth:`let_act` has said how.
      device: that decides, and that the rollouts are left on; the default device if None.

    Attributes:
      finished_returns: unclipped returns of the games that ended since the list was last cleared.
      time: that the rollouts took.
    """

    def __init__(
        self,
        teacher: Teacher,
        task: Task,
        env: OneGameEnvConfig,
        *,
        rollout_length: int,
        epsilon: float,
        seed: int,
        student: rollout.PolicyApply | None = None,
        device: jax.Device | None = None,
    ) -> None:
        self.num_lanes = env.num_lanes
        self.time = PlayTime()
        self._device = device
        self._acting: rollout.ActingStudent | None = None
        self.finished_returns: list[float] = []
        self._teacher = teacher
        self._own_variables: tuple[Any, Any] = (None, None)
        self._student = student
        self._rollout_length = rollout_length
        self._epsilon = epsilon
        self._environment = Environment(task, env.num_lanes, seed, **environment_options(env))
        self._lanes = self._put(rollout.start(self._environment, jax.random.key(seed)))
        self._rollout = rollout.make_rollout(
            self._environment, teacher.network.apply, rollout_length, stepping=env.stepping, student=student
        )

    def rollouts(self, count: int) -> Iterator[Trajectory]:
        """Plays ``count`` rollouts, each going on where the one before ended."""
        for _ in range(count):
            started = time.monotonic()
            with jax.profiler.TraceAnnotation("rollout"):
                self._lanes, trajectory, finished = self._rollout(
                    self._teachers_variables(), self._lanes, self._epsilon, self._acting
                )
                returns = np.asarray(finished.returns)[np.asarray(finished.mask)]
            self.time.count(time.monotonic() - started)
            self.finished_returns.extend(map(float, returns))
            yield trajectory

    def let_act(self, student: rollout.ActingStudent) -> None:
        """Has the student act, as it is now, from the next call of :meth:`rollouts` on; until then the teacher acts."""
        self._acting = student = self._put(student)
        # What comes out of a rollout is committed to the device that the student is committed to. Lanes that differed
        # in that before the first rollout would have the second one compiled anew.
        self._lanes = jax.device_put(self._lanes, jax.tree.leaves(student.variables)[0].sharding)

    def probe_inference(self) -> InferenceProbe | None:
        """What times the decisions of the play alone; None for a function of the user's, which only the play calls."""
        if self._teacher.metadata.source_format == "function":
            return None
        policies = [(self._teacher.network.apply, self._teachers_variables())]
        if self._student is not None and self._acting is not None:
            policies.append((self._student, self._acting.variables))
        return InferenceProbe(tuple(policies), self._lanes.timestep.observations)

    def note_inference(self, seconds: float) -> None:
        """Sets the share of inference in the play's time, where one decision takes so many seconds."""
        usual = self.time.usual_seconds
        if usual is not None:
            self.time.inference_share = min(1.0, self._rollout_length * seconds / usual)

    def _teachers_variables(self) -> Any:
        """Those of now, on the device: a teacher that learns is given new ones."""
        given, own = self._own_variables
        if given is not self._teacher.variables:
            given = self._teacher.variables
            own = self._put(given)
            self._own_variables = given, own
        return own

    def _put(self, tree: Any) -> Any:
        """Commits to the device, if one was named; computation follows what it is given."""
        return tree if self._device is None else jax.device_put(tree, self._device)

    def close(self) -> None:
        """Waits for the last step and ends EnvPool's threads."""
        jax.block_until_ready(self._lanes)
        self._environment.close()


class RecordedPlay:
    """A data set, read from its beginning; once it is used up, :meth:`rollouts` yields no more.

    Args:
      dataset: an open recording.
      rollout_length: time steps per rollout; what is left at the end and shorter is not used.
      num_steps: time steps per lane to use, however far the recording has grown since; all by default.
      lanes: those to read; all by default.
    """

    def __init__(
        self, dataset: Dataset, *, rollout_length: int, num_steps: int | None = None, lanes: slice = slice(None)
    ) -> None:
        self.num_lanes = len(range(dataset.header.num_lanes)[lanes])
        self.finished_returns: list[float] = []
        usable = dataset.num_steps if num_steps is None else min(num_steps, dataset.num_steps)
        self._left = usable // rollout_length
        self._trajectories = dataset.trajectories(rollout_length, lanes=lanes)

    def rollouts(self, count: int) -> Iterator[Trajectory]:
        """The next ``count`` rollouts of the recording, or as many as are left."""
        for _ in range(min(count, self._left)):
            self._left -= 1
            yield next(self._trajectories)

    def close(self) -> None:
        """Stops reading ahead."""
        self._trajectories = iter(())


class SideBySide:
    """The play of several games at once.

    Each game has a thread, which waits for nothing but its own emulators and teacher: XLA and EnvPool work without
    Python's lock. What a game plays depends on its own seed alone, not on how fast the others are.

    Args:
      plays: one source for each game.
    """

    def __init__(self, plays: Sequence[Play]) -> None:
        self.plays = plays
        self._stopped: set[int] = set()

    @property
    def stopped(self) -> frozenset[int]:
        """The games that do not go on, by their places."""
        return frozenset(self._stopped)

    def stop(self, game: int) -> None:
        """Ends a game's play. Rollouts that are on their way may still come."""
        self._stopped.add(game)

    def rollouts(self, counts: Sequence[int]) -> Generator[tuple[int, Trajectory], None, None]:
        """Yields ``(game, trajectory)`` as they come: the next ``counts[game]`` of each game, or as many as are left.

        Close the generator (``contextlib.closing``) if it is not used up: threads finish the rollouts in hand and end.

        Raises:
          Exception: whatever a game's play raises, once.
        """
        counts = [0 if game in self._stopped else count for game, count in enumerate(counts)]
        if len(self.plays) == 1:
            # In the caller's thread, where a signal is heeded at once.
            for trajectory in self.plays[0].rollouts(counts[0]):
                yield 0, trajectory
                if self._stopped:
                    return
            return
        yield from self._threaded(counts)

    def _threaded(self, counts: Sequence[int]) -> Generator[tuple[int, Trajectory], None, None]:
        arrivals: queue.SimpleQueue[tuple[int, Trajectory | BaseException | None]] = queue.SimpleQueue()
        # A game is one rollout ahead of whoever takes them, and no more: a recording is read faster than stored.
        ahead = [threading.Semaphore(1) for _ in self.plays]
        is_over = threading.Event()

        def run(game: int) -> None:
            failure: BaseException | None = None
            try:
                for trajectory in self.plays[game].rollouts(counts[game]):
                    arrivals.put((game, trajectory))
                    ahead[game].acquire()
                    if is_over.is_set() or game in self._stopped:
                        break
            except BaseException as error:
                failure = error
            arrivals.put((game, failure))

        threads = [threading.Thread(target=run, args=(game,), name=f"play-{game}") for game in range(len(self.plays))]
        try:
            for thread in threads:
                thread.start()
            running = len(threads)
            while running:
                game, item = arrivals.get()
                if isinstance(item, Trajectory):
                    ahead[game].release()
                    yield game, item
                elif item is None:
                    running -= 1
                else:
                    raise item
        finally:
            is_over.set()
            for semaphore in ahead:
                semaphore.release()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()

    def close(self) -> None:
        """Lets go of what the sources hold."""
        for play in self.plays:
            play.close()
