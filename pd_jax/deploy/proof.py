"""Whether an exported file is the policy: its outputs against JAX's, and whole games that the file plays itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from pd_jax.config.export import ProofConfig
from pd_jax.environments.envpool import Environment, TimeStep
from pd_jax.environments.senses import Senses
from pd_jax.environments.tasks import Task
from pd_jax.errors import UserError
from pd_jax.evaluation.protocol import Protocol as ScoreProtocol
from pd_jax.evaluation.scores import Score
from pd_jax.networks.continuous import action_range, mean_actions, noisy_actions
from pd_jax.networks.greedy import GreedyPolicy
from pd_jax.networks.recent import encode
from pd_jax.networks.sensing import LaneSensors
from pd_jax.replay.recordings import Dataset
from pd_jax.system.cores import xla_threads
from pd_jax.types import PolicyApply

_RECORDED_STEPS = 32
_EQUAL_ACTIONS = 1e-4
"""Actions of a continuous task that are nearer than this, in units of half the range, are equal."""


class ExportedPolicy(Protocol):
    """A file that was read back: `pd_jax.deploy.runtime.Policy` and its likes."""

    def act(self, frames: np.ndarray, state: Any = None) -> tuple[np.ndarray, Any]:
        """Greedy actions int32 ``[N]``."""
        ...

    def decide(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Outputs float32 ``[N, actions]``, and the greedy actions."""
        ...


@dataclasses.dataclass
class Agreement:
    """How far a file's answers are from JAX's.

    Attributes:
      frames: observations that both were shown; none is one that nothing was decided on.
      largest_difference: between two outputs, anywhere.
      largest_relative_difference: the same, as a share of the largest output for that observation where that is
        above 1: this is what the bound is for.
      equal_actions: observations for which both choose the same.
    """

    frames: int = 0
    largest_difference: float = 0.0
    largest_relative_difference: float = 0.0
    equal_actions: int = 0

    @property
    def share_of_equal_actions(self) -> float:
        """Between 0 and 1."""
        return self.equal_actions / self.frames

    def add(self, ours: np.ndarray, theirs: np.ndarray, actions: np.ndarray, wanted: np.ndarray | None = None) -> None:
        """Takes in a batch.

        Args:
          ours, theirs: float32 ``[N, actions]``, JAX's outputs and the file's.
          actions: int ``[N]``, the file's; of a continuous task float32 ``[N, components]``.
          wanted: the policy's own actions, in units of half the range as ``actions`` are; None is the best of ``ours``.
        """
        if not len(ours):
            return
        # NaN is no difference that a comparison would find.
        differences = np.nan_to_num(np.abs(ours.astype(np.float64) - theirs), nan=np.inf).max(axis=1)
        scales = np.maximum(1.0, np.abs(ours).max(axis=1))
        self.frames += len(ours)
        self.largest_difference = max(self.largest_difference, float(differences.max()))
        self.largest_relative_difference = max(self.largest_relative_difference, float((differences / scales).max()))
        if wanted is not None:
            self.equal_actions += int((np.abs(wanted - actions).max(axis=1) <= _EQUAL_ACTIONS).sum())
            return
        self.equal_actions += int((ours.argmax(axis=1) == actions).sum())

    def to_json(self) -> dict[str, Any]:
        """As in ``export.json``."""
        return dataclasses.asdict(self) | {"share_of_equal_actions": self.share_of_equal_actions}

    def fault(self, bounds: ProofConfig) -> str:
        """What is not within the bounds, in words; ``""`` if all is."""
        # Not "above": a difference may be NaN.
        if not self.largest_relative_difference <= bounds.max_difference:
            return (
                f"outputs differ by up to {self.largest_relative_difference:.2g} on {self.frames:,} frames, more than "
                f"proof.max_difference {bounds.max_difference:g}"
            )
        if self.share_of_equal_actions < bounds.min_equal_actions:
            return (
                f"{100 * self.share_of_equal_actions:.3f} % of the actions are equal on {self.frames:,} frames, less "
                f"than proof.min_equal_actions {bounds.min_equal_actions:g}"
            )
        return ""


def games_fault(file: Score, policy: Score, max_loss: float) -> str:
    """Why the score of a file is not its policy's; ``""`` if it is.

    It may be as low as the policy's 95 % interval on the same starts, or as ``max_loss`` allows: where hundreds of
    actions follow from one that fell otherwise, games differ. One game has no interval, and says nothing.

    Args:
      file, policy: of games from the same starts.
      max_loss: share of the policy's score.
    """
    if policy.low is None or file.mean >= min(policy.low, policy.mean - max_loss * abs(policy.mean)):
        return ""
    return (
        f"scores {file.mean:,.1f} over {file.episodes} games, and the policy {policy.mean:,.1f} from the same starts "
        f"(95 % interval from {policy.low:,.1f}; proof.max_loss {max_loss:g})"
    )


Batch = tuple[np.ndarray, np.ndarray]
"""Observations ``[L, ...]`` and bool ``[L]``: which of them are decided on."""


def own_play(policy: GreedyPolicy, protocol: ScoreProtocol, seed: int) -> Iterator[Batch]:
    """What a policy sees when it plays, step by step without end, epsilon-greedy as its games are."""
    task, generator, senses = policy.shown, np.random.default_rng(seed), policy.senses
    options = protocol.environment_options | ({} if senses is None else {"beside": senses.beside})
    environment = Environment(task, protocol.num_lanes, seed, stepping="host", **options)
    own = None if senses is None else LaneSensors(senses, protocol.num_lanes, seed)
    try:
        _, timestep = environment.reset()
        is_last, state = np.zeros(protocol.num_lanes, bool), policy.initial_state(protocol.num_lanes)
        while True:
            observations = np.ascontiguousarray(timestep.observations) if own is None else own.see(timestep)
            yield observations, ~is_last
            outputs, state = policy.decide(observations, _opened(state, is_last))
            if task.is_continuous:
                key = jax.random.key(int(generator.integers(2**31)))
                actions = np.asarray(noisy_actions(key, outputs, protocol.epsilon, policy.task))
            else:
                actions = np.asarray(outputs).argmax(axis=1)
                explores = generator.random(len(actions)) < protocol.epsilon
                actions = np.where(explores, generator.integers(task.num_actions, size=len(actions)), actions)
            state = policy.note(state, actions)
            timestep = environment.step_host(actions, is_last)
            is_last = np.asarray(timestep.is_last)
    finally:
        environment.close()


def _opened(state: np.ndarray | None, was_last: np.ndarray) -> np.ndarray | None:
    """The state with that of lanes whose game was over set back; None without memory."""
    return None if state is None else np.where(was_last[:, None], np.float32(0.0), state)


def check_recording(path: str, task: Task) -> None:
    """Raises a UserError unless there is a recording, and it is of the task."""
    header = Dataset.open(path).header
    if header.task != task.name or (header.num_actions != task.num_actions and not task.is_continuous):
        raise UserError(f"data: {path} is a recording of {header.task}, and the policy plays {task.name}")


def recorded_play(path: str, task: Task, senses: Senses | None = None) -> Iterator[Batch]:
    """What a recording shows, step by step, its stacks rebuilt; to a policy of these senses, if it has its own.

    Raises:
      UserError: there is none, or it is of another game, or without what is sensed.
    """
    dataset = Dataset.open(path)
    outputs = dataset.header.num_actions if task.is_continuous else task.num_actions
    dataset.check_matches(task.name, outputs, task.action_low, task.action_high)
    if senses is not None:
        dataset = dataset.sensed_by(senses)
    stack = task.stack if senses is None else senses.stack
    stacks: np.ndarray | None = None
    for trajectory in dataset.trajectories(_RECORDED_STEPS):
        for observations, is_first, is_decision in zip(
            np.asarray(trajectory.observations), trajectory.is_first, trajectory.is_decision, strict=True
        ):
            if stack > 1 or observations.ndim == 3:
                filled = np.repeat(observations[..., None], stack, axis=-1)
                moved = filled if stacks is None else np.concatenate([stacks[..., 1:], observations[..., None]], -1)
                begins = np.asarray(is_first).reshape(-1, *[1] * observations.ndim)
                observations = stacks = np.where(begins, filled, moved)
                if observations.ndim == 3:
                    # Vectors of a window stand one after another.
                    observations = observations.transpose(0, 2, 1).reshape(len(observations), -1)
            yield np.ascontiguousarray(observations), np.asarray(is_decision)


def other_observations(batches: Iterator[Batch], count: int, *, skip: int = 0) -> np.ndarray:
    """Observations on which something is decided, in the order in which they are shown.

    Args:
      batches: of observations.
      count: wanted; there may be fewer.
      skip: so many decisions are passed over first.

    Returns:
      ``[count, ...]``.
    """
    found: list[np.ndarray] = []
    seen = 0
    for observations, is_decided in batches:
        decided = observations[is_decided]
        found.append(decided[max(0, skip - seen) :])
        seen += len(decided)
        if seen >= skip + count:
            break
    return np.concatenate(found)[:count] if found else np.empty((0,))


def compare(
    policy: GreedyPolicy,
    files: dict[str, ExportedPolicy],
    batches: Iterator[Batch],
    frames: int,
    on_progress: Callable[[int], None],
) -> dict[str, Agreement]:
    """Shows files and their policy the same observations.

    Args:
      policy: as JAX computes it, in full float32.
      files: by name.
      batches: of observations; all of them where they end before.
      frames: wanted, at least 1.
      on_progress: called with the observations so far.

    Returns:
      by the files' names.

    Raises:
      UserError: there was nothing to compare, or a file answers one observation otherwise than the same one in a batch.
    """
    found = {name: Agreement() for name in files}
    # Each carries a memory of its own.
    states: dict[str, np.ndarray | None] = {}
    was_last: np.ndarray | None = None
    shown = 0
    # Accelerators round products otherwise.
    with jax.default_matmul_precision("float32"):
        for observations, is_decided in batches:
            if was_last is None:
                states = {name: policy.initial_state(len(observations)) for name in ("", *files)}
                was_last = np.zeros(len(observations), bool)
            states = {name: _opened(state, was_last) for name, state in states.items()}
            was_last = ~is_decided
            outputs, states[""] = policy.decide(observations, states[""])
            ours = np.asarray(outputs)
            states[""] = policy.note(states[""], _without_noise(outputs, policy.task))
            is_decided = is_decided & (is_decided.cumsum() <= frames - shown)
            for name, file in files.items():
                state = states[name]
                theirs, actions, states[name] = _answer(file, observations, state)
                first = None if state is None else state[:1]
                if shown == 0 and not np.allclose(
                    _answer(file, observations[:1], first)[0], theirs[:1], rtol=1e-3, atol=1e-3
                ):
                    raise UserError(f"{name}: answers one observation otherwise than the same one among others")
                if recent := getattr(file, "last_actions", 0):
                    # Where two actions are as good, both go on with the same one.
                    states[name] = _with_last_of(states[name], states[""], recent * policy.task.num_actions)
                wanted = None
                if policy.task.is_continuous:
                    low, high = action_range(policy.task)
                    wanted = _without_noise(outputs, policy.task)[is_decided] * 2 / (high - low)
                    actions = actions * 2 / (high - low)
                found[name].add(ours[is_decided], theirs[is_decided], actions[is_decided], wanted)
            shown += int(is_decided.sum())
            on_progress(shown)
            if shown >= frames:
                break
    if not shown:
        raise UserError("data: the recording has no decision in it")
    return found


def _without_noise(outputs: jax.Array, task: Task) -> np.ndarray:
    """The actions of outputs, without noise."""
    return np.asarray(mean_actions(outputs, task)) if task.is_continuous else np.asarray(outputs).argmax(axis=1)


def _with_last_of(state: np.ndarray | None, other: np.ndarray | None, count: int) -> np.ndarray:
    """A state whose last numbers, which stand for actions, are those of another."""
    assert state is not None and other is not None
    return np.concatenate([state[:, :-count], other[:, -count:]], axis=1)


def _answer(
    file: ExportedPolicy, observations: np.ndarray, state: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Outputs, actions and the next state."""
    if state is None:
        return (*file.decide(observations), None)
    answer: tuple[np.ndarray, np.ndarray, np.ndarray | None] = file.step(observations, state)  # type: ignore[attr-defined]
    return answer


def check_can_play() -> None:
    """Raises a UserError where games that a file plays would never end.

    A file is called back from a compiled program. What it is shown is made by another thread than the one that waits.
    """
    if xla_threads() < 2:
        raise UserError(
            "evaluation.episodes: games that a file plays take two threads of XLA, and this process has one core; set "
            "PJRT_NPROC=2"
        )


@dataclasses.dataclass(frozen=True)
class RememberingFile:
    """What plays games by a file with a state: a `pd_jax.networks.lane_policy.LanePolicy`."""

    file: Any
    task: Task

    def start(self, num_lanes: int) -> np.ndarray:
        """Empty memories."""
        state: np.ndarray = self.file.initial_state(num_lanes)
        return state

    def decide(self, variables: Any, timestep: TimeStep, state: jax.Array, key: jax.Array) -> tuple[Any, Any]:
        """One-hot outputs of the file's own actions, called back from compiled code, and the next state."""

        def act(observations: Any, is_first: Any, state: Any) -> tuple[np.ndarray, Any]:
            opened = _opened(np.asarray(state), np.asarray(is_first))
            actions, after = self.file.act(np.array(observations), opened)
            return _as_outputs(actions, self.task), after

        shapes = (
            jax.ShapeDtypeStruct((len(timestep.is_first), self.task.num_actions), jnp.float32),
            jax.ShapeDtypeStruct(state.shape, jnp.float32),
        )
        decided: tuple[Any, Any] = jax.pure_callback(
            act, shapes, timestep.observations, timestep.is_first, state, vmap_method="sequential"
        )
        return decided

    def note(self, state: jax.Array, actions: jax.Array) -> jax.Array:
        """The state after actions were played, which need not be those that the file gave."""
        if not self.file.last_actions:
            return state
        newest = state.shape[1] - self.file.last_actions * self.task.num_actions
        return jnp.concatenate(
            [state[:, :newest], encode(self.task, actions), state[:, newest + self.task.num_actions :]], axis=1
        )


def _as_outputs(actions: np.ndarray, task: Task) -> np.ndarray:
    """Outputs that stand for these actions: one-hot, or of a continuous task the actions."""
    return actions if task.is_continuous else np.eye(task.num_actions, dtype=np.float32)[actions]


def file_apply(file: ExportedPolicy, task: Task) -> PolicyApply:
    """What plays games by a file: one-hot outputs of the file's own actions, called back from compiled code."""
    if getattr(file, "state_size", 0):
        return RememberingFile(file, task)  # type: ignore[return-value]

    def act(observations: Any) -> np.ndarray:
        actions, _ = file.act(np.array(observations))
        return _as_outputs(actions, task)

    def apply(variables: Any, observations: Any) -> Any:
        shape = jax.ShapeDtypeStruct((observations.shape[0], task.num_actions), jnp.float32)
        return jax.pure_callback(act, shape, observations, vmap_method="sequential")

    return apply
