"""Every algorithm, with EnvPool stepped from the host: what it learns is what it learns with the play inside jit."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pd_jax.config.algorithms import DQNConfig, PQNConfig
from pd_jax.environments.envpool import Environment
from pd_jax.environments.tasks import get_task
from pd_jax.networks.joint import make_joint_network
from pd_jax.networks.registry import make_network
from pd_jax.resources.pace import Pace
from pd_jax.trainers import dqn, joint_dqn, joint_pqn, pqn

COMMON: dict[str, Any] = {"num_lanes": 4, "rollout_length": 16, "total_steps": 10_000, "learning_rate": 1e-3}
OF_DQN: dict[str, Any] = {"batch_size": 16, "replay_capacity": 256, "learning_starts": 64, "steps_per_update": 8}
CONFIGS: dict[str, Any] = {
    "pqn": (pqn, PQNConfig(**COMMON, epochs=1, minibatches=4)),
    "dqn": (dqn, DQNConfig(**COMMON, **OF_DQN)),
    "joint pqn": (joint_pqn, PQNConfig(**COMMON, epochs=1, minibatches=4)),
    "joint dqn": (joint_dqn, DQNConfig(**COMMON, **OF_DQN)),
}


def trained(name: str, **stepping: Any) -> tuple[Any, list[dict[str, Any]], tuple[Environment, ...]]:
    """The state after two iterations, the metrics of both, and the environments."""
    algorithm, config = CONFIGS[name]
    tasks = tuple(map(get_task, ("cartpole", "acrobot") if "joint" in name else ("cartpole",)))
    environments = tuple(Environment(task, 4, 1, max_episode_steps=20, **stepping) for task in tasks)
    if "joint" in name:
        learner: Any = make_joint_network("mlp", tasks, hidden_sizes=(16,))
        arena: Any = environments
        example = jnp.zeros((2, 1, *learner.observation_shape))
    else:
        learner, arena = make_network("mlp", 2, hidden_sizes=(16,)), environments[0]
        example = jnp.zeros((1, 4))
    state = algorithm.init(learner, example, config, jax.random.key(0))
    play = algorithm.start(arena, config, jax.random.key(1))
    iterate, told = algorithm.make_iteration(learner, arena, config), []
    for _ in range(2):
        state, play, metrics = iterate(state, play)
        told.append(jax.device_get(metrics))
    jax.block_until_ready(play)
    return state, told, environments


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "joint dqn")) for name in CONFIGS]
)
def test_training_from_the_host_learns_what_training_in_jit_learns(name: str) -> None:
    in_jit, told, first = trained(name, stepping="jit")
    from_host, also_told, second = trained(name, stepping="host", num_groups=2)
    assert int(told[-1]["updates"]) > 0
    close = lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)  # noqa: E731
    jax.tree.map(close, told, also_told)
    jax.tree.map(close, in_jit.variables, from_host.variables)
    assert int(in_jit.env_steps) == int(from_host.env_steps)
    for environment in (*first, *second):
        environment.close()


def test_the_pace_is_told_where_the_host_steps() -> None:
    environment = Environment(get_task("cartpole"), 4, 0, stepping="host", num_groups=2)
    network = make_network("mlp", 2, hidden_sizes=(16,))
    pace = Pace()
    for _ in range(3):
        pace.count(64, 10.0, updates=1)
    variables = network.init(jax.random.key(0), jnp.zeros((1, 4)))
    told = pace.summarise([(environment, network)], variables)
    assert told["env_steps_per_second"] == pytest.approx(6.4)
    assert told["bound_by"] == "updates" and 0 < told["time_shares"]["stepping"] < 0.1
    environment.close()
