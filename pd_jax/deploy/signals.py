"""What `pd_jax.deploy.monitor` looks at: a few numbers for every decision. NumPy alone.

Everything that is learnt here (what features and frames are usually like, how the world answers actions) is learnt from
healthy play, by linear algebra, and kept in ``thresholds.json``.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pd_jax.errors import UserError

# Pixels of a frame that become one, in each direction: what is seen of 84x84 is 21x21.
_POOL = 4
_MAX_FEATURE_DIRECTIONS = 32
_MAX_SIGHT_DIRECTIONS = 64
# Of these directions, those whose means are signals of their own.
_WATCHED_DIRECTIONS = 6
# Share of the mean squared response that is added to each: a direction never seen is not divided by.
_RIDGE = 1e-3
_SHRINKAGE = 0.02
# Actions times coordinates: the design of a response has three times as many columns, and as many again for pairs.
_MAX_PRODUCTS = 384
# Steps, of which one is looked at for what is usual.
_EVERY = 7


class Decisions(NamedTuple):
    """What N lanes decided in one step; or, with a leading axis of time, in several.

    Attributes:
      outputs: float ``[N, A]``: the Q-values or logits that actions are chosen by.
      actions: int ``[N]``: what was done.
      is_first: bool ``[N]``: the observation opens an episode.
      is_decided: bool ``[N]``: False where an episode had ended, and nothing was decided.
      features: float ``[N, F]`` of the policy's last layer but the output's; None where they are not to be had.
      sights: what :func:`sight_of` makes of observations, ``[N, D]``; None where there are none.
      teacher_actions: int ``[N]``: what the teacher would have done; None where there is none.
    """

    outputs: np.ndarray
    actions: np.ndarray
    is_first: np.ndarray
    is_decided: np.ndarray
    features: np.ndarray | None = None
    sights: np.ndarray | None = None
    teacher_actions: np.ndarray | None = None

    def lanes(self, lanes: slice) -> Decisions:
        """Some of the lanes of stretches ``[T, N, ...]``."""
        return Decisions(*(None if each is None else each[:, lanes] for each in self))  # type: ignore[arg-type]

    def step(self, index: int) -> Decisions:
        """One step of stretches ``[T, N, ...]``."""
        return Decisions(*(None if each is None else each[index] for each in self))  # type: ignore[arg-type]


def sight_of(observations: np.ndarray) -> np.ndarray:
    """What is watched of observations: means of 4x4 pixels of the newest frame, or the vector as it is.

    Args:
      observations: uint8 ``[N, 84, 84, 4]``, oldest frame first, or float32 ``[N, D]``.

    Returns:
      uint8 ``[N, 441]``, or float32 ``[N, D]``.
    """
    if observations.ndim == 2:
        return np.asarray(observations, np.float32)
    count, height, width = observations.shape[:3]
    newest = observations[..., -1].reshape(count, height // _POOL, _POOL, width // _POOL, _POOL)
    # Sums of 16 bytes, in the order in which they lie in memory.
    sums = newest.sum(axis=4, dtype=np.uint16).sum(axis=2, dtype=np.uint16)
    return ((sums + _POOL * _POOL // 2) // (_POOL * _POOL)).astype(np.uint8).reshape(count, -1)


@dataclasses.dataclass(frozen=True)
class Space:
    """Where vectors of healthy play lie: a mean, and the directions in which they differ most (probabilistic PCA,
    Tipping and Bishop 1999).

    Attributes:
      mean: ``[D]``.
      basis: ``[D, k]``, orthonormal.
      deviations: ``[k]``, along these directions.
      rest: deviation in each of the other directions, of which there may be none.
    """

    mean: np.ndarray
    basis: np.ndarray
    deviations: np.ndarray
    rest: float

    @classmethod
    def fit(cls, vectors: np.ndarray, max_directions: int) -> Space:
        """The space of vectors ``[n, D]``."""
        mean = vectors.mean(axis=0, dtype=np.float64)
        size = vectors.shape[1]
        covariance = np.zeros((size, size))
        for part in np.array_split(vectors, max(1, len(vectors) // 4096)):
            centred = part.astype(np.float64) - mean
            covariance += centred.T @ centred
        variances, basis = np.linalg.eigh(covariance / max(1, len(vectors)))
        variances, basis = np.maximum(variances[::-1], 0.0), basis[:, ::-1]
        count = min(max_directions, size)
        # Shrunk towards their mean (Ledoit and Wolf 2004): a direction in which nothing moved is none of certainty.
        floor = max(_RIDGE * float(variances.mean()), 1e-12)
        rest = float(variances[count:].mean()) if count < size else floor
        return cls(mean, basis[:, :count], np.sqrt(variances[:count] + floor), float(np.sqrt(rest + floor)))

    def whitened(self, vectors: np.ndarray) -> np.ndarray:
        """Coordinates ``[N, k]`` along the directions, in deviations."""
        coordinates: np.ndarray = ((vectors - self.mean) @ self.basis) / self.deviations
        return coordinates

    def distances(self, vectors: np.ndarray, whitened: np.ndarray) -> np.ndarray:
        """Mahalanobis' distance from the mean ``[N]``, as a share of what is usual (1 in the mean square)."""
        squares = ((vectors - self.mean) ** 2).sum(axis=-1)
        within = ((whitened * self.deviations) ** 2).sum(axis=-1)
        outside = np.maximum(squares - within, 0.0) / self.rest**2
        size = vectors.shape[-1]
        distances: np.ndarray = np.sqrt(((whitened**2).sum(axis=-1) + outside) / size)
        return distances

    def to_json(self) -> dict[str, Any]:
        """For :meth:`from_json`."""
        arrays = {"mean": self.mean, "basis": self.basis, "deviations": self.deviations}
        return {name: pack(array) for name, array in arrays.items()} | {"rest": self.rest}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Space:
        """What :meth:`to_json` made."""
        mean, basis, deviations = (unpack(entry[name]) for name in ("mean", "basis", "deviations"))
        if basis.shape != (len(mean), len(deviations)):
            raise ValueError("a space of other sizes")
        return cls(mean, basis, deviations, float(entry["rest"]))


@dataclasses.dataclass(frozen=True)
class Response:
    """How the world answers actions: the next coordinates in a `Space`, from these, those before and both actions.

    A linear model for each action, and for each action before. What it is for: where the action changes, the difference
    between what the new action and what the old one would have led to is known. How much of that difference is missing
    in what is seen is how much of the *old* action was still at work: more with sticky actions, with a delay, with a
    weak actuator.

    Attributes:
      weights: ``[design, k]``.
      precision: ``[k, k]``, the inverse covariance of what the model leaves unexplained.
      num_actions: A.
      enough: information in one decision of which more counts for nothing: a few that tell much would drown the others.
    """

    weights: np.ndarray
    precision: np.ndarray
    num_actions: int
    enough: float

    @classmethod
    def fit(cls, whitened: np.ndarray, actions: np.ndarray, is_first: np.ndarray, num_actions: int) -> Response:
        """The response in stretches of play.

        Args:
          whitened: ``[T, N, k]``; of these coordinates the first, as many as a design may have.
          actions, is_first: ``[T, N]``.
          num_actions: A.
        """
        size = min(whitened.shape[-1], max(1, _MAX_PRODUCTS // num_actions))
        whitened = whitened[..., :size]
        empty = cls(np.zeros((0, size)), np.eye(size), num_actions, np.inf)

        def lanes() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            # Made again for each pass: the designs of all lanes are many times what they are made from.
            for lane in range(whitened.shape[1]):
                usable = ~is_first[2:, lane] & ~is_first[1:-1, lane]
                now, then = whitened[1:-1, lane][usable], whitened[:-2, lane][usable]
                design = empty._design(now, then, actions[1:-1, lane][usable], actions[:-2, lane][usable])
                yield design, whitened[2:, lane][usable] - now

        gram: Any = 0.0
        moments: Any = 0.0
        for design, moved in lanes():
            gram, moments = gram + design.T @ design, moments + design.T @ moved
        ridge = _RIDGE * max(float(np.trace(gram)) / len(gram), 1e-9)
        weights = np.linalg.solve(gram + ridge * np.eye(len(gram)), moments)
        covariance: Any = 0.0
        count = 0
        for design, moved in lanes():
            residuals = moved - design @ weights
            covariance, count = covariance + residuals.T @ residuals, count + len(residuals)
        covariance = covariance / max(1, count)
        floor = _SHRINKAGE * max(float(np.trace(covariance)) / size, 1e-9)
        response = cls(weights, np.linalg.inv(covariance + floor * np.eye(size)), num_actions, np.inf)
        found = [
            response.measure(whitened[step + 2], whitened[step + 1], whitened[step], actions[step + 1], actions[step])[
                1
            ]
            for step in range(0, len(whitened) - 2, _EVERY)
        ]
        information = np.concatenate([*found, np.zeros(1)])
        typical = float(np.median(information[information > 0])) if (information > 0).any() else 4.0
        return dataclasses.replace(response, enough=typical / 4)

    def measure(
        self, following: np.ndarray, now: np.ndarray, then: np.ndarray, actions: np.ndarray, before: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What was seen after some actions.

        Args:
          following, now, then: coordinates ``[N, k]`` after the actions, at the time, and one step before it.
          actions, before: int ``[N]``: the actions, and those before them.

        Returns:
          share of the old action that was at work, ``[N]`` between 0 and 1, how much there is to tell that by, ``[N]``
          (0 where the action is the old one), and how much else was unexpected, ``[N]``.
        """
        size = len(self.precision)
        following, now, then = following[:, :size], now[:, :size], then[:, :size]
        expected = self._design(now, then, actions, before) @ self.weights
        instead = self._design(now, then, before, before) @ self.weights
        difference, residuals = instead - expected, following - now - expected
        information = np.where(actions == before, 0.0, ((difference @ self.precision) * difference).sum(axis=1))
        weighed = residuals @ self.precision
        share = np.clip((weighed * difference).sum(axis=1) / np.maximum(information, 1e-12), 0.0, 1.0)
        surprise = np.sqrt(np.maximum((weighed * residuals).sum(axis=1), 0.0) / size)
        return share, np.minimum(information, self.enough), surprise

    def to_json(self) -> dict[str, Any]:
        """For :meth:`from_json`."""
        arrays = {"weights": pack(self.weights), "precision": pack(self.precision)}
        return arrays | {"num_actions": self.num_actions, "enough": self.enough}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Response:
        """What :meth:`to_json` made."""
        weights, precision = unpack(entry["weights"]), unpack(entry["precision"])
        response = cls(weights, precision, int(entry["num_actions"]), float(entry["enough"]))
        size = len(precision)
        zeros, actions = np.zeros((1, size)), np.zeros(1, int)
        design = response._design(zeros, zeros, actions, actions).shape[1]
        if weights.shape != (design, size) or precision.shape != (size, size) or not response.enough > 0:
            raise ValueError("a response of other sizes")
        return response

    def _design(self, now: np.ndarray, then: np.ndarray, actions: np.ndarray, before: np.ndarray) -> np.ndarray:
        """``[N, design]``: the pair of actions, and products of either with what they find (now and then; now)."""
        count = len(now)
        taken, old = np.eye(self.num_actions)[actions], np.eye(self.num_actions)[before]
        both = np.concatenate([now, then], axis=1)
        pairs, products, others = (
            taken[:, :, None] * old[:, None, :],
            taken[:, :, None] * both[:, None],
            old[:, :, None],
        )
        return np.concatenate(
            [pairs.reshape(count, -1), products.reshape(count, -1), (others * now[:, None]).reshape(count, -1)], axis=1
        )


class _Memory(NamedTuple):
    """Of lanes: coordinates one and two steps ago by space, actions likewise, and steps of the episode so far."""

    coordinates: dict[str, tuple[np.ndarray, np.ndarray]]
    actions: tuple[np.ndarray, np.ndarray]
    sights: np.ndarray | None
    age: np.ndarray


class SignalModel:
    """Turns decisions into signals.

    Args:
      action_names: of the policy's game.
      temperature: outputs are divided by it for their entropy: 1 for logits, less for Q-values.
      spaces: by ``"features"`` and ``"sights"``, those that there are.
      responses: by the same.
      has_teacher: whether there are a teacher's actions to compare with.

    Attributes:
      names: of the signals, S of them.
      num_actions: A.
    """

    def __init__(
        self,
        action_names: Sequence[str],
        temperature: float,
        spaces: Mapping[str, Space],
        responses: Mapping[str, Response],
        has_teacher: bool,
    ) -> None:
        self.action_names, self.temperature = tuple(action_names), temperature
        self.num_actions = len(self.action_names)
        self.spaces, self.responses, self.has_teacher = dict(spaces), dict(responses), has_teacher
        names = ["entropy", "action_gap", "action_changes", *(f"action_{name}" for name in self.action_names)]
        for kind, space in self.spaces.items():
            names.append(f"{kind}_distance")
            names += [f"{kind}_{index + 1}" for index in range(_watched(space))]
            names += [f"{kind}_response", f"{kind}_surprise"]
            if kind == "sights":
                names.append("sights_changed")
        self.names = (*names, *(["disagreement"] if has_teacher else []))

    @property
    def is_context(self) -> np.ndarray:
        """bool ``[S]``: signals that only say where in the game one is: they explain others, and are no alarm."""
        kinds = [f"{kind}_{index + 1}" for kind, space in self.spaces.items() for index in range(_watched(space))]
        return np.isin(self.names, kinds)

    @property
    def contexts(self) -> np.ndarray:
        """bool ``[S, S]``: whether the signal of a row may explain that of a column.

        What is told from the policy's outputs explains all that is told from elsewhere; directions of features explain
        what else is told from features, and those of sights what is told from sights: each may be missing.
        """
        names = np.array(self.names)
        of = np.array([name.partition("_")[0] if name.partition("_")[0] in self.spaces else "" for name in self.names])
        is_own = (of == "") & (names != "disagreement")
        explains = is_own[:, None] | (self.is_context[:, None] & (of[:, None] == of[None, :]))
        is_explained = ~is_own & ~self.is_context
        both: np.ndarray = explains & is_explained[None, :]
        return both

    @classmethod
    def fit(cls, play: Decisions, action_names: Sequence[str], temperature: float) -> SignalModel:
        """Learns what is usual from stretches of play, ``[T, N, ...]``."""
        limits = {"features": _MAX_FEATURE_DIRECTIONS, "sights": _MAX_SIGHT_DIRECTIONS}
        # What is shown after the end of an episode counts as the first of the next: nothing follows from it.
        is_first = play.is_first | ~play.is_decided
        spaces: dict[str, Space] = {}
        responses: dict[str, Response] = {}
        for kind, limit in limits.items():
            vectors = getattr(play, kind)
            if vectors is None:
                continue
            space = spaces[kind] = Space.fit(vectors[play.is_decided], limit)
            whitened = np.stack([space.whitened(each) for each in vectors])
            responses[kind] = Response.fit(whitened, play.actions, is_first, len(action_names))
        return cls(action_names, temperature, spaces, responses, play.teacher_actions is not None)

    def check(self, decisions: Decisions) -> None:
        """Raises a UserError unless the decisions are of these sizes."""
        width = decisions.outputs.shape[-1]
        if width != self.num_actions:
            raise UserError(f"outputs of {width} actions, and the thresholds are for {self.num_actions}")
        for kind, space in self.spaces.items():
            vectors = getattr(decisions, kind)
            if vectors is not None and vectors.shape[-1] != len(space.mean):
                raise UserError(f"{kind} of {vectors.shape[-1]} numbers, and the thresholds are for {len(space.mean)}")
        for name, actions in (("an action", decisions.actions), ("a teacher_action", decisions.teacher_actions)):
            if actions is not None and len(actions) and not 0 <= actions.min() <= actions.max() < self.num_actions:
                raise UserError(f"{name} that is not one of the {self.num_actions}, from 0 on")

    def measure(self, decisions: Decisions, memory: _Memory | None) -> tuple[np.ndarray, np.ndarray, _Memory]:
        """The signals of one step.

        Args:
          decisions: ``[N, ...]``, finite.
          memory: what the call before returned; None at the beginning.

        Returns:
          values and weights ``[N, S]``, and the memory. A weight is 0 where there is no such value; a mean of values is
          one by these weights.
        """
        count = len(decisions.outputs)
        age = np.zeros(count, int) if memory is None else np.where(decisions.is_first, 0, memory.age)
        # By now a lane has shown `age` decisions of this episode before.
        decided, actions = decisions.is_decided, decisions.actions
        columns: dict[str, np.ndarray] = {}
        weights: dict[str, np.ndarray] = {}
        logits = decisions.outputs.astype(np.float64) / self.temperature
        logits = logits - logits.max(axis=1, keepdims=True)
        probabilities = np.exp(logits)
        totals = probabilities.sum(axis=1, keepdims=True)
        columns["entropy"] = (np.log(totals) - (probabilities * logits).sum(axis=1, keepdims=True) / totals)[:, 0]
        best = np.partition(decisions.outputs, -2, axis=1)[:, -2:] if self.num_actions > 1 else np.zeros((count, 2))
        columns["action_gap"] = best[:, 1].astype(np.float64) - best[:, 0]
        before = memory.actions[0] if memory is not None else actions
        columns["action_changes"] = actions != before
        weights["action_changes"] = decided & (age >= 1)
        for index, name in enumerate(self.action_names):
            columns[f"action_{name}"] = actions == index
        coordinates = {}
        for kind, space in self.spaces.items():
            vectors = getattr(decisions, kind)
            if vectors is None:
                continue
            vectors = vectors.astype(np.float64)
            whitened = space.whitened(vectors)
            columns[f"{kind}_distance"] = space.distances(vectors, whitened)
            for index in range(_watched(space)):
                columns[f"{kind}_{index + 1}"] = whitened[:, index]
            if memory is not None and kind in memory.coordinates:
                now, then = memory.coordinates[kind]
                share, information, surprise = self.responses[kind].measure(whitened, now, then, *memory.actions)
                # Also after the last decision: what it led to is seen.
                usable = age >= 2
                columns[f"{kind}_response"], weights[f"{kind}_response"] = share, information * usable
                columns[f"{kind}_surprise"], weights[f"{kind}_surprise"] = surprise, usable
            coordinates[kind] = (whitened, memory.coordinates[kind][0] if memory is not None else whitened)
        if decisions.sights is not None and memory is not None and memory.sights is not None:
            columns["sights_changed"] = (decisions.sights != memory.sights).mean(axis=1)
            weights["sights_changed"] = decided & (age >= 1)
        if self.has_teacher and decisions.teacher_actions is not None:
            columns["disagreement"] = decisions.outputs.argmax(axis=1) != decisions.teacher_actions
        nothing = np.zeros(count)
        values = np.stack([columns.get(name, nothing) for name in self.names], axis=1).astype(np.float64)
        all_weights = [weights.get(name, decided if name in columns else nothing) for name in self.names]
        new = _Memory(coordinates, (actions, before), decisions.sights, age + decided)
        return values, np.stack(all_weights, axis=1).astype(np.float64), new

    def to_json(self) -> dict[str, Any]:
        """For :meth:`from_json`."""
        return {
            "action_names": list(self.action_names),
            "temperature": self.temperature,
            "spaces": {kind: space.to_json() for kind, space in self.spaces.items()},
            "responses": {kind: response.to_json() for kind, response in self.responses.items()},
            "has_teacher": self.has_teacher,
        }

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> SignalModel:
        """What :meth:`to_json` made. Raises ValueError, TypeError or KeyError if it is anything else."""
        spaces = {kind: Space.from_json(each) for kind, each in entry["spaces"].items()}
        responses = {kind: Response.from_json(each) for kind, each in entry["responses"].items()}
        names, temperature = entry["action_names"], float(entry["temperature"])
        if not names or not all(isinstance(name, str) for name in names) or spaces.keys() != responses.keys():
            raise ValueError("no signals")
        if not temperature > 0:
            raise ValueError("a temperature that is none")
        return cls(names, temperature, spaces, responses, entry["has_teacher"] is True)


def _watched(space: Space) -> int:
    return min(_WATCHED_DIRECTIONS, len(space.deviations))


def pack(array: np.ndarray) -> dict[str, Any]:
    """An array as JSON can say it, in float32."""
    data = np.ascontiguousarray(array, "<f4")
    return {"shape": list(data.shape), "float32": base64.b64encode(data.tobytes()).decode()}


def unpack(entry: Mapping[str, Any]) -> np.ndarray:
    """What :func:`pack` made, in float64. Raises ValueError if it is anything else, or not finite."""
    data = np.frombuffer(base64.b64decode(entry["float32"], validate=True), "<f4")
    array = data.reshape([int(size) for size in entry["shape"]]).astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError("numbers that are not finite")
    return array
