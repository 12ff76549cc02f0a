"""Where several teachers of one game contradict each other: how often, who, and in which states. Plain NumPy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pd_jax.evaluation.comparison import Place

WORST = 5
_APART = 30
"""Steps between two states of one game that are shown: two seconds of Atari."""


@dataclasses.dataclass(frozen=True, eq=False)
class Contradiction:
    """A state in which members want different actions.

    Attributes:
      place: where it is in the play; None where that is not known.
      divergence: Jensen-Shannon divergence of the members' policies, in nats.
      policies: of each member, float ``[M, A]``; NaN of one that has none.
      weights: what each counts there, float ``[M]``.
      mixed: the policy that they are together, float ``[A]``.
      observation: uint8 ``[84, 84, 4]``, oldest frame first, or float ``[D]``.
    """

    place: Place | None
    divergence: float
    policies: np.ndarray
    weights: np.ndarray
    mixed: np.ndarray
    observation: np.ndarray

    def to_json(self, actions: Sequence[str]) -> dict[str, Any]:
        """Plain values, without the observation."""
        place = {} if self.place is None else dataclasses.asdict(self.place)
        wanted = [None if np.isnan(row).any() else actions[int(row.argmax())] for row in self.policies]
        return {
            **place,
            "divergence": self.divergence,
            "choices": wanted,
            "weights": [float(weight) for weight in self.weights],
            "chosen": actions[int(self.mixed.argmax())],
        }


@dataclasses.dataclass(frozen=True, eq=False)
class Contradictions:
    """What the members of a committee say of some states.

    Attributes:
      members: their labels.
      actions: names of the game's.
      states: that all were asked about, and of which somebody has a policy.
      rate: share of these in which two greedy actions differ.
      agreement: float ``[M, M]``, share of the states in which both choose the same; NaN where no state has both.
      weights: float ``[M]``, the mean of what each counts.
      weights_outvoted: float ``[M]``, the same over the states in which the member wants something else than what they
        choose together; NaN where there is none.
      followed: float ``[M]``, share of its states in which they choose together what the member wants; NaN where it has
        none.
      worst: the states with the largest divergence, no two near each other.
    """

    members: tuple[str, ...]
    actions: tuple[str, ...]
    states: int
    rate: float
    agreement: np.ndarray
    weights: np.ndarray
    weights_outvoted: np.ndarray
    followed: np.ndarray
    worst: tuple[Contradiction, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values; NaN where there is no number."""
        each = zip(self.members, self.weights, self.weights_outvoted, self.followed, strict=True)
        return {
            "states": self.states,
            "contradiction_rate": self.rate,
            "members": [
                {
                    "teacher": name,
                    "weight": float(weight),
                    "weight_where_outvoted": float(outvoted),
                    "followed": float(followed),
                }
                for name, weight, outvoted, followed in each
            ],
            "agreement": self.agreement.tolist(),
            "worst": [state.to_json(self.actions) for state in self.worst],
        }

    def values(self, prefix: str = "") -> dict[str, float]:
        """Metrics: the rate, the weights, and the agreement of each pair."""
        found = {f"{prefix}contradiction_rate": self.rate}
        for place, (name, weight) in enumerate(zip(self.members, self.weights, strict=True)):
            found[f"{prefix}credibility/{name}"] = float(weight)
            for other in range(place):
                pair = f"{self.members[other]}, {name}"
                found[f"{prefix}agreement_of/{pair}"] = float(self.agreement[other, place])
        return {name: value for name, value in found.items() if not np.isnan(value)}


def find_contradictions(
    members: Sequence[str],
    actions: Sequence[str],
    log_policies: np.ndarray,
    has: np.ndarray,
    weights: np.ndarray,
    mixed: np.ndarray,
    *,
    places: Sequence[Place] | None = None,
    observation: Callable[[int], np.ndarray] | None = None,
) -> Contradictions | None:
    """Counts contradictions among those that count at all, and picks the worst.

    Args:
      members: labels.
      actions: names.
      log_policies, has, weights, mixed: as `pd_jax.teachers.committee.Weighed` has them, of N states.
      places: of the states in the play.
      observation: gives one of the states by its index; without it no state is picked.

    Returns:
      None where nobody that counts has a policy of any state.
    """
    # Who counts nothing anywhere, such as one that plays worse than at random, contradicts nobody.
    has = has & (weights.max(axis=1, keepdims=True) > 0.0)
    sound = np.flatnonzero(has.any(axis=0))
    if not len(sound):
        return None
    policies = np.exp(log_policies[:, sound].astype(np.float64))
    present, counts = has[:, sound], weights[:, sound].astype(np.float64)
    choices, chosen = policies.argmax(axis=-1), mixed[sound].argmax(axis=-1)
    both = present[:, None] & present[None]
    same = (choices[:, None] == choices[None]) & both
    differs = (both & ~same).any(axis=(0, 1))
    outvoted = present & (choices != chosen)
    return Contradictions(
        members=tuple(members),
        actions=tuple(actions),
        states=len(sound),
        rate=float(differs.mean()),
        agreement=_share(same.sum(axis=-1), both.sum(axis=-1)),
        weights=counts.mean(axis=1),
        weights_outvoted=_share((counts * outvoted).sum(axis=1), outvoted.sum(axis=1)),
        followed=_share((present & ~outvoted).sum(axis=1), present.sum(axis=1)),
        worst=()
        if observation is None
        else _worst(policies, present, counts, mixed[sound], differs, sound, places, observation),
    )


def divergences(policies: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence of several policies, each counting the same (Lin 1991), in nats.

    Args:
      policies: float ``[M, N, A]``.
      present: bool ``[M, N]``, those that count.

    Returns:
      float ``[N]``, from 0 to the logarithm of the number that count.
    """
    share = present / np.maximum(present.sum(axis=0), 1)
    return _entropy((policies * share[..., None]).sum(axis=0)) - (_entropy(policies) * share).sum(axis=0)


def _entropy(policies: np.ndarray) -> np.ndarray:
    found: np.ndarray = -(policies * np.log(np.where(policies > 0.0, policies, 1.0))).sum(axis=-1)
    return found


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _worst(
    policies: np.ndarray,
    present: np.ndarray,
    weights: np.ndarray,
    mixed: np.ndarray,
    differs: np.ndarray,
    indices: np.ndarray,
    places: Sequence[Place] | None,
    observation: Callable[[int], np.ndarray],
) -> tuple[Contradiction, ...]:
    strength = np.where(differs, divergences(policies, present), -np.inf)
    found: list[Contradiction] = []
    seen: set[bytes] = set()
    # Of many that are as strong, some from all over the play, and not those at its beginning.
    spread = np.random.default_rng(0).permutation(len(strength))
    for index in np.lexsort((spread, -np.round(strength, 2))).tolist():
        if len(found) == WORST or not differs[index]:
            break
        place = None if places is None else places[indices[index]]
        if any(_are_near(place, other.place) for other in found):
            continue
        shown = np.asarray(observation(int(indices[index])))
        # Games that open alike show the same.
        if shown.tobytes() in seen:
            continue
        seen.add(shown.tobytes())
        own = np.where(present[:, index, None], policies[:, index], np.nan)
        found.append(Contradiction(place, float(strength[index]), own, weights[:, index], np.exp(mixed[index]), shown))
    return tuple(found)


def _are_near(place: Place | None, other: Place | None) -> bool:
    if place is None or other is None:
        return False
    return (place.lane, place.game) == (other.lane, other.game) and abs(place.step - other.step) < _APART
