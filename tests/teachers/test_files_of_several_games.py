"""Teacher files of several games: what is read is what was written, and one game is taken out of them by its name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from pd_jax.cli import main
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.networks.joint import make_joint_network
from pd_jax.teachers import load
from pd_jax.teachers.files import read_games, read_teacher, save_teacher
from pd_jax.teachers.metadata import TeacherMetadata
from support.commands import refusal, write_teacher

GAMES = ("cartpole", "acrobot")
STUDENT = make_joint_network("mlp", [get_task(game) for game in GAMES], hidden_sizes=(8,), head_hidden=4)


def metadata_of(game: str, **changes: Any) -> TeacherMetadata:
    task = get_task(game)
    score = {"mean": 9.5 if game == "cartpole" else -400.0, "standard_error": 0.5, "episodes": 8}
    protocol = {"ci95": [0.0, 1.0], "epsilon": 0.05, "max_noops": 30, "max_episode_steps": 500, "seed": 1}
    metadata = TeacherMetadata(
        name=f"{game}-mlp",
        game=game,
        env_id=task.env_id,
        network="mlp",
        layer_norm=False,
        hidden_sizes=(8,),
        games=GAMES,
        head_hidden=4,
        num_actions=task.num_actions,
        action_names=task.action_names,
        observation={"kind": task.kind, "shape": list(task.observation_shape), "dtype": task.observation_dtype},
        output="q",
        algorithm="dqn",
        env_steps=2000,
        seed=3,
        training_config={"game": list(GAMES)},
        evaluation=score | protocol,
        learning_curve=[{"env_steps": 1000} | score],
        how_made="by a test",
        licence="Apache-2.0",
        created="2025-01-31",
        pd_jax_version="0",
    )
    return dataclasses.replace(metadata, **changes)


def both(**changes: Any) -> list[TeacherMetadata]:
    return [metadata_of(game, **changes) for game in GAMES]


@pytest.fixture(scope="module")
def variables() -> Any:
    return jax.tree.map(np.asarray, jax.jit(STUDENT.init)(jax.random.key(0)))


@pytest.fixture
def file(tmp_path: Path, variables: Any) -> Path:
    path = tmp_path / "teacher.safetensors"
    save_teacher(path, variables["params"], both())
    return path


def with_fields(path: Path, change: Any) -> None:
    """Rewrites the metadata of a file by hand."""
    with safetensors.safe_open(path, "numpy") as opened:
        fields = json.loads(opened.metadata()["pd_jax"])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    change(fields)
    path.write_bytes(safetensors.numpy.save(tensors, metadata={"pd_jax": json.dumps(fields)}))


def message_of(path: Path, game: str | None = "cartpole") -> str:
    with pytest.raises(UserError) as refused:
        load(path, game)
    message = str(refused.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_what_is_read_is_what_was_written_for_every_game(file: Path, variables: Any) -> None:
    params, games = read_games(file)
    assert list(games) == [dataclasses.replace(own, format_version=3) for own in both()]
    jax.tree.map(np.testing.assert_array_equal, params, variables["params"])
    for game, own in zip(GAMES, games, strict=True):
        assert read_teacher(file, game)[1] == own
    assert read_teacher(file, "CartPole-v1")[1] == games[0]
    once = file.read_bytes()
    save_teacher(file, params, games)
    assert file.read_bytes() == once


def test_a_teacher_of_one_of_the_games_gives_that_heads_values(file: Path, variables: Any) -> None:
    for game, name in enumerate(GAMES):
        task, teacher = get_task(name), load(file, name)
        seen = np.random.default_rng(0).standard_normal((5, *task.observation_shape)).astype(np.float32)
        found = np.asarray(teacher(seen))
        assert found.shape == (5, task.num_actions)
        np.testing.assert_allclose(found, STUDENT.policy(game)(variables, seen), atol=1e-6)
        assert (teacher.task, teacher.metadata.evaluation["mean"]) == (task, (9.5, -400.0)[game])
        # 6 x 8 + 8 in the torso, 8 x 4 + 4 twice, and 4 weights and a bias for each of 5 actions.
        assert teacher.num_params == 56 + 2 * 36 + 25


def test_a_game_has_to_be_named_and_to_be_one_of_them(file: Path) -> None:
    assert message_of(file, None) == (
        "is a network of several games; say which one is meant with --game (cartpole, acrobot)"
    )
    assert message_of(file, "pong") == ("is a network of several games, and pong is none of them (cartpole, acrobot)")
    with pytest.raises(UserError, match="'pogn' is not a game; did you mean 'pong'"):
        load(file, "pogn")


def test_the_files_of_single_games_are_as_they_were(tmp_path: Path) -> None:
    path = write_teacher(tmp_path / "one.safetensors", "cartpole")
    with safetensors.safe_open(path, "numpy") as opened:
        fields = json.loads(opened.metadata()["pd_jax"])
    assert fields["format_version"] == 2
    assert not {"games", "channels", "hidden", "head_hidden"} & fields.keys()
    _, (metadata,) = read_games(path)
    assert (metadata.games, read_teacher(path, "cartpole")[1]) == ((), metadata)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda fields: fields.pop("games"), "metadata: games is missing"),
        (lambda fields: fields.update(games=[]), "metadata: games is [], not a list of 2 to 64 objects"),
        (lambda fields: fields["games"].pop(), "metadata: games is [{"),
        (lambda fields: fields.update(games=[1, 2]), "metadata: games is [1, 2], not a list of 2 to 64 objects"),
        (lambda fields: fields.update(head_hidden=-1), "metadata: head_hidden is -1, not a whole number from 0 to"),
        (lambda fields: fields.update(hidden="wide"), "metadata: hidden is 'wide', not a whole number from 1 to"),
        (lambda fields: fields.update(channels=[0]), "metadata: channels is [0], not a list of whole numbers"),
        (lambda fields: fields.update(game="cartpole"), "metadata: game is beside the games, not in them"),
        (lambda fields: fields["games"][1].pop("env_id"), "metadata: games[1]: env_id is missing"),
        (lambda fields: fields["games"][1].update(seed=1, x=2), "metadata: games[1]: 'x' is not a field"),
        (lambda fields: fields["games"].reverse(), "tensor "),
        (lambda fields: fields["games"][1].update(fields["games"][0]), "metadata: has a game twice"),
        (lambda fields: fields["games"][1].update(game="pogn"), "'pogn' is not a game; did you mean 'pong'?"),
        (
            lambda fields: fields.update(network="multi3", hidden_sizes=[]),
            "network: 'multi3' sees frames, and cartpole has none",
        ),
        (lambda fields: fields.update(head_hidden=5), "tensor "),
        (lambda fields: fields.update(support=[0.0, 1.0]), "a categorical head is for a single game"),
        (lambda fields: fields.update(format_version=7), "is in teacher format 7, newer than the format 6"),
    ],
)
def test_what_does_not_fit_together_is_refused(file: Path, change: Any, message: str) -> None:
    with_fields(file, change)
    assert message_of(file).startswith(message)


def test_what_version_4_adds_is_said_of_each_game(tmp_path: Path, variables: Any, file: Path) -> None:
    path = tmp_path / "new.safetensors"
    games = both()
    games[1] = dataclasses.replace(
        games[1],
        observations={"goal": {"kind": "vector", "shape": [2], "dtype": "float32"}},
        normalisation={"observation": {"mean": [0.5] * 6, "variance": [2.0] * 6, "count": 1e6}},
    )
    save_teacher(path, variables["params"], games)
    params, read = read_games(path)
    assert list(read) == [dataclasses.replace(own, format_version=4) for own in games]
    once = path.read_bytes()
    save_teacher(path, params, read)
    assert path.read_bytes() == once
    # The other head is of use as it is.
    assert load(path, "cartpole").metadata.format_version == 4
    assert message_of(path, "acrobot").startswith("needs the further observations ['goal'] and frozen normalisation of")
    with_fields(path, lambda fields: fields["games"][1]["normalisation"]["observation"].update(mean=[0.5] * 4))
    assert message_of(path).startswith(
        "metadata: games[1]: normalisation: observation: mean is [0.5, 0.5, 0.5, 0.5], not"
    )
    with_fields(path, lambda fields: fields.update(normalisation={}))
    assert message_of(path) == "metadata: normalisation is beside the games, not in them"
    with_fields(file, lambda fields: fields["games"][0].update(normalisation={}))
    assert message_of(file).startswith("metadata: games[0]: 'normalisation' is not a field")


def test_games_that_are_not_one_networks_are_not_written(tmp_path: Path, variables: Any) -> None:
    path = tmp_path / "teacher.safetensors"
    for metadata in (
        [metadata_of("cartpole"), metadata_of("acrobot", seed=4)],
        both(games=("acrobot", "cartpole")),
        [metadata_of("cartpole")],
    ):
        with pytest.raises(ValueError):
            save_teacher(path, variables["params"], metadata)
    assert not path.exists()


def test_the_commands_take_one_game_of_a_file(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    quick = ["--evaluation.episodes", "2", "--evaluation.num-lanes", "2", "--evaluation.max-episode-steps", "20"]
    for game in GAMES:
        assert main(["evaluate", "--teacher", str(file), "--game", game, *quick]) == 0
        assert f"{game} teacher: " in capfd.readouterr().out
    assert main(["teachers", "show", str(file), "--game", "acrobot"]) == 0
    shown = capfd.readouterr().out
    assert "acrobot (Acrobot-v1)" in shown and '["cartpole", "acrobot"]' in shown
    for argv in (["evaluate", "--teacher", str(file), *quick], ["teachers", "show", str(file)]):
        assert refusal(capfd, *argv).endswith("say which one is meant with --game (cartpole, acrobot)")
