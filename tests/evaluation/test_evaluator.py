"""Evaluation: whole games, the same number in every lane, counted as an independent loop counts them."""

from __future__ import annotations

from typing import Any

import envpool
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_jax.environments.envpool import TimeStep
from pd_jax.environments.tasks import get_task
from pd_jax.evaluation import evaluator as evaluator_module
from pd_jax.evaluation.evaluator import Evaluator, evaluate
from pd_jax.system.devices import DeviceGroup
from support.commands import compilations
from support.platforms import TracedPolicy, make_tpu_the_default

CARTPOLE = get_task("cartpole")


def no_policy(variables: Any, observations: jax.Array) -> jax.Array:
    return jnp.zeros((observations.shape[0], 2))


class ScriptedGames:
    """Lanes whose games have given lengths, over and over, and pay 1 a step."""

    def __init__(self, lengths: list[list[int]]) -> None:
        self.lengths, self.num_lanes = lengths, len(lengths)
        self.game, self.step, self.steps = [0] * self.num_lanes, [0] * self.num_lanes, [0] * self.num_lanes

    def _timestep(self, rewards: list[float], is_first: Any, ends: list[bool]) -> TimeStep:
        over = np.array(ends)
        return TimeStep(
            observations=np.zeros((len(rewards), 4), np.float32),
            rewards=np.array(rewards, np.float32),
            is_first=np.asarray(is_first),
            terminated=over,
            truncated=np.zeros_like(over),
            game_over=over,
        )

    def reset(self) -> tuple[jax.Array, TimeStep]:
        zeros = [0.0] * self.num_lanes
        return jnp.zeros(8, jnp.uint8), self._timestep(zeros, [True] * self.num_lanes, [False] * self.num_lanes)

    def step_host(self, actions: np.ndarray, is_first: np.ndarray, lanes: np.ndarray | None = None) -> TimeStep:
        rewards, ends = [], []
        stepped = range(self.num_lanes) if lanes is None else lanes
        assert len(actions) == len(is_first) == len(stepped)
        for lane, begins in zip(stepped, is_first, strict=True):
            lengths = self.lengths[lane]
            if begins:
                self.step[lane] = 0
                self.game[lane] += 1
            else:
                self.step[lane] += 1
            self.steps[lane] += 1
            rewards.append(0.0 if begins else 1.0)
            ends.append(self.step[lane] == lengths[self.game[lane] % len(lengths)])
        return self._timestep(rewards, is_first, ends)


def score_scripted(monkeypatch: pytest.MonkeyPatch, lengths: list[list[int]], episodes: int) -> Any:
    monkeypatch.setattr(evaluator_module, "Environment", lambda *args, **options: ScriptedGames(lengths))
    return evaluate(no_policy, {}, CARTPOLE, episodes=episodes, num_lanes=len(lengths))


def test_short_games_count_no_more_than_long_ones(monkeypatch):
    # The first four games to end would be four of lane 0, and their mean 1 instead of (1 + 30) / 2.
    scores = score_scripted(monkeypatch, [[1], [30]], episodes=4)
    np.testing.assert_array_equal(scores.returns, [1, 1, 30, 30])
    np.testing.assert_array_equal(scores.lengths, [1, 1, 30, 30])


def test_lanes_that_have_played_all_of_their_games_are_not_stepped(monkeypatch):
    games = ScriptedGames([[1], [30], [4]])
    monkeypatch.setattr(evaluator_module, "Environment", lambda *args, **options: games)
    scores = evaluate(no_policy, {}, CARTPOLE, episodes=6, num_lanes=3)
    np.testing.assert_array_equal(scores.returns, [1, 1, 30, 30, 4, 4])
    # Two games each, and the reset between them.
    assert games.steps == [3, 61, 9]


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=3, max_size=3),
    per_lane=st.integers(1, 5),
)
def test_every_lane_plays_its_first_games_whatever_their_lengths(lengths, per_lane):
    with pytest.MonkeyPatch.context() as monkeypatch:
        scores = score_scripted(monkeypatch, lengths, episodes=3 * per_lane)
    expected = [lane[game % len(lane)] for lane in lengths for game in range(per_lane)]
    np.testing.assert_array_equal(scores.lengths, expected)
    np.testing.assert_array_equal(scores.returns, expected)


@pytest.mark.parametrize(("episodes", "lanes", "played"), [(7, 3, 9), (2, 10, 2), (10, 5, 10), (1, 1, 1)])
def test_games_are_rounded_up_to_full_lanes_and_progress_says_so(monkeypatch, episodes, lanes, played):
    monkeypatch.setattr(evaluator_module, "Environment", lambda task, lanes, *_, **__: ScriptedGames([[2]] * lanes))
    evaluator = Evaluator(CARTPOLE, no_policy, episodes=episodes, num_lanes=lanes)
    progress: list[tuple[int, int]] = []
    scores = evaluator.run({}, lambda *done: progress.append(done))
    assert len(scores.returns) == len(scores.lengths) == evaluator.episodes == played
    assert progress[0] == (0, played) and progress[-1] == (played, played)


def test_what_progress_raises_ends_the_evaluation(monkeypatch):
    monkeypatch.setattr(evaluator_module, "Environment", lambda *args, **options: ScriptedGames([[10**9]]))

    def stop(done: int, wanted: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Evaluator(CARTPOLE, no_policy, episodes=1).run({}, stop)


@pytest.mark.parametrize("setting", [{"episodes": 0}, {"num_lanes": 0}])
def test_no_games_are_refused(setting):
    with pytest.raises(ValueError, match="must be at least 1"):
        Evaluator(CARTPOLE, no_policy, **setting)


def greedy_scores(env_id: str, apply: Any, lanes: int, games: int, seed: int, **options: Any) -> tuple[Any, Any]:
    """Plays greedily over EnvPool itself and returns every lane's first games: returns and lengths."""
    pool = envpool.make(env_id, env_type="gymnasium", num_envs=lanes, seed=seed, **options)
    observations, _ = pool.reset()
    history: list[list[float]] = [[] for _ in range(lanes)]
    scores: list[list[tuple[float, int]]] = [[] for _ in range(lanes)]
    resets = np.zeros(lanes, bool)
    while min(map(len, scores)) < games:
        is_frames = observations.ndim == 4
        stacks = observations.transpose(0, 2, 3, 1) if is_frames else observations.astype(np.float32)
        observations, rewards, terminated, truncated, _ = pool.step(np.asarray(apply(stacks)).argmax(axis=1))
        for lane in range(lanes):
            if not resets[lane]:
                history[lane].append(float(rewards[lane]))
            if terminated[lane] or truncated[lane]:
                scores[lane].append((sum(history[lane]), len(history[lane])))
                history[lane] = []
        resets = terminated | truncated
    flat = [game for lane in scores for game in lane[:games]]
    return [game[0] for game in flat], [game[1] for game in flat]


@pytest.mark.parametrize(
    ("name", "env_id", "network_name", "limit"),
    [("breakout", "Breakout-v5", "net3", 120), ("cartpole", "CartPole-v1", "mlp", 60)],
)
def test_scores_equal_those_of_an_independent_loop(random_policy, name, env_id, network_name, limit):
    network, variables = random_policy(name, network_name)
    scores = evaluate(
        network.apply,
        variables,
        get_task(name),
        episodes=6,
        num_lanes=3,
        epsilon=0.0,
        seed=9,
        environment_options={"max_episode_steps": limit},
    )
    apply = jax.jit(network.apply)
    returns, lengths = greedy_scores(
        env_id, lambda stacks: apply(variables, stacks), 3, 2, seed=9, max_episode_steps=limit
    )
    np.testing.assert_array_equal(scores.returns, returns)
    np.testing.assert_array_equal(scores.lengths, lengths)


def test_rewards_are_not_clipped():
    # Ms. Pac-Man pays 10 a pill.
    def no_preference(variables: Any, observations: jax.Array) -> jax.Array:
        return jnp.zeros((observations.shape[0], 9))

    options = {"max_episode_steps": 200}
    task = get_task("ms_pacman")
    scores = evaluate(no_preference, {}, task, episodes=2, epsilon=1.0, seed=0, environment_options=options)
    assert (scores.returns >= 10).all() and (scores.returns % 10 == 0).all()


def test_a_seed_decides_the_scores_and_repeated_runs_compile_once(random_policy):
    network, variables = random_policy("cartpole", "mlp")

    def returns(seed: int) -> np.ndarray:
        return evaluate(network.apply, variables, CARTPOLE, episodes=8, num_lanes=4, epsilon=0.5, seed=seed).returns

    first = returns(1)
    programs = evaluator_module.settle_and_act._cache_size()
    np.testing.assert_array_equal(returns(1), first)
    assert (returns(2) != first).any()
    assert evaluator_module.settle_and_act._cache_size() == programs


ONE = DeviceGroup.local(1)


@pytest.mark.parametrize(
    "placement",
    [
        pytest.param(lambda tree: ONE.first(ONE.replicate(tree)), id="as a run keeps its student"),
        pytest.param(lambda tree: jax.device_put(tree, jax.devices()[0]), id="on one device"),
        pytest.param(lambda tree: tree, id="anywhere"),
    ],
)
def test_an_evaluation_compiles_once_wherever_its_policy_is(random_policy: Any, placement: Any) -> None:
    network, variables = random_policy("cartpole", "mlp")

    # A function of its own: what is compiled of it is nobody else's.
    def apply(variables: Any, observations: jax.Array) -> jax.Array:
        return network.apply(variables, observations)

    with compilations() as compiled:
        evaluate(apply, placement(variables), CARTPOLE, episodes=4, num_lanes=2, epsilon=0.5)
    assert compiled.count("jit(settle_and_act)") == 1


def test_games_are_played_as_suits_the_device_that_the_policy_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    make_tpu_the_default(monkeypatch)
    for device, platform in ((jax.devices("cpu")[0], "cpu"), (None, "tpu")):
        told = TracedPolicy()
        limit = {"max_episode_steps": 5}
        evaluate(told, told.variables(device), get_task("cartpole"), episodes=1, num_lanes=1, environment_options=limit)
        assert told.platforms == {platform}
