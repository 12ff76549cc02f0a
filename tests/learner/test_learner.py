"""Updates of a student of one game on one device; several are in test_learner_games and test_distributed."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from pd_jax.config.sections import LearnerConfig, StudentConfig
from pd_jax.environments.tasks import get_task
from pd_jax.learner.gradients import gradient_parts
from pd_jax.learner.learner import Learner
from pd_jax.learner.rule import LearnerState, init_state, make_optimizer
from pd_jax.losses import kl_loss, mse_loss
from pd_jax.networks import partition
from pd_jax.networks.registry import make_network
from pd_jax.networks.student import Student, make_student
from pd_jax.replay import rings
from pd_jax.system.devices import AXIS, DeviceGroup
from pd_jax.types import Batch, Trajectory
from support.commands import no_compilation
from support.platforms import GroupOfTpus

ONE = DeviceGroup.local(1)
FEATURES, ACTIONS = 5, 3
TOTAL_UPDATES = 10
TASK = dataclasses.replace(get_task("cartpole"), observation_shape=(FEATURES,), num_actions=ACTIONS)


class Linear(nn.Module):
    """``x @ kernel``: its gradients can be written down by hand."""

    @nn.compact
    def __call__(self, observations: jax.Array) -> jax.Array:
        return nn.Dense(ACTIONS, use_bias=False, name="output")(observations)


LINEAR = Student(Linear(), (TASK,))


def minibatch(size: int, seed: int) -> Batch:
    """Without the game axis."""
    rng = np.random.default_rng(seed)
    return Batch(
        observations=jnp.asarray(rng.standard_normal((size, FEATURES)), jnp.float32),
        teacher_q=jnp.asarray(rng.standard_normal((size, ACTIONS)), jnp.float32),
    )


def mse_gradient(kernel: np.ndarray, batch: Batch) -> np.ndarray:
    """Of the mean over examples of ``||x @ kernel - q||^2``."""
    x, q = np.asarray(batch.observations, np.float64), np.asarray(batch.teacher_q, np.float64)
    return 2.0 / len(x) * x.T @ (x @ kernel - q)


def kernel_of(state: LearnerState) -> np.ndarray:
    return np.asarray(state.variables["params"]["output"]["kernel"][0], np.float64)


def updates(config: LearnerConfig, count: int) -> tuple[list[np.ndarray], list[dict[str, float]]]:
    """Kernels before and after each of ``count`` updates of `Linear` under MSE, and the metrics."""
    learner = Learner(LINEAR, mse_loss, config, ONE, total_updates=TOTAL_UPDATES)
    state = learner.init(jax.random.key(0))
    kernels, metrics = [kernel_of(state)], []
    for index in range(count):
        batch = jax.tree.map(lambda leaf: leaf[None], minibatch(config.batch_size, index))
        state, values = learner.update(state, ONE.split(batch, axis=1))
        kernels.append(kernel_of(state))
        metrics.append({name: float(value[0].squeeze()) for name, value in values.items()})
    assert state.updates.tolist() == [count]
    return kernels, metrics


def test_rmsprop_updates_equal_the_formula_in_numpy():
    config = LearnerConfig(batch_size=8, learning_rate=3e-3, rmsprop_decay=0.9, rmsprop_epsilon=1e-4)
    kernels, metrics = updates(config, 4)
    expected, mean_square = kernels[0], np.zeros_like(kernels[0])
    for index in range(4):
        batch = minibatch(8, index)
        logits = batch.observations @ expected
        gradient = mse_gradient(expected, batch)
        assert metrics[index]["loss"] == pytest.approx(float(((logits - batch.teacher_q) ** 2).sum(1).mean()), rel=1e-5)
        assert metrics[index]["grad_norm"] == pytest.approx(np.linalg.norm(gradient), rel=1e-5)
        assert metrics[index]["agreement"] == np.mean(logits.argmax(1) == batch.teacher_q.argmax(1))
        # The one game's are those of the update.
        for name in ("loss", "agreement"):
            assert metrics[index][f"game_{name}"] == metrics[index][name]
        mean_square = 0.9 * mean_square + 0.1 * gradient**2
        expected = expected - 3e-3 * gradient / np.sqrt(mean_square + 1e-4)
        np.testing.assert_allclose(kernels[index + 1], expected, atol=1e-6)


def test_a_decaying_learning_rate_falls_linearly_to_0_over_all_updates():
    config = LearnerConfig(batch_size=8, learning_rate=3e-3, learning_rate_decay=True, rmsprop_epsilon=1e-4)
    kernels, _ = updates(config, TOTAL_UPDATES + 1)
    expected, mean_square = kernels[0], np.zeros_like(kernels[0])
    for index in range(TOTAL_UPDATES):
        gradient = mse_gradient(expected, minibatch(8, index))
        mean_square = 0.95 * mean_square + 0.05 * gradient**2
        expected = expected - 3e-3 * (1 - index / TOTAL_UPDATES) * gradient / np.sqrt(mean_square + 1e-4)
        np.testing.assert_allclose(kernels[index + 1], expected, atol=1e-6)
    np.testing.assert_array_equal(kernels[TOTAL_UPDATES + 1], kernels[TOTAL_UPDATES])


def test_adam_updates_equal_the_formula_in_numpy():
    kernels, _ = updates(LearnerConfig(batch_size=8, optimizer="adam", learning_rate=1e-2), 3)
    expected, mean, mean_square = kernels[0], 0.0, 0.0
    for index in range(3):
        gradient = mse_gradient(expected, minibatch(8, index))
        mean, mean_square = 0.9 * mean + 0.1 * gradient, 0.999 * mean_square + 0.001 * gradient**2
        unbiased = mean / (1 - 0.9 ** (index + 1)), mean_square / (1 - 0.999 ** (index + 1))
        expected = expected - 1e-2 * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
        np.testing.assert_allclose(kernels[index + 1], expected, atol=1e-6)


def test_muon_steps_along_the_orthogonal_factor_of_each_layers_gradient_and_adam_for_biases():
    student = make_student(StudentConfig(network="net3"), [get_task("pong")])
    config = LearnerConfig(batch_size=4, optimizer="muon", learning_rate=1e-2)
    learner = Learner(student, mse_loss, config, ONE, total_updates=TOTAL_UPDATES)
    state = learner.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (1, 4, 84, 84, 4)).astype(np.uint8)
    batch = Batch(jnp.asarray(frames), jnp.asarray(rng.standard_normal((1, 4, 6)), jnp.float32))
    before = jax.tree.map(np.asarray, ONE.first(state.variables))

    def mean_loss(variables: Any) -> jax.Array:
        return mse_loss(student.apply(variables, batch.observations), batch.teacher_q).mean()

    gradients = jax.jit(jax.grad(mean_loss))(before)
    state, _ = learner.update(state, ONE.split(batch, axis=1))
    changes = jax.tree.map(lambda new, old: np.asarray(new, np.float64) - old, ONE.first(state.variables), before)
    for change, gradient in zip(jax.tree.leaves(changes), jax.tree.leaves(gradients), strict=True):
        if gradient.ndim == 1:
            # Adam's first step with Nesterov's momentum.
            step = -1e-2 * (0.9 * 0.1 / (1 - 0.9**2) + 1.0)
            np.testing.assert_allclose(change, step * np.sign(gradient), rtol=0.02)
            continue
        left, sizes, right = np.linalg.svd(
            np.asarray(gradient, np.float64).reshape(-1, gradient.shape[-1]), full_matrices=False
        )
        is_clear = sizes > 1e-2 * sizes[0]
        assert is_clear.sum() >= 4
        inputs, outputs = left.shape[0], right.shape[1]
        step = change.reshape(inputs, outputs) / (-1e-2 * max(1.0, outputs / inputs) ** 0.5)
        # A few steps of Newton and Schulz bring the sizes near to 1, whatever they were, and turn little.
        along = np.diag(left.T @ step @ right.T)[is_clear]
        assert along.mean() == pytest.approx(0.9, abs=0.25)
        assert along.sum() / np.linalg.norm(step) / np.sqrt(is_clear.sum()) > 0.85
        assert np.linalg.svd(step, compute_uv=False).max() < 1.4


def test_gradients_are_scaled_down_to_the_bound_on_their_norm_and_reported_whole():
    # A large epsilon makes RMSProp proportional to the gradient: the bound can be read off the step.
    config = LearnerConfig(batch_size=8, learning_rate=1.0, rmsprop_epsilon=1e6, max_grad_norm=0.01)
    kernels, metrics = updates(config, 1)
    norm = np.linalg.norm(mse_gradient(kernels[0], minibatch(8, 0)))
    assert metrics[0]["grad_norm"] == pytest.approx(norm, rel=1e-5) and norm > 0.1
    # In float64 of float32 parameters near 1: the step of 1e-5 is known to about 1 %.
    assert np.linalg.norm(kernels[1] - kernels[0]) == pytest.approx(0.01 / 1e3, rel=0.02)
    loose = dataclasses.replace(config, max_grad_norm=100.0)
    kernels, _ = updates(loose, 1)
    assert np.linalg.norm(kernels[1] - kernels[0]) == pytest.approx(norm / 1e3, rel=0.02)


@pytest.mark.parametrize("parts", [2, 8])
def test_gradients_of_parts_add_up_to_those_of_the_whole_minibatch(parts: int) -> None:
    config = LearnerConfig(batch_size=8, learning_rate=3e-3, rmsprop_epsilon=1e-4, max_grad_norm=0.5)
    whole, whole_metrics = updates(config, 4)
    kernels, metrics = updates(dataclasses.replace(config, accumulate=parts), 4)
    assert np.abs(whole[4] - whole[0]).max() > 1e-3
    np.testing.assert_allclose(kernels, whole, atol=1e-6)
    for index in range(4):
        assert metrics[index] == pytest.approx(whole_metrics[index], rel=1e-5)
    # The norm is of the sum, not a sum of norms.
    norm = np.linalg.norm(mse_gradient(kernels[0], minibatch(8, 0)))
    assert metrics[0]["grad_norm"] == pytest.approx(norm, rel=1e-5)


def test_parts_of_a_minibatch_are_gone_through_one_after_another() -> None:
    """Eight times as many parts take much less memory; that is what they are for."""
    student = Student(make_network("net3", 6), (get_task("pong"),))
    batch = Batch(jnp.zeros((1, 1, 64, 84, 84, 4), jnp.uint8), jnp.zeros((1, 1, 64, 6)))

    def temporary_bytes(parts: int) -> int:
        config = LearnerConfig(batch_size=64, accumulate=parts)
        learner = Learner(student, mse_loss, config, ONE, total_updates=TOTAL_UPDATES)
        state = learner.init(jax.random.key(0))
        return int(learner._update.lower(state, batch).compile().memory_analysis().temp_size_in_bytes)

    assert temporary_bytes(8) < temporary_bytes(1) / 3


def test_parts_that_are_asked_for_are_divided_further_where_that_suits_the_devices() -> None:
    student = Student(make_network("net3", 6), (get_task("pong"),))
    config = LearnerConfig(batch_size=1_024, accumulate=2)
    assert gradient_parts(student, config, ONE) == 16
    tpus = GroupOfTpus(ONE.devices)
    assert gradient_parts(student, config, tpus) == 2
    assert Learner(student, mse_loss, config, tpus, total_updates=TOTAL_UPDATES).rule.gradient_parts == 2


@pytest.mark.parametrize("from_replay", [False, True])
def test_updates_are_compiled_for_the_platform_of_their_devices(from_replay: bool) -> None:
    """One process compiles for two platforms, whatever its own is; no trace of one gets into the other's program."""
    student = Student(make_network("net3", 6, channels=(4, 4, 4), hidden=8), (get_task("pong"),))
    config = LearnerConfig(batch_size=128)
    convolutions = []
    for devices in (ONE, GroupOfTpus(ONE.devices), ONE):
        learner = Learner(student, mse_loss, config, devices, total_updates=TOTAL_UPDATES)
        state = jax.eval_shape(learner.init, jax.random.key(0))
        if from_replay:
            stored = jax.eval_shape(lambda: jax.tree.map(lambda x: x[None], rings.init(4, 8, (84, 84), jnp.uint8, 6)))
            program = learner._many(2, None).lower(state, (stored,))
        else:
            batch = Batch(jnp.zeros((1, 1, 128, 84, 84, 4), jnp.uint8), jnp.zeros((1, 1, 128, 6)))
            program = learner._update.lower(state, batch)
        convolutions.append(program.as_text().count("stablehlo.convolution"))
    # Forwards three, and backwards one to each kernel and to each layer that another is before.
    assert convolutions == [0, 8, 0]


def test_parts_taken_unasked_add_up_to_the_whole_minibatch(monkeypatch: pytest.MonkeyPatch) -> None:
    network = make_network("net3", 6, channels=(2, 3, 2), hidden=8)
    learner_of = functools.partial(
        Learner, Student(network, (get_task("pong"),)), mse_loss, LearnerConfig(batch_size=6), ONE
    )
    generator = np.random.default_rng(0)
    batch = Batch(
        generator.integers(0, 256, (1, 1, 6, 84, 84, 4), dtype=np.uint8),
        generator.normal(size=(1, 1, 6, 6)).astype(np.float32),
    )
    results = []
    for parts in (2, 1):
        monkeypatch.setattr(partition, "gradient_parts", lambda *_, parts=parts, **__: parts)
        learner = learner_of(total_updates=TOTAL_UPDATES)
        results.append(learner.update(learner.init(jax.random.key(0)), batch))
    (state, metrics), (whole, whole_metrics) = results
    chex.assert_trees_all_close(state.variables, whole.variables, atol=1e-6)
    chex.assert_trees_all_close(metrics, whole_metrics, rtol=1e-4)


def test_bfloat16_is_for_activations_and_the_student_learns_in_float32() -> None:
    student = make_student(StudentConfig(network="mlp", mlp_hidden=(16,), compute_dtype="bfloat16"), [TASK])
    config = LearnerConfig(batch_size=8, optimizer="adam", learning_rate=1e-6)
    learner = Learner(student, mse_loss, config, ONE, total_updates=TOTAL_UPDATES)
    state = learner.init(jax.random.key(0))
    batch = jax.tree.map(lambda leaf: leaf[None, None], minibatch(8, 0))
    assert "bf16" in learner._update.lower(state, batch).as_text()
    outputs = np.asarray(student.apply(ONE.first(state.variables), batch.observations[0])[0], np.float64)
    before = numbers(state)
    state, metrics = learner.update(state, batch)
    for leaf in jax.tree.leaves((state.variables, state.optimizer_state)):
        assert leaf.dtype in (jnp.float32, jnp.int32)
    # The loss is a float32 number of these very outputs; bfloat16 has two and a half digits.
    expected = ((outputs - np.asarray(batch.teacher_q[0, 0], np.float64)) ** 2).sum(1).mean()
    assert metrics["loss"].dtype == jnp.float32
    assert float(metrics["loss"][0]) == pytest.approx(expected, rel=1e-6)
    for _ in range(9):
        state, _ = learner.update(state, batch)
    # Adam's steps are of the learning rate: far below what a bfloat16 weight of 0.1 could take, ten of them add up.
    moved = max(np.abs(after - first).max() for first, after in zip(before[:4], numbers(state)[:4], strict=True))
    assert moved == pytest.approx(10 * 1e-6, rel=0.05)


def test_a_batch_that_does_not_split_evenly_is_refused():
    with pytest.raises(ValueError, match="8 examples on each device do not split into 3 parts"):
        Learner(LINEAR, mse_loss, LearnerConfig(batch_size=8, accumulate=3), ONE, total_updates=TOTAL_UPDATES)
    three = dataclasses.replace(ONE, devices=ONE.devices * 3)
    with pytest.raises(ValueError, match="batch_size 8 does not split evenly over 3 devices"):
        Learner(LINEAR, mse_loss, LearnerConfig(batch_size=8), three, total_updates=TOTAL_UPDATES)


def filled_replay(teacher: Any) -> tuple[rings.ReplayState]:
    """Of the one game: random observations labelled by ``teacher``, with a device axis."""
    observations = jax.random.normal(jax.random.key(7), (64, 4, FEATURES))
    trajectory = Trajectory(
        observations=observations,
        is_first=jnp.zeros((64, 4), bool),
        is_decision=jnp.ones((64, 4), bool),
        actions=jnp.zeros((64, 4), jnp.int32),
        rewards=jnp.zeros((64, 4)),
        teacher_q=teacher(observations),
    )
    empty = ONE.replicate(rings.init(4, 64, (FEATURES,), jnp.float32, ACTIONS))
    return (ONE.map(rings.insert, donate=(0,))(empty, ONE.split(trajectory, axis=1)),)


@pytest.fixture(scope="module")
def stored() -> tuple[rings.ReplayState]:
    matrix = jax.random.normal(jax.random.key(8), (FEATURES, ACTIONS))
    return filled_replay(lambda observations: observations @ matrix)


def loss_at_one(logits: jax.Array, q: jax.Array) -> jax.Array:
    return kl_loss(logits, q, temperature=1.0)


def make_learner(learning_rate: float = 1e-2) -> tuple[Learner, LearnerState]:
    network = make_network("mlp", ACTIONS, hidden_sizes=(16,))
    config = LearnerConfig(batch_size=32, optimizer="adam", learning_rate=learning_rate)
    learner = Learner(Student(network, (TASK,)), loss_at_one, config, ONE, total_updates=TOTAL_UPDATES)
    return learner, learner.init(jax.random.key(1))


def numbers(state: LearnerState) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves((state.variables, state.optimizer_state, state.updates))]


def test_the_student_learns_what_the_replay_holds(stored):
    learner, state = make_learner()
    state, first = learner.update_from_replay(state, stored, 20)
    for _ in range(20):
        state, last = learner.update_from_replay(state, stored, 20)
    assert last["loss"][0] < 0.1 * first["loss"][0]
    assert last["agreement"][0] > 0.97 > first["agreement"][0]
    assert state.updates.tolist() == [420]


def test_runs_repeat_bit_for_bit(stored):
    def run() -> list[np.ndarray]:
        learner, state = make_learner()
        for _ in range(2):
            state, metrics = learner.update_from_replay(state, stored, 5)
        return numbers(state) + jax.tree.leaves(jax.device_get(metrics))

    for first, second in zip(run(), run(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_one_call_of_many_updates_equals_many_calls_of_one(stored):
    learner, state = make_learner()
    together, metrics = learner.update_from_replay(state, stored, 6)
    state, losses = make_learner()[1], []
    for _ in range(6):
        state, values = learner.update_from_replay(state, stored, 1)
        losses.append(float(values["loss"][0]))
    for found, expected in zip(numbers(together), numbers(state), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert len(set(losses)) == 6, "every update draws a minibatch of its own"
    assert float(metrics["loss"][0]) == pytest.approx(np.mean(losses), rel=1e-5)


def test_updates_compiled_ahead_are_not_compiled_again(stored):
    learner, state = make_learner()
    learner.compile_ahead(state, stored, 3)
    learner._compiling[3, None].result()
    with no_compilation():
        ahead, _ = learner.update_from_replay(state, stored, 3)
        learner.compile_ahead(ahead, stored, 3)
    assert not learner._compiling, "once is enough"
    other, state = make_learner()
    expected, _ = other.update_from_replay(state, stored, 3)
    for found, wanted in zip(numbers(ahead), numbers(expected), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_learners_of_equal_settings_share_what_was_compiled_and_others_do_not(stored):
    learner, state = make_learner()
    expected = numbers(learner.update_from_replay(state, stored, 4)[0])
    with no_compilation():
        equal, state = make_learner()
        equal.compile_ahead(state, stored, 4)
        found, _ = equal.update_from_replay(state, stored, 4)
    for one, other in zip(numbers(found), expected, strict=True):
        np.testing.assert_array_equal(one, other)
    slower, state = make_learner(learning_rate=1e-3)
    found, _ = slower.update_from_replay(state, stored, 4)
    assert any((one != other).any() for one, other in zip(numbers(found), expected, strict=True))


def test_what_cannot_be_compiled_ahead_is_said_by_the_first_update(stored):
    def loss(outputs: jax.Array, teacher_q: jax.Array) -> jax.Array:
        raise ArithmeticError("no such loss")

    learner = Learner(LINEAR, loss, LearnerConfig(batch_size=8), ONE, total_updates=TOTAL_UPDATES)
    state = learner.init(jax.random.key(0))
    learner.compile_ahead(state, stored, 2)
    with pytest.raises(ArithmeticError, match="no such loss"):
        learner.update_from_replay(state, stored, 2)


def test_updates_move_nothing_between_host_and_device_and_take_over_the_states_memory(stored):
    learner, state = make_learner()
    state, _ = learner.update_from_replay(state, stored, 2)
    with jax.transfer_guard("disallow"):
        later, metrics = learner.update_from_replay(state, stored, 2)
        jax.block_until_ready((later, metrics))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.variables))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(stored))


def test_init_single_is_init_without_the_device_axis():
    learner, state = make_learner()
    single = learner.init_single(jax.random.key(1))
    jax.tree.map(
        lambda whole, part: np.testing.assert_array_equal(np.asarray(whole)[0], part), state.variables, single.variables
    )
    assert state.updates.shape == (1,) and single.updates.shape == ()


def test_a_start_is_compiled_in_two_parts_and_the_students_own_is_that_of_whoever_learns_it() -> None:
    learner, _ = make_learner()
    whole = jax.jit(functools.partial(init_state, learner.rule))(jax.random.key(1))
    for leaf, expected in zip(numbers(learner.init_single(jax.random.key(1))), numbers(whole), strict=True):
        np.testing.assert_array_equal(leaf, expected)
    other, _ = make_learner(learning_rate=1e-3)
    assert other._init_student is learner._init_student and other._init is not learner._init


def test_a_start_has_the_same_shapes_before_it_is_made_and_takes_the_compilers_usual_flags(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XLA_FLAGS", "")  # As users have it; what is compiled once is compiled with less effort then.
    learner, state = make_learner()
    made = jax.tree.map(lambda leaf: (leaf.shape[1:], leaf.dtype), state)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), learner.template) == made
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), learner.init_single(jax.random.key(0))) == made


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        pytest.param("net3", functools.partial(kl_loss, temperature=0.1), id="net3-kl"),
        pytest.param("net3", mse_loss, id="net3-mse", marks=pytest.mark.slow),
        pytest.param("mlp", functools.partial(kl_loss, temperature=0.1), id="mlp-kl", marks=pytest.mark.slow),
        pytest.param("mlp", mse_loss, id="mlp-mse"),
    ],
)
def test_a_student_of_one_game_learns_bit_for_bit_as_without_a_game_axis(name: str, loss: Any) -> None:
    task = get_task("pong" if name == "net3" else "cartpole")
    network = make_network(name, task.num_actions, channels=(4, 4, 4) if name == "net3" else None)
    config = LearnerConfig(batch_size=16, learning_rate=1e-3)
    learner = Learner(Student(network, (task,)), loss, config, ONE, total_updates=TOTAL_UPDATES)
    optimizer = make_optimizer(config, TOTAL_UPDATES)
    key = jax.random.key(3)
    shape = (32, 2, *task.frame_shape)
    trajectory = Trajectory(
        observations=jax.random.bits(key, shape, jnp.uint8).astype(task.observation_dtype),
        is_first=jnp.zeros((32, 2), bool).at[::8].set(True),
        is_decision=jnp.ones((32, 2), bool),
        actions=jnp.zeros((32, 2), jnp.int32),
        rewards=jnp.zeros((32, 2)),
        teacher_q=jax.random.normal(key, (32, 2, task.num_actions)),
    )
    empty = ONE.replicate(rings.init(2, 32, task.frame_shape, task.observation_dtype, task.num_actions))
    stored = ONE.map(rings.insert)(empty, ONE.split(trajectory, axis=1))

    def update(state: LearnerState, stored: rings.ReplayState) -> tuple[LearnerState, jax.Array]:
        key, sample_key = jax.random.split(state.key)
        batch = rings.sample(stored, sample_key, 16, num_groups=2)

        def mean_loss(variables: Any) -> jax.Array:
            return loss(network.apply(variables, batch.observations), batch.teacher_q).mean()

        value, gradients = jax.value_and_grad(mean_loss)(state.variables)
        gradients = jax.tree.map(lambda leaf: lax.pmean(leaf, AXIS), gradients)
        changes, optimizer_state = optimizer.update(gradients, state.optimizer_state, state.variables)
        variables = optax.apply_updates(state.variables, changes)
        return LearnerState(variables, optimizer_state, state.updates + 1, key), value

    plain = ONE.map(lambda state, stored: lax.scan(lambda s, _: update(s, stored), state, length=5))
    state = learner.init(jax.random.key(0))
    expected, losses = plain(state, stored)
    found, metrics = learner.update_from_replay(state, (stored,), 5)
    for one, other in zip(numbers(found), numbers(expected), strict=True):
        np.testing.assert_array_equal(one, other)
    assert metrics["loss"][0] == metrics["game_loss"][0, 0] == pytest.approx(float(losses.mean()), rel=1e-6)
    np.testing.assert_array_equal(jax.random.key_data(found.key), jax.random.key_data(expected.key))


def test_minibatches_of_several_games_that_are_fetched_part_by_part_are_those_that_are_fetched_whole() -> None:
    network: Any = make_network("mlp", (ACTIONS, ACTIONS), hidden_sizes=(8,), head_hidden=4)
    student, stored = Student(network, (TASK, TASK)), []
    for seed, lanes in enumerate((2, 4)):
        rng = np.random.default_rng(seed)
        trajectory = Trajectory(
            observations=rng.normal(size=(16, lanes, FEATURES)).astype(np.float32),
            is_first=np.zeros((16, lanes), bool),
            is_decision=np.arange(16)[:, None] % 5 != np.zeros(lanes),
            actions=np.zeros((16, lanes), np.int32),
            rewards=np.zeros((16, lanes), np.float32),
            teacher_q=rng.normal(size=(16, lanes, ACTIONS)).astype(np.float32),
        )
        empty = ONE.replicate(rings.init(lanes, 16, TASK.frame_shape, TASK.observation_dtype, ACTIONS))
        stored.append(ONE.map(rings.insert)(empty, ONE.split(trajectory, axis=1)))
    results = []
    for parts in (1, 4):
        config = LearnerConfig(batch_size=8, accumulate=parts)
        learner = Learner(student, mse_loss, config, ONE, total_updates=TOTAL_UPDATES)
        results.append(learner.update_from_replay(learner.init(jax.random.key(0)), tuple(stored), 3))
    (state, metrics), (in_parts, metrics_in_parts) = results
    assert metrics["game_loss"][0, 0] != metrics["game_loss"][0, 1]
    chex.assert_trees_all_close(in_parts.variables, state.variables, atol=1e-6)
    chex.assert_trees_all_close(metrics_in_parts, metrics, rtol=1e-4)
