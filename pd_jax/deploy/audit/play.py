"""Play that is recorded for an audit: what a policy met, what it did, and what every policy says of it."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax import Array

from pd_jax.environments.envpool import Environment, frames_first, frames_last
from pd_jax.environments.tasks import Task
from pd_jax.evaluation.protocol import Protocol as ScoreProtocol
from pd_jax.networks.greedy import GreedyPolicy, epsilon_greedy
from pd_jax.networks.policy import MultiGameNetwork, PolicyNetwork
from pd_jax.networks.student import GamePolicy
from pd_jax.replay.recordings import Dataset
from pd_jax.system.devices import platform_of, tracing_for
from pd_jax.types import PolicyApply

_RECORDED_STEPS = 32
_STACK = 4


class Disturbance(Protocol):
    """What comes between the environment and the policies."""

    def __call__(self, observations: np.ndarray, is_first: np.ndarray) -> np.ndarray:
        """Maps ``[L, ...]`` to the same shape and dtype; bool ``[L]`` says where a game opens."""
        ...


class Frames:
    """The newest frame of every lane and step, compressed; stacks are rebuilt from them. Vectors as they are."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._steps: list[bytes] = []
        self._lanes = 0

    def append(self, observations: np.ndarray) -> None:
        """Takes in ``[L, 84, 84, 4]`` or ``[L, D]`` of one step."""
        newest = observations[..., -1] if self._task.kind == "atari" else observations
        self._lanes = len(newest)
        # Pong's frames take 1 % of their size.
        self._steps.append(zlib.compress(np.ascontiguousarray(newest).tobytes(), 1))

    def frame(self, step: int, lane: int) -> np.ndarray:
        """One frame ``[84, 84]`` or vector ``[D]``."""
        flat = np.frombuffer(zlib.decompress(self._steps[step]), self._task.observation_dtype)
        found: np.ndarray = flat.reshape(self._lanes, *self._task.frame_shape)[lane]
        return found

    def stack(self, step: int, lane: int, age: int) -> np.ndarray:
        """Frames ``[84, 84, 4]`` as a policy saw them, ``age`` steps after its game began; vectors as they are."""
        if self._task.kind != "atari":
            return self.frame(step, lane)
        steps = [step - min(back, age) for back in range(_STACK - 1, -1, -1)]
        return np.stack([self.frame(each, lane) for each in steps], axis=-1)


@dataclasses.dataclass(frozen=True)
class Play:
    """Decisions of one play, N of them, in the order of lanes and then of time.

    Attributes:
      outputs: by policy, float32 ``[N, actions]``.
      features: of the student, float32 ``[N, F]``.
      actions: int32 ``[N]``, those that were played, random ones among them.
      rewards: float32 ``[N]``, unclipped, for them.
      lives_lost: bool ``[N]``, whether they lost a life.
      terminated, truncated: bool ``[N]``, whether they ended the game, or it was cut after them.
      games: int32 ``[N]``, which game: counted over all lanes.
      lanes, steps, ages: int32 ``[N]``: the lane, the step of the play, and the steps since the game began.
      vectors: float32 ``[N, D]``, the observations of a task without frames.
      frames: of all lanes and steps; None where they were not kept.
      returns: float64 ``[games]`` of whole games, lane after lane; empty where the play was cut, or recorded.
    """

    outputs: Mapping[str, np.ndarray]
    features: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    lives_lost: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    games: np.ndarray
    lanes: np.ndarray
    steps: np.ndarray
    ages: np.ndarray
    vectors: np.ndarray | None
    frames: Frames | None
    returns: np.ndarray

    def __len__(self) -> int:
        return len(self.actions)

    def choices(self, policy: str) -> np.ndarray:
        """Greedy actions int ``[N]`` of a policy."""
        return self.outputs[policy].argmax(axis=1)

    def stack(self, index: int) -> np.ndarray:
        """What the policies saw at a decision."""
        assert self.frames is not None
        return self.frames.stack(int(self.steps[index]), int(self.lanes[index]), int(self.ages[index]))


@dataclasses.dataclass(frozen=True)
class TorsoFeatures:
    """The features that a network's head is given, as a function to be traced."""

    network: PolicyNetwork | MultiGameNetwork
    policy: GamePolicy | None = None

    def __call__(self, variables: Any, observations: Array) -> Array:
        """Maps ``[N, ...]`` to float32 ``[N, F]``."""
        if self.policy is not None:
            observations = self.policy.student.pad(observations, self.policy.game)
        game = self.policy.game if self.policy is not None and self.policy.student.layouts else None
        features: Array = self.network.apply(variables, observations, game, method=_torso)  # type: ignore[assignment]
        return features.astype("float32").reshape(len(features), -1)


def _torso(network: Any, observations: Array, game: int | None) -> Array:
    features: Array = network.torso(observations) if game is None else network.torso(observations, game)
    return features


def features_of(policy: GreedyPolicy) -> PolicyApply:
    """What a policy tells states apart by: its torso's features, or its outputs where it has no such torso."""
    apply = policy.apply
    if isinstance(apply, GamePolicy):
        return TorsoFeatures(apply.student.network, apply)
    network = getattr(policy, "network", None)
    return TorsoFeatures(network) if isinstance(network, PolicyNetwork) else apply


class Decider:
    """All policies of an audit, asked at once.

    Args:
      policies: by name, ``student`` and ``teacher`` among them.
    """

    def __init__(self, policies: Mapping[str, GreedyPolicy]) -> None:
        self.names = tuple(policies)
        self._applies = tuple(policy.apply for policy in policies.values())
        self._variables = tuple(policy.variables for policy in policies.values())
        self._features = features_of(policies["student"])
        self._place = self.names.index("student")
        self._platform = platform_of(self._variables)

    def act(self, observations: np.ndarray, actor: str, key: Any, epsilon: float) -> tuple[np.ndarray, Any]:
        """What one of them does, as :meth:`decide` would have it, with nobody else asked: actions and the next key."""
        place = self.names.index(actor)
        with tracing_for(self._platform):
            actions, key = _act(self._applies[place], self._variables[place], frames_first(observations), key, epsilon)
        return np.asarray(actions), key

    def decide(
        self, observations: np.ndarray, actor: str, key: Any, epsilon: float
    ) -> tuple[np.ndarray, Mapping[str, np.ndarray], np.ndarray, Any]:
        """What all say of some observations, and what one of them does.

        Args:
          observations: ``[L, ...]``.
          actor: the name of who acts.
          key: PRNG key of the exploration.
          epsilon: chance of a random action.

        Returns:
          actions int32 ``[L]``, outputs by policy, the student's features and the next key.
        """
        with tracing_for(self._platform):
            actions, outputs, features, key = _decide(
                self._applies,
                self._features,
                self._place,
                self.names.index(actor),
                self._variables,
                frames_first(observations),
                key,
                epsilon,
            )
        found = dict(zip(self.names, map(np.asarray, outputs), strict=True))
        return np.asarray(actions), found, np.asarray(features), key


# As the evaluator splits its keys: from the same seed, a policy plays the games that it is scored by.
@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _decide(
    applies: tuple[PolicyApply, ...],
    features: PolicyApply,
    place: int,
    actor: int,
    variables: tuple[Any, ...],
    observations: Array,
    key: Array,
    epsilon: float,
) -> tuple[Array, tuple[Array, ...], Array, Array]:
    observations = frames_last(observations)
    outputs = tuple(apply(own, observations) for apply, own in zip(applies, variables, strict=True))
    key, action_key = jax.random.split(key)
    actions = epsilon_greedy(action_key, outputs[actor], epsilon)
    return actions, outputs, features(variables[place], observations), key


@functools.partial(jax.jit, static_argnums=0)
def _act(apply: PolicyApply, variables: Any, observations: Array, key: Array, epsilon: float) -> tuple[Array, Array]:
    outputs = apply(variables, frames_last(observations))
    key, action_key = jax.random.split(key)
    return epsilon_greedy(action_key, outputs, epsilon), key


class _Log:
    """Steps of all lanes, flattened to decisions in the end."""

    def __init__(self) -> None:
        self._columns: dict[str, list[np.ndarray]] = {}

    def append(self, **columns: np.ndarray) -> None:
        for name, column in columns.items():
            self._columns.setdefault(name, []).append(column)

    def flat(self) -> dict[str, np.ndarray]:
        """By column, what was decided on, lane after lane."""
        stacked = {name: np.stack(column).swapaxes(0, 1) for name, column in self._columns.items()}
        is_decision = stacked.pop("is_decision")
        lanes, steps = np.nonzero(is_decision)
        return {name: column[lanes, steps] for name, column in stacked.items()} | {
            "lanes": lanes.astype(np.int32),
            "steps": steps.astype(np.int32),
        }


def play(
    task: Task,
    decider: Decider,
    actor: str,
    protocol: ScoreProtocol,
    *,
    steps: int | None = None,
    options: Mapping[str, Any] | None = None,
    disturbance: Disturbance | None = None,
    keeps_frames: bool = False,
    asks_every: int = 1,
    on_progress: Callable[[int, int], None] = lambda done, wanted: None,
) -> Play:
    """Has one of the policies play whole games, and asks all of them about every decision.

    The games are those of `pd_jax.evaluation.evaluator.Evaluator` under the same protocol, where nothing is changed.

    Args:
      task: the game.
      decider: the policies.
      actor: who plays.
      protocol: how, from which starts, and how many games.
      steps: decisions after which the play is cut.
      options: of the environment, instead of the protocol's.
      disturbance: comes before the policies.
      keeps_frames: whether what was seen is kept; only where all steps are asked about.
      asks_every: steps after which all policies are asked again; in between only who plays. Other steps are no part of
        the decisions that are returned. All are part of the returns.
      on_progress: called every step with the games finished and wanted, or with the decisions if ``steps`` is given.
        What it raises ends the play.
    """
    lanes = min(protocol.num_lanes, protocol.episodes)
    per_lane = -(-protocol.episodes // lanes)
    environment = Environment(
        task, lanes, protocol.seed, stepping="host", **{**protocol.environment_options, **(options or {})}
    )
    try:
        return _play(
            task,
            decider,
            actor,
            environment,
            per_lane,
            protocol.epsilon,
            jax.random.key(protocol.seed),
            steps,
            disturbance,
            keeps_frames,
            asks_every,
            on_progress,
        )
    finally:
        environment.close()


def _play(
    task: Task,
    decider: Decider,
    actor: str,
    environment: Environment,
    per_lane: int,
    epsilon: float,
    key: Any,
    steps: int | None,
    disturbance: Disturbance | None,
    keeps_frames: bool,
    asks_every: int,
    on_progress: Callable[[int, int], None],
) -> Play:
    count = environment.num_lanes
    _, first = environment.reset()
    observations = np.asarray(first.observations)
    lives = np.zeros(count, np.int32) if environment.lives is None else np.array(environment.lives)
    is_first, is_last = np.ones(count, bool), np.zeros(count, bool)
    playing, ages = np.ones(count, bool), np.zeros(count, np.int32)
    finished: list[list[float]] = [[] for _ in range(count)]
    returns = np.zeros(count)
    log, frames, decided, step = _Log(), Frames(task) if keeps_frames else None, 0, 0
    while playing.any() and (steps is None or decided < steps):
        seen = observations if disturbance is None else disturbance(observations, is_first)
        is_asked = step % asks_every == 0
        step += 1
        if is_asked:
            actions, outputs, features, key = decider.decide(seen, actor, key, epsilon)
        else:
            actions, key = decider.act(seen, actor, key, epsilon)
        index = np.flatnonzero(playing)
        moved = environment.step_host(actions[playing], is_last[playing], index)
        is_decision = playing & ~is_last
        rewards, terminated, truncated = np.zeros(count, np.float32), np.zeros(count, bool), np.zeros(count, bool)
        now = lives.copy()
        rewards[index], truncated[index] = moved.rewards, moved.truncated
        terminated[index] = moved.terminated & ~moved.truncated
        if environment.lives is not None:
            now[index] = environment.lives
        ages = np.where(is_first, 0, ages + 1).astype(np.int32)
        game = np.array([lane * per_lane + len(games) for lane, games in enumerate(finished)], np.int32)
        if is_asked:
            vectors = {} if task.kind == "atari" else {"vectors": np.array(seen)}
            log.append(
                **{f"outputs/{name}": output for name, output in outputs.items()},
                features=features,
                actions=actions,
                rewards=rewards,
                lives_lost=(now < lives) & is_decision,
                terminated=terminated,
                truncated=truncated,
                games=game,
                ages=ages,
                is_decision=is_decision,
                **vectors,
            )
        if frames is not None:
            frames.append(seen)
        decided += int(is_decision.sum())
        returns += np.where(is_decision, rewards, 0.0)
        for lane in np.flatnonzero(is_decision & (terminated | truncated)):
            finished[lane].append(float(returns[lane]))
            returns[lane] = 0.0
        # Lanes that have played all of theirs keep showing what they showed.
        is_first = np.where(playing, is_last, is_first)
        observations = np.array(observations)
        observations[index] = moved.observations
        is_last[index], lives = moved.is_last, now
        playing = np.array([len(games) < per_lane for games in finished])
        done = sum(map(len, finished))
        on_progress(*((done, per_lane * count) if steps is None else (min(decided, steps), steps)))
    flat = log.flat()
    was_cut = bool(playing.any())
    return Play(
        outputs={name: flat.pop(f"outputs/{name}") for name in decider.names},
        vectors=flat.pop("vectors", None),
        frames=frames,
        returns=np.array([] if was_cut else [each for games in finished for each in games]),
        **flat,
    )


def recorded(
    path: str,
    task: Task,
    decider: Decider,
    *,
    steps: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, wanted: None,
) -> Play:
    """The decisions of a recording, as if they had been played: all policies are asked about them.

    Args:
      path: of the recording, which is of the task.
      task: the game.
      decider: the policies.
      steps: decisions after which it is enough; None takes all.
      on_progress: called every step with the decisions so far, and with those that there are at most.

    Raises:
      UserError: there is none, it is of another game, or it is damaged.
    """
    dataset = Dataset.open(path)
    dataset.check_matches(task.name, task.num_actions)
    lanes, wanted = dataset.header.num_lanes, steps or dataset.num_steps * dataset.header.num_lanes
    log, frames, decided = _Log(), Frames(task), 0
    stacks: np.ndarray | None = None
    key = jax.random.key(0)
    games, ages = np.arange(lanes, dtype=np.int32), np.full(lanes, -1, np.int32)
    rows: list[dict[str, np.ndarray]] = []
    for trajectory in dataset.trajectories(_RECORDED_STEPS):
        arrays = {name: np.asarray(getattr(trajectory, name)) for name in _RECORDED}
        for step in range(len(arrays["rewards"])):
            row = {name: column[step] for name, column in arrays.items()}
            observations, is_first = row["observations"], row["is_first"]
            if task.kind == "atari":
                filled = np.repeat(observations[..., None], _STACK, axis=-1)
                moved = filled if stacks is None else np.concatenate([stacks[..., 1:], observations[..., None]], -1)
                observations = stacks = np.where(is_first[:, None, None, None], filled, moved)
            observations = np.ascontiguousarray(observations)
            _, outputs, features, key = decider.decide(observations, "teacher", key, 0.0)
            ages = np.where(is_first, 0, ages + 1).astype(np.int32)
            games = np.where(is_first & (len(rows) > 0), games + lanes, games).astype(np.int32)
            vectors = {} if task.kind == "atari" else {"vectors": observations}
            rows.append(
                {f"outputs/{name}": output for name, output in outputs.items()}
                | {name: row[name] for name in ("actions", "rewards", "is_decision")}
                | {"features": features, "games": games, "ages": ages, "lives_lost": np.zeros(lanes, bool)}
                | vectors
            )
            frames.append(observations)
            decided += int(row["is_decision"].sum())
            on_progress(min(decided, wanted), wanted)
            if decided >= wanted:
                break
        if decided >= wanted:
            break
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        # An observation on which nothing is decided closes a game; a recording does not tell how it ended.
        ended = np.zeros(lanes, bool) if following is None else row["is_decision"] & ~following["is_decision"]
        log.append(**row, terminated=np.zeros(lanes, bool), truncated=ended)
    flat = log.flat()
    return Play(
        outputs={name: flat.pop(f"outputs/{name}") for name in decider.names},
        vectors=flat.pop("vectors", None),
        frames=frames,
        returns=np.array([]),
        **flat,
    )


_RECORDED: Sequence[str] = ("observations", "is_first", "is_decision", "actions", "rewards")
