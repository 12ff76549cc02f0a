"""The runtime: where there is no JAX, and given files and frames that are not what they should be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from pd_jax.deploy.layers import layers_of
from pd_jax.deploy.onnx_file import onnx_bytes
from pd_jax.deploy.runtime import AlteredPolicyError, FramesError, NotAPolicyError, Policy, PolicyError, seal
from pd_jax.deploy.runtime_file import RUNTIME_NAME, runtime_source
from support.policies import metadata_of, random_observations, random_teacher

WITHOUT_JAX = """
import sys
for name in {missing}:
    sys.modules[name] = None  # An import of it fails.
sys.path.insert(0, {folder!r})
import numpy as np
from {module} import FrameStack, Policy, shrink
policy = Policy.load({file!r})
frames = np.load({frames!r})
actions, state = policy.act(frames, policy.initial_state(len(frames)))
assert state is None and actions.dtype == np.int32
stack = FrameStack(1).push(np.full((1, 2, 210, 160), 7, np.uint8), np.array([True]))
assert (stack == 7).all() and stack.shape == (1, 84, 84, 4)
print(*actions.tolist())
loaded = {{name.partition(".")[0] for name, module in sys.modules.items() if module is not None}}
print(*sorted(loaded & {{"jax", "jaxlib", "flax", "optax", "orbax", "envpool", "chex", "onnx", "pd_jax"}}))
"""
MISSING = ("jax", "jaxlib", "flax", "optax", "orbax", "envpool", "chex", "onnx", "scipy", "yaml", "safetensors")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small policy for CartPole. Not to be written to."""
    policy = random_teacher("cartpole", network="mlp", hidden_sizes=(4,))
    path = tmp_path_factory.mktemp("policy") / "cartpole.onnx"
    path.write_bytes(onnx_bytes(layers_of(policy), policy.task, metadata_of(policy.task)))
    return path


@pytest.mark.parametrize(
    ("module", "missing", "loaded"),
    [("pd_jax.deploy.runtime", MISSING, "pd_jax"), (RUNTIME_NAME[:-3], (*MISSING, "pd_jax"), "")],
)
def test_it_acts_where_jax_cannot_be_imported(
    module: str, missing: tuple[str, ...], loaded: str, file: Path, tmp_path: Path
) -> None:
    (tmp_path / RUNTIME_NAME).write_text(runtime_source())
    frames = random_observations(random_teacher("cartpole").task, 5)
    np.save(tmp_path / "frames.npy", frames)
    root = Path(__file__).parents[2] if module.startswith("pd_jax.") else tmp_path
    code = WITHOUT_JAX.format(
        missing=missing, folder=str(root), module=module, file=str(file), frames=str(tmp_path / "frames.npy")
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    actions = " ".join(map(str, Policy.load(file).act(frames)[0].tolist()))
    assert done.stdout == f"{actions}\n{loaded}\n"


def test_a_byte_that_was_altered_anywhere_is_found(file: Path, tmp_path: Path) -> None:
    data, altered = file.read_bytes(), tmp_path / "altered.onnx"
    places = np.random.default_rng(0).choice(len(data), 150, replace=False)
    for place in [0, 1, 9, len(data) - 1, *places.tolist()]:
        changed = bytearray(data)
        changed[place] ^= 1 << (place % 8)
        altered.write_bytes(changed)
        with pytest.raises((AlteredPolicyError, NotAPolicyError)):
            Policy.load(altered)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.2, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_short_or_grew_is_refused(share: float, file: Path, tmp_path: Path) -> None:
    data, cut = file.read_bytes(), tmp_path / "cut.onnx"
    cut.write_bytes(data[: int(share * len(data))])
    with pytest.raises(PolicyError, match=r"cut\.onnx: (is no policy|was cut short or altered)"):
        Policy.load(cut)
    cut.write_bytes(data + data[: int(share * len(data)) + 1])
    with pytest.raises(AlteredPolicyError):
        Policy.load(cut)


def test_what_pd_jax_did_not_write_is_no_policy(file: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.onnx"
    model = onnx.load(str(file))
    model.producer_name = "another"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for content in (b"", b"import this\n", model.SerializeToString(), bytes(1000)):
        foreign.write_bytes(content)
        with pytest.raises(NotAPolicyError, match="is no policy that pd-jax export wrote"):
            Policy.load(foreign)
    for name in ("pipe", "folder"):
        with pytest.raises(NotAPolicyError, match="is not a file"):
            Policy.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        Policy.load(tmp_path / "missing.onnx")


def test_a_file_of_a_newer_version_says_so(tmp_path: Path) -> None:
    policy = random_teacher("cartpole", network="mlp", hidden_sizes=(4,))
    path = tmp_path / "cartpole.onnx"
    for metadata, why in (
        ({"format_version": 4}, "is in format 4, newer than the format 3 read here"),
        ({}, "does not say what its policy is"),
        ({"format_version": 1, "game": "pong"}, "does not say what its policy is"),
        (metadata_of(policy.task) | {"observation": {"shape": [4], "dtype": "object"}}, "does not say what its policy"),
        (metadata_of(policy.task) | {"action_names": [1, 2]}, "does not say what its policy is"),
    ):
        path.write_bytes(onnx_bytes(layers_of(policy), policy.task, metadata))
        with pytest.raises(NotAPolicyError, match=why):
            Policy.load(path)


def test_what_onnx_runtime_cannot_run_is_one_line(file: Path, tmp_path: Path) -> None:
    model = onnx.load(str(file))
    model.graph.node[0].op_type = "NoSuchOperation"
    path = tmp_path / "other.onnx"
    path.write_bytes(seal(model.SerializeToString()))
    with pytest.raises(
        PolicyError, match=r"other\.onnx: ONNX Runtime [0-9.]+ cannot run it: .*NoSuchOperation"
    ) as error:
        Policy.load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros(4, np.float32),
        np.zeros((1, 5), np.float32),
        np.zeros((1, 4), np.float64),
        np.zeros((0, 4), np.float32),
        np.zeros((1, 4, 1), np.float32),
        np.float32(0),
        [[0.0, 0.0, 0.0, 0.0]],
    ],
    ids=lambda frames: f"{type(frames).__name__} {np.shape(frames)}",
)
def test_other_frames_are_refused_with_what_is_taken(frames: np.ndarray, file: Path) -> None:
    policy = Policy.load(file)
    for call in (policy.act, policy.outputs, policy.decide):
        with pytest.raises(FramesError, match=r"; cartpole takes float32 \[N, 4\], N at least 1") as error:
            call(frames)
        assert isinstance(error.value, ValueError) and "\n" not in str(error.value)
    with pytest.raises(FramesError, match=r"one observation is a batch of one: frames\[None\]"):
        policy.act(np.zeros(4, np.float32))


def test_frames_in_another_order_of_memory_are_the_same_frames(file: Path) -> None:
    policy = Policy.load(file)
    frames = random_observations(random_teacher("cartpole").task, 6)
    turned = np.asfortranarray(frames)
    np.testing.assert_array_equal(policy.outputs(turned[::2]), policy.outputs(frames[::2].copy()))


def test_the_seal_is_metadata_like_any_other(file: Path) -> None:
    props = onnx.load(str(file)).metadata_props
    assert [prop.key for prop in props] == ["pd_jax", "pd_jax.sha256"]
    assert seal(file.read_bytes()) != file.read_bytes()
