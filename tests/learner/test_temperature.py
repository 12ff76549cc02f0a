"""Temperatures found from outputs, against float64 NumPy; and what no factor of the outputs changes."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pd_jax.config.sections import LossConfig, StudentConfig
from pd_jax.environments.tasks import get_task
from pd_jax.learner.objective import make_auto
from pd_jax.learner.rule import LearnerState
from pd_jax.learner.temperature import SAMPLES, settle, temperature_of
from pd_jax.networks.student import make_student
from pd_jax.replay import rings
from pd_jax.system.devices import AXIS, DeviceGroup
from pd_jax.types import Trajectory

find = jax.jit(temperature_of)
STATES, ACTIONS = 256, 6
ALL = np.ones((1, ACTIONS), bool)


def mean_entropy(outputs: np.ndarray, temperature: float) -> float:
    scaled = (outputs.astype(np.float64) - outputs.max(axis=1, keepdims=True)) / temperature
    log_p = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
    return float(-np.sum(np.exp(log_p) * np.where(np.exp(log_p) > 0, log_p, 0.0), axis=1).mean())


def outputs_of(seed: int, scale: float = 1.0, offset: float = 0.0) -> np.ndarray:
    """States that matter little and much: gaps over four powers of ten."""
    rng = np.random.default_rng(seed)
    spread = 10.0 ** rng.uniform(-3, 1, (STATES, 1))
    return (offset + scale * spread * rng.standard_normal((STATES, ACTIONS))).astype(np.float32)


def found(outputs: np.ndarray, target: float, mask: np.ndarray = ALL) -> tuple[float, float]:
    temperature, entropy = find(outputs[None], mask, np.float32([target]))
    return float(temperature[0]), float(entropy[0])


@given(
    seed=st.integers(0, 100),
    share=st.floats(0.001, 0.99),
    scale=st.sampled_from([1e-3, 1.0, 1e3, 1e6]),
    offset=st.sampled_from([0.0, 100.0]),
)
@settings(deadline=None, max_examples=60)
def test_the_teachers_policy_has_the_entropy_that_was_asked_for(
    seed: int, share: float, scale: float, offset: float
) -> None:
    # Beside an offset float32 makes ties of outputs that are nearly equal; no temperature takes away their entropy.
    assume(offset == 0.0 or share >= 0.01)
    outputs = outputs_of(seed, scale, offset * scale)
    target = share * np.log(ACTIONS)
    temperature, entropy = found(outputs, target)
    assert entropy == pytest.approx(target, rel=1e-4)
    assert mean_entropy(outputs, temperature) == pytest.approx(target, rel=1e-4)


@pytest.mark.parametrize("power", [-20, -10, 10, 20])
def test_outputs_times_a_power_of_two_have_that_times_the_temperature_to_the_last_bit(power: int) -> None:
    outputs, factor = outputs_of(1, offset=3.0), 2.0**power
    temperature, entropy = found(outputs, 0.2)
    assert found(outputs * np.float32(factor), 0.2) == (temperature * factor, entropy)


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_outputs_times_any_factor_have_that_times_the_temperature(factor: float) -> None:
    outputs = outputs_of(2)
    temperature, _ = found(outputs, 0.2)
    assert found(outputs * np.float32(factor), 0.2)[0] == pytest.approx(temperature * factor, rel=1e-4)


def test_games_have_temperatures_of_their_own_whatever_is_padded() -> None:
    wide, narrow = outputs_of(3), outputs_of(4, scale=50.0)
    narrow[:, 4:] = np.nan
    mask = np.array([[True] * 6, [True] * 4 + [False] * 2])
    temperatures, entropies = find(np.stack([wide, narrow]), mask, np.float32([0.3, 0.1]))
    assert float(temperatures[0]) == pytest.approx(found(wide, 0.3)[0], rel=1e-5)
    assert mean_entropy(narrow[:, :4], float(temperatures[1])) == pytest.approx(0.1, rel=1e-4)
    assert entropies.tolist() == pytest.approx([0.3, 0.1], rel=1e-4)


def test_equal_outputs_have_every_temperature_and_equal_best_ones_leave_an_entropy() -> None:
    assert found(np.full((STATES, ACTIONS), 7.0, np.float32), 0.2) == (1.0, pytest.approx(np.log(ACTIONS), rel=1e-5))
    one = np.eye(1, ACTIONS, dtype=bool)
    assert found(outputs_of(5), 0.0, one) == (1.0, 0.0)
    twins = outputs_of(6)
    twins[:, 3:5] = twins.max(axis=1, keepdims=True) + 1
    temperature, entropy = found(twins, 0.2)
    assert temperature > 0 and entropy == pytest.approx(np.log(2), rel=1e-3)


def test_an_outlier_does_not_hide_the_other_states() -> None:
    outputs = outputs_of(7)
    outputs[0] = [1e6, -1e6, 0.0, 1.0, 2.0, 3.0]
    temperature, _ = found(outputs, 0.2)
    assert mean_entropy(outputs, temperature) == pytest.approx(0.2, rel=1e-4)


LOSS = LossConfig(temperature=("auto", 0.25), target_entropy=0.2)
GAMES = ("cartpole", "acrobot")
STUDENT = make_student(StudentConfig(network="mlp", mlp_hidden=(4,)), [get_task(game) for game in GAMES])


def replay_of(game: int, lanes: int) -> rings.ReplayState:
    task, shape = STUDENT.tasks[game], (64, lanes)
    rng = np.random.default_rng(game)
    trajectory = Trajectory(
        observations=rng.standard_normal((*shape, *task.observation_shape)).astype(np.float32),
        is_first=np.zeros(shape, bool),
        is_decision=np.ones(shape, bool),
        actions=np.zeros(shape, np.int32),
        rewards=np.zeros(shape, np.float32),
        teacher_q=rng.standard_normal((*shape, task.num_actions)).astype(np.float32),
    )
    return rings.insert(rings.init(lanes, 64, task.observation_shape, "float32", task.num_actions), trajectory)


def settled(shares: int) -> tuple[np.ndarray, np.ndarray]:
    """The temperatures on every one of so many devices, which hold equally many lanes each."""
    auto = make_auto(LOSS, STUDENT, [False, False])
    assert auto is not None and auto.games == (0,)
    one = DeviceGroup.local(1)
    devices = DeviceGroup(one.devices * shares)
    replays = []
    for game in range(2):
        whole = replay_of(game, 4)
        replays.append(
            jax.tree.map(
                lambda leaf: (
                    leaf.reshape(shares, 4 // shares, *leaf.shape[1:]) if leaf.ndim else jnp.stack([leaf] * shares)
                ),
                whole,
            )
        )
    start = jnp.broadcast_to(jnp.float32(auto.start), (shares, 2))
    state = LearnerState({}, {}, jnp.zeros(shares, jnp.int32), jax.random.split(jax.random.key(0), shares), start)
    function = functools.partial(settle, auto, jnp.asarray(STUDENT.mask), devices, games=auto.games)
    after, (temperatures, _) = jax.jit(jax.vmap(function, axis_name=AXIS))(state, tuple(replays))
    assert np.all(np.asarray(after.temperature)[:, 1] == np.float32(0.25))
    np.testing.assert_array_equal(np.asarray(after.temperature)[:, :1], temperatures)
    return np.asarray(after.temperature), np.asarray(replays[0].teacher_q)


@pytest.mark.slow
def test_devices_that_share_the_replay_find_what_one_finds_and_settings_stay() -> None:
    (alone,), _ = settled(1)
    several, _ = settled(4)
    np.testing.assert_array_equal(several, [alone] * 4)
    # The sample is of all that is stored, drawn with replacement.
    outputs = np.asarray(rings.steps_of(replay_of(0, 4), "teacher_q")).reshape(-1, 2)
    assert mean_entropy(outputs, float(alone[0])) == pytest.approx(0.2 * np.log(2), abs=4 / np.sqrt(SAMPLES))
