"""Kinds of states: clusters of features, close calls, the teacher's choices, the way to a loss, ranges of numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from scipy.cluster.vq import kmeans2, vq

from pd_jax.deploy.audit.play import Play
from pd_jax.deploy.audit.states import describe, gaps
from pd_jax.environments.tasks import Task

_FIFTHS = (0.2, 0.4, 0.6, 0.8)
_EDGES = (0.1, 0.2, 0.4, 0.6, 0.8, 0.9)
_FITTED = 20_000
_LEAST_IN_CLUSTER = 20
# What each number of an observation is, by Gymnasium's documentation.
_NUMBERS: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "cartpole": ("cart position", "cart velocity", "pole angle", "pole's angular velocity"),
        "acrobot": ("cos of angle 1", "sin of angle 1", "cos of angle 2", "sin of angle 2", "speed 1", "speed 2"),
        "lunarlander": (
            "x",
            "y",
            "speed in x",
            "speed in y",
            "angle",
            "angular speed",
            "left leg down",
            "right leg down",
        ),
    }
)


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of states.

    Attributes:
      family: what tells its kinds apart: ``cluster``, ``number``, ``loss``, ``gap`` or ``action``.
      name: of this one in its family, as a sentence has it after "where".
      masks: bool ``[N]``, by play.
      number: of a cluster.
    """

    family: str
    name: str
    masks: Mapping[str, np.ndarray]
    number: int | None = None


@dataclasses.dataclass(frozen=True)
class Clusters:
    """Groups of alike features.

    Attributes:
      centres: float64 ``[K, F]``, in the scale of ``scaled``.
      mean: float64 ``[F]``.
      scale: one number for all features: a feature that hardly moves is not blown up.
    """

    centres: np.ndarray
    mean: np.ndarray
    scale: float

    @classmethod
    def fit(cls, features: np.ndarray, count: int, seed: int = 0) -> Clusters:
        """Finds groups by k-means (Lloyd 1982), begun by k-means++ (Arthur and Vassilvitskii 2007).

        Args:
          features: ``[N, F]``, at least one row.
          count: of groups; fewer where there are not `20` rows for each.
          seed: of the beginning.
        """
        generator = np.random.default_rng(seed)
        mean = features.mean(axis=0, dtype=np.float64)
        scale = float(np.sqrt(((features - mean) ** 2).mean())) or 1.0
        rows = generator.permutation(len(features))[:_FITTED]
        scaled = (features[rows] - mean) / scale
        count = max(1, min(count, len(scaled) // _LEAST_IN_CLUSTER))
        centres = scaled[:1]
        nearest = ((scaled - centres[0]) ** 2).sum(axis=1)
        while len(centres) < count and nearest.sum() > 0:
            chosen = scaled[generator.choice(len(scaled), p=nearest / nearest.sum())]
            centres = np.concatenate([centres, chosen[None]])
            nearest = np.minimum(nearest, ((scaled - chosen) ** 2).sum(axis=1))
        centres, _ = kmeans2(scaled, centres, minit="matrix", iter=50)
        return cls(centres, mean, scale)

    def assign(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The group of each row, int ``[N]``, and the distance from its centre."""
        groups, distances = vq((features - self.mean) / self.scale, self.centres)
        return groups, distances


def kinds_of(
    task: Task, plays: Mapping[str, Play], until_loss: Mapping[str, np.ndarray], clusters: Clusters, before_loss: int
) -> list[Kind]:
    """All kinds of states, of which one may be in several.

    Args:
      task: the game.
      plays: by name.
      until_loss: decisions until the next loss, by play; None where it is not known.
      clusters: of the features.
      before_loss: decisions that lead to a loss.
    """
    groups = {name: clusters.assign(play.features)[0] for name, play in plays.items()}
    sizes = np.bincount(np.concatenate(list(groups.values())), minlength=len(clusters.centres))
    order = np.argsort(-sizes, kind="stable")
    found = [
        Kind("cluster", f"cluster {number}", {name: group == place for name, group in groups.items()}, number)
        for number, place in enumerate(order[sizes[order] > 0].tolist(), start=1)
    ]
    found += _numbers(task, plays)
    if until_loss:
        masks = {
            name: until_loss[name] < before_loss if name in until_loss else np.zeros(len(play), bool)
            for name, play in plays.items()
        }
        what = "a point or a life" if task.kind == "atari" else "the game"
        found.append(Kind("loss", f"{what} is lost within {before_loss} steps", masks))
    found += _gaps(plays)
    for action, name in enumerate(task.action_names):
        masks = {play_name: play.choices("teacher") == action for play_name, play in plays.items()}
        if any(mask.any() for mask in masks.values()):
            found.append(Kind("action", f"the teacher chooses {name}", masks))
    return found


def _gaps(plays: Mapping[str, Play]) -> Iterator[Kind]:
    """Fifths of the states by the gap between the teacher's best output and the next."""
    values = {name: gaps(play.outputs["teacher"]) for name, play in plays.items()}
    edges = np.quantile(np.concatenate(list(values.values())), _FIFTHS)
    names = ("closest fifth of the teacher's calls", "second fifth", "third fifth", "fourth fifth", "clearest fifth")
    for place, name in enumerate(names):
        low, high = (edges[place - 1] if place else -np.inf), (edges[place] if place < len(edges) else np.inf)
        told = f"gap below {describe(high)}" if place < len(edges) else f"gap above {describe(low)}"
        yield Kind("gap", f"{name} ({told})", {each: (value >= low) & (value < high) for each, value in values.items()})


def _numbers(task: Task, plays: Mapping[str, Play]) -> Iterator[Kind]:
    """Each number of a vector, on either side of some of its quantiles."""
    known = {name: play.vectors for name, play in plays.items() if play.vectors is not None}
    if len(known) < len(plays):
        return
    together = np.concatenate(list(known.values()))
    names = _NUMBERS.get(task.name, ())
    for place in range(together.shape[1]):
        name = names[place] if place < len(names) else f"number {place}"
        for edge in np.unique(np.quantile(together[:, place], _EDGES)):
            for side in ("below", "above"):
                masks = {
                    each: vectors[:, place] < edge if side == "below" else vectors[:, place] >= edge
                    for each, vectors in known.items()
                }
                yield Kind("number", f"{name} is {side} {describe(float(edge))}", masks)
