"""What holds a student that learns added games: penalty and importance against NumPy, shares, and what stays."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_jax.config.sections import LearnerConfig, LossConfig, StudentConfig
from pd_jax.environments.tasks import get_task
from pd_jax.learner.anchor import Adding
from pd_jax.learner.importance import fisher_of
from pd_jax.learner.learner import Learner
from pd_jax.learner.objective import make_objective
from pd_jax.networks.added import heads_of, old_elements
from pd_jax.networks.student import make_student
from pd_jax.replay.replay import Replay, RingSize
from pd_jax.system.devices import DeviceGroup
from pd_jax.types import Trajectory

CONFIG = StudentConfig(network="mlp", mlp_hidden=(8,), head_hidden=4)
GAMES = tuple(map(get_task, ("cartpole", "acrobot", "lunarlander")))
STUDENT, OLD = make_student(CONFIG, GAMES), make_student(CONFIG, GAMES[:2])
DEVICES = DeviceGroup.local(1)
LANES, STEPS = 4, 32


def adding(**changes: Any) -> Adding:
    shapes = jax.eval_shape(STUDENT.init, jax.random.key(0))["params"]
    old = jax.eval_shape(lambda key: heads_of(OLD.init(key)["params"], (0, 1), several=True), jax.random.key(0))
    settings: dict[str, Any] = {
        "new": (2,), "num_games": 3, "old": old_elements(shapes, old), "replays": False, "head_alone": False,
        "penalty": "distance", "weight": 0.0, "new_share": 0.5, "samples": False, "gives_q": False,
    }  # fmt: skip
    return Adding(**settings | changes)


def random_like(tree: Any, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), tree)


def learner(way: Adding | None, loss: LossConfig | None = None, **config: Any) -> Learner:
    objective = make_objective(loss or LossConfig(temperature=0.5), STUDENT, [False] * 3)
    settings = LearnerConfig(**{"batch_size": 16, "optimizer": "adam", "learning_rate": 1e-2} | config)
    return Learner(
        STUDENT,
        objective.loss,
        settings,
        DEVICES,
        total_updates=10,
        divergence=objective.divergence,
        weigh=objective.weigh,
        adding=way,
    )


@pytest.fixture(scope="module")
def stored() -> tuple[Any, ...]:
    replay = Replay(
        [RingSize(LANES, STEPS, task.frame_shape, task.observation_dtype, task.num_actions) for task in GAMES], DEVICES
    )
    for game, task in enumerate(GAMES):
        rng, shape = np.random.default_rng(game), (STEPS, LANES)
        trajectory = Trajectory(
            observations=rng.standard_normal((*shape, *task.observation_shape)).astype(np.float32),
            is_first=np.zeros(shape, bool),
            is_decision=np.ones(shape, bool),
            actions=np.zeros(shape, np.int32),
            rewards=np.zeros(shape, np.float32),
            teacher_q=rng.standard_normal((*shape, task.num_actions)).astype(np.float32),
        )
        replay.insert(game, trajectory)
    return replay.stored


def trained(own: Learner, stored: tuple[Any, ...], games: Any = None) -> Any:
    state, metrics = own.update_from_replay(own.init(jax.random.key(0)), stored, 3, games)
    return DEVICES.first(state).variables, DEVICES.fetch_first(metrics)


@pytest.mark.parametrize("penalty", ["ewc", "distance"])
def test_the_penalty_is_the_formula_over_what_the_old_student_has(penalty: str) -> None:
    way = adding(penalty=penalty, weight=0.3)
    shapes = jax.eval_shape(STUDENT.init, jax.random.key(0))["params"]
    params, before, importance = (random_like(shapes, seed) for seed in range(3))
    importance = jax.tree.map(lambda leaf, old: np.abs(leaf) * old, importance, way.old)
    anchor = way.anchor_of(before, importance if penalty == "ewc" else None)
    shares = importance if penalty == "ewc" else jax.tree.map(lambda leaf, o: np.ones_like(leaf) * o, params, way.old)
    each = jax.tree.map(
        lambda now, then, share: (share.astype(np.float64) * (now.astype(np.float64) - then) ** 2).sum(),
        params,
        before,
        shares,
    )
    assert float(way.penalise(params, anchor)) == pytest.approx(0.15 * sum(jax.tree.leaves(each)), rel=1e-5)
    assert float(way.penalise(params, None)) == 0.0
    # The heads of added games are free.
    moved = {
        **params,
        "head": {**params["head"], "output2": jax.tree.map(lambda leaf: leaf + 9, params["head"]["output2"])},
    }
    assert float(way.penalise(moved, anchor)) == float(way.penalise(params, anchor))


def test_the_importance_is_the_fisher_information_of_a_softmax() -> None:
    """By its definition: squared derivatives of each action's log-probability, in the mean over the policy."""
    rng = np.random.default_rng(0)
    logits, jacobian = rng.standard_normal(5), rng.standard_normal((5, 3, 2))
    policy = np.exp(logits) / np.exp(logits).sum()

    def log_policy(step: np.ndarray) -> np.ndarray:
        moved = logits + np.tensordot(jacobian, step, 2)
        return moved - np.log(np.exp(moved).sum())

    wanted = np.zeros((3, 2))
    for place in np.ndindex(3, 2):
        step = np.zeros((3, 2))
        step[place] = 1e-5
        score = (log_policy(step) - log_policy(-step)) / 2e-5
        wanted[place] = (policy * score**2).sum()
    found = fisher_of(jnp.float32(logits), {"w": jnp.float32(jacobian)}, gives_q=False)["w"]
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    of_q = fisher_of(jnp.float32(logits), {"w": jnp.float32(jacobian)}, gives_q=True)["w"]
    np.testing.assert_allclose(of_q, (jacobian**2).sum(0), rtol=1e-5)


def test_estimated_importances_have_a_mean_of_1_and_are_0_where_the_old_student_has_nothing(
    stored: tuple[Any, ...],
) -> None:
    way = adding(penalty="ewc", weight=1.0, samples=True)
    own = learner(way)
    state, mean = own.estimate_importance(own.init(jax.random.key(0)), (*stored[:2], None))
    importance = jax.tree.map(np.asarray, DEVICES.first(state.anchor.importance))
    old = jax.tree.map(lambda leaf, o: np.broadcast_to(o, leaf.shape), importance, way.old)
    values = np.concatenate([leaf[o] for leaf, o in zip(*map(jax.tree.leaves, (importance, old)), strict=True)])
    others = np.concatenate([leaf[~o] for leaf, o in zip(*map(jax.tree.leaves, (importance, old)), strict=True)])
    assert values.mean() == pytest.approx(1.0, rel=1e-4) and values.min() >= 0 and not others.any()
    # Of the output layers' biases it is the mean of π (1 − π), whatever lies before them.
    variables = jax.tree.map(np.asarray, DEVICES.first(state.variables))
    for game in (0, 1):
        observations = np.random.default_rng(game).standard_normal((STEPS * LANES, *GAMES[game].observation_shape))
        outputs = np.asarray(STUDENT.policy(game)(variables, observations.astype(np.float32)), np.float64)
        policy = np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)
        found = mean * importance["head"][f"output{game}"]["bias"]
        # Drawn with replacement from all that is stored but for the ends of lanes.
        np.testing.assert_allclose(found, (policy * (1 - policy)).mean(0), rtol=0.1)
    assert mean > 0


def test_without_weight_a_penalty_learns_as_the_new_game_alone_would_and_looks_back(stored: tuple[Any, ...]) -> None:
    """An update that computes nothing of the old games is the one that computes them and learns the new one."""
    loss = LossConfig(temperature=0.5, weights="action_gap")
    config = {"accumulate": 2, "sampling": "loss"}
    held, told = trained(learner(adding(samples=True), loss, **config), stored)
    free, wanted = trained(learner(None, loss, **config), stored, games=(2,))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), held, free)
    for name in ("game_loss", "game_agreement", "game_kl"):
        assert told[name][2] == pytest.approx(wanted[name][2], abs=1e-6)
        assert np.isnan(wanted[name][:2]).all()
    assert float(told["penalty"]) == 0.0
    # KL of the old games against float64 NumPy, over all that is stored rather than a minibatch of it.
    for game in (0, 1):
        rng, shape = np.random.default_rng(game), (STEPS, LANES)
        observations = rng.standard_normal((*shape, *GAMES[game].observation_shape)).reshape(STEPS * LANES, -1)
        teacher = rng.standard_normal((*shape, GAMES[game].num_actions)).reshape(STEPS * LANES, -1) / 0.5
        own = np.asarray(STUDENT.policy(game)(held, observations.astype(np.float32)), np.float64)
        log_t = teacher - np.log(np.exp(teacher).sum(1, keepdims=True))
        log_s = own - np.log(np.exp(own).sum(1, keepdims=True))
        each = (np.exp(log_t) * (log_t - log_s)).sum(1)
        # Four standard errors of a minibatch of 16.
        assert told["game_kl"][game] == pytest.approx(each.mean(), abs=each.std())


def test_a_penalty_pulls_every_old_weight_towards_what_it_was(stored: tuple[Any, ...]) -> None:
    """The first step of Adam is the learning rate, whatever the gradient; where that is the penalty's, it decides."""
    way = adding(weight=1e6)
    own = learner(way)
    begun = own.init(jax.random.key(0))
    before = jax.tree.map(np.array, DEVICES.first(begun.variables)["params"])
    signs = jax.tree.map(lambda leaf: np.sign(leaf), random_like(before, 3))
    weights = DEVICES.replicate(jax.tree.map(lambda leaf, sign: leaf + 0.5 * sign, before, signs))
    state, _ = own.update_from_replay(
        dataclasses.replace(begun, anchor=dataclasses.replace(begun.anchor, weights=weights)),
        (None, None, stored[2]),
        1,
    )
    after = DEVICES.first(state.variables)["params"]

    def check(now: np.ndarray, then: np.ndarray, sign: np.ndarray, old: np.ndarray) -> None:
        is_old = np.broadcast_to(old, then.shape)
        np.testing.assert_allclose((now - then)[is_old], 0.01 * sign[is_old], rtol=1e-3)

    jax.tree.map(check, after, before, signs, way.old)


def test_the_head_alone_learns_and_all_else_keeps_its_bits(stored: tuple[Any, ...]) -> None:
    way = adding(head_alone=True, penalty="none")
    own = learner(way, optimizer="muon", max_grad_norm=0.5, average_decay=0.7)
    begun = own.init(jax.random.key(0))
    # Frozen numbers that arithmetic would not leave as they are.
    begun.variables["params"]["torso"]["fc1"]["bias"] = -0.0 * begun.variables["params"]["torso"]["fc1"]["bias"]
    begun = begun.starting_from(begun.variables)
    before = jax.tree.map(np.array, DEVICES.first(begun.variables))
    state, _ = own.update_from_replay(begun, stored, 5)
    after, average = (jax.tree.map(np.array, DEVICES.first(tree)) for tree in (state.variables, state.average))

    def check(a: np.ndarray, b: np.ndarray, old: np.ndarray) -> None:
        is_old = np.broadcast_to(old, a.shape)
        assert a[is_old].tobytes() == b[is_old].tobytes() and np.isfinite(b).all()

    jax.tree.map(check, before["params"], after["params"], way.old)
    jax.tree.map(check, before["params"], average["params"], way.old)
    assert (before["params"]["head"]["output2"]["kernel"] != after["params"]["head"]["output2"]["kernel"]).any()
    assert (before["params"]["head"]["fc2"]["kernel"][2] != after["params"]["head"]["fc2"]["kernel"][2]).any()


def test_old_and_new_games_share_the_loss_whatever_their_number(stored: tuple[Any, ...]) -> None:
    way = adding(replays=True, penalty="none", new_share=0.8)
    assert float(way.weigh_games(jnp.array([1.0, 3.0, 7.0]), (0, 1, 2))) == pytest.approx(0.8 * 7 + 0.2 * 2)
    # Where only one side is left, it is all of it.
    assert float(way.weigh_games(jnp.array([1.0, 3.0, 7.0]), (0, 1))) == pytest.approx(2.0)
    # Equal shares for all three are the ordinary update.
    equal, _ = trained(learner(dataclasses.replace(way, new_share=1 / 3)), stored)
    plain, _ = trained(learner(None), stored)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), equal, plain)


@given(old=st.integers(1, 4), new=st.integers(1, 3), share=st.sampled_from([0.01, 0.25, 1 / 3, 0.5, 0.6, 0.8, 0.99]))
def test_turns_are_shared_exactly_and_spread(old: int, new: int, share: float) -> None:
    way = adding(replays=True, penalty="none", new=tuple(range(old, old + new)), num_games=old + new, new_share=share)
    turns = way.turns(range(old + new))
    counts = Counter(turns)
    # Hundredths are what shares are rounded to.
    assert sum(counts[game] for game in way.new) / len(turns) == pytest.approx(share, abs=0.005)
    assert len({counts[game] for game in range(old)}) == len({counts[game] for game in way.new}) == 1
    taken = np.cumsum([turn in way.new for turn in turns])
    assert np.abs(taken - share * np.arange(1, len(turns) + 1)).max() <= 1.0 + 0.005 * len(turns)


def test_games_take_turns_by_their_share(stored: tuple[Any, ...]) -> None:
    way = adding(replays=True, penalty="none", new_share=0.5)
    assert way.turns((0, 1, 2)) == (0, 2, 1, 2)
    own = learner(way, games="alternating")
    state, seen = own.init(jax.random.key(0)), []
    for _ in range(5):
        state, metrics = own.update_from_replay(state, stored, 1)
        seen.append(np.flatnonzero(np.isfinite(DEVICES.fetch_first(metrics)["game_loss"])).tolist())
    assert seen == [[0], [2], [1], [2], [0]]
