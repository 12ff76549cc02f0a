"""What the trainer asks of an algorithm, and what the algorithms share."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from pd_jax.actors import rollout
from pd_jax.config.algorithms import QLearningConfig
from pd_jax.environments.envpool import Environment
from pd_jax.environments.stand_in import StandIn
from pd_jax.system.kept import kept

Iteration = Callable[[Any, Any], tuple[Any, Any, dict[str, Any]]]
"""``(state, play) -> (state, play, metrics)``, which donates both; where EnvPool steps inside jit, one compiled call.

The state is what checkpoints hold, with the network's ``variables`` among its fields; play is what cannot be saved and
a resumed run begins afresh: emulators, and a replay of what they showed. The metrics are scalars: ``loss`` and
``mean_q``, the ``updates`` they are means over (0: they mean nothing), the ``games`` that ended, their mean
``game_return``, and ``epsilon``. Of several games, those of each are arrays ``[G]`` in a mapping ``by_game``: ``loss``,
``mean_q``, ``games`` and ``game_return``.
"""


Unrolled = tuple[rollout.LaneState, Any, rollout.FinishedEpisodes]
"""What a `pd_jax.actors.rollout.Unroll` returns."""


class Algorithm(Protocol):
    """A module that learns Q-values; `pd_jax.trainers.pqn` and `pd_jax.trainers.dqn` are such modules.

    Each takes its own section of the settings as ``config``. `pd_jax.trainers.joint_pqn` and
    `pd_jax.trainers.joint_dqn` learn several games at once: their tasks and environments are tuples, one for each game,
    and the network of their iteration is a `pd_jax.networks.student.Student`.
    """

    def init(self, network: Any, observations: Array, config: Any, key: Array) -> Any:
        """A fresh state for ``observations`` of the network's kind, ``[L, ...]``."""
        ...

    def warm_start(self, state: Any, variables: Any) -> Any:
        """A fresh state with another network's weights."""
        ...

    def start(self, environment: Any, config: Any, key: Array) -> Any:
        """Play at its beginning."""
        ...

    def make_iteration(self, network: Any, environment: Any, config: Any) -> Iteration:
        """Builds the compiled iteration over ``config.steps_per_rollout`` control steps of every game."""
        ...

    def updates_done(self, state: Any, config: Any, num_games: int = 1) -> int:
        """Updates behind a state."""
        ...

    def resume_note(self, config: Any) -> str:
        """What a run that is resumed begins afresh, after "resumed at step 1,000, "."""
        ...


def epsilon_at(env_steps: Array, config: QLearningConfig) -> Array:
    """Linear decay from ``epsilon_start`` to ``epsilon_end`` over the configured fraction of training."""
    fraction = env_steps / max(1.0, config.epsilon_decay_fraction * config.total_steps)
    return config.epsilon_start + jnp.clip(fraction, 0.0, 1.0) * (config.epsilon_end - config.epsilon_start)


def compile_iteration(
    environments: Sequence[Environment],
    unrolls: Sequence[rollout.Unroll],
    finish: Callable[[Any, Any, tuple[Unrolled, ...], Array], tuple[Any, Any, dict[str, Any]]],
    split: Callable[[Any], tuple[Sequence[rollout.LaneState], Any]],
    config: QLearningConfig,
) -> Iteration:
    """Play of every game and what is learnt from it, as one compiled call, or with the play stepped from the host.

    Args:
      environments: of the games; all are stepped alike.
      unrolls: the games' play.
      finish: ``(state, kept, unrolled, epsilon) -> (state, play, metrics)``, traced: the rest of the iteration.
      split: of the play, the lanes of every game, and what ``finish`` keeps beside them.
      config: says how much is explored.
    """

    def exploration(env_steps: Array) -> Array:
        # All games have equally many steps behind them: a share of the training is that share of each game's.
        return epsilon_at(env_steps, config)

    def iteration(state: Any, play: Any) -> tuple[Any, Any, dict[str, Any]]:
        lanes, kept = split(play)
        epsilon = exploration(state.env_steps)
        unrolled = tuple(unroll(state.variables, own, epsilon) for unroll, own in zip(unrolls, lanes, strict=True))
        return finish(state, kept, unrolled, epsilon)

    if environments[0].stepping == "jit":
        return jax.jit(iteration, donate_argnums=(0, 1))
    exploration, finish = jax.jit(exploration), jax.jit(finish, donate_argnums=(0, 1))
    return iteration


def shared_iteration(
    algorithm: Algorithm, learner: Any, environments: Sequence[Environment], config: Any, *, is_joint: bool = False
) -> Iteration:
    """As the algorithm's ``make_iteration``, and what was compiled for equal arguments is taken again.

    Args:
      algorithm, learner, config: of the iteration.
      environments: of the games.
      is_joint: whether the algorithm takes them all, and not one.
    """
    kinds = tuple(environment.kind for environment in environments)
    if None in kinds:
        return algorithm.make_iteration(learner, tuple(environments) if is_joint else environments[0], config)
    shared = _shared_iteration(algorithm, learner, kinds, config, is_joint)

    def iterate(state: Any, play: Any) -> Any:
        return shared(environments, state, play)

    return iterate


class _SharedIteration:
    """The iteration of all environments of some kinds, stepped inside jit."""

    def __init__(self, algorithm: Algorithm, learner: Any, count: int, config: Any, is_joint: bool) -> None:
        self._stand_ins = tuple(StandIn() for _ in range(count))
        arena: Any = self._stand_ins if is_joint else self._stand_ins[0]

        def iteration(state: Any, play: Any) -> Any:
            # Made when it is traced: an algorithm looks at the environments that it plays.
            return algorithm.make_iteration(learner, arena, config)(state, play)

        self._iterate = jax.jit(iteration, donate_argnums=(0, 1))

    def __call__(self, environments: Sequence[Environment], state: Any, play: Any) -> Any:
        for stand_in, environment in zip(self._stand_ins, environments, strict=True):
            stand_in.stands_for(environment)
        return self._iterate(state, play)


@kept(8)
def _shared_iteration(
    algorithm: Algorithm, learner: Any, kinds: tuple[Hashable, ...], config: Any, is_joint: bool
) -> _SharedIteration:
    return _SharedIteration(algorithm, learner, len(kinds), config, is_joint)


def learning_rewards(rewards: Array, config: QLearningConfig) -> Array:
    """The rewards to learn from: as they are, or clipped to [-1, 1] (Mnih et al. 2015)."""
    return jnp.clip(rewards, -1.0, 1.0) if config.clip_rewards else rewards


def game_metrics(finished: rollout.FinishedEpisodes) -> dict[str, Array]:
    """``games`` that ended in a stretch of play and their mean unclipped return, 0 if there were none."""
    games = finished.mask.sum()
    mean_return = jnp.where(finished.mask, finished.returns, 0.0).sum() / jnp.maximum(games, 1)
    return {"games": games, "game_return": mean_return}
