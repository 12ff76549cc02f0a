"""Deep Q-learning on several games at once, in one network with a head for each (Multi-DQN of Rusu et al. 2016).

Every game has its own lanes and its own replay. An iteration plays a stretch of each game with that game's head, and
then runs the updates that all those steps are worth. `pd_jax.trainers.dqn` has the parts; this is an
`pd_jax.trainers.algorithm.Algorithm` too, whose network is a `pd_jax.networks.student.Student` and whose environment is
a tuple of environments, one for each game.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from pd_jax.actors import rollout
from pd_jax.config.algorithms import DQNConfig
from pd_jax.environments.envpool import Environment
from pd_jax.networks.student import Student
from pd_jax.replay import transitions
from pd_jax.replay.transitions import Transitions, TransitionState
from pd_jax.trainers import dqn
from pd_jax.trainers.algorithm import Iteration, Unrolled, compile_iteration, game_metrics
from pd_jax.trainers.dqn import DQNPlay, DQNState, LearningProblem
from pd_jax.trainers.joint import game_keys, mean_q

Play = tuple[DQNPlay, ...]
Stored = tuple[TransitionState, ...]

warm_start = dqn.warm_start
updates_done = dqn.updates_done


def init(student: Student, observations: Array, config: DQNConfig, key: Array) -> DQNState:
    """A fresh learner for ``observations`` of the student's kind, ``[G, L, ...]``."""
    return dqn.init(student.network, observations, config, key)


def start(environments: Sequence[Environment], config: DQNConfig, key: Array) -> Play:
    """Resets every lane of every game, with nothing in the replays."""
    keys = game_keys(key, len(environments))
    return tuple(dqn.start(each, config, key) for each, key in zip(environments, keys, strict=True))


def resume_note(config: DQNConfig) -> str:
    """What a run that is resumed begins afresh."""
    return (
        "with fresh episodes and empty replays: a live emulator cannot be saved; "
        f"updates go on once there are {config.learning_starts:,} steps of each game in them"
    )


def make_iteration(student: Student, environments: Sequence[Environment], config: DQNConfig) -> Iteration:
    """Builds one compiled iteration: ``rollout_length`` steps of every game, and the updates they are worth.

    Returns:
      ``iteration(state, play) -> (state, play, metrics)``, as `pd_jax.trainers.dqn.make_iteration`; the metrics of the
      games, arrays ``[G]``, are under ``by_game``. The loss of a game that no update was about is NaN.
    """
    learn = make_learn(student, config)

    def finish(
        state: DQNState, stored: Stored, unrolled: tuple[Unrolled, ...], epsilon: Array
    ) -> tuple[DQNState, Play, dict[str, Any]]:
        lanes, played, finished = zip(*unrolled, strict=True)
        after = tuple(
            DQNPlay(own, transitions.insert(before, new))
            for own, before, new in zip(lanes, stored, played, strict=True)
        )
        steps = student.num_games * config.steps_per_rollout
        state = dataclasses.replace(state, env_steps=state.env_steps + steps)
        state, metrics = learn(state, tuple(each.stored for each in after))
        games = jax.tree.map(lambda *values: jnp.stack(values), *map(game_metrics, finished))
        return state, after, metrics | {"by_game": games | metrics["by_game"], "epsilon": epsilon}

    unrolls = [
        dqn.make_play(student.policy(game), environment, config) for game, environment in enumerate(environments)
    ]
    return compile_iteration(environments, unrolls, finish, _split, config)


def _split(play: Play) -> tuple[tuple[rollout.LaneState, ...], Stored]:
    return tuple(each.lanes for each in play), tuple(each.stored for each in play)


def make_learn(student: Student, config: DQNConfig) -> Callable[[DQNState, Stored], tuple[DQNState, dict[str, Any]]]:
    """Builds the updates of one iteration, ``learn(state, stored) -> (state, metrics)``.

    ``config.games`` says whether each update is about all games, its loss their mean, or about one after another.
    """
    num_updates = student.num_games * config.steps_per_rollout // config.steps_per_update
    optimizer = dqn.make_optimizer(config, student.num_games)
    make_problem = _together if config.games == "together" else _alternating
    updates = dqn.make_updates(make_problem(student, config), config, optimizer, num_updates)

    def learn(state: DQNState, stored: Stored) -> tuple[DQNState, dict[str, Any]]:
        state, metrics = updates(state, stored)
        share = metrics.pop("share")
        games = {name: metrics.pop(f"game_{name}") / share for name in ("loss", "mean_q")}
        return state, metrics | {"by_game": games}

    return learn


def _together(student: Student, config: DQNConfig) -> LearningProblem:
    """A minibatch of every game in each update, ``[G, B, ...]``."""

    def draw(stored: Stored, key: Array, updates: Array) -> tuple[Transitions, None]:
        batches = [_draw_game(student, config, own, key, game) for game, own in enumerate(stored)]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches), None

    def describe(losses: Array, q_values: Array, game: None) -> dict[str, Array]:
        means, game_losses = mean_q(student, q_values), losses.mean(axis=-1)
        one = {"loss": game_losses.mean(), "mean_q": means.mean()}
        return one | {"game_loss": game_losses, "game_mean_q": means, "share": jnp.ones_like(means)}

    return LearningProblem(
        draw, lambda variables, observations, _: student.apply(variables, observations), describe, _ready(config)
    )


def _alternating(student: Student, config: DQNConfig) -> LearningProblem:
    """A minibatch of one game after another, ``[B, ...]``, as the paper's networks of several games learn."""

    def draw(stored: Stored, key: Array, updates: Array) -> tuple[Transitions, Array]:
        game = updates % student.num_games
        branches = [
            lambda stored, key, game=game: _draw_game(student, config, stored[game], key, game)
            for game in range(student.num_games)
        ]
        return lax.switch(game, branches, stored, key), game

    def describe(losses: Array, q_values: Array, game: Array) -> dict[str, Array]:
        share = jax.nn.one_hot(game, student.num_games)
        mask = jnp.asarray(student.mask)[game]
        value, mean = losses.mean(), jnp.where(mask, q_values, 0.0).sum(axis=-1).mean() / mask.sum()
        one = {"loss": value, "mean_q": mean}
        return one | {"game_loss": value * share, "game_mean_q": mean * share, "share": share}

    return LearningProblem(draw, student.apply_game, describe, _ready(config))


def _ready(config: DQNConfig) -> Callable[[Stored], Array]:
    # All replays hold equally much.
    return lambda stored: dqn.is_ready(stored[0], config)


def _draw_game(student: Student, config: DQNConfig, stored: TransitionState, key: Array, game: int) -> Transitions:
    batch = transitions.sample(stored, jax.random.fold_in(key, game), config.batch_size)
    return dataclasses.replace(
        batch,
        observations=student.pad(batch.observations),
        next_observations=student.pad(batch.next_observations),
    )
