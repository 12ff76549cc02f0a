"""Weights between games, and the gradients of games apart: against papers, brute force and other numbers of devices."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pd_jax.config.sections import LearnerConfig, LossConfig, StudentConfig
from pd_jax.environments.tasks import get_task
from pd_jax.learner.balance import Balance, make_balance, surgery
from pd_jax.learner.by_game import cosines, products
from pd_jax.learner.learner import Learner, learner_template
from pd_jax.learner.rule import LearnerState, make_optimizer
from pd_jax.losses import action_gap_weights, kl_loss
from pd_jax.networks.student import make_student
from pd_jax.replay import rings
from pd_jax.system.devices import DeviceGroup
from pd_jax.types import Batch, Trajectory
from support.commands import run, virtual_devices

ONE = DeviceGroup.local(1)
GAMES = ("cartpole", "acrobot", "lunarlander")
SIZES, ACTIONS = (4, 6, 8), (2, 3, 4)
BATCH, LANES, CAPACITY, UPDATES = 16, 8, 16, 4
STUDENT = make_student(StudentConfig(network="mlp", mlp_hidden=(7, 5), head_hidden=6), [get_task(g) for g in GAMES])
TEMPERATURE = np.reshape([0.5, 1.0, 2.0], (3, 1, 1)).astype(np.float32)
WAYS: dict[str, dict[str, Any]] = {
    "given": {"game_weights": (1.0, 0.0, 3.0)},
    "uncertainty": {"balance": "uncertainty"},
    "gradnorm": {"balance": "gradnorm"},
    "pcgrad": {"balance": "pcgrad", "game_weights": (1.0, 2.0, 0.5)},
}


def config_of(way: str = "", **changes: Any) -> LearnerConfig:
    # Momentum makes rounding matter less than RMSProp's first steps do.
    return LearnerConfig(batch_size=BATCH, learning_rate=3e-3, rmsprop_epsilon=1e-2, **WAYS.get(way, {}), **changes)


def make_learner(config: LearnerConfig, devices: DeviceGroup = ONE, **options: Any) -> Learner:
    loss = functools.partial(kl_loss, temperature=TEMPERATURE, mask=STUDENT.mask[:, None])
    return Learner(STUDENT, loss, config, devices, total_updates=10, **options)


def store(devices: DeviceGroup) -> tuple[rings.ReplayState, ...]:
    """A replay of each game, with a device axis."""
    replays = []
    for game in range(3):
        rng = np.random.default_rng(game)
        slots = (CAPACITY, LANES)
        trajectory = Trajectory(
            observations=rng.standard_normal((*slots, SIZES[game])).astype(np.float32),
            is_first=np.zeros(slots, bool),
            is_decision=np.ones(slots, bool),
            actions=np.zeros(slots, np.int32),
            rewards=np.zeros(slots, np.float32),
            teacher_q=(2.0 + game) * rng.standard_normal((*slots, ACTIONS[game])).astype(np.float32),
        )
        lanes = LANES // devices.size
        empty = devices.replicate(rings.init(lanes, CAPACITY, (SIZES[game],), jnp.float32, ACTIONS[game]))
        replays.append(devices.map(rings.insert)(empty, devices.split(trajectory, axis=1)))
    return tuple(replays)


@pytest.fixture(scope="module")
def stored() -> tuple[rings.ReplayState, ...]:
    return store(ONE)


def minibatch(seed: int) -> Batch:
    rng = np.random.default_rng(seed)
    observations = np.zeros((3, BATCH, 8), np.float32)
    teacher_q = np.zeros((3, BATCH, 4), np.float32)
    for game in range(3):
        observations[game, :, : SIZES[game]] = rng.standard_normal((BATCH, SIZES[game]))
        teacher_q[game, :, : ACTIONS[game]] = (2.0 + game) * rng.standard_normal((BATCH, ACTIONS[game]))
    return Batch(observations, teacher_q)


def loss_alone(params: Any, game: int, x: jax.Array, q: jax.Array) -> jax.Array:
    """The KL of one game by the layers' definitions, in the dtype of what it is given."""
    torso, head = params["torso"], params["head"]
    for layer in ("fc1", "fc2"):
        x = jax.nn.relu(x @ torso[layer]["kernel"] + torso[layer]["bias"])
    x = jax.nn.relu(x @ head["fc2"]["kernel"][game] + head["fc2"]["bias"][game])
    s = x @ head[f"output{game}"]["kernel"] + head[f"output{game}"]["bias"]
    target = jax.nn.softmax(q[:, : ACTIONS[game]] / float(TEMPERATURE[game, 0, 0]))
    return (target * (jnp.log(target) - jax.nn.log_softmax(s))).sum(-1).mean()


@functools.cache
def differentiate(game: int) -> Any:
    return jax.jit(jax.value_and_grad(functools.partial(loss_alone)), static_argnums=1)


def each_alone(params: Any, batch: Batch) -> tuple[np.ndarray, list[Any]]:
    """Losses and gradients of the games, each by itself."""
    found = [differentiate(game)(params, game, batch.observations[game], batch.teacher_q[game]) for game in range(3)]
    return np.array([float(loss) for loss, _ in found]), [jax.tree.map(np.asarray, own) for _, own in found]


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(tree)])


def weighted(gradients: Sequence[Any], weights: Sequence[float]) -> Any:
    return jax.tree.map(lambda *leaves: sum(w * g for w, g in zip(weights, leaves, strict=True)) / 3, *gradients)


def projected(gradients: np.ndarray, orders: Sequence[Sequence[int]]) -> np.ndarray:
    """PCGrad's algorithm 1, vector by vector: the sum of the projected gradients."""
    changed = gradients.copy()
    for own, order in enumerate(orders):
        for other in order:
            product = changed[own] @ gradients[other]
            if product < 0:
                changed[own] -= product / (gradients[other] @ gradients[other]) * gradients[other]
    return changed.sum(0)


ORDERS = list(itertools.product(itertools.permutations((1, 2)), itertools.permutations((0, 2)), [(0, 1), (1, 0)]))


class Adam:
    """Kingma and Ba (2015), algorithm 1, in float64."""

    def __init__(self, rate: float = 0.025) -> None:
        self.rate, self.count, self.first, self.second = rate, 0, np.zeros(3), np.zeros(3)

    def step(self, gradient: np.ndarray) -> np.ndarray:
        self.count += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        mean, square = self.first / (1 - 0.9**self.count), self.second / (1 - 0.999**self.count)
        return -self.rate * mean / (np.sqrt(square) + 1e-8)


class Expected:
    """Weights, and what is learnt of them, as the papers have it."""

    def __init__(self, way: str) -> None:
        self.way, self.adam, self.values, self.first = way, Adam(), np.zeros(3), None
        self.conflicts = 0

    def gradient(self, losses: np.ndarray, gradients: list[Any]) -> tuple[np.ndarray, list[Any]]:
        """What the games count, and the gradients that are possible: PCGrad's depends on orders."""
        if self.way == "given":
            weights = np.array([0.75, 0.0, 2.25])
            return weights, [weighted(gradients, weights)]
        if self.way == "uncertainty":
            weights = np.exp(-self.values)
            self.values = self.values + self.adam.step(0.5 - weights * losses)
            return weights, [weighted(gradients, weights)]
        if self.way == "gradnorm":
            if self.first is None:
                self.first, self.values = losses, np.ones(3)
            weights = self.values
            norms = np.array([np.linalg.norm(flat(own["torso"]["fc2"])) for own in gradients])
            rates = losses / self.first
            aim = (weights * norms).mean() * (rates / rates.mean()) ** 1.5
            signs = np.array([np.sign(w * n - a) for w, n, a in zip(weights, norms, aim, strict=True)])
            moved = weights + self.adam.step(signs * norms)
            self.values = 3 * moved / moved.sum()
            return weights, [weighted(gradients, weights)]
        scale = [3 * each / 3.5 for each in (1.0, 2.0, 0.5)]
        scaled = [jax.tree.map(lambda leaf, by=by: by * leaf, own) for by, own in zip(scale, gradients, strict=True)]
        mean = weighted(scaled, [1.0, 1.0, 1.0])
        torsos = np.stack([flat(own["torso"]) for own in scaled])
        self.conflicts += int((torsos @ torsos.T < -1e-4).any())
        return np.zeros(3), [self._with_torso(mean, projected(torsos, orders) / 3) for orders in ORDERS]

    def _with_torso(self, mean: Any, torso: np.ndarray) -> Any:
        leaves, structure = jax.tree.flatten(mean["torso"])
        places = np.cumsum([leaf.size for leaf in leaves])[:-1]
        parts = [part.reshape(leaf.shape) for part, leaf in zip(np.split(torso, places), leaves, strict=True)]
        return {"torso": jax.tree.unflatten(structure, parts), "head": mean["head"]}


@pytest.mark.parametrize("way", [pytest.param(way, marks=[pytest.mark.slow] * (way == "given")) for way in WAYS])
def test_updates_are_those_of_the_papers(way: str) -> None:
    config = config_of(way)
    learner, expected = make_learner(config), Expected(way)
    state = learner.init(jax.random.key(3))
    optimizer = make_optimizer(config, 10)
    params = ONE.first(state.variables)["params"]
    optimizer_state = optimizer.init(params)
    for update in range(UPDATES):
        batch = minibatch(update)
        state, metrics = learner.update(state, ONE.split(batch, axis=1))
        losses, gradients = each_alone(params, batch)
        weights, possible = expected.gradient(losses, gradients)
        np.testing.assert_allclose(metrics["game_loss"][0], losses, rtol=1e-4)
        assert metrics["loss"][0] == pytest.approx(losses.mean(), rel=1e-4)
        if weights.any():
            np.testing.assert_allclose(metrics["game_weight"][0], weights, atol=1e-4)
        found, nearest = ONE.first(state.variables)["params"], np.inf
        for gradient in possible:
            changes, next_state = optimizer.update(gradient, optimizer_state, params)
            wanted = optax.apply_updates(params, changes)
            distance = np.abs(flat(wanted) - flat(found)).max()
            if distance < nearest:
                nearest, best, norm = distance, (next_state, wanted), optax.tree.norm(gradient)
        assert nearest < 1e-5
        assert metrics["grad_norm"][0] == pytest.approx(float(norm), rel=1e-4)
        optimizer_state, params = best
    assert expected.conflicts or not way.startswith("pcgrad")
    if way == "gradnorm":
        assert np.abs(np.asarray(metrics["game_weight"][0]) - 1).max() > 0.02


def test_surgery_is_the_algorithm_of_the_paper_for_some_order_and_orders_change() -> None:
    rng = np.random.default_rng(0)
    run_surgery, seen = jax.jit(surgery), set()
    for update in range(40):
        gradients = rng.standard_normal((3, 2))  # In a plane, three of them conflict often.
        found = np.asarray(run_surgery(gradients @ gradients.T, jnp.int32(update))) @ gradients
        distances = [np.abs(projected(gradients, orders) - found).max() for orders in ORDERS]
        assert min(distances) < 1e-5 * max(1.0, np.abs(found).max())
        if max(distances) > 1e-2:
            seen.add(int(np.argmin(distances)))
    assert len(seen) > 2


def test_without_conflict_surgery_changes_nothing_and_a_gradient_of_zero_does_no_harm() -> None:
    np.testing.assert_array_equal(surgery(jnp.array([[2.0, 0.5], [0.5, 1.0]]), jnp.int32(0)), [1.0, 1.0])
    np.testing.assert_array_equal(surgery(jnp.array([[2.0, 0.0], [0.0, 0.0]]), jnp.int32(0)), [1.0, 1.0])


def test_log_variances_come_to_rest_where_the_loss_is_least_in_them() -> None:
    balance = Balance("uncertainty", 3)
    state, losses, seen = balance.init(), jnp.array([0.02, 1.0, 9.0]), jnp.array([True, True, False])
    state = jax.lax.fori_loop(0, 2000, lambda _, s: balance.after_losses(s, losses, seen), state)
    assert state is not None
    np.testing.assert_allclose(balance.weights(state, (0, 1, 2)), [25.0, 0.5, 1.0], rtol=1e-2)


def test_gradnorm_gives_the_gradients_of_games_one_norm_where_all_learn_alike() -> None:
    balance = Balance("gradnorm", 3)
    state, norms, losses = balance.init(), jnp.array([1.0, 2.0, 4.0]), jnp.array([5.0, 1.0, 0.1])
    step = functools.partial(balance.after_norms, games=(0, 1, 2))
    state = jax.lax.fori_loop(0, 1000, lambda _, s: step(s, losses, norms), state)
    assert state is not None
    weights = np.asarray(state.values)
    # Steps of Adam at a fixed rate go on around the minimum.
    np.testing.assert_allclose(weights * norms, [12 / 7] * 3, rtol=0.1)
    assert weights.mean() == pytest.approx(1.0)
    # A game whose loss has not fallen as that of others has is given more.
    for _ in range(100):
        state = step(state, losses * jnp.array([1.0, 0.1, 0.1]), norms)
    assert state.values[0] > 1.5 * weights[0]
    assert float(state.values.min()) > 0
    np.testing.assert_array_equal(state.first_loss, losses)


def test_games_that_play_no_more_keep_what_they_had_and_the_others_share_the_mean() -> None:
    balance = Balance("gradnorm", 3)
    state = balance.init()
    for _ in range(4):
        state = balance.after_norms(state, jnp.ones(2), jnp.array([1.0, 3.0]), (0, 2))
    assert state is not None
    assert state.values[1] == 1.0 and bool(jnp.isnan(state.first_loss[1]))
    assert float(state.values[0] + state.values[2]) == pytest.approx(2.0)
    np.testing.assert_allclose(Balance("none", 3, (1.0, 0.0, 3.0)).weights(None, (0, 1)), [2.0, 0.0, 6.0])
    np.testing.assert_array_equal(Balance("none", 3, (1.0, 0.0, 3.0)).weights(None, (1,)), 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["gradnorm"])
def test_a_game_left_out_needs_no_play_and_its_head_stays(way: str, stored: tuple[rings.ReplayState, ...]) -> None:
    empty = ONE.replicate(rings.init(LANES, CAPACITY, (SIZES[0],), jnp.float32, ACTIONS[0]))
    learner = make_learner(config_of(way))
    state = learner.init(jax.random.key(0))
    before = jax.tree.map(np.asarray, state.variables["params"]["head"])
    state, metrics = learner.update_from_replay(state, (empty, *stored[1:]), 2, (1, 2))
    assert np.isnan(metrics["game_weight"][0]).tolist() == [True, False, False]
    assert np.isfinite(metrics["loss"][0])
    after = jax.tree.map(np.asarray, state.variables["params"]["head"])
    np.testing.assert_array_equal(after["output0"]["kernel"], before["output0"]["kernel"])
    np.testing.assert_array_equal(after["fc2"]["kernel"][0, 0], before["fc2"]["kernel"][0, 0])
    assert np.abs(after["fc2"]["kernel"][0, 2] - before["fc2"]["kernel"][0, 2]).max() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("way", ["gradnorm", "pcgrad"])
def test_parts_of_a_minibatch_give_the_same_update(way: str, stored: tuple[rings.ReplayState, ...]) -> None:
    states = []
    for accumulate in (1, 4):
        learner = make_learner(config_of(way, accumulate=accumulate), weigh=action_gap_weights)
        states.append(learner.update_from_replay(learner.init(jax.random.key(0)), stored, 3)[0])
    np.testing.assert_allclose(flat(states[0].variables), flat(states[1].variables), atol=1e-5)


def test_there_is_nothing_to_balance_where_an_update_sees_one_game() -> None:
    assert make_balance(LearnerConfig(balance="pcgrad", games="alternating"), 3) is None
    assert make_balance(LearnerConfig(balance="gradnorm"), 1) is None
    assert make_balance(LearnerConfig(), 3) is None


@pytest.mark.parametrize("way", ["", *WAYS])
def test_the_template_of_checkpoints_has_what_is_learnt(way: str) -> None:
    learner = make_learner(config_of(way))
    assert jax.tree.structure(learner_template(STUDENT, config_of(way), LossConfig())) == jax.tree.structure(
        learner.template
    )
    assert (learner.template.balance is not None) == (way in ("uncertainty", "gradnorm"))


def drawn(stored: tuple[rings.ReplayState, ...], state: LearnerState) -> Batch:
    """The minibatch of a measurement, by the key that its docstring tells of."""
    key = jax.random.fold_in(jax.random.key(1), ONE.first(state.updates))
    # Lanes and minibatch could be dealt out to eight devices, each of which draws by itself.
    parts = [
        rings.sample(ONE.first(stored[game]), jax.random.fold_in(key, game), BATCH, num_groups=8) for game in range(3)
    ]
    observations = [np.pad(part.observations, ((0, 0), (0, 8 - part.observations.shape[1]))) for part in parts]
    outputs = [np.pad(part.teacher_q, ((0, 0), (0, 4 - part.teacher_q.shape[1]))) for part in parts]
    return Batch(np.stack(observations), np.stack(outputs))


@pytest.mark.slow
def test_cosines_are_those_of_each_games_gradients_and_leave_the_run_as_it_is(
    stored: tuple[rings.ReplayState, ...],
) -> None:
    learner = make_learner(config_of("gradnorm"))
    state, _ = learner.update_from_replay(learner.init(jax.random.key(0)), stored, 2)
    before = jax.tree.map(np.asarray, dataclasses.replace(state, key=jax.random.key_data(state.key)))
    found = learner.gradient_cosines(state, stored)
    after = jax.tree.map(np.asarray, dataclasses.replace(state, key=jax.random.key_data(state.key)))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert list(found) == ["fc1", "fc2", "torso"]
    _, gradients = each_alone(ONE.first(state.variables)["params"], drawn(stored, state))
    for layer, (cosine, norm) in found.items():
        own = [flat(each["torso"] if layer == "torso" else each["torso"][layer]) for each in gradients]
        norms = np.array([np.linalg.norm(each) for each in own])
        np.testing.assert_allclose(norm, norms, rtol=1e-4)
        expected = [[a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for b in own] for a in own]
        np.testing.assert_allclose(cosine, expected, atol=1e-4)
    again = learner.gradient_cosines(state, stored, (0, 2))["fc1"][0]
    np.testing.assert_allclose(again[::2, ::2], found["fc1"][0][::2, ::2], atol=1e-6)
    assert np.isnan(again[1]).all() and np.isnan(again[:, 1]).all()


def test_a_gradient_of_zero_has_no_cosines() -> None:
    matrix, norms = cosines(products({"a": jnp.array([[3.0, 4.0], [0.0, 0.0], [-6.0, -8.0]])}))
    np.testing.assert_allclose(norms, [5.0, 0.0, 10.0])
    np.testing.assert_allclose(matrix, [[1, np.nan, -1], [np.nan] * 3, [-1, np.nan, 1]])


def test_updates_move_nothing_between_host_and_device(stored: tuple[rings.ReplayState, ...]) -> None:
    learner = make_learner(config_of("pcgrad"))
    state, _ = learner.update_from_replay(learner.init(jax.random.key(0)), stored, 1)
    with jax.transfer_guard("disallow"):
        state, metrics = learner.update_from_replay(state, stored, 1)
        jax.block_until_ready((state, metrics))


EIGHT_DEVICES = """
import json, re, sys
import jax, numpy as np
sys.path[:0] = sys.argv[1:3]
import test_balance as t

groups = [(devices, t.store(devices)) for devices in (t.ONE, t.DeviceGroup.local(8))]
reduces, differ, off = {}, 0, {}
for way in sys.argv[3:]:
    ends = []
    for devices, stored in groups:
        learner = t.make_learner(t.config_of(way), devices)
        state = learner.init(jax.random.key(0))
        update = learner.lower(state, stored, t.UPDATES).compile()
        state, metrics = update(state, stored)
        ends.append([devices.first(state.variables), devices.first(state.balance), devices.first(metrics)])
        if way == "gradnorm":
            ends[-1].append(list(learner.gradient_cosines(state, stored).values()))
    reduces[way] = len(re.findall(r" all-reduce(?:-start)?[(]", update.as_text()))
    differ += sum(int((np.asarray(leaf) != np.asarray(leaf)[:1]).sum()) for leaf in jax.tree.leaves(state.variables))
    off[way] = max(float(np.nanmax(np.abs(np.asarray(a) - np.asarray(b)))) for a, b in zip(*map(jax.tree.leaves, ends)))
print(json.dumps([reduces, differ, off]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("ways", [["gradnorm"], ["pcgrad", "uncertainty"]])
def test_eight_devices_make_the_same_update_with_one_all_reduce(ways: list[str]) -> None:
    where = map(str, Path(__file__).parents[:2])
    done = run([sys.executable, "-c", EIGHT_DEVICES, *where, *ways], **virtual_devices(8))
    assert done.code == 0, done.stderr[-3000:]
    reduces, differ, off = json.loads(done.stdout.splitlines()[-1])
    assert reduces == dict.fromkeys(ways, 1)
    assert differ == 0
    assert max(off.values()) < 1e-5, off
