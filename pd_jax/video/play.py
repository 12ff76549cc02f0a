"""The play that is shown: what the run's own evaluation does in some of its lanes, with screens as people see them."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array

from pd_jax.environments.envpool import Environment, TimeStep
from pd_jax.environments.screens import SCREEN_SHAPE
from pd_jax.environments.tasks import Task
from pd_jax.errors import UserError
from pd_jax.evaluation.evaluator import Decision, Evaluator
from pd_jax.evaluation.protocol import Protocol
from pd_jax.networks.greedy import GreedyPolicy
from pd_jax.networks.lane_policy import LanePolicy, as_lane_policy, note_actions
from pd_jax.networks.sensing import LaneSensors
from pd_jax.system.devices import platform_of, tracing_for
from pd_jax.video.scenes import SCENE_SIZE, SCENES

PLAYERS = ("teacher", "student")


class Film:
    """Pictures uint8 ``[H, W, 3]`` of one size, compressed."""

    def __init__(self) -> None:
        self._pictures: list[bytes] = []
        self._shape: tuple[int, ...] = ()

    def append(self, picture: np.ndarray) -> None:
        """Takes in a picture."""
        self._shape = picture.shape
        self._pictures.append(zlib.compress(np.ascontiguousarray(picture).tobytes(), 1))

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> np.ndarray:
        return np.frombuffer(zlib.decompress(self._pictures[index]), np.uint8).reshape(self._shape)


@dataclasses.dataclass(frozen=True)
class Track:
    """The beginning of one game that one of the players plays: N decisions.

    Attributes:
      actor: ``teacher`` or ``student``: who plays.
      lane: of the evaluation.
      film: N pictures, and one more if the game has ended: what it ended with.
      outputs: of the teacher and the student, float32 ``[N, actions]``, whoever plays.
      actions: int32 ``[N]``, those that were played.
      is_chance: bool ``[N]``, whether they were drawn at random.
      scores: float64 ``[N + 1]`` before each decision, and after the last.
      has_ended: whether the game is over after them.
      was_cut: whether it was cut at the limit of steps.
    """

    actor: str
    lane: int
    film: Film
    outputs: dict[str, np.ndarray]
    actions: np.ndarray
    is_chance: np.ndarray
    scores: np.ndarray
    has_ended: bool
    was_cut: bool

    def wishes(self, player: str) -> np.ndarray:
        """What a player would do without chance, int ``[N]``."""
        found: np.ndarray = self.outputs[player].argmax(axis=1)
        # Outputs of another batch differ in the last bits, which may decide between equals.
        return np.where(self.is_chance, found, self.actions) if player == self.actor else found

    @property
    def differs(self) -> np.ndarray:
        """Whether the two would differ, bool ``[N]``."""
        return self.wishes("teacher") != self.wishes("student")


def play_tracks(
    task: Task,
    policies: dict[str, GreedyPolicy],
    actor: str,
    protocol: Protocol,
    lanes: Sequence[int],
    *,
    decisions: int | None = None,
    on_progress: Callable[[int], None] = lambda decided: None,
) -> list[Track]:
    """Has one of the players begin its games of an evaluation, and asks both about every decision.

    Args:
      task: the game.
      policies: of ``teacher`` and ``student``.
      actor: who plays.
      protocol: of the evaluation.
      lanes: of it, in which order the tracks are wanted.
      decisions: after which it is enough; None plays the first game of each lane to its end.
      on_progress: called with the decisions so far; what it raises ends the play.

    Raises:
      UserError: the screens are those of another game than the one that is played.
    """
    senses = policies["student"].senses
    options = protocol.environment_options | ({} if senses is None else {"beside": senses.beside})
    evaluator = Evaluator(
        task,
        policies[actor].player,
        episodes=protocol.episodes,
        num_lanes=protocol.num_lanes,
        epsilon=protocol.epsilon,
        seed=protocol.seed,
        environment_options=options,
    )
    own = None if senses is None else LaneSensors(senses, evaluator.num_lanes, protocol.seed)
    players: Any = tuple(as_lane_policy(policies[player].apply) for player in PLAYERS)
    states = tuple(player.start(len(lanes)) for player in players)
    variables = tuple(policies[player].variables for player in PLAYERS)
    recorders = [_Recorder(task, lane, protocol) for lane in lanes]
    chances = _Chances(protocol, evaluator.num_lanes)
    games: list[list[tuple[float, int]]] = [[] for _ in range(evaluator.num_lanes)]
    index = np.asarray(lanes)
    play = evaluator.play(policies[actor].variables, games, lanes)
    try:
        for step, decision in enumerate(play):
            shown: TimeStep = jax.tree.map(lambda leaf: np.asarray(leaf)[index], decision.timestep)
            seen = shown
            if own is not None:
                # Who acts goes by what it has sensed itself.
                sensed = own.see(decision.timestep) if decision.sensed is None else decision.sensed()
                seen = dataclasses.replace(shown, observations=sensed[index])
            with tracing_for(platform_of(variables)):
                answers, states = _ask(players, variables, (shown, seen), states)
            played = np.asarray(decision.actions)[index]
            states = tuple(map(note_actions, players, states, itertools.repeat(played)))
            asked = dict(zip(PLAYERS, map(np.asarray, answers), strict=True))
            is_chance = chances.draw()
            is_enough = decisions is not None and step >= decisions
            for place, recorder in enumerate(recorders):
                recorder.take(
                    decision,
                    {player: outputs[place] for player, outputs in asked.items()},
                    bool(is_chance[recorder.lane]),
                    is_enough,
                )
            on_progress(step)
            if all(recorder.is_done for recorder in recorders):
                break
    finally:
        play.close()
        for recorder in recorders:
            recorder.close()
    return [recorder.track(actor) for recorder in recorders]


class _Recorder:
    """Notes one lane, and has a second emulator play along that shows colours."""

    def __init__(self, task: Task, lane: int, protocol: Protocol) -> None:
        self.lane, self.is_done = lane, False
        self._task, self._film, self._has_ended = task, Film(), False
        self._was_cut = False
        self._outputs: dict[str, list[np.ndarray]] = {player: [] for player in PLAYERS}
        self._actions: list[int] = []
        self._is_chance: list[bool] = []
        self._scores = [0.0]
        self._colours: Environment | None = None
        if task.is_console:
            options = {**protocol.environment_options, "backend": "envpool"}
            self._colours = Environment(task, 1, protocol.seed + lane, stepping="host", shows="colours", **options)

    def take(self, decision: Decision, outputs: dict[str, np.ndarray], is_chance: bool, is_enough: bool) -> None:
        """Notes what the lane shows, and unless it is over or enough, what is decided then."""
        if self.is_done:
            return
        rewards, self._has_ended = float(decision.timestep.rewards[self.lane]), bool(decision.finished[self.lane])
        picture = self._picture(decision)
        self._was_cut = self._has_ended and bool(np.asarray(decision.timestep.truncated)[self.lane])
        if self._actions:
            self._scores.append(self._scores[-1] + rewards)
        self.is_done = self._has_ended or is_enough
        if self._has_ended or not is_enough:
            self._film.append(picture)
        if self.is_done:
            return
        for player, own in outputs.items():
            self._outputs[player].append(own)
        self._actions.append(int(decision.actions[self.lane]))
        self._is_chance.append(is_chance)

    def _picture(self, decision: Decision) -> np.ndarray:
        observation = np.asarray(decision.timestep.observations[self.lane])
        if self._colours is None:
            return SCENES[self._task.name](observation)
        if not self._actions:
            shown = self._colours.reset()[1]
        else:
            shown = self._colours.step_host(np.array(self._actions[-1:]), np.zeros(1, bool))
        self._check(decision, shown)
        return np.asarray(shown.observations)[0]

    def _check(self, decision: Decision, shown: Any) -> None:
        """The emulator that shows colours is where the one that is played is."""
        played, lane = decision.timestep, self.lane
        same = all(
            np.asarray(getattr(played, name))[lane] == np.asarray(getattr(shown, name))[0]
            for name in ("rewards", "terminated", "truncated")
        )
        there, here = decision.environment.ram, self._colours.ram if self._colours else None
        if there is not None and here is not None:
            same &= np.array_equal(there[np.searchsorted(decision.moved, lane)], here[0])
        if not same:
            raise UserError(
                f"{self._task.name}: after {len(self._actions)} decisions of lane {lane} the screens are of another "
                "game than the one that is played; EnvPool is not deterministic here"
            )

    def close(self) -> None:
        """Ends the second emulator."""
        if self._colours is not None:
            self._colours.close()

    def track(self, actor: str) -> Track:
        """What was noted of the play of ``actor``."""
        return Track(
            actor,
            self.lane,
            self._film,
            {player: np.stack(outputs) for player, outputs in self._outputs.items()},
            np.array(self._actions, np.int32),
            np.array(self._is_chance, bool),
            np.array(self._scores),
            self._has_ended,
            self._was_cut,
        )


class _Chances:
    """Which actions of an evaluation are drawn at random: its own chances, step by step."""

    def __init__(self, protocol: Protocol, lanes: int) -> None:
        self._key, self._epsilon, self._lanes = jax.random.key(protocol.seed), protocol.epsilon, lanes

    def draw(self) -> np.ndarray:
        """Bool ``[L]`` of the next step."""
        self._key, explores = _explores(self._key, self._epsilon, self._lanes)
        return np.asarray(explores)


# As `pd_jax.actors.rollout.act` and `pd_jax.networks.greedy.epsilon_greedy` split their keys; a test holds them to it.
@functools.partial(jax.jit, static_argnums=2)
def _explores(key: Array, epsilon: float, lanes: int) -> tuple[Array, Array]:
    key, action_key = jax.random.split(key)
    explore_key, _ = jax.random.split(action_key)
    return key, jax.random.uniform(explore_key, (lanes,)) < epsilon


@functools.partial(jax.jit, static_argnums=0)
def _ask(
    policies: tuple[LanePolicy, ...], variables: tuple[Any, ...], shown: tuple[TimeStep, ...], states: tuple[Any, ...]
) -> tuple[tuple[Array, ...], tuple[Any, ...]]:
    """Outputs of all, and the states that they go on with."""
    key = jax.random.key(0)
    asked = [
        policy.decide(own, seen, state, key)
        for policy, own, seen, state in zip(policies, variables, shown, states, strict=True)
    ]
    outputs, after = zip(*asked, strict=True)
    return outputs, after


def screen_size(task: Task) -> tuple[int, int]:
    """Width and height of what is shown of a task."""
    return (SCREEN_SHAPE[1], SCREEN_SHAPE[0]) if task.is_console else SCENE_SIZE
