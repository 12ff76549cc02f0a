"""Updates of a student of two games against the gradients of each game alone, written out in float64 NumPy."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pd_jax.config.sections import LearnerConfig, StudentConfig
from pd_jax.environments.tasks import get_task
from pd_jax.learner.learner import Learner
from pd_jax.learner.rule import LearnerState, make_optimizer
from pd_jax.losses import kl_loss
from pd_jax.networks.registry import make_network
from pd_jax.networks.student import make_student
from pd_jax.replay import rings
from pd_jax.system.devices import DeviceGroup
from pd_jax.types import Batch, Trajectory

ONE = DeviceGroup.local(1)
GAMES = ("cartpole", "acrobot")
SIZES, ACTIONS, TEMPERATURES = (4, 6), (2, 3), (0.5, 2.0)
LANES, CAPACITIES = (3, 5), (16, 24)
BATCH = 8
Params = dict[str, Any]


def make_learner(games: Literal["together", "alternating"]) -> tuple[Learner, LearnerState]:
    config = StudentConfig(network="mlp", mlp_hidden=(7,), head_hidden=5)
    student = make_student(config, [get_task(game) for game in GAMES])
    temperature = np.reshape(TEMPERATURES, (2, 1, 1)).astype(np.float32)
    loss = functools.partial(kl_loss, temperature=temperature, mask=student.mask[:, None])
    learner_config = LearnerConfig(batch_size=BATCH, learning_rate=3e-3, rmsprop_epsilon=1e-4, games=games)
    learner = Learner(student, loss, learner_config, ONE, total_updates=10, divergence=lambda s, q: 2 * loss(s, q))
    return learner, learner.init(jax.random.key(0))


def params_of(state: LearnerState) -> Params:
    return jax.tree.map(lambda leaf: np.asarray(leaf[0], np.float64), state.variables["params"])


def softmax(x: np.ndarray) -> np.ndarray:
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def alone(params: Params, game: int, x: np.ndarray, q: np.ndarray) -> tuple[float, float, Params]:
    """Loss, agreement and gradients of one game by itself, from observations and Q-values of its own sizes."""
    x, q = x.astype(np.float64), q.astype(np.float64)
    first, fc2, output = params["torso"]["fc1"], params["head"]["fc2"], params["head"][f"output{game}"]
    h1 = np.maximum(x @ first["kernel"][: SIZES[game]] + first["bias"], 0.0)
    h2 = np.maximum(h1 @ fc2["kernel"][game] + fc2["bias"][game], 0.0)
    s = h2 @ output["kernel"] + output["bias"]
    target = softmax(q / TEMPERATURES[game])
    loss = (target * (np.log(target) - np.log(softmax(s)))).sum(-1).mean()
    d_s = (softmax(s) - target) / len(x)
    d_h2 = d_s @ output["kernel"].T * (h2 > 0)
    d_h1 = d_h2 @ fc2["kernel"][game].T * (h1 > 0)
    gradients = jax.tree.map(np.zeros_like, params)
    gradients["head"][f"output{game}"] = {"kernel": h2.T @ d_s, "bias": d_s.sum(0)}
    gradients["head"]["fc2"]["kernel"][game], gradients["head"]["fc2"]["bias"][game] = h1.T @ d_h2, d_h2.sum(0)
    gradients["torso"]["fc1"]["kernel"][: SIZES[game]] = x.T @ d_h1
    gradients["torso"]["fc1"]["bias"] = d_h1.sum(0)
    return float(loss), float((s.argmax(-1) == q.argmax(-1)).mean()), gradients


def rmsprop(params: Params, squares: Params, gradients: Params) -> tuple[Params, Params]:
    squares = jax.tree.map(lambda nu, g: 0.95 * nu + 0.05 * g**2, squares, gradients)
    return jax.tree.map(lambda p, g, nu: p - 3e-3 * g / np.sqrt(nu + 1e-4), params, gradients, squares), squares


def minibatch(seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each game, observations and Q-values of its own sizes."""
    rng = np.random.default_rng(seed)
    sizes = zip(SIZES, ACTIONS, strict=True)
    return [tuple(rng.standard_normal((BATCH, n)).astype(np.float32) for n in pair) for pair in sizes]


def padded(batch: Sequence[tuple[np.ndarray, np.ndarray]]) -> Batch:
    observations = [np.pad(x, ((0, 0), (0, 6 - x.shape[1]))) for x, _ in batch]
    return Batch(np.stack(observations), np.stack([np.pad(q, ((0, 0), (0, 3 - q.shape[1]))) for _, q in batch]))


def assert_close(found: Params, expected: Params) -> None:
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-5), found, expected)


def test_an_update_moves_each_head_as_its_game_alone_would_and_the_torso_by_the_mean_of_both():
    learner, state = make_learner("together")
    params = params_of(state)
    squares = jax.tree.map(np.zeros_like, params)
    for update in range(4):
        batch = minibatch(update)
        state, metrics = learner.update(state, ONE.split(padded(batch), axis=1))
        results = [alone(params, game, *batch[game]) for game in range(2)]
        mean = jax.tree.map(lambda a, b: (a + b) / 2, results[0][2], results[1][2])
        params, squares = rmsprop(params, squares, mean)
        losses, agreements = [r[0] for r in results], [r[1] for r in results]
        np.testing.assert_allclose(metrics["game_loss"][0], losses, rtol=1e-4)
        np.testing.assert_allclose(metrics["game_kl"][0], 2 * np.array(losses), rtol=1e-4)
        np.testing.assert_array_equal(metrics["game_agreement"][0], np.float32(agreements))
        assert metrics["loss"][0] == pytest.approx(np.mean(losses), rel=1e-4)
        assert metrics["agreement"][0] == pytest.approx(np.mean(agreements))
        norm = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(mean)))
        assert metrics["grad_norm"][0] == pytest.approx(norm, rel=1e-4)
        assert_close(params_of(state), params)


def test_where_games_alternate_an_update_sees_only_the_one_whose_turn_it_is():
    learner, state = make_learner("alternating")
    params = params_of(state)
    squares = jax.tree.map(np.zeros_like, params)
    for update in range(4):
        batch, game = minibatch(update), update % 2
        state, metrics = learner.update(state, ONE.split(padded(batch), axis=1))
        loss, agreement, gradients = alone(params, game, *batch[game])
        params, squares = rmsprop(params, squares, gradients)
        assert metrics["loss"][0] == pytest.approx(loss, rel=1e-4) == metrics["game_loss"][0, game]
        assert metrics["agreement"][0] == pytest.approx(agreement) == metrics["game_agreement"][0, game]
        for name in ("game_loss", "game_agreement", "game_kl"):
            assert np.isnan(metrics[name][0]).tolist() == [game != 0, game != 1]
        assert_close(params_of(state), params)


@pytest.fixture(scope="module")
def stored() -> tuple[rings.ReplayState, ...]:
    """A replay of each game, with a device axis; no two sizes are alike."""
    replays = []
    for game in range(2):
        rng = np.random.default_rng(game)
        slots = (CAPACITIES[game], LANES[game])
        trajectory = Trajectory(
            observations=rng.standard_normal((*slots, SIZES[game])).astype(np.float32),
            is_first=np.zeros(slots, bool),
            is_decision=rng.random(slots) < 0.9,
            actions=np.zeros(slots, np.int32),
            rewards=np.zeros(slots, np.float32),
            teacher_q=rng.standard_normal((*slots, ACTIONS[game])).astype(np.float32),
        )
        empty = ONE.replicate(rings.init(LANES[game], CAPACITIES[game], (SIZES[game],), jnp.float32, ACTIONS[game]))
        replays.append(ONE.map(rings.insert)(empty, ONE.split(trajectory, axis=1)))
    return tuple(replays)


def drawn(stored: tuple[rings.ReplayState, ...], key: jax.Array, game: int) -> tuple[np.ndarray, np.ndarray]:
    """What the one device draws: the game's number is folded into the update's key; its lanes are a single group."""
    key = jax.random.fold_in(key, game)
    batch = rings.sample(ONE.first(stored[game]), key, BATCH)
    return np.asarray(batch.observations), np.asarray(batch.teacher_q)


@pytest.mark.parametrize("learnt", [None, (1,)], ids=["all", "one-left-out"])
@pytest.mark.parametrize("games", ["together", "alternating"])
def test_updates_from_replay_are_a_loop_over_minibatches_of_each_games_own_replay(games, learnt, stored):
    updates, of_turn = 5, learnt or (0, 1)
    if learnt:
        # Of a game that is left out nothing need be stored.
        empty = rings.init(LANES[0], CAPACITIES[0], (SIZES[0],), jnp.float32, ACTIONS[0])
        stored = (ONE.replicate(empty), stored[1])
    learner, state = make_learner(games)
    params, key = params_of(state), ONE.first(state.key)
    squares = jax.tree.map(np.zeros_like, params)
    seen: dict[int, list[tuple[float, float]]] = {0: [], 1: []}
    for update in range(updates):
        key, sample_key = jax.random.split(key)
        turn = of_turn if games == "together" else [of_turn[update % len(of_turn)]]
        results = {game: alone(params, game, *drawn(stored, sample_key, game)) for game in turn}
        for game, (loss, agreement, _) in results.items():
            seen[game].append((loss, agreement))
        gradients = jax.tree.map(lambda *g: sum(g) / len(g), *(result[2] for result in results.values()))
        params, squares = rmsprop(params, squares, gradients)
    state, metrics = learner.update_from_replay(state, stored, updates, learnt)
    assert_close(params_of(state), params)
    means = np.array([np.mean(seen[game], axis=0) if game in of_turn else (np.nan, np.nan) for game in range(2)])
    np.testing.assert_allclose(metrics["game_loss"][0], means[:, 0], rtol=1e-4)
    np.testing.assert_allclose(metrics["game_agreement"][0], means[:, 1], rtol=1e-5)
    np.testing.assert_allclose(metrics["game_kl"][0], 2 * means[:, 0], rtol=1e-4)
    overall = np.mean([value for values in seen.values() for value in values], axis=0)
    assert (metrics["loss"][0], metrics["agreement"][0]) == pytest.approx(tuple(overall), rel=1e-4)


@pytest.mark.parametrize("games", ["together", "alternating"])
def test_updates_move_nothing_between_host_and_device_and_copy_no_replay(games, stored):
    learner, state = make_learner(games)
    state, metrics = learner.update_from_replay(state, stored, 1)
    # One update of two games: the second had none where they alternate.
    assert np.isnan(metrics["game_loss"][0]).tolist() == [False, games == "alternating"]
    with jax.transfer_guard("disallow"):
        later, metrics = learner.update_from_replay(state, stored, 1)
        jax.block_until_ready((later, metrics))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.variables))
    large = tuple(
        ONE.replicate(rings.init(2, 100_000, (SIZES[game],), jnp.float32, ACTIONS[game])) for game in range(2)
    )
    (program,) = learner._update_many.values()
    memory = program.lower(later, large).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 200_000 < min(leaf.nbytes for leaf in (large[0].teacher_q, large[1].teacher_q))


def test_two_games_of_frames_equal_two_networks_with_the_same_torso():
    config = StudentConfig(network="multi3", channels=(4, 4, 4), hidden=8, head_hidden=6)
    student = make_student(config, [get_task("breakout"), get_task("pong")])
    loss = functools.partial(kl_loss, temperature=0.5)
    learner_config = LearnerConfig(batch_size=4, learning_rate=1e-2, rmsprop_epsilon=1e-4)
    masked = functools.partial(loss, mask=student.mask[:, None])
    learner = Learner(student, masked, learner_config, ONE, total_updates=10)
    state = learner.init(jax.random.key(0))
    params = ONE.first(state.variables)["params"]
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 4, 84, 84, 4)).astype(np.uint8)
    teacher_q = rng.standard_normal((2, 4, 6)).astype(np.float32) * student.mask[:, None]

    def loss_alone(params: Any, game: int, actions: int) -> jax.Array:
        network = make_network("multi3", actions, channels=(4, 4, 4), hidden=8, head_hidden=6)
        head = {"fc2": {name: stacked[game] for name, stacked in params["head"]["fc2"].items()}}
        head["output"] = params["head"][f"output{game}"]
        outputs = network.apply({"params": {"torso": params["torso"], "head": head}}, frames[game])
        return loss(outputs, teacher_q[game, :, :actions]).mean()

    gradients = [jax.jit(jax.grad(loss_alone), static_argnums=(1, 2))(params, *game) for game in ((0, 4), (1, 6))]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *gradients)
    optimizer = make_optimizer(learner_config, 10)
    changes, _ = optimizer.update(mean, optimizer.init(params), params)
    expected = optax.apply_updates(params, changes)
    state, _ = learner.update(state, ONE.split(Batch(frames, teacher_q), axis=1))
    assert_close(ONE.first(state.variables)["params"], expected)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), expected, params)
    assert min(jax.tree.leaves(moved)) > 1e-3


def test_muon_sees_the_matrix_of_every_game_apart():
    optimizer = make_optimizer(LearnerConfig(optimizer="muon", learning_rate=1e-2), 10)
    kernels = jax.random.normal(jax.random.key(0), (2, 7, 5)) * jnp.array([1.0, 9.0])[:, None, None]
    both, _ = optimizer.update({"kernel": kernels}, optimizer.init({"kernel": kernels}), {"kernel": kernels})
    for game in range(2):
        alone = {"kernel": kernels[game]}
        change, _ = optimizer.update(alone, optimizer.init(alone), alone)
        np.testing.assert_allclose(both["kernel"][game], change["kernel"], atol=1e-6)
        assert float(jnp.abs(change["kernel"]).max()) > 1e-3


@pytest.mark.slow
def test_muon_leaves_wide_matrices_to_adam_at_a_tenth_of_the_rate():
    optimizer = make_optimizer(LearnerConfig(optimizer="muon", learning_rate=1e-2), 10)
    normal = functools.partial(jax.random.normal, jax.random.key(0))
    params = {"narrow": normal((600, 255)), "wide": normal((600, 256)), "heads": normal((2, 300, 255))}
    state = optimizer.init(params)
    changes, state = optimizer.update(params, state, params)
    adam = optax.adam(1e-3)
    expected, _ = adam.update(params["wide"], adam.init(params["wide"]))
    np.testing.assert_allclose(changes["wide"], expected, rtol=1e-6)
    for name, like in (("narrow", normal((600, 255))), ("heads", normal((2, 300, 255)))):
        alone = {"kernel": like}
        change, _ = optimizer.update(alone, optimizer.init(alone), alone)
        np.testing.assert_allclose(changes[name], change["kernel"], atol=1e-6)
    # With a rate that falls to 0 both kinds stand still at the end.
    falling = make_optimizer(LearnerConfig(optimizer="muon", learning_rate=1e-2, learning_rate_decay=True), 2)
    state = falling.init(params)
    for _ in range(3):
        changes, state = falling.update(params, state, params)
    assert max(float(jnp.abs(change).max()) for change in changes.values()) == 0.0


def test_every_game_needs_a_replay(stored):
    learner, state = make_learner("together")
    with pytest.raises(ValueError, match="1 replays for 2 games"):
        learner.update_from_replay(state, stored[:1], 1)
