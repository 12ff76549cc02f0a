"""One program steps environments of one kind after another, and holds none of them."""

from __future__ import annotations

import gc
import threading
import weakref

import jax
import numpy as np
import pytest

from pd_jax.actors import rollout
from pd_jax.config.algorithms import DQNConfig, PQNConfig
from pd_jax.environments.envpool import Environment
from pd_jax.environments.stand_in import StandIn
from pd_jax.environments.tasks import get_task
from pd_jax.networks.registry import make_network
from pd_jax.trainers import dqn, pqn
from pd_jax.trainers.algorithm import shared_iteration
from support.commands import no_compilation

LANES, STEPS = 3, 7


def test_environments_of_one_kind_are_played_by_one_program_each_its_own_games() -> None:
    network = make_network("mlp", 2, hidden_sizes=(5,))
    variables = jax.jit(network.init)(jax.random.key(0), np.zeros((1, 4), np.float32))

    def play(seed: int, lanes: int = LANES) -> tuple[np.ndarray, weakref.ref[Environment]]:
        environment = Environment(get_task("cartpole"), lanes, seed)
        rolled = rollout.make_rollout(environment, network.apply, STEPS)
        state = rollout.start(environment, jax.random.key(3))
        _, trajectory, _ = rolled(variables, state, 0.05)
        return np.asarray(trajectory.observations), weakref.ref(environment)

    first, _ = play(1)
    with no_compilation():
        again, held = play(1)
        other, _ = play(2)
    np.testing.assert_array_equal(first, again)
    assert first.shape == (STEPS, LANES, 4) and (first != other).any()
    assert play(1, lanes=2)[0].shape == (STEPS, 2, 4), "another number of lanes is another kind"
    gc.collect()
    assert held() is None, "the program outlives the emulators"


def test_an_iteration_is_compiled_once_for_equal_settings() -> None:
    network = make_network("mlp", 2, hidden_sizes=(5,))
    config = PQNConfig(total_steps=64, num_lanes=4, rollout_length=8, minibatches=2, epochs=1)

    def learn(seed: int, config: PQNConfig = config) -> np.ndarray:
        environment = Environment(get_task("cartpole"), config.num_lanes, seed)
        state = pqn.init(network, np.zeros((1, 4), np.float32), config, jax.random.key(0))
        play = pqn.start(environment, config, jax.random.key(seed))
        iterate = shared_iteration(pqn, network, (environment,), config)
        for _ in range(2):
            state, play, _ = iterate(state, play)
        return np.asarray(state.variables["params"]["head"]["output"]["kernel"])

    first = learn(1)
    with no_compilation():
        np.testing.assert_array_equal(learn(1), first)
        assert (learn(2) != first).any()
    assert (learn(1, PQNConfig(**{**vars(config), "learning_rate": 1.0})) != first).any()


def test_threads_have_environments_of_their_own() -> None:
    stand_in, told = StandIn(), []
    first, second = (Environment(get_task("cartpole"), lanes, 0, stepping="host") for lanes in (2, 3))
    stand_in.stands_for(first)

    def other() -> None:
        with pytest.raises(AttributeError, match="no environment"):
            stand_in.num_lanes  # noqa: B018
        stand_in.stands_for(second)
        told.append(stand_in.num_lanes)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert (told, stand_in.num_lanes) == ([3], 2)


def test_what_anybodys_function_computes_may_change_and_nothing_that_it_holds_is_kept() -> None:
    class Held:
        factor = 1.0

    held = Held()
    watched = weakref.ref(held)

    def play(factor: float, held: Held = held) -> np.ndarray:
        held.factor = factor

        def values(variables: object, observations: jax.Array) -> jax.Array:
            return held.factor * observations[:, :2]

        environment = Environment(get_task("cartpole"), LANES, 1)
        rolled = rollout.make_rollout(environment, values, STEPS)
        return np.asarray(rolled(None, rollout.start(environment, jax.random.key(3)), 0.05)[1].teacher_q)

    assert not np.array_equal(play(1.0), play(2.0))
    play.__defaults__ = ()
    del held
    jax.clear_caches()
    gc.collect()
    assert watched() is None


def test_of_a_closed_environment_nothing_is_shared() -> None:
    environment = Environment(get_task("cartpole"), 2, 0)
    assert environment.kind is not None
    environment.close()
    assert environment.kind is None


def test_one_that_stands_for_nothing_says_so() -> None:
    stand_in = StandIn()
    with pytest.raises(AttributeError, match="num_lanes: there is no environment"):
        stand_in.num_lanes  # noqa: B018
    environment = Environment(get_task("cartpole"), 2, 0, stepping="host")
    stand_in.stands_for(environment)
    assert stand_in.num_lanes == 2 and environment.kind is None


def test_a_shared_iteration_writes_the_replay_in_place() -> None:
    network, config = make_network("mlp", 2, hidden_sizes=(5,)), DQNConfig(num_lanes=2, replay_capacity=200_000)
    environment = Environment(get_task("cartpole"), config.num_lanes, 0)
    state = dqn.init(network, np.zeros((1, 4), np.float32), config, jax.random.key(0))
    play = dqn.start(environment, config, jax.random.key(1))
    iterate = shared_iteration(dqn, network, (environment,), config)
    pointer = play.stored.observations.unsafe_buffer_pointer()
    for _ in range(2):
        state, play, _ = iterate(state, play)
    assert play.stored.observations.unsafe_buffer_pointer() == pointer
