"""Environments and episode accounting against loops over EnvPool that count for themselves."""

from __future__ import annotations

import os
from typing import Any

import envpool
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pd_jax.environments.envpool import Environment, EpisodeStatistics, TimeStep
from pd_jax.environments.tasks import get_task


def plain_pool(env_id: str, num_lanes: int, seed: int, max_episode_steps: int, **options: Any) -> Any:
    return envpool.make(
        env_id, env_type="gymnasium", num_envs=num_lanes, seed=seed, max_episode_steps=max_episode_steps, **options
    )


def play(environment: Environment, actions: np.ndarray) -> list[TimeStep]:
    """Steps from the host; the first time step is the reset's."""
    timesteps = [jax.device_get(environment.reset()[1])]
    for row in actions:
        timesteps.append(environment.step_host(row, timesteps[-1].is_last))
    return timesteps


def count_games(timesteps: list[TimeStep]) -> list[tuple[int, int, float, int]]:
    """``(step, lane, return, length)`` of every game that ended, by `EpisodeStatistics`."""
    statistics, games = EpisodeStatistics.zeros(len(timesteps[0].rewards)), []
    update = jax.jit(EpisodeStatistics.update)
    for step, (previous, timestep) in enumerate(zip(timesteps, timesteps[1:], strict=False)):
        statistics = update(statistics, timestep, previous.game_over)
        for lane in np.flatnonzero(timestep.game_over):
            games.append((step, int(lane), float(statistics.returns[lane]), int(statistics.lengths[lane])))
    return games


def random_actions(num_actions: int, steps: int, num_lanes: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, num_actions, (steps, num_lanes)).astype(np.int32)


@pytest.mark.parametrize("name", ["pong", "cartpole"])
def test_lanes_that_are_stepped_alone_go_the_way_they_go_among_all(name):
    task, lanes = get_task(name), 4
    actions = random_actions(task.num_actions, 40, lanes)
    together, some = (Environment(task, lanes, 3, max_episode_steps=15) for _ in range(2))
    expected, is_first = play(together, actions), np.zeros(2, bool)
    some.reset()
    for row, all_lanes in zip(actions, expected[1:], strict=True):
        found = some.step_host(row[1::2], is_first, np.array([1, 3]))
        is_first = found.is_last
        for own, others in zip(jax.tree.leaves(found), jax.tree.leaves(all_lanes), strict=True):
            np.testing.assert_array_equal(own, np.asarray(others)[1::2])


@pytest.mark.parametrize("episodic_life", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_breakout_games_agree_with_a_plain_loop_that_watches_the_lives(episodic_life):
    lanes, limit = 4, 190
    actions = random_actions(4, 450, lanes)
    environment = Environment(get_task("breakout"), lanes, 7, episodic_life=episodic_life, max_episode_steps=limit)
    timesteps = play(environment, actions)

    pool = plain_pool("Breakout-v5", lanes, 7, limit, noop_max=30, episodic_life=episodic_life, reward_clip=False)
    observations, info = pool.reset()
    np.testing.assert_array_equal(timesteps[0].observations, observations.transpose(0, 2, 3, 1))
    games, lives_lost, cut_off = [], 0, 0
    total, length, resets = np.zeros(lanes), np.zeros(lanes, int), np.zeros(lanes, bool)
    lives = info["lives"]
    for step, row in enumerate(actions):
        observations, rewards, terminated, truncated, info = pool.step(row)
        found = timesteps[step + 1]
        np.testing.assert_array_equal(found.observations, observations.transpose(0, 2, 3, 1))
        np.testing.assert_array_equal(found.is_first, resets)
        np.testing.assert_array_equal(found.truncated, truncated)
        np.testing.assert_array_equal(found.is_last, terminated | truncated)
        over = (info["lives"] == 0) | truncated
        np.testing.assert_array_equal(found.game_over, over)
        lost = (info["lives"] < lives) & ~resets
        np.testing.assert_array_equal(found.terminated, (lost if episodic_life else info["lives"] == 0) & ~resets)
        lives_lost, cut_off = lives_lost + lost.sum(), cut_off + (truncated & (info["lives"] > 0)).sum()
        for lane in range(lanes):
            if not resets[lane]:
                total[lane] += rewards[lane]
                length[lane] += 1
            if over[lane]:
                games.append((step, lane, total[lane], length[lane]))
                total[lane] = length[lane] = 0
        lives, resets = info["lives"], terminated | truncated
    assert lives_lost > 10 and cut_off > 0 and any(length < limit for *_, length in games)
    assert sum(total for _, _, total, _ in games) > 0
    assert count_games(timesteps) == games


@pytest.mark.parametrize(
    ("name", "env_id", "limit"),
    [("cartpole", "CartPole-v1", 25), ("acrobot", "Acrobot-v1", 40), ("lunarlander", "LunarLander-v3", 80)],
)
def test_vector_games_agree_with_a_plain_loop(name, env_id, limit):
    lanes, task = 3, get_task(name)
    actions = random_actions(task.num_actions, 200, lanes)
    timesteps = play(Environment(task, lanes, 5, max_episode_steps=limit), actions)
    assert timesteps[0].observations.dtype == np.float32

    pool = plain_pool(env_id, lanes, 5, limit)
    pool.reset()
    games, ends = [], {"terminated": 0, "truncated": 0}
    # Added up in the precision of the statistics.
    history: list[list[np.float32]] = [[] for _ in range(lanes)]
    resets = np.zeros(lanes, bool)
    for step, row in enumerate(actions):
        observations, rewards, terminated, truncated, info = pool.step(row)
        found = timesteps[step + 1]
        np.testing.assert_array_equal(found.observations, observations.astype(np.float32))
        for lane in range(lanes):
            assert found.is_first[lane] == resets[lane] == (info["elapsed_step"][lane] == 0)
            if not resets[lane]:
                history[lane].append(np.float32(rewards[lane]))
            if terminated[lane] or truncated[lane]:
                ends["truncated" if truncated[lane] else "terminated"] += 1
                games.append((step, lane, float(sum(history[lane])), len(history[lane])))
                history[lane] = []
        resets = terminated | truncated
    assert ends["truncated"] > 0 and (name == "acrobot" or ends["terminated"] > 0)
    assert count_games(timesteps) == games


def test_a_reset_step_is_no_transition_even_if_it_carried_a_reward():
    def timestep(rewards: float, is_first: bool, game_over: bool) -> TimeStep:
        flags = {"is_first": is_first, "terminated": game_over, "truncated": False, "game_over": game_over}
        return TimeStep(
            observations=jnp.zeros((1, 4)),
            rewards=jnp.array([rewards]),
            **{name: jnp.array([value]) for name, value in flags.items()},
        )

    start, end, reset, on = (
        timestep(0, True, False), timestep(2, False, True), timestep(100, True, False), timestep(3, False, False),
    )  # fmt: skip
    statistics = EpisodeStatistics.zeros(1).update(end, start.game_over)
    assert (statistics.returns[0], statistics.lengths[0]) == (2, 1)
    statistics = statistics.update(reset, end.game_over)
    assert (statistics.returns[0], statistics.lengths[0]) == (0, 0)
    statistics = statistics.update(on, reset.game_over)
    assert (statistics.returns[0], statistics.lengths[0]) == (3, 1)


def test_stepping_in_jit_equals_stepping_from_the_host():
    actions = random_actions(6, 60, 3)
    options = {"max_episode_steps": 25, "sticky_action_probability": 0.25}
    from_host = play(Environment(get_task("pong"), 3, 1, **options), actions)
    environment = Environment(get_task("pong"), 3, 1, **options)

    @jax.jit
    def scan(handle: jax.Array, timestep: TimeStep) -> TimeStep:
        def step(carry: Any, row: jax.Array) -> tuple[Any, TimeStep]:
            carry = environment.step(carry[0], row, carry[1])
            return carry, carry[1]

        return jax.lax.scan(step, (handle, timestep), jnp.asarray(actions))[1]

    in_jit = jax.device_get(scan(*environment.reset()))
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *from_host[1:])
    jax.tree.map(np.testing.assert_array_equal, in_jit, stacked)
    assert in_jit.truncated.sum() == 2 * 3 and in_jit.is_first.sum() == 2 * 3


def test_the_same_seed_repeats_a_game_and_another_does_not():
    actions = random_actions(4, 60, 2)
    first, again, other = (
        np.stack([step.observations for step in play(Environment(get_task("breakout"), 2, seed), actions)])
        for seed in (3, 3, 40)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_lane_i_of_seed_s_is_lane_0_of_seed_s_plus_i():
    actions = random_actions(4, 40, 3)
    lane = [step.observations[2] for step in play(Environment(get_task("breakout"), 3, 5), actions)]
    alone = [step.observations[0] for step in play(Environment(get_task("breakout"), 1, 7), actions[:, 2:])]
    np.testing.assert_array_equal(lane, alone)


@pytest.mark.parametrize("max_noops", [1, 3])
def test_max_noops_is_the_number_of_different_starts(max_noops):
    # Ms. Pac-Man's ghosts move from the first frame on, and 16 lanes are enough to meet all of three.
    _, timestep = Environment(get_task("ms_pacman"), 16, 0, max_noops=max_noops).reset()
    assert len(np.unique(np.asarray(timestep.observations), axis=0)) == max_noops


@pytest.mark.parametrize("setting", [{"max_noops": -1}, {"num_lanes": -1}, {"num_groups": -1}])
def test_numbers_below_one_are_refused_before_envpool_sees_them(setting, monkeypatch):
    monkeypatch.delattr(envpool, "make")
    with pytest.raises(ValueError, match="num_lanes, max_noops and num_groups must be at least 1"):
        Environment(get_task("pong"), **({"num_lanes": 1, "seed": 0} | setting))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"stepping": "gpu"}, "stepping must be 'jit' or 'host', got 'gpu'"),
        ({"num_groups": 2}, "inside jit all lanes are stepped together, not in 2 groups"),
        ({"stepping": "host", "num_groups": 0}, "must be at least 1, got 4, 30, 0"),
    ],
)
def test_lanes_are_stepped_in_one_of_two_ways(setting, message):
    with pytest.raises(ValueError, match=message):
        Environment(get_task("cartpole"), 4, 0, **setting)


@pytest.mark.parametrize("task", ["breakout", "cartpole"])
def test_groups_show_what_all_lanes_together_show(task):
    whole, parted = (
        Environment(get_task(task), 5, 3, max_episode_steps=40, stepping="host", num_groups=groups) for groups in (1, 3)
    )
    assert [lanes.stop - lanes.start for lanes in parted.groups] == [2, 1, 2]
    (_, first), (_, shown) = whole.reset(), parted.reset()
    np.testing.assert_array_equal(first.observations, shown.observations)
    generator, is_last = np.random.default_rng(0), np.zeros(5, bool)
    for _ in range(60):
        actions = generator.integers(2, size=5, dtype=np.int32)
        expected = whole.step_host(actions, is_last)
        for group, lanes in enumerate(parted.groups):
            parted.send(group, actions[lanes.start : lanes.stop])
        # In whatever order they are waited for.
        for group, lanes in reversed(list(enumerate(parted.groups))):
            own = slice(lanes.start, lanes.stop)
            found = parted.timestep(parted.receive(group), is_last[own])
            jax.tree.map(lambda a, b, own=own: np.testing.assert_array_equal(a[own], b), expected, found)
        is_last = expected.is_last
    whole.close()
    parted.close()


def test_a_game_opens_with_four_copies_of_its_first_frame():
    timesteps = play(Environment(get_task("pong"), 2, 0, max_episode_steps=6), random_actions(6, 20, 2))
    firsts = [timestep for timestep in timesteps if timestep.is_first.all()]
    assert len(firsts) == 3
    for timestep in firsts:
        assert timestep.observations.shape == (2, 84, 84, 4) and timestep.observations.dtype == np.uint8
        np.testing.assert_array_equal(timestep.observations, timestep.observations[..., -1:].repeat(4, axis=-1))


def test_close_ends_envpools_threads():
    def num_threads() -> int:
        return len(os.listdir("/proc/self/task"))

    before = num_threads()
    environment = Environment(get_task("cartpole"), 4, 0, num_threads=3)
    play(environment, random_actions(2, 3, 4))
    assert num_threads() >= before + 3
    environment.close()
    assert num_threads() <= before + 1


@pytest.mark.parametrize(("name", "sticky"), [("pong", 0.0), ("breakout", 0.25), ("freeway", 0.0), ("seaquest", 0.25)])
def test_what_is_shown_in_colours_is_the_game_that_is_played(name: str, sticky: float) -> None:
    task, lanes = get_task(name), 3
    rules: dict[str, Any] = {"max_episode_steps": 90, "sticky_action_probability": sticky, "stepping": "host"}
    played, shown = Environment(task, lanes, 5, **rules), Environment(task, lanes, 5, shows="colours", **rules)
    here, there = played.reset()[1], shown.reset()[1]
    colours = [np.asarray(there.observations)]
    memories = {played.ram[0].tobytes()} if played.ram is not None else set()
    for row in random_actions(task.num_actions, 200, lanes):
        here, there = played.step_host(row, here.is_last), shown.step_host(row, there.is_last)
        for field in ("rewards", "is_first", "terminated", "truncated", "game_over"):
            np.testing.assert_array_equal(getattr(here, field), getattr(there, field))
        assert played.ram is not None and shown.ram is not None and played.lives is not None
        np.testing.assert_array_equal(played.ram, shown.ram)
        np.testing.assert_array_equal(played.lives, shown.lives)
        memories.add(played.ram[0].tobytes())
        colours.append(np.asarray(there.observations))
        # What policies see is the grey of these colours, in another size: bright where they are.
        grey = there.observations.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
        parts = [
            each.reshape(lanes, 6, size[0] // 6, 4, size[1] // 4).mean(axis=(2, 4))
            for each, size in ((grey, (210, 160)), (here.observations[..., -1].astype(np.float32), (84, 84)))
        ]
        np.testing.assert_allclose(*parts, atol=6.0)
    assert colours[0].shape == (lanes, 210, 160, 3) and colours[0].dtype == np.uint8
    # The memory says where everything is: it is another one in every step.
    assert len(memories) > 100
    assert any((frame[..., 0] != frame[..., 2]).any() for frame in colours)


def test_colours_are_refused_where_there_are_none() -> None:
    for task, backend in (("cartpole", "envpool"), ("pong", "ale")):
        with pytest.raises(ValueError, match="colours"):
            Environment(get_task(task), 1, 0, shows="colours", backend=backend, stepping="host")  # type: ignore[arg-type]
