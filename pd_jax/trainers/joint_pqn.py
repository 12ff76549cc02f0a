"""PQN on several games at once, in one network with a head for each.

Every game is played with its own head and labelled with its own Q(lambda) targets; each minibatch has equally many
steps of all games. `pd_jax.trainers.pqn` has the parts; this is an `pd_jax.trainers.algorithm.Algorithm` too, whose
network is a `pd_jax.networks.student.Student` and whose environment is a tuple of environments, one for each game.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from pd_jax.actors import rollout
from pd_jax.config.algorithms import PQNConfig
from pd_jax.environments.envpool import Environment
from pd_jax.networks.joint import GameNetwork
from pd_jax.networks.student import Student
from pd_jax.trainers import pqn
from pd_jax.trainers.algorithm import Iteration, Unrolled, compile_iteration, game_metrics
from pd_jax.trainers.joint import game_keys, mean_q
from pd_jax.trainers.pqn import PQNState, Samples, Transitions

Lanes = tuple[rollout.LaneState, ...]

warm_start = pqn.warm_start
updates_done = pqn.updates_done
resume_note = pqn.resume_note


def init(student: Student, observations: Array, config: PQNConfig, key: Array) -> PQNState:
    """A fresh learner for ``observations`` of the student's kind, ``[G, L, ...]``."""
    return pqn.init(student.network, observations, config, key)


def start(environments: Sequence[Environment], config: PQNConfig, key: Array) -> Lanes:
    """Resets every lane of every game."""
    keys = game_keys(key, len(environments))
    return tuple(pqn.start(each, config, key) for each, key in zip(environments, keys, strict=True))


def make_iteration(student: Student, environments: Sequence[Environment], config: PQNConfig) -> Iteration:
    """Builds one compiled iteration: ``rollout_length`` steps of every game, their targets, and the epochs.

    Returns:
      ``iteration(state, lanes) -> (state, lanes, metrics)``, as `pd_jax.trainers.pqn.make_iteration`; the metrics of
      the games, arrays ``[G]``, are under ``by_game``.
    """
    networks = [GameNetwork(student.policy(game)) for game in range(student.num_games)]
    learn = make_learn(student, config)

    def finish(
        state: PQNState, kept: None, unrolled: tuple[Unrolled, ...], epsilon: Array
    ) -> tuple[PQNState, Lanes, dict[str, Any]]:
        after, records, finished = zip(*unrolled, strict=True)
        transitions = [
            pqn.transitions_of(network, state.variables, lanes, own, config)
            for network, lanes, own in zip(networks, after, records, strict=True)
        ]
        state, metrics = learn(state, transitions)
        games = jax.tree.map(lambda *values: jnp.stack(values), *map(game_metrics, finished))
        return state, after, metrics | {"by_game": games | metrics["by_game"], "epsilon": epsilon}

    unrolls = [
        pqn.make_play(network.apply, environment, config)
        for network, environment in zip(networks, environments, strict=True)
    ]
    return compile_iteration(environments, unrolls, finish, lambda lanes: (lanes, None), config)


def make_learn(
    student: Student, config: PQNConfig
) -> Callable[[PQNState, Sequence[Transitions]], tuple[PQNState, dict[str, Any]]]:
    """Builds the second half, ``learn(state, transitions of every game) -> (state, metrics)``."""
    fit = pqn.make_fit(student.apply, _describer(student), pqn.make_optimizer(config, student.num_games))

    def learn(state: PQNState, transitions: Sequence[Transitions]) -> tuple[PQNState, dict[str, Any]]:
        samples = [pqn.labelled(own, config) for own in transitions]
        key, *epoch_keys = jax.random.split(state.key, config.epochs + 1)
        keys = zip(*(game_keys(epoch_key, student.num_games) for epoch_key in epoch_keys), strict=True)
        # [updates, G, B]: every game's steps in an order of their own.
        order = jnp.stack([pqn.shuffled(own, config) for own in keys], axis=1)

        def take(rows: Array) -> Samples:
            batches = [
                jax.tree.map(lambda leaf, own=own: leaf[own], each) for each, own in zip(samples, rows, strict=True)
            ]
            padded = [batch.replace(observations=student.pad(batch.observations)) for batch in batches]
            stacked: Samples = jax.tree.map(lambda *leaves: jnp.stack(leaves), *padded)
            return stacked

        (variables, optimizer_state), metrics = fit((state.variables, state.optimizer_state), order, take)
        games = {name: metrics.pop(f"game_{name}") for name in ("loss", "mean_q")}
        steps = student.num_games * config.steps_per_rollout
        state = PQNState(variables, optimizer_state, state.env_steps + steps, key)
        return state, metrics | {"by_game": games, "updates": jnp.int32(config.updates_per_rollout)}

    return learn


def _describer(student: Student) -> Callable[[Array, Array], dict[str, Array]]:
    def describe(losses: Array, q_values: Array) -> dict[str, Array]:
        means = mean_q(student, q_values)
        return {"loss": losses.mean(), "mean_q": means.mean(), "game_loss": losses, "game_mean_q": means}

    return describe
