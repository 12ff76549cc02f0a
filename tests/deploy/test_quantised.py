"""Integers: their arithmetic, worked out by hand, what ONNX Runtime and C make of it, and where ranges come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from pd_jax.deploy import runtime
from pd_jax.deploy.c_file import CPolicy, header_text
from pd_jax.deploy.layers import RELU, Activation, Convolution, Dense, Flatten, LayerNorm, MaxPool, layers_of
from pd_jax.deploy.onnx_file import onnx_bytes
from pd_jax.deploy.quantised import (
    Integers,
    Quantise,
    QuantisedNetwork,
    apply_layer,
    calibrated,
    is_trained,
    quantised,
)
from pd_jax.deploy.renewal import read_export
from pd_jax.deploy.runtime import Policy
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from support.c_compiler import QUICK, needs_compiler
from support.commands import contents, options, refusal, succeed
from support.policies import metadata_of, random_observations, random_student, random_teacher

SMALL = {"channels": (4, 6, 8), "hidden": 16}


def float32(*values: Any) -> np.ndarray:
    return np.array(values, np.float32)


def range_of(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def network_of(policy: Any, count: int = 24) -> QuantisedNetwork:
    """With ranges of random observations."""
    return quantised(
        calibrated(layers_of(policy), policy.task, random_observations(policy.task, count), 100.0), policy.task
    )


def onnx_policy(network: Any, task: Any, path: Path, opset: int = 17) -> Policy:
    path.write_bytes(onnx_bytes(network, task, metadata_of(task), opset))
    return Policy.load(path)


def c_policy(network: QuantisedNetwork, task: Any, path: Path) -> CPolicy:
    path.write_text(header_text(network, task, metadata_of(task)))
    return CPolicy(path, flags=QUICK)


@pytest.fixture(scope="module")
def by_hand() -> QuantisedNetwork:
    """Four features into two units into two outputs, of which all is worked out below."""
    first = Dense(
        float32([1, 0], [0, 2], [0.5, 0], [0, -4]), float32(0.25, -1), input_range=float32(127.0, 12.7, 254.0, 1.27)
    )
    second = Dense(float32([1.27, 0.1], [-0.635, -1.27]), float32(0.01, 0), input_range=range_of(25.5))
    return quantised([first, RELU, second], get_task("cartpole"))


def test_weights_biases_and_units_are_those_that_are_worked_out_by_hand(by_hand: QuantisedNetwork) -> None:
    quantise, first, second = by_hand.steps
    assert isinstance(quantise, Quantise) and isinstance(first, Integers) and isinstance(second, Integers)
    # Rows times ranges / 127: [1, 0], [0, 0.2], [1, 0], [0, -0.04]. The largest of each column is 127.
    assert first.weights.tolist() == [[127, 0], [0, 127], [127, 0], [0, -25]]
    np.testing.assert_allclose(first.weight_scales, [1 / 127, 0.2 / 127], rtol=1e-6)
    assert first.bias.tolist() == [32, -635]  # 0.25 * 127 = 31.75; -1 / 0.2 * 127 = -635
    assert second.weights.tolist() == [[127, 10], [-64, -127]]  # -0.635 is -63.5, of two the even one
    assert second.bias.tolist() == [10, 0] and second.units_scale is None  # 0.01 / (0.1 * 0.01)
    observations = float32([2, 0, 0, 0], [-127, 12.7, 0, 0], [500, -0.25, 4, 9], [3.4, 7.26, -2, 0.104])
    units, middle, outputs = by_hand.trace(observations)
    # In units of 1, 0.1, 2 and 0.01, to 127 at most.
    assert units.tolist() == [[2, 0, 0, 0], [-127, 127, 0, 0], [127, -2, 2, 127], [3, 73, -1, 10]]
    # Sums / 127 as 0.1: (2 * 127 + 32) / 127 = 2.252 and below 0; below 0, and (127 * 127 - 635) / 127 * 0.2 = 24.4;
    # 129.25, which is more than 25.5, and below 0; (2 * 127 + 32) / 127, and (9271 - 250 - 635) / 127 * 0.2 = 13.2.
    assert middle.tolist() == [[23, 0], [0, 244], [255, 0], [23, 132]]
    wanted = [[23 * 127 + 10, 230], [10 - 244 * 64, -244 * 127], [255 * 127 + 10, 2550]]
    wanted.append([23 * 127 + 10 - 132 * 64, 230 - 132 * 127])
    np.testing.assert_allclose(outputs, np.array(wanted) * [0.001, 0.001], rtol=1e-5)
    np.testing.assert_array_equal(by_hand.outputs(observations), outputs)


def test_a_convolution_in_integers_is_the_sum_over_its_window() -> None:
    generator = np.random.default_rng(0)
    kernel = generator.standard_normal((3, 3, 4, 5)).astype(np.float32)
    bias = generator.standard_normal(5).astype(np.float32)
    rest = generator.standard_normal((28 * 28 * 5, 2)).astype(np.float32)
    layers = [
        Convolution(kernel, bias, 3, (1, 0)), RELU, Flatten(), Dense(rest, bias[:2], range_of(40.0))
    ]  # fmt: skip
    network = quantised(layers, get_task("pong"))
    frames = random_observations(get_task("pong"), 2)
    units = network.trace(frames)[0]
    scales = np.abs(kernel).reshape(-1, 5).max(axis=0) / 127
    whole, biases = np.rint(kernel / scales).astype(int), np.rint(bias / scales).astype(int)
    padded = np.pad(frames.astype(int), ((0, 0), (1, 0), (1, 0), (0, 0)))
    for row, column in ((0, 0), (0, 27), (13, 5), (27, 27)):
        window = padded[:, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
        sums = (window[..., None] * whole).sum(axis=(1, 2, 3)) + biases
        wanted = np.clip(sums * scales / (40.0 / 255), 0, 255)
        assert np.abs(units[:, row, column].astype(float) - wanted).max() <= 0.5 + 1e-3


def test_what_was_never_seen_and_weights_of_nothing_divide_by_no_zero() -> None:
    first = Dense(float32([0, 0, 1], [0, 0, 0]), float32(3, 0, 1e6))
    second = Dense(float32([1, 1, 0.5], [0, 0, 0], [0, 0, 1e-9]), float32(0, 7, -2))
    third = Dense(float32([1], [1], [1]), float32(0))
    task = get_task("cartpole")
    layers = calibrated([first, RELU, second, third], task, float32([0, 2], [0, -2]), 100.0)
    assert [np.asarray(layer.input_range).tolist() for layer in layers if isinstance(layer, Dense)][:2] == [[1, 2], 1e6]
    network = quantised([layers[0], RELU, Dense(second.kernel, second.bias, range_of(1.0))], task)
    outputs = network.outputs(float32([0.5, -1], [1e30, np.nan]))
    assert np.isfinite(outputs).all()
    # 3, 0 and a million are 1, 0 and 1 in a range of 1.
    np.testing.assert_allclose(outputs[0], [1.0, 8.0, -1.5], atol=0.02)


NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "net3": ("pong", {"network": "net3"}),
    "net3, normalised": ("pong", {"network": "net3", "layer_norm": True}),
    "net3, deep head, tanh": ("pong", {"network": "net3", "head_sizes": (16, 8), "activation": "tanh"}),
    "mlp": ("cartpole", {"network": "mlp", "hidden_sizes": (16, 16)}),
    "mlp, normalised": ("cartpole", {"network": "mlp", "hidden_sizes": (9, 5), "layer_norm": True}),
    "mlp, tanh": ("cartpole", {"network": "mlp", "hidden_sizes": (9, 5), "activation": "tanh"}),
    "mlp, gelu": ("cartpole", {"network": "mlp", "hidden_sizes": (9, 5), "activation": "gelu"}),
}


@needs_compiler
@pytest.mark.parametrize("name", NETWORKS)
def test_c_and_onnx_runtime_compute_the_very_integers(name: str, tmp_path: Path) -> None:
    game, changes = NETWORKS[name]
    policy = random_teacher(game, **changes)
    network, task = network_of(policy), policy.task
    observations = random_observations(task, 40)
    wanted = network.outputs(observations)
    unit = max(step.factors.max() for step in network.steps if isinstance(step, Integers) and step.units_scale is None)
    is_exact = "gelu" not in name and "tanh" not in name
    by_c = c_policy(network, task, tmp_path / "policy.h").outputs(observations)
    if is_exact:
        np.testing.assert_allclose(by_c, wanted, rtol=1e-5, atol=1e-6 * np.abs(wanted).max())
    # One unit of what goes into the last layer, times its largest weight.
    np.testing.assert_allclose(by_c, wanted, atol=128 * unit)
    by_onnx = onnx_policy(network, task, tmp_path / "policy.onnx").outputs(observations)
    np.testing.assert_allclose(by_onnx, wanted, atol=3 * 128 * unit)
    assert (by_onnx == wanted).mean() > 0.9 or not is_exact
    # And it is near to the policy, which 8 bits are not for nothing.
    exact = np.asarray(policy.outputs(observations))
    assert 0 < np.abs(wanted - exact).max() < 0.1 * exact.std() + 0.05
    np.testing.assert_allclose(network.outputs(observations[7:8])[0], wanted[7], rtol=1e-6)


@pytest.mark.parametrize("game", ["pong", "cartpole"])
def test_onnx_runtime_makes_integer_kernels_of_it_and_the_file_holds_int8(game: str, tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    policy = random_teacher(game, network="net2") if game == "pong" else random_teacher(game)
    path = tmp_path / "policy.onnx"
    onnx_policy(network_of(policy, 4), policy.task, path)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    weights = [weight for weight in model.graph.initializer if len(weight.dims) > 1]
    assert weights and {weight.data_type for weight in weights} == {onnx.TensorProto.INT8}
    operations = {node.op_type for node in model.graph.node}
    assert not operations & {"ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"}
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimised.onnx"), 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    made = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    if game == "pong":
        assert made == ["Reshape", *["QLinearConv"] * 3, "Flatten", "QGemm", "QGemm", "ArgMax"]
        whole = onnx_bytes(layers_of(policy), policy.task, metadata_of(policy.task))
        assert path.stat().st_size <= 0.3 * len(whole)
    else:
        assert made == ["Mul", "Clip", "QuantizeLinear", "QGemm", "QGemm", "QGemm", "ArgMax"]


@pytest.mark.parametrize("told", ["flags : avx2 avx_vnni", "flags : avx2", None])
def test_sums_of_bytes_may_overflow_nowhere(told: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    (tmp_path / "cpuinfo").write_text(told or "")
    opened = open

    def open_other(path: Any, *arguments: Any, **more: Any) -> Any:
        if path == "/proc/cpuinfo":
            if told is None:
                raise FileNotFoundError(path)
            path = tmp_path / "cpuinfo"
        return opened(path, *arguments, **more)

    entries: list[tuple[str, str]] = []

    class Options(onnxruntime.SessionOptions):
        def add_session_config_entry(self, key: str, value: str) -> None:
            entries.append((key, value))
            super().add_session_config_entry(key, value)

    monkeypatch.setattr("builtins.open", open_other)
    monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
    policy = random_teacher("cartpole")
    network = network_of(policy)
    file = onnx_policy(network, policy.task, tmp_path / "policy.onnx")
    slow = [("session.x64quantprecision", "1")]
    assert entries == ([] if told and "vnni" in told else slow)
    seen = random_observations(policy.task, 8)
    np.testing.assert_allclose(file.outputs(seen), network.outputs(seen), rtol=1e-3, atol=1e-3)
    assert "_sums_bytes" in Path(str(runtime.__file__)).read_text()


def test_ranges_are_the_largest_that_are_seen_or_a_percentile(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    layers = [
        Dense(generator.standard_normal((4, 6)).astype(np.float32), np.zeros(6, np.float32)),
        LayerNorm(np.ones(6, np.float32), np.zeros(6, np.float32)),
        Activation("tanh"),
        Dense(generator.standard_normal((6, 8)).astype(np.float32), np.zeros(8, np.float32)),
        RELU,
        Dense(generator.standard_normal((8, 2)).astype(np.float32), np.zeros(2, np.float32)),
    ]
    task, seen = get_task("cartpole"), generator.standard_normal((100, 4)).astype(np.float32)
    x = seen @ layers[0].kernel
    x = np.tanh((x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-6))
    y = np.maximum(x @ layers[3].kernel, 0)
    for percentile in (100.0, 90.0):
        found = calibrated(layers, task, seen, percentile)
        ranges = [layer.input_range for layer in found if isinstance(layer, Dense)]
        np.testing.assert_array_equal(ranges[0], np.abs(seen).max(axis=0))
        for inner, values in zip(ranges[1:], (x, y), strict=True):
            np.testing.assert_allclose(inner, np.percentile(np.abs(values), percentile), rtol=1e-4)
    assert not is_trained(layers) and is_trained(found)
    steps = quantised(found, task).steps
    signs = [step.is_signed for step in steps if isinstance(step, Integers)]
    assert signs == [True, True, False], "the vector, tanh, ReLU"


def with_ranges(student: Any, ranges: dict[str, Any]) -> Any:
    """A student as fake quantisation leaves it: ranges among the parameters of its layers."""
    for path, value in ranges.items():
        *folders, name = path.split("/")
        mapping = student.variables["params"]
        for folder in folders:
            mapping = mapping[folder]
        mapping[name] = dict(mapping[name]) | {"input_range": np.asarray(value, np.float32)}
    return student


@pytest.mark.parametrize(
    ("games", "options"),
    [
        (("pong",), {"network": "net3"}),
        (("breakout", "freeway"), {"network": "multi10", **SMALL, "head_hidden": 8}),
        (("cartpole", "acrobot"), {"network": "mlp", "mlp_hidden": (9, 5), "head_hidden": 0}),
        (("cartpole",), {"network": "mlp", "mlp_hidden": (16, 16)}),
    ],
)
def test_integers_are_what_a_student_of_fake_quantisation_computes(
    games: tuple[str, ...], options: dict[str, Any]
) -> None:
    student = random_student(games, **options, quantisation="int8")
    variables, seen = student.variables, {game: random_observations(get_task(game), 24) for game in games}
    # Ranges that cut off some of what is seen.
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.full_like(leaf, 1.5) if path[-1].key == "input_range" else leaf, variables["params"]
    )
    student.variables = {**variables, "params": params}
    for game in games:
        policy = student.for_game(game) if len(games) > 1 else student
        network = quantised(layers_of(policy), policy.task)
        wanted = np.asarray(policy.outputs(seen[game]))
        found = network.outputs(seen[game])
        # Sums in float32 may fall on the other side of a half: one unit of some input then.
        assert (
            np.abs(found - wanted).max() < 0.03 * wanted.std() and np.abs(found - wanted).mean() < 2e-3 * wanted.std()
        )


@needs_compiler
def test_a_student_that_was_trained_with_ranges_keeps_them(tmp_path: Path) -> None:
    student = random_student(("cartpole",), network="mlp", mlp_hidden=(8, 6))
    ranges = {"torso/fc1": [2.0, 3.0, 1.0, 4.0], "torso/fc2": 5.0, "head/output": 2.5}
    policy = with_ranges(student, ranges)
    layers = layers_of(policy)
    assert is_trained(layers)
    network, task = quantised(layers, policy.task), policy.task
    assert network.ranges == ([2.0, 3.0, 1.0, 4.0], 5.0, 2.5)
    seen = np.clip(random_observations(task, 30), -0.9, 0.9)
    x = np.asarray(seen, np.float64)
    # Fake quantisation, in float64: numbers that have been rounded to what 8 bits can say.
    for path, high in ranges.items():
        part, name = path.split("/")
        layer, levels = policy.variables["params"][part][name], 127 if name == "fc1" else 255
        rows = np.reshape(high, (-1, 1)) * np.asarray(layer["kernel"], np.float64)
        units = np.abs(rows).max(axis=0) / 127
        x = np.rint(np.clip(x / high, -1, 1) * levels) / levels
        x = x @ (np.rint(rows / units) * units) + np.asarray(layer["bias"], np.float64)
        x = x if name == "output" else np.maximum(x, 0)
    np.testing.assert_allclose(network.outputs(seen), x, atol=0.01 * x.std())
    by_c = c_policy(network, task, tmp_path / "a.h").outputs(seen)
    np.testing.assert_allclose(by_c, network.outputs(seen), rtol=1e-5, atol=1e-6)


def test_ranges_of_several_games_and_of_frames_are_found_by_their_names() -> None:
    student = random_student(("breakout", "freeway"), network="multi10", **SMALL, head_hidden=8)
    ranges = {"torso/conv2": 2.0, "torso/conv3": 3.0, "torso/fc1": 4.0, "head/fc2": 5.0}
    student = with_ranges(student, ranges | {"head/output0": 6.0, "head/output1": 7.0})
    for place, game in enumerate(student.games):
        layers = layers_of(student.for_game(game))
        found = [layer.input_range for layer in layers if isinstance(layer, Convolution | Dense)]
        assert found == [None, 2.0, 3.0, 4.0, 5.0, 6.0 + place]
        assert quantised(layers, get_task(game)).ranges == (2.0, 3.0, 4.0, 5.0, 6.0 + place)
    shorter = with_ranges(
        random_student(("acrobot", "cartpole"), network="mlp", mlp_hidden=(6,), head_hidden=0),
        {"torso/fc1": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]},
    )
    first = layers_of(shorter.for_game("cartpole"))[0]
    assert isinstance(first, Dense) and np.asarray(first.input_range).tolist() == [1.0, 2.0, 3.0, 4.0]


def test_what_integers_have_no_form_for_is_refused_in_one_line() -> None:
    task = get_task("cartpole")
    with pytest.raises(UserError, match=r"int8 has no MaxPool layers; float32 has$"):
        calibrated([MaxPool(0), Dense(np.ones((4, 2), np.float32), np.ones(2, np.float32))], task, np.zeros((1, 4)), 99)
    with pytest.raises(UserError, match="there is nothing to quantise"):
        quantised([RELU], task)
    dense = Dense(np.ones((4, 2), np.float32), np.ones(2, np.float32))
    for given, said in (
        (None, "missing"),
        (float32(1, 2), r"\[1.0, 2.0\]"),
        (float32(1, 2, 3, np.nan), "nan"),
        (0.0, "0.0"),
    ):
        with pytest.raises(UserError, match=f"the range of the inputs of layer 1 is .*{said}"):
            quantised([Dense(dense.kernel, dense.bias, given)], task)
    known = float32(1, 2, 3, 4)
    with pytest.raises(UserError, match="a weight is not a finite number"):
        quantised([Dense(dense.kernel * np.inf, dense.bias, known)], task)
    with pytest.raises(UserError, match="sums over 40,000 inputs are too large for int32"):
        wide = Dense(np.ones((40_000, 2), np.float32), np.ones(2, np.float32), np.ones(40_000, np.float32))
        quantised([wide], task)
    with pytest.raises(TypeError, match="is no such layer"):
        apply_layer(MaxPool(0), np.zeros((1, 4, 4, 1)))


def test_settings_that_do_not_go_with_integers_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plain = ["export", "--teacher", "cartpole", "--out", str(tmp_path / "out"), "--precision"]
    for argv, message in (
        (
            ["int8", "--evaluation.episodes", "0"],
            "evaluation.episodes: 0, and int8 is proven by games; give at least 2",
        ),
        (
            ["int8", "--evaluation.episodes", "1"],
            "evaluation.episodes: 1, and int8 is proven by games; give at least 2",
        ),
        (["int8", "--format", "stablehlo"], "int8 alone, and stablehlo has float32 alone; give both, or another"),
        (["int8", "--format", "onnx", "stablehlo"], "int8 alone, and stablehlo has float32 alone; give both, or"),
        (["int8", "int8"], "precision: int8 is there 2 times"),
        (["int4"], "'int4' is not a precision; did you mean 'int8'?"),
        (["float32", "--calibration.frames", "9"], "calibration.frames: is for int8, and precision is float32"),
        (["int8", "--proof.max-difference", "1"], "proof.max-difference: is for float32, and precision is int8"),
    ):
        assert message in refusal(capfd, *plain, *argv), argv
    assert contents(tmp_path) == {}


def test_an_export_in_integers_runs_by_the_runtime_and_tells_how_it_was_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"evaluation.episodes": 4, "evaluation.num-lanes": 4, "evaluation.max-episode-steps": 40}
    values |= {"proof.frames": 60, "calibration.frames": 100, "calibration.percentile": 99.9}
    out = tmp_path / "out"
    succeed("export", values | {"teacher": "cartpole", "precision": ["float32", "int8"], "out": out})
    assert {path.name for path in out.iterdir()} >= {"cartpole.onnx", "cartpole.int8.onnx"}
    printed = capsys.readouterr().out
    assert "cartpole.int8.onnx" in printed and "int8 has to play as well, no more" in printed
    report = json.loads((out / "export.json").read_text())["games"]["cartpole"]
    entry = report["files"]["onnx_int8"]
    assert entry["precision"] == "int8" and entry["games"]["episodes"] == 4 and entry["frames"]["frames"] == 60
    said = entry["quantisation"]
    assert said.items() >= {"bits": 8, "by": "calibration", "percentile": 99.9, "frames": 100}.items()
    file = Policy.load(out / "cartpole.int8.onnx")
    assert file.metadata == report["policy"] | {"quantisation": said}
    actions, _ = file.act(np.zeros((3, 4), np.float32))
    assert actions.shape == (3,) and (out / "cartpole.int8.onnx").stat().st_size < 40_000


def test_a_student_of_fake_quantisation_is_exported_in_integers_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from pd_jax.deploy import export, file_metadata

    ranges = {"torso/fc1": [2.4, 3.0, 0.3, 3.0], "torso/fc2": 5.0, "head/output": 5.0}
    student = with_ranges(random_student(("cartpole",), network="mlp", mlp_hidden=(8, 8)), ranges)
    monkeypatch.setattr(export, "_load", lambda config: [student])
    monkeypatch.setattr(file_metadata, "_of_student", lambda policy: {"name": "trained", "hashes": {"parameters": "0"}})
    monkeypatch.setattr(export, "_parents", lambda config, policies: [])
    argv = {"run": "run", "out": tmp_path / "out", "proof.frames": 40}
    argv |= {"evaluation.episodes": 4, "evaluation.num-lanes": 4, "evaluation.max-episode-steps": 30}
    message = refusal(capfd, "export", *options(argv | {"precision": ["float32", "int8"]}))
    assert message.endswith("in float32 it would play otherwise; give --precision int8")
    assert contents(tmp_path) == {}
    succeed("export", argv | {"precision": ["int8"]})
    # It is renewed as any other: by what plays its games.
    export_left = read_export(tmp_path / "out")
    assert export_left.players("cartpole") == {"int8": "onnx_int8"}
    assert export_left.play("cartpole", "onnx_int8")[1].name == "cartpole"
    said = Policy.load(tmp_path / "out" / "cartpole.int8.onnx").metadata["quantisation"]
    assert said == {
        "bits": 8,
        "by": "training",
        "ranges": pytest.approx([pytest.approx([2.4, 3.0, 0.3, 3.0]), 5.0, 5.0]),
    }
