"""Files of students with senses of their own: they answer as JAX does, and say what the student sees."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pd_jax.config.observation import StudentObservationConfig
from pd_jax.config.sections import NormalisationConfig
from pd_jax.deploy import c_file
from pd_jax.deploy.decisions import watched_policy
from pd_jax.deploy.file_metadata import describe_observation
from pd_jax.deploy.layers import layers_of
from pd_jax.deploy.onnx_file import onnx_bytes
from pd_jax.deploy.policy import StudentPolicy, refuse_senses
from pd_jax.deploy.proof import own_play
from pd_jax.deploy.runtime import Policy
from pd_jax.environments.envpool import Environment
from pd_jax.errors import UserError
from pd_jax.evaluation.protocol import Protocol
from support.c_compiler import compile_program, needs_compiler
from support.policies import metadata_of, random_observations, random_student

MOVES = NormalisationConfig(source="given", mean=(0.5,), variance=tuple(0.1 * (place % 3) for place in range(128)))
SMALL: dict[str, Any] = {"channels": (4, 4, 4), "hidden": 8, "network": "net3"}
STUDENTS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "one frame of 42": ("pong", {"frames": 1, "size": 42}, SMALL),
    "two frames of 64": ("pong", {"frames": 2, "size": 64}, SMALL),
    "memory": ("pong", {"source": "ram"}, {"network": "mlp", "mlp_hidden": (16,)}),
    "bits": ("pong", {"source": "ram"}, {"network": "mlp_bits", "mlp_hidden": (16,), "normalisation": MOVES}),
    "all bits, twice": ("pong", {"source": "ram", "window": 2}, {"network": "mlp_bits", "mlp_hidden": ()}),
    "frames of a game of memory": ("pong_ram", {"source": "frames", "frames": 1}, SMALL),
    "a window": ("cartpole", {"components": (0, 2), "window": 4}, {"network": "mlp", "mlp_hidden": (16,)}),
}


def student(name: str) -> StudentPolicy:
    game, observation, options = STUDENTS[name]
    return random_student([game], observation=StudentObservationConfig(**observation), **options)


@pytest.mark.parametrize("name", STUDENTS)
def test_an_onnx_file_answers_as_jax_answers(name: str, tmp_path: Path) -> None:
    policy = student(name)
    path = tmp_path / "student.onnx"
    path.write_bytes(onnx_bytes(layers_of(policy), policy.task, metadata_of(policy.task), 17))
    observations = random_observations(policy.task, 5)
    wanted = np.asarray(policy.outputs(observations))
    assert wanted.std() > 1e-3
    np.testing.assert_allclose(Policy.load(path).outputs(observations), wanted, rtol=1e-4, atol=1e-4)


@needs_compiler
@pytest.mark.parametrize("name", ["one frame of 42", "two frames of 64", "bits", "all bits, twice", "a window"])
def test_a_header_answers_as_jax_answers(name: str, tmp_path: Path) -> None:
    policy = student(name)
    observations = random_observations(policy.task, 3)
    layers = layers_of(policy)
    (tmp_path / f"{policy.task.name}.h").write_text(c_file.header_text(layers, policy.task, metadata_of(policy.task)))
    outputs = np.asarray(policy.outputs(observations))
    test_name, text = c_file.test_program(f"{policy.task.name}.h", policy.task, observations, outputs)
    (tmp_path / test_name).write_text(text)
    assert subprocess.run([compile_program(tmp_path / test_name)], check=False).returncode == 0


def test_what_a_file_says_of_its_observations() -> None:
    policy = student("one frame of 42")
    told = describe_observation(policy)
    assert told["shape"] == [42, 42, 1]
    assert told["rule"]["resized"].endswith("to 84x84, and from there by means over areas, halves up, to 42x42")
    assert (told["rule"]["stack"], told["senses"]["frames"]) == (1, 1)
    assert "one copy of its first frame" in told["rule"]["order"]
    memory = student("memory")
    told = describe_observation(memory)
    assert told["rule"] == {"bytes": 128, "scaling": "1/255 in float32, before the file"}


@pytest.mark.parametrize("name", ["one frame of 42", "memory", "a window"])
def test_its_own_play_shows_what_it_senses(name: str) -> None:
    policy = student(name)
    protocol = Protocol.of(policy.trained.config, policy.shown)
    batches = [observations for observations, _ in itertools.islice(own_play(policy, protocol, 5), 4)]
    assert {batch.shape for batch in batches} == {(protocol.num_lanes, *policy.task.observation_shape)}
    assert policy.senses is not None
    environment = Environment(policy.shown, protocol.num_lanes, 5, stepping="host", beside=policy.senses.beside)
    first = environment.reset()[1]
    shown = np.asarray(first.observations if policy.senses.beside is None else first.beside)
    sample = policy.senses.of_samples(shown[..., -1] if policy.senses.sees_frames else shown)
    expected = sample[..., None] if policy.senses.sees_frames else np.tile(sample, (1, policy.senses.window))
    np.testing.assert_array_equal(batches[0], expected)


def test_what_goes_by_what_a_game_shows_refuses_them() -> None:
    policy = student("one frame of 42")
    for refused in (lambda: watched_policy(policy), lambda: refuse_senses(policy, "policy")):
        with pytest.raises(UserError, match="policy: the student of runs/random senses 1 frame of 42x42, and this is"):
            refused()
