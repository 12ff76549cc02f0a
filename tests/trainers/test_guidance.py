"""A teacher that guides PQN: its schedules, the scale that outputs get, what is learnt."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_jax import teachers
from pd_jax.actors.rollout import FinishedEpisodes
from pd_jax.config.algorithms import PQNConfig
from pd_jax.config.guidance import GuidanceConfig, GuidanceLossConfig, value_at
from pd_jax.config.train_teacher import TrainTeacherConfig
from pd_jax.environments.tasks import get_task
from pd_jax.evaluation.scores import Score
from pd_jax.networks.registry import make_network
from pd_jax.networks.student import Student
from pd_jax.report.guidance import errors_above, result_note
from pd_jax.teachers import Teacher
from pd_jax.trainers import guidance, pqn
from pd_jax.trainers.guided_pqn import GuidedPQN, last_returns, piecewise_linear, return_ratio
from pd_jax.trainers.opening import Calibration, OpeningPlay, calibrate, find_temperature, with_outputs
from support.commands import (
    write_teacher,
)
from support.environments import CountingEnvironment

LEARNING = PQNConfig(total_steps=4096, num_lanes=4, rollout_length=16, minibatches=4, epochs=1)


# Schedules.


@settings(max_examples=50, deadline=None)
@given(
    values=st.lists(st.integers(0, 1000), min_size=1, max_size=6),
    places=st.lists(st.integers(0, 1000), min_size=6, max_size=6, unique=True),
    progress=st.integers(0, 1000),
)
def test_a_schedule_is_straight_between_its_points_and_flat_beyond_them(
    values: list[int], places: list[int], progress: int
) -> None:
    rising = sorted(places[: len(values)])
    texts = tuple(f"{place / 1000}:{value / 100}" for place, value in zip(rising, values, strict=True))
    points = GuidanceConfig(reward_weight=texts).points("reward_weight")
    expected = np.interp(progress / 1000, [place / 1000 for place in rising], [value / 100 for value in values])
    assert value_at(points, progress / 1000) == pytest.approx(expected, abs=1e-9)
    assert piecewise_linear(points, jnp.float32(progress / 1000)) == pytest.approx(expected, abs=2e-2, rel=1e-3)


def test_a_single_number_is_a_constant_and_what_is_not_given_follows_from_the_fade() -> None:
    assert GuidanceConfig(reward_weight="0.5").points("reward_weight") == ((0.0, 0.5),)
    fading = ((0.0, 3.0), (0.1, 0.3), (0.5, 0.1), (1.0, 0.0))
    assert GuidanceConfig().settled.points("distillation_weight") == fading
    assert GuidanceConfig(fade="return_ratio").settled.points("distillation_weight") == ((0.0, 10.0),)
    assert GuidanceConfig(distillation_weight="0:2").settled.distillation_weight == ("0:2",)


def test_the_last_returns_are_those_of_the_games_that_ended_last() -> None:
    rng = np.random.default_rng(0)
    returns, count, expected = jnp.zeros(4), jnp.int32(0), []
    for _ in range(30):
        mask, values = rng.random((3, 2)) < 0.3, rng.normal(size=(3, 2)).astype(np.float32)
        finished = FinishedEpisodes(jnp.array(mask), jnp.array(values), jnp.zeros((3, 2), jnp.int32))
        returns, count = last_returns(returns, count, finished)
        expected = [*expected, *values[mask]][-4:]
        assert int(count) == len(expected)
        np.testing.assert_array_equal(returns, [0.0] * (4 - len(expected)) + expected)


def test_the_return_ratio_is_above_random_play_and_stays_in_bounds() -> None:
    # Of Pong, where plain quotients of returns would say that -20 is four times as good as -5.
    for own, expected in ((-20.7, 0.0), (-30.0, 0.0), (-12.85, 0.5), (-5.0, 1.0), (15.0, 1.0)):
        ratio = return_ratio(jnp.float32(own), jnp.float32(-5.0), -20.7)
        assert float(ratio) == pytest.approx(expected, abs=1e-6)


# The scale of a student's outputs.


def opening(outputs: np.ndarray, teacher_q: np.ndarray, rewards: np.ndarray, **changes: Any) -> OpeningPlay:
    """Play of one lane that never ends, in which the best action of ``outputs`` ``[T, A]`` is played."""
    best = outputs.max(axis=-1)[:, None]
    play = OpeningPlay(
        outputs=outputs[:, None],
        teacher_q=teacher_q[:, None],
        chosen=best,
        next_value=np.concatenate([best[1:], best[-1:]]),
        rewards=rewards[:, None],
        terminated=np.zeros_like(best, bool),
        is_last=np.zeros_like(best, bool),
        weight=np.ones_like(best),
    )
    return dataclasses.replace(play, **changes)


@pytest.mark.parametrize("temperature", [2.0**-7, 0.01, 3.0])
def test_the_scale_is_that_of_the_teachers_gaps_whatever_the_students_states_are_worth(temperature: float) -> None:
    rng = np.random.default_rng(1)
    teacher_q = rng.normal(size=(200, 4)).astype(np.float32)
    # Of a policy's logits a constant of each state is free, here a large one.
    logits = teacher_q / temperature + rng.normal(scale=50, size=(200, 1)).astype(np.float32)
    found = calibrate(opening(logits, teacher_q, np.zeros(200, np.float32)), 0.99, gives_logits=False, scale=None)
    assert found.scale == 2.0 ** round(math.log2(temperature))
    asked = calibrate(opening(logits, teacher_q, np.zeros(200, np.float32)), 0.99, gives_logits=False, scale=0.3)
    assert asked.scale == 0.3


def test_the_offset_makes_what_is_played_worth_the_rewards_that_follow() -> None:
    # A reward of 1 at every step, for ever, is worth 1 / (1 - 0.9) = 10, whatever the logits said.
    outputs = np.tile(np.array([[3.0, 5.0]], np.float32), (64, 1))
    found = calibrate(opening(outputs, outputs, np.ones(64, np.float32)), 0.9, gives_logits=True, scale=0.01)
    assert found.scale * 5.0 + found.offset == pytest.approx(10.0, rel=1e-3)
    # Games of two steps that pay 1 each: 1.9 and 1 in turn.
    ends = np.arange(64)[:, None] % 2 == 1
    play = opening(outputs, outputs, np.ones(64, np.float32), terminated=ends, is_last=ends)
    found = calibrate(play, 0.9, gives_logits=True, scale=0.01)
    assert found.scale * 5.0 + found.offset == pytest.approx((1.9 + 1.0) / 2, rel=1e-3)


@pytest.mark.parametrize("outputs", [np.zeros((8, 3), np.float32), np.full((8, 3), 7.0, np.float32)])
def test_outputs_without_gaps_have_a_scale_all_the_same(outputs: np.ndarray) -> None:
    found = calibrate(opening(outputs, outputs, np.zeros(8, np.float32)), 0.99, gives_logits=False, scale=None)
    assert found.scale == 2.0**-7 and math.isfinite(found.offset)


@pytest.mark.parametrize("name", ["mlp", pytest.param("net3", marks=pytest.mark.slow)])
def test_outputs_of_another_scale_decide_as_before(name: str) -> None:
    task = get_task("cartpole" if name == "mlp" else "pong")
    network = make_network(name, task.num_actions)
    key, shape = jax.random.key(0), (64, *task.observation_shape)
    seen = jax.random.randint(key, shape, 0, 256).astype(task.observation_dtype)
    variables = network.init(key, seen)
    before = np.asarray(network.apply(variables, seen))
    after = np.asarray(network.apply(with_outputs(variables, Calibration(2.0**-6, 1.5)), seen))
    np.testing.assert_allclose(after, before / 64 + 1.5, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(after.argmax(axis=-1), before.argmax(axis=-1))


def test_a_temperature_is_found_at_which_the_teacher_has_the_entropy_that_is_asked_for() -> None:
    teacher_q = np.random.default_rng(2).normal(size=(500, 5))
    play = opening(teacher_q.astype(np.float32), teacher_q.astype(np.float32), np.zeros(500, np.float32))
    logits = teacher_q / find_temperature(play, 0.3)
    probs = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probs /= probs.sum(axis=-1, keepdims=True)
    entropy = -(probs * np.log(np.maximum(probs, 1e-300))).sum(axis=-1).mean()
    assert entropy / math.log(5) == pytest.approx(0.3, abs=1e-3)


# What is learnt.


def make_guided(tmp_path: Path, config: GuidanceConfig, **metadata: Any) -> tuple[GuidedPQN, Any]:
    """The algorithm on CartPole, and its network."""
    file = write_teacher(tmp_path / "teacher.safetensors", "cartpole", **metadata)
    network = make_network("mlp", 2, hidden_sizes=(6,))
    return GuidedPQN(teachers.load(file), config, Student(network, (get_task("cartpole"),))), network


def play_some(
    algorithm: Any, network: Any, iterations: int, learning: PQNConfig = LEARNING
) -> tuple[Any, list[dict[str, Any]]]:
    """The state after some iterations, and the metrics of each."""
    environment: Any = CountingEnvironment()
    key, metrics = jax.random.key(3), []
    state = algorithm.init(network, jnp.zeros((1, 4)), learning, key)
    lanes, iterate = (
        algorithm.start(environment, learning, key),
        algorithm.make_iteration(network, environment, learning),
    )
    for _ in range(iterations):
        state, lanes, values = iterate(state, lanes)
        metrics.append(jax.device_get(values))
    return state, metrics


def test_a_teacher_that_counts_for_nothing_leaves_q_learning_as_it_is(tmp_path: Path) -> None:
    guided, network = make_guided(tmp_path, GuidanceConfig(teacher="x", distillation_weight="0:0"))
    state, (*_, metrics) = play_some(guided, network, 3)
    alone, (*_, expected) = play_some(pqn, network, 3)
    jax.tree.map(np.testing.assert_array_equal, state.variables, alone.variables)
    assert float(metrics["loss"]) == float(expected["loss"])
    assert (metrics["reward_weight"], metrics["distillation_weight"], metrics["teacher_share"]) == (1, 0, 0)


def test_a_teacher_that_teaches_nothing_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    student = Student(make_network("mlp", 2, hidden_sizes=(6,)), (get_task("cartpole"),))

    def warned(**schedules: Any) -> str:
        own = GuidanceConfig(teacher="cartpole", **schedules)
        guidance.make_guided(TrainTeacherConfig(game="cartpole", network="mlp", out="x", guidance=own), student)
        return capsys.readouterr().err

    assert "guidance.distillation_weight: is 0 throughout, and guidance.teacher_share too" in warned(
        distillation_weight="0"
    )
    # One that acts shows something.
    assert warned(distillation_weight="0", teacher_share="0:0.5") == warned() == ""


def test_the_coefficients_follow_the_training(tmp_path: Path) -> None:
    schedules = {"reward_weight": ("0:0.25", "1:1"), "distillation_weight": ("0:2", "0.5:0"), "teacher_share": "0:0.5"}
    guided, network = make_guided(tmp_path, GuidanceConfig(teacher="x", **schedules))
    state = guided.init(network, jnp.zeros((1, 4)), LEARNING, jax.random.key(0))
    for steps, (reward, weight) in {0: (0.25, 2.0), 1024: (0.4375, 1.0), 2048: (0.625, 0.0), 9000: (1.0, 0.0)}.items():
        there = dataclasses.replace(state, pqn=dataclasses.replace(state.pqn, env_steps=jnp.int32(steps)))
        found = guided.coefficients(there, LEARNING)
        assert float(found["reward_weight"]) == pytest.approx(reward)
        assert float(found["distillation_weight"]) == pytest.approx(weight)
        assert float(found["teacher_share"]) == 0.5


def test_the_distillation_fades_as_returns_come_up_to_the_teachers(tmp_path: Path) -> None:
    guided, network = make_guided(tmp_path, GuidanceConfig(teacher="x", fade="return_ratio"))
    state = guided.init(network, jnp.zeros((1, 4)), LEARNING, jax.random.key(0))
    random = guided.random_return
    assert random > 0, "CartPole's is known"
    state = dataclasses.replace(state, teacher_return=jnp.float32(random + 100), start_return=jnp.float32(random + 20))
    for count, own, expected in ((0, 0.0, 0.8), (9, random + 90, 0.8), (10, random + 90, 0.1), (32, random + 150, 0.0)):
        returns = np.zeros(32, np.float32)
        returns[32 - count :] = own
        there = dataclasses.replace(state, returns=jnp.array(returns), num_returns=jnp.int32(count))
        found = guided.coefficients(there, LEARNING)
        assert float(found["distillation_weight"]) == pytest.approx(10 * expected, abs=1e-3)
        assert float(found["return_ratio"]) == pytest.approx(1 - expected, abs=1e-4)


@pytest.mark.parametrize(
    ("loss", "output"),
    [
        (GuidanceLossConfig(), "q"),
        (GuidanceLossConfig(temperature=0.5), "logits"),
        (GuidanceLossConfig(kind="mse"), "q"),
    ],
    ids=["kl", "kl of logits", "mse"],
)
def test_an_update_is_down_the_gradient_of_both_losses(tmp_path: Path, loss: GuidanceLossConfig, output: str) -> None:
    config = GuidanceConfig(teacher="x", loss=loss, reward_weight="0:0.7", distillation_weight="0:0.4")
    guided, network = make_guided(tmp_path, config, output=output)
    learning = dataclasses.replace(LEARNING, minibatches=1)
    rng = np.random.default_rng(4)
    shape = (learning.rollout_length, learning.num_lanes)
    transitions = pqn.Transitions(
        observations=jnp.array(rng.normal(size=(*shape, 4)), jnp.float32),
        actions=jnp.array(rng.integers(0, 2, shape), jnp.int32),
        rewards=jnp.array(rng.normal(size=shape), jnp.float32),
        next_value=jnp.array(rng.normal(size=shape), jnp.float32),
        terminated=jnp.zeros(shape, bool),
        is_last=jnp.zeros(shape, bool),
        weight=jnp.array(rng.random(shape) < 0.8, jnp.float32),
    )
    state = guided.init(network, jnp.zeros((1, 4)), learning, jax.random.key(0))
    values = guided.coefficients(state, learning)
    learn = jax.jit(lambda *arrays: guided._learn(network.apply, *arrays, learning))
    learnt, _ = learn(state, transitions, values, guided.teacher.variables)

    targets = pqn.labelled(transitions, learning).targets
    seen, weight = transitions.observations.reshape(-1, 4), transitions.weight.reshape(-1)
    teacher_q, actions = guided.teacher(seen), transitions.actions.reshape(-1)
    tau = {"q": 0.01, "logits": 0.5}[output]
    own = 0.01

    def both(variables: Any) -> Any:
        q = network.apply(variables, seen)
        regression = 0.5 * (weight * (q[jnp.arange(len(q)), actions] - targets) ** 2).sum() / weight.sum()
        if loss.kind == "mse":
            each = ((q - teacher_q) ** 2).sum(axis=-1)
        else:
            log_p, log_pi = jax.nn.log_softmax(teacher_q / tau), jax.nn.log_softmax(q / own)
            each = own * (jnp.exp(log_p) * (log_p - log_pi)).sum(axis=-1)
        return 0.7 * regression + 0.4 * (weight * each).sum() / weight.sum()

    optimizer = pqn.make_optimizer(learning)

    @jax.jit
    def updated(variables: Any) -> Any:
        updates, _ = optimizer.update(jax.grad(both)(variables), optimizer.init(variables), variables)
        return optax.apply_updates(variables, updates)

    expected = updated(state.variables)
    moved = jax.tree.map(lambda new, old: np.abs(new - old).max(), expected, state.variables)
    assert min(jax.tree.leaves(moved)) > 1e-6
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), learnt.variables, expected)


def test_a_learner_without_rewards_becomes_its_teacher(tmp_path: Path) -> None:
    config = GuidanceConfig(teacher="x", reward_weight=("0:0", "1:0.1"), distillation_weight="0:1", teacher_share="0:1")
    guided, network = make_guided(tmp_path, config)
    _, (first, *_, last) = play_some(guided, network, 60, dataclasses.replace(LEARNING, learning_rate=1e-2))
    assert float(last["distillation_loss"]) < 0.2 * float(first["distillation_loss"])
    assert float(last["agreement"]) == 1.0 and bool(last["teacher_is_sound"])


def test_a_teacher_of_nan_is_noticed(tmp_path: Path) -> None:
    guided, network = make_guided(tmp_path, GuidanceConfig(teacher="x", distillation_weight="0:0"))
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, guided.teacher.variables["params"])
    teacher = Teacher(guided.teacher.metadata, broken, "broken", "0" * 64)
    _, (metrics,) = play_some(GuidedPQN(teacher, guided.config, guided.student), network, 1)
    assert not metrics["teacher_is_sound"]


# What is told.


@pytest.mark.parametrize(
    ("mean", "text"),
    [
        (13.0, "overtakes its teacher by 6.0 standard errors"),
        (10.5, "does not overtake its teacher for sure: 1.0 standard errors above"),
        (9.5, "does not overtake its teacher for sure: 1.0 standard errors below"),
        (5.0, "is below its teacher by 10.0 standard errors"),
    ],
)
def test_only_what_is_sure_is_called_overtaking(mean: float, text: str) -> None:
    # Of a difference of two means the standard error is the root of the sum of squares: 0.3, 0.4 and 0.5.
    score, teacher = Score(mean, 0.3, None, None, 30), Score(10.0, 0.4, None, None, 30)
    told = {"teacher_score": 10.0, "standard_errors_above_teacher": errors_above(score, teacher)}
    assert result_note(told, score) == text
    assert errors_above(score, Score(10.0, None, None, None, 1)) is None
