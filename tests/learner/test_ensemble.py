"""Students that train in one program against the same students each on its own."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pd_jax import losses
from pd_jax.config.sections import LearnerConfig, StudentConfig
from pd_jax.environments.tasks import get_task
from pd_jax.learner.ensemble import EnsembleLearner, fetch_members
from pd_jax.learner.learner import Learner
from pd_jax.learner.objective import LossFunction
from pd_jax.learner.rule import LearnerState
from pd_jax.networks.student import Student, make_student
from pd_jax.replay import rings
from pd_jax.replay.rings import ReplayState
from pd_jax.system.devices import DeviceGroup
from pd_jax.types import Trajectory
from support.commands import run, virtual_devices

LANES, STEPS, UPDATES = 8, 24, 12
SEEDS, TEMPERATURES, RATES = (3, 1, 2), (0.01, 0.1, 1.0), (1e-3, 3e-4, 1e-3)


def loss_at(kind: str, temperature: Any) -> LossFunction:
    if kind == "kl":
        return functools.partial(losses.kl_loss, temperature=temperature)
    return losses.nll_loss if kind == "nll" else losses.mse_loss


def student_of(game: str, network: str) -> Student:
    return make_student(StudentConfig(network=network, mlp_hidden=(16,)), [get_task(game)])  # type: ignore[arg-type]


def store(student: Student, devices: DeviceGroup) -> ReplayState:
    """Random play in all slots of a replay, an episode's end among it."""
    (task,), rng = student.tasks, np.random.default_rng(0)
    shape = (STEPS, LANES, *task.frame_shape)
    is_frame = task.observation_dtype == "uint8"
    trajectory = Trajectory(
        observations=rng.integers(0, 256, shape).astype(np.uint8) if is_frame else rng.normal(size=shape).astype("f4"),
        is_first=np.arange(STEPS)[:, None] % 10 == np.zeros(LANES),
        is_decision=np.arange(STEPS)[:, None] % 10 != np.full(LANES, 9),
        actions=np.zeros((STEPS, LANES), np.int32),
        rewards=np.zeros((STEPS, LANES), np.float32),
        teacher_q=rng.normal(size=(STEPS, LANES, task.num_actions)).astype(np.float32),
    )
    empty = rings.init(LANES // devices.size, STEPS, task.frame_shape, task.observation_dtype, task.num_actions)
    stored: ReplayState = devices.map(rings.insert)(devices.replicate(empty), devices.split(trajectory, axis=1))
    return stored


def alone(
    student: Student,
    kind: str,
    config: LearnerConfig,
    devices: DeviceGroup,
    updates: int,
    members: slice = slice(None),
) -> list[tuple[LearnerState, dict[str, Any]]]:
    """Every student's last state and metrics, none of them knowing of the others."""
    ends = []
    stored = (store(student, devices),)
    for seed, temperature, rate in list(zip(SEEDS, TEMPERATURES, RATES, strict=True))[members]:
        own = dataclasses.replace(config, learning_rate=rate)
        learner = Learner(student, loss_at(kind, temperature), own, devices, total_updates=UPDATES)
        state, metrics = learner.update_from_replay(learner.init(jax.random.key(seed)), stored, updates)
        ends.append((devices.first(state), {name: np.asarray(value) for name, value in devices.first(metrics).items()}))
    return ends


def together(
    student: Student, kind: str, config: LearnerConfig, devices: DeviceGroup, updates: int
) -> list[tuple[LearnerState, dict[str, Any]]]:
    """The same, in one program."""
    learner = Learner(student, loss_at(kind, 1.0), config, devices, total_updates=UPDATES)
    ensemble = make_ensemble(student, kind, config, devices)
    states = ensemble.stack([learner.init_single(jax.random.key(seed)) for seed in SEEDS])
    states, metrics = ensemble.update_from_replay(states, (store(student, devices),), updates)
    fetches = fetch_members(devices, metrics, len(SEEDS))
    return [(ensemble.unstack(states, index), fetch()) for index, fetch in enumerate(fetches)]


def make_ensemble(student: Student, kind: str, config: LearnerConfig, devices: DeviceGroup) -> EnsembleLearner:
    return EnsembleLearner(
        student,
        functools.partial(loss_at, kind),
        config,
        devices,
        total_updates=UPDATES,
        temperatures=TEMPERATURES,
        learning_rates=RATES,
    )


def flat(state: LearnerState) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves((state.variables, state.optimizer_state))])


def assert_same(ours: list[tuple[LearnerState, dict[str, Any]]], theirs: list[tuple[LearnerState, dict[str, Any]]]):
    for (state, metrics), (expected, expected_metrics) in zip(ours, theirs, strict=True):
        assert jax.tree.structure(state) == jax.tree.structure(expected)
        np.testing.assert_allclose(flat(state), flat(expected), atol=1e-5)
        assert int(state.updates) == int(expected.updates)
        np.testing.assert_array_equal(jax.random.key_data(state.key), jax.random.key_data(expected.key))
        assert metrics.keys() == expected_metrics.keys()
        for name, value in expected_metrics.items():
            np.testing.assert_allclose(metrics[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("kl", LearnerConfig(batch_size=16)),
        ("kl", LearnerConfig(batch_size=16, optimizer="adam", learning_rate_decay=True, max_grad_norm=0.5)),
        ("nll", LearnerConfig(batch_size=16, optimizer="adam")),
        ("kl", LearnerConfig(batch_size=16, optimizer="muon", learning_rate=1e-2)),
        ("mse", LearnerConfig(batch_size=16, learning_rate_decay=True)),
    ],
)
def test_students_of_an_ensemble_equal_the_same_students_alone(kind: str, config: LearnerConfig) -> None:
    one, student = DeviceGroup.local(1), student_of("lunarlander", "mlp")
    ours = together(student, kind, config, one, UPDATES)
    # All three of the first; of the others, whose members differ by the same means, the second.
    members = slice(None) if config == LearnerConfig(batch_size=16) else slice(1, 2)
    assert_same(ours[members], alone(student, kind, config, one, UPDATES, members))
    # They do differ from one another, each by its own seed, rate and temperature.
    assert min(np.abs(flat(ours[0][0]) - flat(ours[k][0])).max() for k in (1, 2)) > 1e-2


@pytest.mark.slow
def test_so_do_convolutional_ones() -> None:
    one, student, config = DeviceGroup.local(1), student_of("pong", "net3"), LearnerConfig(batch_size=8)
    ours = together(student, "kl", config, one, 2)
    assert_same(ours[1:2], alone(student, "kl", config, one, 2, slice(1, 2)))


def test_a_temperature_and_a_rate_reach_their_own_student_alone() -> None:
    one, student, config = DeviceGroup.local(1), student_of("cartpole", "mlp"), LearnerConfig(batch_size=8)
    learner = Learner(student, loss_at("kl", 1.0), config, one, total_updates=UPDATES)
    ensemble = EnsembleLearner(
        student,
        functools.partial(loss_at, "kl"),
        config,
        one,
        total_updates=UPDATES,
        temperatures=(0.5, 0.5, 5.0),
        learning_rates=(1e-3, 1e-12, 1e-3),
    )
    start = learner.init_single(jax.random.key(0))
    states, _ = ensemble.update_from_replay(ensemble.stack([start] * 3), (store(student, one),), 4)
    first, still, warm = (flat(dataclasses.replace(ensemble.unstack(states, k), optimizer_state=())) for k in range(3))
    before = flat(dataclasses.replace(start, optimizer_state=()))
    np.testing.assert_allclose(still, before, atol=1e-9)
    assert np.abs(first - before).max() > 1e-3
    assert np.abs(first - warm).max() > 1e-4


def test_what_does_not_fit_together_is_refused() -> None:
    student, one = student_of("cartpole", "mlp"), DeviceGroup.local(1)
    three = dataclasses.replace(one, devices=one.devices * 3)
    with pytest.raises(ValueError, match="2 temperatures for 1 learning rates"):
        EnsembleLearner(
            student,
            functools.partial(loss_at, "kl"),
            LearnerConfig(),
            one,
            total_updates=1,
            temperatures=(1.0, 2.0),
            learning_rates=(1e-3,),
        )
    with pytest.raises(ValueError, match="does not split evenly over 3 devices"):
        Learner(student, loss_at("kl", 1.0), LearnerConfig(batch_size=8), three, total_updates=1)


EIGHT_DEVICES = """
import json, re, sys
import jax, numpy as np
sys.path[:0] = sys.argv[1:]
import test_ensemble as t

devices, student, config = t.DeviceGroup.local(8), t.student_of("acrobot", "mlp"), t.LearnerConfig(batch_size=16)
ours, members = t.together(student, "kl", config, devices, t.UPDATES), slice(1, 2)
t.assert_same(ours[members], t.alone(student, "kl", config, devices, t.UPDATES, members))
ensemble = t.make_ensemble(student, "kl", config, devices)
learner = t.Learner(student, t.loss_at("kl", 1.0), config, devices, total_updates=t.UPDATES)
states = ensemble.stack([learner.init_single(jax.random.key(seed)) for seed in t.SEEDS])
stored = (t.store(student, devices),)
states, _ = ensemble.update_from_replay(states, stored, 1)
text = ensemble._update_many[1].lower(states, stored, ensemble._settings).compile().as_text()
leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(states.variables)]
print(json.dumps({
    "devices": jax.device_count(),
    "all_reduces": len(re.findall(r" all-reduce(?:-start)?[(]", text)),
    "differ": sum(int((leaf != leaf[:1]).sum()) for leaf in leaves),
}))
"""


@pytest.mark.slow
def test_on_eight_devices_they_equal_those_alone_at_the_cost_of_one_all_reduce() -> None:
    done = run([sys.executable, "-c", EIGHT_DEVICES, *map(str, Path(__file__).parents[:2])], **virtual_devices(8))
    assert done.code == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"devices": 8, "all_reduces": 1, "differ": 0}


def test_nothing_moves_between_host_and_devices_during_updates() -> None:
    one, student, config = DeviceGroup.local(1), student_of("cartpole", "mlp"), LearnerConfig(batch_size=8)
    ensemble = make_ensemble(student, "kl", config, one)
    learner = Learner(student, loss_at("kl", 1.0), config, one, total_updates=UPDATES)
    states = ensemble.stack([learner.init_single(jax.random.key(seed)) for seed in SEEDS])
    stored = (store(student, one),)
    states, _ = ensemble.update_from_replay(states, stored, 2)
    with jax.transfer_guard("disallow"):
        states, _ = ensemble.update_from_replay(states, stored, 2)
        jax.block_until_ready(states)
    assert states.updates.tolist() == [[4, 4, 4]]
    assert jnp.shape(states.updates) == (1, len(SEEDS))
