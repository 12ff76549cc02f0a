"""A teacher in the making, one iteration of PQN at a time: for whoever does something else in between."""

from __future__ import annotations

import contextlib
from typing import Any

import jax
import jax.numpy as jnp

from pd_jax.actors.stepping import stepping_options
from pd_jax.config.algorithms import PQNConfig
from pd_jax.config.online import OnlineConfig
from pd_jax.config.sections import EmulatorConfig
from pd_jax.environments.envpool import Environment
from pd_jax.environments.tasks import Task
from pd_jax.learner.divergence import check_loss, check_weights
from pd_jax.networks.policy import PolicyNetwork
from pd_jax.networks.registry import make_network
from pd_jax.trainers import pqn
from pd_jax.trainers.algorithm import shared_iteration
from pd_jax.trainers.pqn import PQNState

_REMEDY = "resume with a smaller pqn.learning_rate"


def make_teacher_network(config: OnlineConfig, task: Task) -> PolicyNetwork:
    """The network that learns.

    Args:
      config: with the network filled in.
      task: the game.
    """
    assert config.teacher_network is not None
    return make_network(
        config.teacher_network,
        task.num_actions,
        layer_norm=bool(config.layer_norm),
        hidden_sizes=config.mlp_hidden or (),
    )


def init_state(network: Any, task: Task, config: PQNConfig, seed: int) -> PQNState:
    """A teacher that knows nothing yet."""
    example = jnp.zeros((1, *task.observation_shape), task.observation_dtype)
    return pqn.init(network, example, config, jax.random.key(seed))


def snapshot(variables: Any) -> Any:
    """A copy, which the next iteration does not take."""
    return jax.tree.map(jnp.copy, variables)


class LearningTeacher:
    """A teacher that plays for rewards and learns from them.

    Args:
      network: that learns.
      task: the game.
      config: of the learning.
      env: how its emulators run.
      state: to go on from.

    Attributes:
      state: the learner's; each iteration replaces it and donates the old one.
    """

    def __init__(self, network: Any, task: Task, config: PQNConfig, env: EmulatorConfig, state: PQNState) -> None:
        self.state = state
        self._network = network
        self._task = task
        self._config = config
        self._env = env
        self._environment: Environment | None = None
        self._play: Any = None
        self._iterate: Any = None

    @property
    def variables(self) -> Any:
        """The network's, until the next iteration; `snapshot` what is to last."""
        return self.state.variables

    @property
    def env_steps(self) -> int:
        """Control steps learnt from, in all lanes together."""
        return int(self.state.env_steps)

    def open(self, seed: int) -> None:
        """Starts fresh games."""
        config = self._config
        self._environment = Environment(
            self._task,
            config.num_lanes,
            seed,
            episodic_life=config.episodic_life,
            **self._env.environment_options(),
            **stepping_options(self._env.stepping, backend=self._env.backend),
        )
        self._play = pqn.start(self._environment, config, jax.random.key(seed))
        self._iterate = shared_iteration(pqn, self._network, (self._environment,), config)

    def iterate(self) -> dict[str, float]:
        """Plays ``config.steps_per_rollout`` control steps and learns from them.

        Returns:
          the metrics of `pd_jax.trainers.algorithm.Iteration`; ``game_return`` only if a game ended.

        Raises:
          UserError: the loss became NaN or infinite.
        """
        self.state, self._play, values = self._iterate(self.state, self._play)
        numbers = {name: float(value) for name, value in values.items() if name != "updates"}
        check_loss(numbers["loss"], self.when, f"the teacher diverged; {_REMEDY}")
        if not numbers["games"]:
            del numbers["game_return"]
        return numbers

    def check(self) -> None:
        """Raises a UserError if a weight is NaN or infinite."""
        check_weights(self.variables, self.when, f"the teacher diverged; {_REMEDY}")

    @property
    def when(self) -> str:
        """Where it stands, for messages."""
        return f"step {self.env_steps:,} of the teacher's"

    def close(self) -> None:
        """Ends the games."""
        if self._environment is None:
            return
        # EnvPool must not go while a call is stepping it. Lanes that a failed call has consumed are not waited for.
        with contextlib.suppress(RuntimeError):
            jax.block_until_ready(self._play)
        self._environment.close()
        self._environment = self._play = self._iterate = None
