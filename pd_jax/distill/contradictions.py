"""What the teachers of a committee say of a run's play: asked at the end of each round, and of the student's games."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pd_jax.distill.setup import DistillSetup
from pd_jax.environments.envpool import frames_first, frames_last
from pd_jax.evaluation.contradictions import Contradictions, find_contradictions
from pd_jax.evaluation.sampled_states import SampledStates
from pd_jax.replay import rings
from pd_jax.replay.rings import ReplayState
from pd_jax.runs.directory import RunDirectory
from pd_jax.system.devices import platform_of, tracing_for
from pd_jax.system.progress import warn_if_unwritable
from pd_jax.teachers import Committee
from pd_jax.teachers.committee import CommitteeNetwork, Weighed

SAMPLES = 512
"""Stored steps that are asked about after a round: the rate is then known to 2 points, in less than a second of two CPU
cores and a DQN."""
_BATCH = 64


def ask_of_play(committee: Committee, stored: ReplayState, round_seed: int) -> Contradictions | None:
    """What the members say of some stored steps of the first device.

    Args:
      committee: who has played, or labels.
      stored: the game's replay, ``[D, L / D, ...]``, which is not written to.
      round_seed: other steps are drawn for another one; the training's draws are left as they are.
    """
    first = jax.tree.map(lambda leaf: leaf.addressable_shards[0].data, stored)
    variables = jax.device_put(committee.variables, next(iter(first.flags.devices())))
    key = jax.random.fold_in(jax.random.key(0), round_seed)
    with tracing_for(platform_of(variables)):
        found = _ask_stored(committee.network, variables, first, key)
    return find_contradictions(committee.labels, committee.task.action_names, *map(np.asarray, found))


def ask_of_games(committee: Committee, sampled: SampledStates) -> Contradictions | None:
    """What the members say of states of the student's games.

    Args:
      committee: who has taught it.
      sampled: the states.
    """
    parts: list[list[np.ndarray]] = []
    for start in range(0, len(sampled), _BATCH):
        count = min(_BATCH, len(sampled) - start)
        # Batches of one size are compiled once.
        batch = np.stack([sampled[start + min(index, count - 1)] for index in range(_BATCH)])
        with tracing_for(platform_of(committee.variables)):
            found = _ask(committee.network, committee.variables, frames_first(batch))
        log_policies, has, weights, mixed = map(np.asarray, found)
        parts.append([log_policies[:, :count], has[:, :count], weights[:, :count], mixed[:count]])
    if not parts:
        return None
    joined = [np.concatenate(each, axis=0 if place == 3 else 1) for place, each in enumerate(zip(*parts, strict=True))]
    log_policies, has, weights, mixed = joined
    return find_contradictions(
        committee.labels,
        committee.task.action_names,
        log_policies,
        has,
        weights,
        mixed,
        places=sampled.places,
        observation=sampled.__getitem__,
    )


def contradictions_of(setup: DistillSetup, sampled: Mapping[str, SampledStates]) -> dict[str, Contradictions]:
    """By game, what the members of its committee say of the student's final games; of games that have one.

    Args:
      setup: of the run.
      sampled: by game, states of the student's games.
    """
    found = {}
    for name, teacher in zip(setup.names, setup.teachers, strict=True):
        if isinstance(teacher, Committee) and name in sampled:
            asked = ask_of_games(teacher, sampled[name])
            if asked is not None:
                found[name] = asked
    return found


def about_committees(setup: DistillSetup, found: Mapping[str, Contradictions]) -> dict[str, Any]:
    """What the summary says of committees; nothing where there is none.

    Args:
      setup: of the run.
      found: as from :func:`contradictions_of`.
    """
    told = {}
    for name, teacher in zip(setup.names, setup.teachers, strict=True):
        if isinstance(teacher, Committee):
            asked = {"members": [{"teacher": label} for label in teacher.labels]}
            told[name] = {"by": teacher.credibility.by, **(found[name].to_json() if name in found else asked)}
    return {"committees": told} if told else {}


def draw_committees(run: RunDirectory, found: Mapping[str, Contradictions], *, prefixed: bool) -> None:
    """Writes a picture of each committee; a full disk is a warning.

    Args:
      run: its directory.
      found: by game.
      prefixed: whether the names of a game's metrics begin with the game's.
    """
    if not found:
        return
    # Matplotlib takes 30 MB, which a run need not have beside its replay.
    from pd_jax.report.committees import committee_path, plot_committee

    for game, asked in found.items():
        path = committee_path(run.path, game)
        with warn_if_unwritable(path):
            plot_committee(run.metrics_path, asked, path, game=game, prefix=f"{game}/" if prefixed else "")


@functools.partial(jax.jit, static_argnums=0)
def _ask_stored(network: CommitteeNetwork, variables: Any, stored: ReplayState, key: Array) -> Weighed:
    own = jax.tree.map(lambda leaf: leaf[0], stored)
    return network.weigh(variables, jnp.asarray(rings.sample(own, key, SAMPLES).observations))


@functools.partial(jax.jit, static_argnums=0)
def _ask(network: CommitteeNetwork, variables: Any, observations: Array) -> Weighed:
    return network.weigh(variables, frames_last(observations))
