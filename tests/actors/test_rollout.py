"""Rollouts: exploration, the two ways of stepping, and what a trajectory says."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from pd_jax.actors import rollout
from pd_jax.environments.envpool import Environment, EpisodeStatistics, TimeStep
from pd_jax.environments.tasks import get_task
from pd_jax.networks.greedy import epsilon_greedy
from support.commands import no_compilation

WAYS: dict[str, Any] = {
    "jit": {"stepping": "jit"},
    "host": {"stepping": "host"},
    "host in two groups": {"stepping": "host", "num_groups": 2},
    "host in three groups": {"stepping": "host", "num_groups": 3},
}


def run(network: Any, variables: Any, environment: Environment, seed: int, calls: int, length: int) -> Any:
    """``calls`` rollouts of ``length`` steps: the last state, and all trajectories and finished games on end."""
    play = rollout.make_rollout(environment, network.apply, length)
    state, parts = rollout.start(environment, jax.random.key(seed)), []
    for _ in range(calls):
        state, trajectory, finished = play(variables, state, 0.3)
        parts.append(jax.device_get((trajectory, finished)))
    trajectory, finished = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    return state, trajectory, finished


@pytest.mark.parametrize(
    ("name", "options", "way"),
    [
        ("breakout", {"episodic_life": True, "max_episode_steps": 130}, "host"),
        pytest.param(
            "pong",
            {"max_episode_steps": 90, "sticky_action_probability": 0.1},
            "host in two groups",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_in_jit_and_host_stepping_play_the_same_games_for_a_thousand_steps(random_policy, name, options, way):
    network, variables = random_policy(name, "net3")

    def play(way: str) -> Any:
        environment = Environment(get_task(name), 2, 11, **options, **WAYS[way])
        return run(network, variables, environment, seed=4, calls=20, length=50)

    state, trajectory, finished = play("jit")
    host_state, host_trajectory, host_finished = play(way)
    for field in ("observations", "is_first", "is_decision", "actions", "rewards"):
        np.testing.assert_array_equal(getattr(trajectory, field), getattr(host_trajectory, field), err_msg=field)
    np.testing.assert_allclose(trajectory.teacher_q, host_trajectory.teacher_q, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, finished, host_finished)
    np.testing.assert_array_equal(state.timestep.observations, host_state.timestep.observations)
    np.testing.assert_array_equal(jax.random.key_data(state.key), jax.random.key_data(host_state.key))
    episodes, games = (~trajectory.is_decision).sum(), finished.mask.sum()
    assert games >= 10
    if name == "breakout":
        assert episodes > games + 10, "lives were lost"
        assert finished.returns[finished.mask].sum() > 0


def test_the_teachers_outputs_belong_to_the_stack_of_the_frames_stored(random_policy):
    network, variables = random_policy("pong", "net3")
    environment = Environment(get_task("pong"), 2, 0, max_episode_steps=20)
    _, trajectory, _ = run(network, variables, environment, seed=0, calls=1, length=64)
    stacks = np.zeros((64, 2, 84, 84, 4), np.uint8)
    for step in range(64):
        for lane in range(2):
            start = max(time for time in range(step + 1) if trajectory.is_first[time, lane])
            for index in range(4):
                stacks[step, lane, ..., index] = trajectory.observations[max(step - 3 + index, start), lane]
    expected = jax.jit(network.apply)(variables, stacks.reshape(-1, 84, 84, 4)).reshape(64, 2, -1)
    np.testing.assert_allclose(trajectory.teacher_q, expected, atol=1e-4)


def test_flags_mark_the_first_and_the_last_observation_of_every_episode(random_policy):
    network, variables = random_policy("cartpole", "mlp")
    environment = Environment(get_task("cartpole"), 3, 0, max_episode_steps=12)
    _, trajectory, finished = run(network, variables, environment, seed=0, calls=4, length=25)
    assert trajectory.is_first[0].all()
    np.testing.assert_array_equal(trajectory.is_first[1:], ~trajectory.is_decision[:-1])
    # A game ends when its last observation is reached, one step before that is recorded.
    np.testing.assert_array_equal(finished.mask[:-1], ~trajectory.is_decision[1:])
    # CartPole pays 1 for every step of the game, and nothing for the step in which a lane is reset.
    np.testing.assert_array_equal(trajectory.rewards, trajectory.is_decision)
    np.testing.assert_array_equal(finished.returns[finished.mask], finished.lengths[finished.mask])
    assert finished.lengths[finished.mask].max() == 12 > finished.lengths[finished.mask].min()


@pytest.mark.parametrize("way", ["jit", "host", pytest.param("host in three groups", marks=pytest.mark.slow)])
def test_one_long_rollout_equals_several_short_ones(random_policy, way):
    network, variables = random_policy("cartpole", "mlp")

    def play(calls: int, length: int) -> Any:
        environment = Environment(get_task("cartpole"), 4, 2, **WAYS[way])
        return run(network, variables, environment, 0, calls, length)[1:]

    jax.tree.map(np.testing.assert_array_equal, play(1, 90), play(3, 30))


def test_seeds_decide_the_play(random_policy):
    network, variables = random_policy("cartpole", "mlp")

    def actions(emulator_seed: int, key_seed: int) -> np.ndarray:
        environment = Environment(get_task("cartpole"), 4, emulator_seed, stepping="host")
        return run(network, variables, environment, key_seed, calls=1, length=50)[1].actions

    first = actions(1, 1)
    np.testing.assert_array_equal(actions(1, 1), first)
    assert (actions(1, 2) != first).any()
    assert (actions(100, 1) != first).any()


def test_a_rollout_moves_nothing_between_host_and_device(random_policy):
    network, variables = random_policy("cartpole", "mlp")
    environment = Environment(get_task("cartpole"), 4, 0)
    play = rollout.make_rollout(environment, network.apply, 8)
    state, _, _ = play(variables, rollout.start(environment, jax.random.key(0)), jnp.float32(0.1))
    epsilon = jnp.float32(0.1)
    with jax.transfer_guard("disallow"):
        jax.block_until_ready(play(variables, state, epsilon))


@pytest.mark.parametrize("epsilon", [0.05, 0.5, 1.0])
def test_exploration_is_uniform_and_as_frequent_as_epsilon_says(epsilon):
    lanes, actions, best = 20_000, 6, 4
    q_values = jnp.zeros((lanes, actions)).at[:, best].set(1.0)
    chosen = np.asarray(epsilon_greedy(jax.random.key(0), q_values, epsilon))
    expected = np.full(actions, lanes * epsilon / actions)
    expected[best] += lanes * (1 - epsilon)
    assert chosen.dtype == np.int32
    assert scipy.stats.chisquare(np.bincount(chosen, minlength=actions), expected).pvalue > 0.001


def test_lanes_explore_independently_of_one_another():
    q_values = jnp.zeros((2, 2)).at[:, 0].set(1.0)
    keys = jax.random.split(jax.random.key(1), 4000)
    explored = np.asarray(jax.jit(jax.vmap(lambda key: epsilon_greedy(key, q_values, 0.8)))(keys))
    # Action 1 is taken with probability 0.4, whatever the other lane does.
    pairs = np.bincount(2 * explored[:, 0] + explored[:, 1], minlength=4)
    assert scipy.stats.chisquare(pairs, 4000 * np.array([0.36, 0.24, 0.24, 0.16])).pvalue > 0.001


def test_no_exploration_is_greedy_play():
    q_values = jnp.asarray(np.random.default_rng(0).standard_normal((500, 5)))
    np.testing.assert_array_equal(
        epsilon_greedy(jax.random.key(0), q_values, 0.0), np.argmax(np.asarray(q_values), axis=1)
    )


@pytest.mark.slow
def test_three_groups_of_many_lanes_show_what_one_shows(random_policy):
    network, variables = random_policy("cartpole", "mlp")
    ways = ("host", "host in two groups", "host in three groups")
    plays = [
        run(network, variables, Environment(get_task("cartpole"), 7, 2, **WAYS[way]), seed=0, calls=2, length=60)
        for way in ways
    ]
    for _, trajectory, finished in plays[1:]:
        for field in ("observations", "is_first", "is_decision", "actions", "rewards"):
            np.testing.assert_array_equal(getattr(trajectory, field), getattr(plays[0][1], field), err_msg=field)
        np.testing.assert_allclose(trajectory.teacher_q, plays[0][1].teacher_q, rtol=1e-5)
        jax.tree.map(np.testing.assert_array_equal, finished, plays[0][2])


def test_a_step_from_the_host_compiles_nothing_anew_and_sends_the_frames_once(random_policy):
    network, variables = random_policy("pong", "net3")
    environment = Environment(get_task("pong"), 2, 0, stepping="host", num_groups=2)
    play = rollout.make_rollout(environment, network.apply, 8)
    state = rollout.start(environment, jax.random.key(0))
    for _ in range(2):
        state, _, _ = play(variables, state, 0.1)
    with no_compilation():
        state, _, _ = play(variables, state, 0.1)


def play_of_two(way: str, name: str, policies: tuple[Any, Any, Any], share: float, epsilon: float = 0.3) -> Any:
    """Three rollouts of 40 steps in which the second of two sets of variables acts with probability ``share``."""
    network, variables, student_variables = policies
    environment = Environment(get_task(name), 4, 7, max_episode_steps=60, **WAYS[way])
    play = rollout.make_rollout(environment, network.apply, 40, student=network.apply)
    state, parts = rollout.start(environment, jax.random.key(3)), []
    for _ in range(3):
        state, trajectory, _ = play(variables, state, epsilon, rollout.ActingStudent(student_variables, share))
        parts.append(jax.device_get(trajectory))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def teacher_and_student(random_policy: Any, name: str) -> tuple[Any, Any, Any]:
    """A network and two sets of variables, which disagree in most states."""
    network, variables = random_policy(name, "mlp" if name == "cartpole" else "net3")
    # The other way round in everything: its best action is the first's worst.
    head = jax.tree.map(jnp.negative, variables["params"]["head"])
    return network, variables, {"params": {**variables["params"], "head": head}}


@pytest.mark.parametrize(
    ("name", "way"), [("cartpole", "jit"), ("cartpole", "host"), pytest.param("pong", "jit", marks=pytest.mark.slow)]
)
def test_a_student_without_a_share_leaves_every_bit_of_the_play_to_the_teacher(random_policy, name, way):
    policies = teacher_and_student(random_policy, name)
    mixed = play_of_two(way, name, policies, share=0.0)
    environment = Environment(get_task(name), 4, 7, max_episode_steps=60, **WAYS[way])
    _, alone, _ = run(*policies[:2], environment, seed=3, calls=3, length=40)
    jax.tree.map(np.testing.assert_array_equal, mixed, alone)


@pytest.mark.parametrize("way", ["jit", "host in two groups"])
def test_a_student_of_the_whole_share_acts_and_the_teacher_labels_what_it_sees(random_policy, way):
    network, variables, student_variables = policies = teacher_and_student(random_policy, "cartpole")
    trajectory = play_of_two(way, "cartpole", policies, share=1.0, epsilon=0.0)
    labels, outputs = (np.asarray(network.apply(v, trajectory.observations)) for v in (variables, student_variables))
    np.testing.assert_array_equal(trajectory.actions, outputs.argmax(-1))
    np.testing.assert_allclose(trajectory.teacher_q, labels, rtol=1e-5, atol=1e-6)
    assert (trajectory.actions != trajectory.teacher_q.argmax(-1)).all()


def test_a_mixture_plays_the_same_games_in_jit_and_from_the_host(random_policy):
    for name in ("cartpole", "pong"):
        policies = teacher_and_student(random_policy, name)
        trajectory, host = (play_of_two(way, name, policies, share=0.4) for way in ("jit", "host in two groups"))
        for field in ("observations", "is_first", "is_decision", "actions", "rewards"):
            np.testing.assert_array_equal(getattr(trajectory, field), getattr(host, field), err_msg=f"{name} {field}")
        np.testing.assert_allclose(trajectory.teacher_q, host.teacher_q, atol=1e-5)


@dataclasses.dataclass(frozen=True)
class CountsSteps:
    """Remembers how many steps of its episode it has seen, and what it saw; gives both as its outputs."""

    def start(self, num_lanes: int) -> Any:
        return {"steps": np.zeros(num_lanes, np.int32), "seen": np.zeros((num_lanes, 4), np.float32)}

    def decide(self, variables: Any, timestep: TimeStep, state: Any, key: Any) -> tuple[Any, Any]:
        steps = jnp.where(timestep.is_first, 1, state["steps"] + 1)
        seen = jnp.where(timestep.is_first[:, None], 0.0, state["seen"]) + timestep.observations
        return jnp.stack([steps * variables, seen.sum(axis=1)], axis=1), {"steps": steps, "seen": seen}


def remembered(groups: int | None) -> Any:
    """Play of two policies that remember, in rollouts of 12 steps: in jit, or from the host in groups."""
    stepping: dict[str, Any] = {} if groups is None else {"stepping": "host", "num_groups": groups}
    environment = Environment(get_task("cartpole"), 6, seed=3, **stepping)
    policy = student = CountsSteps()
    play = rollout.make_rollout(environment, policy, 12, student=student)
    state = rollout.start(environment, jax.random.key(1), policy, student)
    acting = rollout.ActingStudent(jnp.float32(2.0), 0.5)
    trajectories = []
    for _ in range(4):
        state, trajectory, _ = play(jnp.float32(1.0), state, 0.3, acting)
        trajectories.append(trajectory)
    jax.block_until_ready((state, trajectories))
    environment.close()
    return jax.tree.map(lambda *parts: np.concatenate(parts), *trajectories), state


def test_what_policies_remember_goes_from_rollout_to_rollout_and_ends_with_the_episode() -> None:
    played, state = remembered(None)
    assert played.is_first.sum() > 6, "episodes have ended"
    counted, seen = np.zeros(6, int), np.zeros((6, 4))
    for step, is_first in enumerate(played.is_first):
        counted = np.where(is_first, 1, counted + 1)
        seen = np.where(is_first[:, None], 0.0, seen) + played.observations[step]
        np.testing.assert_array_equal(played.teacher_q[step, :, 0], counted)
        np.testing.assert_allclose(played.teacher_q[step, :, 1], seen.sum(axis=1), rtol=1e-4, atol=1e-4)
    for own in (state.policy_state, state.student_state):
        np.testing.assert_array_equal(own["steps"], counted)


@pytest.mark.parametrize("groups", [1, 3])
def test_what_policies_remember_is_the_same_from_the_host(groups: int) -> None:
    played, state = remembered(groups)
    wanted, wanted_state = remembered(None)
    for field in ("observations", "actions", "is_first", "teacher_q"):
        np.testing.assert_array_equal(getattr(played, field), getattr(wanted, field), err_msg=field)
    jax.tree.map(np.testing.assert_array_equal, state.student_state, wanted_state.student_state)


def test_whoever_acts_is_drawn_for_every_lane_and_step_and_explores_like_the_other():
    lanes, steps, share, epsilon = 500, 40, 0.3, 0.5
    environment_state = jnp.zeros(lanes)
    outputs = {"teacher": jnp.array([1.0, 0.0, 0.0]), "student": jnp.array([0.0, 1.0, 0.0])}

    def policy(variables: Any, observations: Any) -> Any:
        return jnp.broadcast_to(variables, (len(observations), 3))

    nothing = TimeStep(*[environment_state] * 6)
    acting = rollout.ActingStudent(outputs["student"], share)
    counts, both, previous = np.zeros(3), np.zeros((2, 2)), None
    state = rollout.LaneState(jnp.zeros(()), nothing, EpisodeStatistics.zeros(lanes), jax.random.key(5))
    for _ in range(steps):
        actions, labels, state = rollout.act(policy, outputs["teacher"], state, epsilon, policy, acting)
        assert (np.asarray(labels) == [1.0, 0.0, 0.0]).all()
        students = np.asarray(rollout.act(policy, outputs["teacher"], state, 0.0, policy, acting)[0])
        counts += np.bincount(np.asarray(actions), minlength=3)
        # Of a lane and its neighbour, and of a lane and its step before.
        np.add.at(both, (students[0::2], students[1::2]), 1)
        if previous is not None:
            np.add.at(both, (students, previous), 1)
        previous = students
    # Half of the actions are random, whoever acts: a draw shared with the exploration would change these numbers.
    greedy = np.array([1 - share, share, 0.0])
    expected = lanes * steps * ((1 - epsilon) * greedy + epsilon / 3)
    assert scipy.stats.chisquare(counts, expected).pvalue > 0.001
    product = both.sum() * np.outer([1 - share, share], [1 - share, share])
    assert scipy.stats.chisquare(both.ravel(), product.ravel()).pvalue > 0.001


def test_the_share_of_the_student_is_what_it_is_asked_to_be():
    lanes = 50_000
    teacher_q, student_outputs = jnp.zeros((lanes, 2)), jnp.ones((lanes, 2))
    for share in (0.0, 0.05, 0.5, 0.9, 1.0):
        chosen = np.asarray(rollout.mix(jax.random.key(1), teacher_q, student_outputs, share))
        np.testing.assert_array_equal(chosen[:, 0], chosen[:, 1])
        result = scipy.stats.binomtest(int(chosen[:, 0].sum()), lanes, share)
        assert result.pvalue > 0.001, share


def test_a_student_with_other_actions_than_its_teacher_is_a_mistake():
    with pytest.raises(AssertionError, match="shape"):
        rollout.mix(jax.random.key(0), jnp.zeros((3, 4)), jnp.zeros((3, 5)), 0.5)


def test_a_new_student_is_neither_compiled_nor_moved(random_policy):
    network, variables, student_variables = teacher_and_student(random_policy, "cartpole")
    environment = Environment(get_task("cartpole"), 4, 0)
    play = rollout.make_rollout(environment, network.apply, 8, student=network.apply)
    students = [
        rollout.ActingStudent(jax.device_put(student_variables, jax.devices()[0]), jnp.float32(share))
        for share in (0.0, 0.5)
    ]
    epsilon = jnp.float32(0.1)
    state = jax.device_put(rollout.start(environment, jax.random.key(0)), jax.devices()[0])
    state, _, _ = play(variables, state, epsilon, students[0])
    with jax.transfer_guard("disallow"), no_compilation():
        jax.block_until_ready(play(variables, state, epsilon, students[1]))
