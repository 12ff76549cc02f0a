"""JAX's own settings, which users' processes set, and devices that are not there."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import pd_jax
from pd_jax.cli import main
from pd_jax.system.computing import computing
from support.commands import QUICK_EVALUATION, options, run, state_digests

SETTINGS = [
    {"JAX_ENABLE_X64": "1"},
    {"JAX_NUMPY_DTYPE_PROMOTION": "strict", "JAX_NUMPY_RANK_PROMOTION": "raise"},
    {"JAX_TRANSFER_GUARD": "disallow", "JAX_DEBUG_KEY_REUSE": "1"},
    {"JAX_DEFAULT_PRNG_IMPL": "rbg", "JAX_THREEFRY_PARTITIONABLE": "0"},
]
LIVE = {
    "teacher": "cartpole", "student.network": "mlp", "student.mlp-hidden": 8, "env.num-lanes": 4,
    "replay.capacity": 512, "learner.updates-per-call": 10, "schedule.rounds": 2, "schedule.steps-per-round": 128,
    "schedule.updates-per-round": 20, "checkpoint.every-updates": 20,
}  # fmt: skip


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("settings") / "reference"
    assert main(["distill", *options(LIVE | QUICK_EVALUATION | {"out": path})]) == 0
    return path


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({name: value for each in SETTINGS for name, value in each.items()}, id="all at once"),
        *(pytest.param(each, id=" ".join(each), marks=pytest.mark.slow) for each in SETTINGS),
    ],
)
def test_a_run_is_the_same_under_whatever_settings_of_jax(
    settings: dict[str, str], tmp_path: Path, reference: Path
) -> None:
    argv = options(LIVE | QUICK_EVALUATION | {"out": tmp_path / "run"})
    ended = run([sys.executable, "-m", "pd_jax", "distill", *argv], **settings)
    assert (ended.code, ended.stdout != "") == (0, True), ended.stderr
    assert state_digests(tmp_path / "run") == state_digests(reference)


def test_a_run_goes_on_under_other_settings_of_jax(
    tmp_path: Path, finished_run: Path, recorded_run_options: dict[str, Any]
) -> None:
    values = recorded_run_options | QUICK_EVALUATION | {"out": tmp_path / "run"}
    with jax.enable_x64(True):
        assert main(["distill", *options(values | {"schedule.rounds": 2})]) == 0
    with jax.numpy_dtype_promotion("strict"), jax.default_prng_impl("rbg"):
        assert main(["distill", *options(values | {"resume": True})]) == 0
    assert state_digests(tmp_path / "run") == state_digests(finished_run)


@pytest.mark.parametrize(
    "platform", ["cuda", "cudas", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gpu", "tpu", "rocm"))]
)
def test_devices_that_are_not_there_are_one_line(platform: str, tmp_path: Path) -> None:
    ended = run([sys.executable, "-m", "pd_jax", "evaluate", "--teacher", "cartpole"], JAX_PLATFORMS=platform)
    assert (ended.code, ended.stdout, ended.stderr.count("\n")) == (2, "", 1), ended.stderr
    assert ended.stderr.startswith(f"pd-jax evaluate: JAX_PLATFORMS: there is no '{platform}' on this machine")


def test_a_variable_that_jax_cannot_read_is_one_line() -> None:
    ended = run([sys.executable, "-m", "pd_jax", "evaluate", "--teacher", "cartpole"], JAX_ENABLE_X64="banana")
    assert (ended.code, ended.stderr.count("\n")) == (2, 1), ended.stderr
    assert "'banana' for environment 'JAX_ENABLE_X64'" in ended.stderr


def test_the_front_door_works_under_other_settings(finished_run: Path) -> None:
    with jax.transfer_guard("disallow"), jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        teacher, student = pd_jax.load_teacher("cartpole"), pd_jax.load_student(str(finished_run))
        found = [pd_jax.evaluate(policy, episodes=4, num_lanes=4).returns.tolist() for policy in (teacher, student)]
    assert found == [pd_jax.evaluate(policy, episodes=4, num_lanes=4).returns.tolist() for policy in (teacher, student)]


def test_what_teachers_and_students_say_does_not_depend_on_the_settings(finished_run: Path) -> None:
    teacher, student = pd_jax.load_teacher("cartpole"), pd_jax.load_student(str(finished_run))
    seen = jax.random.normal(jax.random.key(0), (5, 4))
    expected = jax.device_get((teacher(seen), student.act(seen, student.initial_state(5))[0]))
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        found = jax.device_get((teacher(seen), student.act(seen, student.initial_state(5))[0]))
    assert json.dumps(found[0].tolist()) == json.dumps(expected[0].tolist())
    assert found[1].tolist() == expected[1].tolist()


def test_settings_are_the_callers_again_afterwards() -> None:
    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        with computing():
            assert jnp.arange(2).dtype == jnp.int32 and (jnp.ones((2, 2)) + jnp.ones(2)).shape == (2, 2)
        assert jnp.arange(2).dtype == jnp.int64
        with pytest.raises(ValueError, match="rank_promotion"):
            jnp.ones((2, 2)) + jnp.ones(2)
