"""StableHLO files: one program for every platform and any batch, read back to the same answers."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import export

from pd_jax.deploy.runtime import AlteredPolicyError, FramesError, NotAPolicyError
from pd_jax.deploy.stablehlo import StableHloPolicy, stablehlo_bytes
from pd_jax.errors import UserError
from pd_jax.teachers.function import from_function
from support.policies import metadata_of, random_observations, random_student, random_teacher


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small policy for CartPole. Not to be written to."""
    policy = random_teacher("cartpole", network="mlp", hidden_sizes=(4,))
    path = tmp_path_factory.mktemp("policy") / "cartpole.stablehlo"
    path.write_bytes(stablehlo_bytes(policy, metadata_of(policy.task)))
    return path


@pytest.mark.parametrize("name", ["net2", "dqn_same"])
def test_it_answers_as_jax_does_and_holds_nothing_of_the_exporting_machine(name: str, tmp_path: Path) -> None:
    policy, path = random_teacher("pong", network=name, layer_norm=name == "net2"), tmp_path / "pong.stablehlo"
    path.write_bytes(stablehlo_bytes(policy, metadata_of(policy.task)))
    file = StableHloPolicy(path)
    observations = random_observations(policy.task, 19)
    wanted = np.asarray(policy.outputs(observations))
    outputs, actions = file.decide(observations)
    np.testing.assert_allclose(outputs, wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(actions, outputs.argmax(axis=1))
    assert actions.dtype == np.int32 and file.act(observations[:1])[1] is None
    program = export.deserialize(bytearray(path.read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    text = program.mlir_module()
    # Convolutions are the platform's own, products are those of dense layers, and all are in full float32.
    lines = [line for line in text.splitlines() if re.search(r"stablehlo\.(convolution|dot_general)", line)]
    assert all("HIGHEST" in line and "DEFAULT" not in line for line in lines)
    kernels = {re.search(r"tensor<([0-9x]+)xf32>\) ->", line)[1] for line in lines}  # type: ignore[index]
    if name == "net2":
        assert kernels == {"8x8x4x16", "4x4x16x16", "3x3x16x16", "784x128", "128x6"}
    assert str(Path(__file__).parents[2]) not in text and sys.prefix not in text


def test_residual_networks_take_any_batch_too() -> None:
    policy = random_teacher("pong", network="impala_flax")
    program = export.deserialize(bytearray(stablehlo_bytes(policy, metadata_of(policy.task))))
    assert [str(size) for size in program.in_avals[0].shape] == ["N", "84", "84", "4"]
    assert [str(size) for size in program.out_avals[0].shape] == ["N", "6"]


def test_each_game_of_a_student_is_a_program_of_its_own(tmp_path: Path) -> None:
    student = random_student(("acrobot", "cartpole"), network="mlp", mlp_hidden=(6,), head_hidden=4)
    for game in student.games:
        policy, path = student.for_game(game), tmp_path / game
        path.write_bytes(stablehlo_bytes(policy, metadata_of(policy.task)))
        observations = random_observations(policy.task, 3)
        np.testing.assert_allclose(StableHloPolicy(path).outputs(observations), policy.outputs(observations), rtol=1e-5)


def test_damage_is_found_before_the_program_is_read(file: Path, tmp_path: Path) -> None:
    data, altered = file.read_bytes(), tmp_path / "altered"
    for place in np.random.default_rng(0).choice(len(data), 150, replace=False):
        changed = bytearray(data)
        changed[place] ^= 1 << (place % 8)
        altered.write_bytes(changed)
        with pytest.raises((AlteredPolicyError, NotAPolicyError)):
            StableHloPolicy(altered)
    for content in (b"", b"pd_jax stablehlo", data[:-1], data[: len(data) // 2], data + b"x"):
        altered.write_bytes(content)
        with pytest.raises((AlteredPolicyError, NotAPolicyError)):
            StableHloPolicy(altered)
    with pytest.raises(NotAPolicyError, match="is not a file"):
        StableHloPolicy(tmp_path)


def test_other_frames_are_refused(file: Path) -> None:
    for frames in (np.zeros(4, np.float32), np.zeros((1, 4), np.float64), np.zeros((1, 3), np.float32)):
        with pytest.raises(FramesError, match=r"takes float32 \[N, 4\]"):
            StableHloPolicy(file).act(frames)


def test_a_function_that_needs_a_number_for_its_batch_is_refused_in_one_line() -> None:
    def of_batches_of_two(observations: jax.Array) -> jax.Array:
        assert observations.shape[0] == 2
        return observations[:, :2]

    policy = from_function(of_batches_of_two, kind="q", game="cartpole", fingerprint="two")
    with pytest.raises(UserError, match=r"^function: cannot be exported for cpu, cuda, tpu and any batch: ") as error:
        stablehlo_bytes(policy, {})
    assert "\n" not in str(error.value)
