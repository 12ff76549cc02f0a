"""How much of a student's loss stays, however it learns, because it does not see what the teacher goes by.

A student gives one policy for all states that look alike to it. Of those the best one is the mean of the teacher's, and
what is left then, ``E[KL(teacher | state ‖ mean of the teacher | observation)]``, is the information about the
teacher's action that is in the state and not in the observation, ``I(action; state | observation)`` (Cover and Thomas
2006, section 2.5). Of outputs that are matched by squares it is the variance that is left.

It is estimated by a learner that needs no training: the mean over the k nearest observations, out of games that the
state is not from. Its error on those states is above what is left for every k, as that of any learner is, and falls to
it as there are more states (Stone 1977). How far above, the same learner shows where all is seen, on the teacher's own
observations: there nothing is left.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

NEIGHBOURS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Numbers of neighbours among which the best one is chosen."""


@dataclasses.dataclass(frozen=True)
class Unseen:
    """What is left of a loss, in its own unit.

    Attributes:
      student: error of the nearest neighbours on what the student sees; on average above what is left.
      teacher: the same on what the teacher sees, where nothing is left.
      total: error of one answer for all states: what a student starts from that has learnt the mean alone.
      states: that were looked at.
      standard_error: of the estimate, over games.
    """

    student: float
    teacher: float
    total: float
    states: int
    standard_error: float

    @property
    def estimate(self) -> float:
        """What no student with these senses can learn."""
        return max(0.0, self.student - self.teacher)

    def to_json(self, unit: str) -> dict[str, Any]:
        """In plain values, for summaries."""
        return {"estimate": self.estimate, "unit": unit, **dataclasses.asdict(self)}

    def describe(self, unit: str) -> str:
        """In a line, such as ``about 0.21 ± 0.02 nats of the loss ...``."""
        # Losses of Gaussians, and Huber's, are told in another unit than the squares of actions.
        whose = "" if unit.endswith("of actions") else " of the loss"
        share = 100 * self.estimate / self.total if self.total > 0 else 0.0
        return (
            f"about {self.estimate:.3g} ± {self.standard_error:.2g} {unit}{whose} cannot be learnt, {share:.0f} % "
            f"of what one answer for all states leaves: the student does not see it ({self.states:,} states of the "
            f"teacher's play; nearest neighbours leave {self.student:.3g} with its senses, and {self.teacher:.3g} with "
            "the teacher's)"
        )


def estimate_unseen(
    sensed: np.ndarray, shown: np.ndarray, targets: np.ndarray, lanes: np.ndarray, *, is_policy: bool
) -> Unseen:
    """Estimates what is left of a loss.

    Args:
      sensed: ``[N, ...]``, what the student sees of states.
      shown: ``[N, ...]``, what the teacher sees of them.
      targets: ``[N, A]``: the teacher's policies, for the divergence; or what is matched by squares, for their sum over
        ``A``.
      lanes: int ``[N]``, of each state the game or the lane that it is from: neighbours are from others, for the next
        step of the same game looks alike and hides as little. At least 4 of them.
      is_policy: whether the targets are policies.
    """
    numbers = np.unique(lanes)
    if len(numbers) < 4:
        raise ValueError(f"states of {len(numbers)} lanes; at least 4")
    halves = [np.isin(lanes, numbers[start::2]) for start in (0, 1)]
    errors = [_errors(_features(seen), targets, lanes, is_policy) for seen in (sensed, shown)]
    found = []
    for error in errors:
        own = np.zeros(len(lanes))
        for half, other in (halves, halves[::-1]):
            # The number of neighbours is chosen where its error is not counted.
            own[half] = error[error[:, other].mean(axis=1).argmin(), half]
        found.append(own)
    overall = targets.mean(axis=0)
    total = float(_error(targets, overall, is_policy).mean())
    differences = [float((found[0] - found[1])[lanes == lane].mean()) for lane in numbers]
    return Unseen(
        student=float(found[0].mean()),
        teacher=float(found[1].mean()),
        total=total,
        states=len(lanes),
        standard_error=float(np.std(differences, ddof=1) / np.sqrt(len(numbers))),
    )


def _features(observations: np.ndarray) -> np.ndarray:
    """Numbers whose distances say how alike observations are: of frames grey levels, else each in its deviation."""
    flat = observations.reshape(len(observations), -1).astype(np.float32)
    if observations.dtype == np.uint8:
        return flat - flat.mean(axis=0)
    deviation = flat.std(axis=0)
    features: np.ndarray = (flat - flat.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    return features


def _errors(features: np.ndarray, targets: np.ndarray, lanes: np.ndarray, is_policy: bool) -> np.ndarray:
    """Of each number of neighbours and each state, ``[numbers, N]``."""
    squares = (features**2).sum(axis=1)
    overall, most = targets.mean(axis=0), NEIGHBOURS[-1]
    found = np.zeros((len(NEIGHBOURS), len(features)))
    for lane in np.unique(lanes):
        asked, known = np.flatnonzero(lanes == lane), np.flatnonzero(lanes != lane)
        distances = squares[known] - 2 * features[asked] @ features[known].T
        nearest = np.argpartition(distances, min(most, len(known) - 1), axis=1)[:, :most]
        order = np.take_along_axis(distances, nearest, axis=1).argsort(axis=1, kind="stable")
        neighbours = known[np.take_along_axis(nearest, order, axis=1)]
        sums = targets[neighbours].cumsum(axis=1)
        for place, count in enumerate(NEIGHBOURS):
            count = min(count, neighbours.shape[1])
            # Of policies the mean over all counts as one neighbour more: no action is impossible.
            mean = (sums[:, count - 1] + overall) / (count + 1) if is_policy else sums[:, count - 1] / count
            found[place, asked] = _error(targets[asked], mean, is_policy)
    return found


def _error(targets: np.ndarray, answers: np.ndarray, is_policy: bool) -> np.ndarray:
    if not is_policy:
        squares: np.ndarray = ((targets - answers) ** 2).sum(axis=-1)
        return squares
    tiny = np.finfo(np.float64).tiny
    logs = np.log(np.maximum(targets, tiny)) - np.log(np.maximum(answers, tiny))
    divergence: np.ndarray = np.where(targets > 0, targets * logs, 0).sum(axis=-1)
    return divergence


def policies(outputs: np.ndarray, temperature: float) -> np.ndarray:
    """Policies ``[N, A]`` of a teacher's outputs at a temperature, float64."""
    scaled = outputs.astype(np.float64) / temperature
    weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    found: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
    return found
