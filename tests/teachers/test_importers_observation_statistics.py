"""Agents that saw normalised observations: statistics are numbers, and the agents play with them as they did."""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from pd_jax.cli import main
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.teachers import load
from pd_jax.teachers.files import read_teacher, save_teacher
from pd_jax.teachers.importers import import_teacher
from pd_jax.teachers.importers.observation_statistics import read_statistics
from support import commands
from support.sb3_models import make_model, outputs, random_observations

DOCUMENT = Path(__file__).parents[2] / "docs" / "teachers.md"
CARTPOLE = get_task("cartpole")


def vec_normalize(**settings: Any) -> VecNormalize:
    return VecNormalize(DummyVecEnv([lambda: gymnasium.make("CartPole-v1")]), **settings)


@pytest.fixture(scope="module", params=["dqn", "ppo"])
def normalised(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    """A model, the VecNormalize that it was trained in, and a directory with both as the library saves them."""
    directory = tmp_path_factory.mktemp(request.param)
    env = vec_normalize(clip_obs=2.0)
    kwargs = {"learning_starts": 64, "buffer_size": 64} if request.param == "dqn" else {"n_steps": 64, "batch_size": 64}
    model = make_model(request.param, "cartpole", env, **kwargs)
    model.learn(256)
    model.save(directory / "model.zip")
    env.save(directory / "vec_normalize.pkl")
    return model, env, directory


def exported(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the lines of the documentation write."""
    text = DOCUMENT.read_text()
    (block,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "VecNormalize.load" in block)
    monkeypatch.chdir(directory)
    exec(block, {})
    return directory / "statistics.npz"


def test_the_documented_lines_export_what_makes_the_agent_answer_as_it_did(normalised, monkeypatch, tmp_path):
    model, env, directory = normalised
    statistics = exported(directory, monkeypatch)
    params, metadata = import_teacher(directory / "model.zip", "cartpole", statistics)
    save_teacher(tmp_path / "t.safetensors", params, metadata)
    teacher = load(tmp_path / "t.safetensors")
    assert teacher.metadata.format_version == 5 and teacher.metadata.normalisation["observation"]["clip"] == 2.0
    observations = 2 * random_observations(CARTPOLE, 512)
    seen = env.normalize_obs(observations)
    assert (np.abs(seen) == 2.0).any(axis=0).all(), "some of each entry are clipped"
    theirs = outputs(model, seen)
    ours = np.asarray(teacher(observations))
    if teacher.gives_logits:
        ours = ours - np.log(np.exp(ours).sum(axis=1, keepdims=True))
    assert theirs.std(axis=0).min() > 1e-2
    np.testing.assert_allclose(ours, theirs, atol=2e-6, rtol=1e-6)
    without = load_with(params, metadata, tmp_path, normalisation={})(observations)
    assert np.abs(np.asarray(without) - np.asarray(teacher(observations))).max() > 1e-2


def load_with(params: Any, metadata: Any, directory: Path, **changes: Any) -> Any:
    save_teacher(directory / "changed.safetensors", params, dataclasses.replace(metadata, **changes))
    return load(directory / "changed.safetensors")


def test_an_agent_with_normalised_rewards_alone_is_taken_at_a_word_and_plays(tmp_path, capfd):
    model = make_model("ppo", "cartpole", vec_normalize(norm_obs=False), policy_kwargs={"net_arch": []})
    model.learn(8)
    # Towards where the pole falls.
    with torch.no_grad():
        model.policy.action_net.weight.copy_(torch.tensor([[0.0, 0, -3, -3], [0, 0, 3, 3]]))
        model.policy.action_net.bias.zero_()
    model.save(tmp_path / "ppo.zip")
    line = ["teachers", "import", str(tmp_path / "ppo.zip"), "--game", "cartpole", "--out"]
    message = commands.refusal(capfd, *line, str(tmp_path / "t.safetensors"))
    assert "--observation-statistics FILE" in message and "'none'" in message
    told = ["--observation-statistics", "none", "--evaluate-episodes", "20"]
    assert main([*line, str(tmp_path / "t.safetensors"), *told]) == 0
    teacher = load(tmp_path / "t.safetensors")
    assert teacher.metadata.evaluation["mean"] > 100 and teacher.metadata.format_version == 2
    assert "warning" not in capfd.readouterr().err


def test_importing_says_and_evaluates_where_normalisation_does_not_show(tmp_path, capfd):
    make_model("dqn", "cartpole").save(tmp_path / "dqn.zip")
    line = ["teachers", "import", str(tmp_path / "dqn.zip"), "--game", "cartpole", "--out"]
    assert main([*line, str(tmp_path / "t.safetensors")]) == 0
    said = f"warning: {tmp_path / 'dqn.zip'}: does not show whether its observations were normalised"
    out, err = capfd.readouterr()
    assert "over 20 episodes" in out and said in err and "random play: 22.2" in err
    assert read_teacher(tmp_path / "t.safetensors")[1].evaluation["episodes"] == 20
    for name, told in (("a", ["--observation-statistics", "none"]), ("b", ["--evaluate-episodes", "0"])):
        assert main([*line, str(tmp_path / f"{name}.safetensors"), *told]) == 0
        assert read_teacher(tmp_path / f"{name}.safetensors")[1].evaluation == {}
        assert (said in capfd.readouterr().err) == (name == "b")
    load(tmp_path / "dqn.zip", "cartpole")
    assert said in capfd.readouterr().err


@pytest.mark.parametrize(("algorithm", "game"), [("dqn", "pong"), ("ppo", "cartpole")])
def test_nothing_is_said_where_it_would_show(algorithm, game, tmp_path, capfd):
    make_model(algorithm, game).save(tmp_path / "a.zip")
    assert load(tmp_path / "a.zip", game).task.name == game
    assert capfd.readouterr().err == ""


def test_frames_beside_a_vec_normalize_that_left_them_alone_are_taken(tmp_path):
    # Had it normalised them, the archive would say that they are float32.
    model = make_model("ppo", "pong", n_epochs=1)
    env = VecNormalize(model.get_env(), norm_obs=False)
    model.set_env(env)
    model.learn(8)
    model.save(tmp_path / "ppo.zip")
    frames = random_observations(get_task("pong"), 8)
    ours = np.asarray(load(tmp_path / "ppo.zip", "pong")(frames))
    assert np.abs(ours - ours.mean(axis=0)).max() > 0
    assert import_teacher(tmp_path / "ppo.zip", "pong", "none")[1].normalisation == {}


STATISTICS = {"mean": [0.0, 0.1, 0.2, 0.3], "variance": [1.0, 2.0, 3.0, 4.0], "count": 100.0}


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (json.dumps(STATISTICS).encode(), STATISTICS | {"epsilon": 1e-8}),
        (json.dumps(STATISTICS | {"epsilon": 0.5, "clip": 3}).encode(), STATISTICS | {"epsilon": 0.5, "clip": 3}),
        (npz(**STATISTICS), STATISTICS | {"epsilon": 1e-8}),
        (npz(**STATISTICS, clip=5, epsilon=1e-6, other=[1]), STATISTICS | {"epsilon": 1e-6, "clip": 5}),
        (npz(mean=np.float64(2), variance=np.ones(4, ">f4"), count=np.int64(7)),
         {"mean": 2.0, "variance": [1.0] * 4, "count": 7, "epsilon": 1e-8}),
    ],
)  # fmt: skip
def test_numbers_are_read_from_json_and_from_npz_whatever_the_file_is_called(content, wanted, tmp_path):
    (tmp_path / "statistics.txt").write_bytes(content)
    assert read_statistics(tmp_path / "statistics.txt", CARTPOLE) == {"observation": wanted}


class Ran:
    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('ran')",)


def header(shape: str, descr: str = "<f8") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def zipped(member: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("mean.npy", member)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is not JSON with mean, variance and count, or an .npz file of NumPy's with these arrays"),
        (pickle.dumps(STATISTICS), "is a pickle, which could run anything and is not opened; docs/teachers.md has the"),
        (b"[1]", "is not JSON with mean"),
        (json.dumps({"mean": 0.0, "variance": 1.0}).encode(), "statistics: count is missing"),
        (json.dumps(STATISTICS | {"mean": [0.0]}).encode(), "statistics: mean is [0.0], not a finite number, or lists"),
        (json.dumps(STATISTICS | {"variance": -1}).encode(), "statistics: variance is -1, not a finite number >= 0"),
        (json.dumps(STATISTICS | {"clip": 0}).encode(), "statistics: clip is 0, not a number above 0"),
        (json.dumps(STATISTICS | {"epsilon": "x"}).encode(), "statistics: epsilon is 'x', not a number >= 0"),
        (json.dumps(STATISTICS | {"std": 1}).encode(), "statistics: 'std' is not a field"),
        (
            json.dumps({"mean": 0.0, "var": 1.0, "count": 9}).encode(),
            "calls the variance 'var', as running statistics do",
        ),
        (npz(mean=[0.0], var=[1.0]), "calls the variance 'var', as running statistics do"),
        (npz(a=[1]), "is not JSON with mean"),
        (npz(**STATISTICS)[:-40], "not a zip archive, or a damaged one"),
        (npz(**STATISTICS | {"mean": np.full(4, np.nan)}), "statistics: mean is [nan, nan, nan, nan], not a finite"),
        (npz(**STATISTICS | {"mean": np.array([Ran()], object)}), "mean.npy: is not an array of numbers, or cut short"),
        (zipped(header("(1099511627776,)")), "mean.npy: is not an array of numbers, or cut short"),
        (zipped(header("(4,)", "|O")), "mean.npy: is not an array of numbers, or cut short"),
        (zipped(header("(__import__('os'),)")), "mean.npy: is no array of NumPy's"),
        (zipped(b"\x93NUMPY\x09\x00"), "mean.npy: is no array of NumPy's"),
        (zipped(b""), "mean.npy: is no array of NumPy's"),
        (b"{" + b" " * 2**24, "has more than 16,777,216 bytes; statistics of cartpole have a few numbers"),
    ],
)
def test_what_is_no_statistics_is_refused_in_one_line(content, complaint, tmp_path):
    path = tmp_path / "statistics"
    path.write_bytes(content)
    with pytest.raises(UserError) as refused:
        read_statistics(path, CARTPOLE)
    message = str(refused.value)
    assert message.startswith(f"{path}: {complaint}") and "\n" not in message and message.isprintable()


def test_statistics_where_they_have_no_place_are_refused(tmp_path):
    path = tmp_path / "statistics.json"
    with pytest.raises(UserError, match=r"statistics\.json: no such file"):
        read_statistics(path, CARTPOLE)
    path.write_text(json.dumps(STATISTICS))
    with pytest.raises(UserError, match="statistics are for observations that are vectors; pong shows frames"):
        read_statistics(path, get_task("pong"))
    teacher = commands.write_teacher(tmp_path / "t.safetensors", "cartpole")
    with pytest.raises(UserError, match=r"t\.safetensors: is a teacher file, which says itself what it sees"):
        import_teacher(teacher, "cartpole", path)


def test_an_agent_with_statistics_is_not_trained_further_as_if_it_had_none(normalised, tmp_path, capfd):
    _, _, directory = normalised
    (tmp_path / "s.json").write_text(json.dumps(STATISTICS))
    params, metadata = import_teacher(directory / "model.zip", "cartpole", tmp_path / "s.json")
    if metadata.output == "logits":
        return
    save_teacher(tmp_path / "t.safetensors", params, metadata)
    options = ["--network", "mlp", "--mlp-hidden", "64", "64", "--no-layer-norm", "--out", str(tmp_path / "run")]
    start = ["--game", "cartpole", "--init-from", str(tmp_path / "t.safetensors")]
    message = commands.refusal(capfd, "train-teacher", *start, *options)
    assert message.endswith("has normalised observations; pqn trains plain networks with relu")
