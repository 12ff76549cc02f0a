"""ONNX files against the networks that they are written from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from pd_jax.deploy.layers import layers_of
from pd_jax.deploy.onnx_file import onnx_bytes
from pd_jax.deploy.runtime import Policy
from pd_jax.errors import UserError
from pd_jax.networks.greedy import GreedyPolicy
from pd_jax.teachers.function import from_function
from support.policies import metadata_of, random_observations, random_student, random_teacher

SMALL = {"channels": (4, 6, 8), "hidden": 16}
NORMALISED = {
    "normalisation": {
        "observation": {
            "mean": [1e6, 0.0, -1.0, 0.5],
            "variance": [1.0, 4.0, 0.1, 2.0],
            "count": 10,
            "epsilon": 1e-8,
            "clip": 1.5,
        }
    }
}
ATARI: dict[str, dict[str, Any]] = {
    "dqn": {"network": "dqn"},
    "net2": {"network": "net2"},
    "net3, normalised": {"network": "net3", "layer_norm": True},
    "multi3": {"network": "multi3", **SMALL, "head_hidden": 8},
    "deep head": {"network": "net2", "head_sizes": (16, 8), "activation": "tanh"},
    "dqn_same, categorical": {"network": "dqn_same", "support": (-10.0, -2.5, 0.0, 1.0, 7.0)},
    "impala_torch": {"network": "impala_torch"},
    "impala_flax": {"network": "impala_flax"},
}
VECTOR: dict[str, dict[str, Any]] = {
    **{name: {"activation": name} for name in ("relu", "tanh", "elu", "leaky_relu", "silu", "gelu")},
    "normalised layers": {"layer_norm": True},
    "normalised observations": NORMALISED,
    "no layers": {"hidden_sizes": ()},
}


def check_equal(policy: GreedyPolicy, path: Path, opset: int = 17) -> None:
    """The file answers as JAX does, one observation and several."""
    path.write_bytes(onnx_bytes(layers_of(policy), policy.task, metadata_of(policy.task), opset))
    file = Policy.load(path)
    observations = random_observations(policy.task, 5)
    if policy.task.kind == "vector":
        observations[:, 0] += 1e6 if getattr(policy, "metadata", None) and policy.metadata.normalisation else 0.0
    wanted = np.asarray(policy.outputs(observations))
    assert wanted.std() > 1e-3
    outputs = file.outputs(observations)
    assert outputs.dtype == np.float32 and outputs.shape == (5, policy.task.num_actions)
    np.testing.assert_allclose(outputs, wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(file.outputs(observations[:1]), wanted[:1], rtol=1e-4, atol=1e-4)
    actions, state = file.act(observations, file.initial_state(5))
    assert actions.dtype == np.int32 and state is None
    np.testing.assert_array_equal(actions, outputs.argmax(axis=1))


@pytest.mark.parametrize("name", ATARI)
def test_frames_are_answered_as_jax_answers_them(name: str, tmp_path: Path) -> None:
    check_equal(random_teacher("pong", **ATARI[name]), tmp_path / "pong.onnx")


@pytest.mark.parametrize("name", VECTOR)
def test_vectors_are_answered_as_jax_answers_them(name: str, tmp_path: Path) -> None:
    changes = {"network": "mlp", "hidden_sizes": (8, 5), **VECTOR[name]}
    check_equal(random_teacher("cartpole", **changes), tmp_path / "cartpole.onnx", opset=21)


@pytest.mark.parametrize("head_hidden", [0, 8])
def test_each_game_of_a_student_has_its_own_head_and_actions(head_hidden: int, tmp_path: Path) -> None:
    student = random_student(("breakout", "freeway"), network="multi10", **SMALL, head_hidden=head_hidden)
    for game in student.games:
        check_equal(student.for_game(game), tmp_path / f"{game}.onnx")


@pytest.mark.parametrize("hidden", [(16,), (16, 8)])
def test_games_of_shorter_vectors_are_shown_them_as_they_are(hidden: tuple[int, ...], tmp_path: Path) -> None:
    student = random_student(("acrobot", "cartpole"), network="mlp", mlp_hidden=hidden, head_hidden=4)
    for game in student.games:
        check_equal(student.for_game(game), tmp_path / f"{game}.onnx")


def test_a_file_is_an_onnx_file_of_few_operations_and_any_batch(tmp_path: Path) -> None:
    import onnx

    policy = random_teacher("pong", network="net2")
    data = onnx_bytes(layers_of(policy), policy.task, metadata_of(policy.task))
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    operations = {node.op_type for node in model.graph.node}
    assert operations == {"Cast", "Transpose", "Conv", "Relu", "Flatten", "Gemm", "ArgMax"}
    (shown,) = model.graph.input
    dims = [dim.dim_param or dim.dim_value for dim in shown.type.tensor_type.shape.dim]
    assert dims == ["N", 84, 84, 4] and shown.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [output.name for output in model.graph.output] == ["outputs", "actions"]
    assert data == onnx_bytes(layers_of(policy), policy.task, metadata_of(policy.task)), (
        "the same policy, the same bytes"
    )


def test_what_has_no_such_layers_is_refused_in_one_line() -> None:
    function = from_function(lambda seen: jnp.zeros((len(seen), 2)), kind="q", game="cartpole", fingerprint="zeros")
    half = random_student(("pong",), network="net3", compute_dtype="bfloat16")
    for policy, why in ((function, "is a function"), (half, "computes in bfloat16")):
        with pytest.raises(UserError, match=rf"{why}.*; stablehlo takes it$"):
            layers_of(policy)
