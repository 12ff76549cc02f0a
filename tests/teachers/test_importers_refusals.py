"""Archives that are no teachers: each is refused in one line, writes nothing and runs nothing."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import pickle
import struct
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import stable_baselines3
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from pd_jax.errors import UserError
from pd_jax.teachers import load
from pd_jax.teachers.importers import import_teacher
from support import commands
from support.sb3_models import FRAMES, Still, make_env, make_model, rewrite, vectors, with_data, with_tensors


def refusal(path: Any, game: str | None) -> str:
    """The one line with which an archive is refused; it begins with the archive's name."""
    before = commands.contents(Path(path).parent)
    with pytest.raises(UserError) as refused:
        load(path, game)
    message = str(refused.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and message.isprintable()
    assert commands.contents(Path(path).parent) == before
    return message.removeprefix(f"{path}: ")


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Good archives, by algorithm and game."""
    directory = tmp_path_factory.mktemp("archives")
    paths = {}
    for name in ("dqn_cartpole", "ppo_cartpole", "qrdqn_cartpole", "dqn_pong", "ppo_pong"):
        algorithm, game = name.split("_")
        paths[name] = directory / f"{name}.zip"
        make_model(algorithm, game).save(paths[name])
    return paths


@pytest.fixture
def altered(archives, tmp_path) -> Callable[..., Path]:
    """``altered("dqn_pong", data=edit, policy=edit)``: a good archive with members changed."""
    return lambda name, **edits: rewrite(archives[name], tmp_path / "altered.zip", **edits)


def test_the_archives_of_these_tests_are_good_ones(archives):
    for name, path in archives.items():
        assert load(path, name.split("_")[1]).task.name == name.split("_")[1]


def test_an_archive_without_a_game_says_what_is_missing(archives):
    assert refusal(archives["dqn_pong"], None).endswith("does not say what it plays; add --game NAME")
    with pytest.raises(UserError, match="did you mean 'pong'"):
        load(archives["dqn_pong"], "pnog")


class Own(FlattenExtractor):
    """A features extractor of a user's."""


class OwnPolicy(stable_baselines3.dqn.MlpPolicy):
    """A policy class of a user's, with a constructor of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


DISCRETE = spaces.Discrete(2)


@pytest.mark.parametrize(
    ("make", "game", "complaint"),
    [
        (lambda: make_model("dqn", "pong"), "breakout", "has 6 actions, breakout has 4"),
        (
            lambda: make_model("dqn", "pong", Still(FRAMES, spaces.Discrete(18))),
            "pong",
            "has 18 actions, pong has 6; it was trained with the full action set of 18",
        ),
        (
            lambda: make_model("dqn", "cartpole"),
            "acrobot",
            "sees observations of shape [4]; acrobot shows vectors of 6",
        ),
        (lambda: make_model("dqn", "cartpole"), "pong", "sees observations of shape [4]; pong shows stacks of 4 grey"),
        (
            lambda: make_model("ppo", "pong", Still(spaces.Box(0, 255, (1, 84, 84), np.uint8), spaces.Discrete(6))),
            "pong",
            "sees observations of shape [1, 84, 84]; pong shows stacks of 4 grey frames of 84x84, [4, 84, 84]",
        ),
        (
            lambda: make_model(
                "ppo",
                "pong",
                Still(spaces.Box(0, 1, (4, 84, 84), np.float32), spaces.Discrete(6)),
                policy_kwargs={"normalize_images": False, "features_extractor_kwargs": {"normalized_image": True}},
            ),
            "pong",
            "sees frames of float32, normalised outside the network",
        ),
        (
            lambda: make_model("dqn", "pong", policy_kwargs={"normalize_images": False}),
            "pong",
            "has normalize_images=False",
        ),
        (
            lambda: make_model("ppo", "cartpole", policy_kwargs={"activation_fn": torch.nn.Mish}),
            "cartpole",
            "its activation_fn is torch.nn.modules.activation.Mish; ReLU, Tanh, ELU, LeakyReLU, SiLU and GELU are read",
        ),
        (
            lambda: make_model("dqn", "pong", policy_kwargs={"net_arch": [8], "activation_fn": torch.nn.Sigmoid}),
            "pong",
            "its activation_fn is torch.nn.modules.activation.Sigmoid; ReLU, Tanh,",
        ),
        (
            lambda: make_model("dqn", "cartpole", policy_kwargs={"features_extractor_class": Own}),
            "cartpole",
            f"has a features extractor of its own, {__name__}.Own",
        ),
        (
            lambda: make_model("dqn", "cartpole", policy=OwnPolicy),
            "cartpole",
            f"its policy class OwnPolicy of {__name__}",
        ),
        (
            lambda: make_model(
                "dqn", "cartpole", Still(spaces.Dict({"x": vectors(4)}), DISCRETE), policy="MultiInputPolicy"
            ),
            "cartpole",
            "its policy MultiInputPolicy takes several inputs",
        ),
        (
            lambda: make_model("ppo", "cartpole", Still(vectors(4), spaces.Box(-1, 1, (2,)))),
            "cartpole",
            "its actions are a Box space",
        ),
        (
            lambda: make_model("ppo", "cartpole", Still(vectors(4), spaces.Box(-1, 1, (2,))), use_sde=True),
            "cartpole",
            "its actions are a Box space",
        ),
        (
            lambda: make_model("a2c", "cartpole", Still(vectors(4), spaces.MultiDiscrete([2, 2]))),
            "cartpole",
            "its actions are a MultiDiscrete space",
        ),
        (
            lambda: make_model("dqn", "cartpole", Still(spaces.Discrete(4), DISCRETE)),
            "cartpole",
            "its observations are a Discrete space",
        ),
        (
            lambda: RecurrentPPO("MlpLstmPolicy", make_env("cartpole"), n_steps=8, batch_size=8),
            "cartpole",
            "its policy RecurrentActorCriticPolicy is recurrent",
        ),
        (
            lambda: stable_baselines3.SAC("MlpPolicy", Still(vectors(4), spaces.Box(-1, 1, (2,))), buffer_size=4),
            "cartpole",
            "its actions are a Box space; cartpole has 2 discrete ones",
        ),
    ],
)
def test_agents_that_the_library_makes_and_we_do_not_read_are_refused(make, game, complaint, tmp_path):
    path = tmp_path / "model.zip"
    make().save(path)
    assert complaint in refusal(path, game)


@pytest.mark.parametrize("norm_obs", [True, False])
def test_a_policy_that_may_need_the_statistics_of_vec_normalize_is_refused(norm_obs, tmp_path):
    env = VecNormalize(DummyVecEnv([lambda: gymnasium.make("CartPole-v1")]), norm_obs=norm_obs)
    model = make_model("ppo", "cartpole", env)
    model.learn(8)
    model.save(tmp_path / "model.zip")
    message = refusal(tmp_path / "model.zip", "cartpole")
    assert message.startswith("was trained with VecNormalize, whose statistics are not in the archive")
    assert message.endswith("(--observation-statistics FILE), or 'none' if only rewards were normalised")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"policy_class": ...}, "not an archive of Stable-Baselines3: its 'data' names no policy_class"),
        ({"policy_class": "MlpPolicy"}, "not an archive of Stable-Baselines3: its 'data' names no policy_class"),
        ({"policy_class": {}}, "its policy class of unknown name of None is not one that is read"),
        ({"observation_space": ...}, "not an archive of Stable-Baselines3: its 'data' has no observation_space"),
        ({"action_space": [2]}, "not an archive of Stable-Baselines3: its 'data' has no action_space"),
        ({"action_space": {":type:": "<class 'x.Discrete'>", "n": "1e9"}}, "does not say how many actions it has"),
        (
            {"action_space": {":type:": "<class 'x.Discrete'>", "n": "2", "start": "1"}},
            "its actions begin at 1, those of cartpole at 0",
        ),
        ({"action_space": {":type:": "<class '\x1b[2J'>"}}, "its actions are a '\\x1b[2J' space"),
        ({"policy_kwargs": [1]}, "its policy_kwargs are [1], not an object"),
        ({"use_sde": True}, "uses state-dependent exploration (use_sde)"),
        ({"policy_kwargs": {"activation_fn": ["<class 'torch.nn.ReLU'>"]}}, "its activation_fn is ["),
    ],
)
def test_data_that_says_something_else_is_refused(changes, complaint, altered):
    assert complaint in refusal(altered("dqn_cartpole", data=with_data(**changes)), "cartpole")


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"policy_class": ' + b"9" * 5000 + b"}"]
)
def test_data_that_is_no_json_object_is_refused(text, altered):
    message = refusal(altered("dqn_cartpole", data=lambda _: text), "cartpole")
    assert message.startswith("not an archive of Stable-Baselines3: its 'data' ")


FIRST, OUTPUT = "q_net.q_net.0.weight", "q_net.q_net.4.weight"


def drop(name: str) -> Callable[[dict[str, Any]], None]:
    def change(state: dict[str, Any]) -> None:
        del state[name]

    return change


def put(name: str, tensor: Any) -> Callable[[dict[str, Any]], None]:
    return lambda state: state.update({name: tensor})


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (drop(FIRST), f"tensor '{FIRST}' is missing"),
        (drop("q_net.q_net.4.bias"), "tensor 'q_net.q_net.4.bias' is missing"),
        (lambda state: {"w": torch.ones(1)}, "tensor 'w' (1,) does not belong to such a policy"),
        (lambda state: {"q_net_target.x": torch.ones(1)}, "tensor 'q_net.q_net.0.weight' is missing"),
        (put("q_net.q_net.1.weight", torch.ones(64)), "q_net.q_net.* has layers at 0, 1, 2, 4; linear layers and"),
        (put("q_net.norm.weight", torch.ones(64)), "tensor 'q_net.norm.weight' (64,) does not belong to such a policy"),
        (put("lstm.weight_ih_l0", torch.ones(4, 4)), "tensor 'lstm.weight_ih_l0' (4, 4) does not belong"),
        (put(FIRST, torch.ones(64, 5)), "a layer takes 5 numbers where the one before it gives 4"),
        (put(FIRST, torch.ones(63, 4)), "tensor 'q_net.q_net.0.bias' has shape (64,), the network needs (63,)"),
        (put(FIRST, torch.ones(64)), f"tensor '{FIRST}' has shape (64,), which is no layer's"),
        (put(FIRST, torch.ones(0, 4)), f"tensor '{FIRST}' has shape (0, 4), which is no layer's"),
        (put(FIRST, torch.tensor(1.0)), f"tensor '{FIRST}' has shape (), which is no layer's"),
        (put(FIRST, torch.full((64, 4), torch.nan)), f"tensor '{FIRST}' holds NaN or infinite weights"),
        (
            put(FIRST, torch.full((64, 4), 1e300, dtype=torch.float64)),
            f"tensor '{FIRST}' holds NaN or infinite weights",
        ),
        (put(FIRST, torch.ones(64, 4, dtype=torch.int32)), f"policy.pth: '{FIRST}' is not a dense tensor of floats"),
        (put(FIRST, torch.ones(64, 4).to_sparse()), f"policy.pth: '{FIRST}' is not a dense tensor of floats"),
        (put(FIRST, [1.0]), f"policy.pth: '{FIRST}' is not a dense tensor of floats"),
        (
            put(FIRST, torch.ones(1).expand(2**20, 2**20)),
            f"'{FIRST}' does not hold the numbers that its shape announces",
        ),
        (lambda state: {3: torch.ones(1)}, "policy.pth holds a tensor without a proper name"),
        (lambda state: [torch.ones(1)], "policy.pth holds no tensors by name"),
        (lambda state: {}, "policy.pth holds no tensors by name"),
    ],
)
def test_weights_of_another_make_are_refused(change, complaint, altered):
    assert complaint in refusal(altered("dqn_cartpole", policy=with_tensors(change)), "cartpole")


def test_outputs_that_are_no_number_of_quantiles_are_refused(altered):
    def change(state: dict[str, Any]) -> None:
        state["quantile_net.quantile_net.4.weight"] = torch.ones(399, 64)
        state["quantile_net.quantile_net.4.bias"] = torch.ones(399)

    message = refusal(altered("qrdqn_cartpole", policy=with_tensors(change)), "cartpole")
    assert message == "has 399 outputs, which are no number of quantiles of 2 actions"


def test_a_head_that_contradicts_the_action_space_is_refused(altered):
    def change(state: dict[str, Any]) -> None:
        state["action_net.weight"] = torch.ones(3, 64)
        state["action_net.bias"] = torch.ones(3)

    assert refusal(altered("ppo_cartpole", policy=with_tensors(change)), "cartpole") == "has 3 actions, cartpole has 2"


def test_a_dense_layer_after_other_convolutions_is_refused(altered):
    name = "q_net.features_extractor.linear.0.weight"
    message = refusal(altered("dqn_pong", policy=with_tensors(put(name, torch.ones(512, 3137)))), "pong")
    assert message == f"tensor '{name}' has shape (512, 3137), the network needs 3136 inputs"


def test_an_algorithm_that_the_library_does_not_have_is_refused(altered):
    edit = with_data(clip_range=..., gae_lambda=...)
    assert refusal(altered("ppo_cartpole", data=edit), "cartpole").startswith("its algorithm is unknown to pd_jax")


def test_convolutions_of_another_shape_are_refused(altered):
    name = "q_net.features_extractor.cnn.2.weight"
    message = refusal(altered("dqn_pong", policy=with_tensors(put(name, torch.ones(64, 32, 3, 3)))), "pong")
    assert message == f"tensor '{name}' has shape (64, 32, 3, 3), the network needs (64, 32, 4, 4)"


def test_a_damaged_policy_is_refused(altered):
    for edit in (lambda data: b"", lambda data: data[: len(data) // 2], lambda data: b"\x80\x02}q\x00."):
        assert refusal(altered("dqn_cartpole", policy=edit), "cartpole").startswith("policy.pth: not a zip archive")


@pytest.mark.parametrize("missing", ["data", "policy"])
def test_a_zip_that_is_no_archive_of_the_library_is_refused(missing, altered, tmp_path):
    name = {"data": "data", "policy": "policy.pth"}[missing]
    message = refusal(altered("dqn_cartpole", **{missing: None}), "cartpole")
    assert message == f"not an archive of Stable-Baselines3, or one that was cut short: it holds no '{name}'"
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("holiday.jpg", b"\xff\xd8")
    assert refusal(tmp_path / "photos.zip", "pong").endswith("cut short: it holds no 'data'")


def test_what_is_no_zip_is_refused(archives, tmp_path):
    path = tmp_path / "model.zip"
    whole = archives["dqn_cartpole"].read_bytes()
    for content in (b"", b"no zip", whole[:-30], whole[: len(whole) // 2], b"PK\x03\x04"):
        path.write_bytes(content)
        # Cut short, it may end in an archive of the weights inside it, which is a zip archive too.
        assert refusal(path, "cartpole").startswith(("not a zip archive, or a damaged one", "not an archive of Stable"))
    assert refusal(tmp_path / "absent.zip", "cartpole") == "no such file"
    (tmp_path / "directory.zip").mkdir()
    assert refusal(tmp_path / "directory.zip", "cartpole") == "is a directory, not a file"
    os.mkfifo(tmp_path / "fifo.zip")
    assert refusal(tmp_path / "fifo.zip", "cartpole") == "is not a regular file"


def test_bytes_that_were_flipped_never_cause_another_error(archives, tmp_path):
    whole, path = archives["dqn_cartpole"].read_bytes(), tmp_path / "flipped.zip"
    rng = np.random.default_rng(0)
    for _ in range(60):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), 3):
            data[place] ^= int(rng.integers(1, 256))
        path.write_bytes(bytes(data))
        try:
            load(path, "cartpole")
        except UserError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)


class Payload:
    """Writes a file as soon as it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return exec, (f"open({str(self.path)!r}, 'w').write('ran')",)


def test_the_payload_of_these_tests_does_run_where_pickles_are_trusted(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "ran")))
    assert (tmp_path / "ran").read_text() == "ran"


@pytest.mark.parametrize(
    "edit",
    [
        lambda payload: with_tensors(lambda state: state | {"q_net.q_net.0.weight": payload}),
        lambda payload: with_tensors(lambda state: payload),
        lambda payload: lambda data: pickle.dumps(payload),
        lambda payload: lambda data: old_format(payload),
    ],
    ids=["beside the tensors", "instead of them", "a bare pickle", "PyTorch's old format"],
)
def test_code_in_the_policys_pickle_is_not_run(edit, altered, tmp_path, capfd):
    ran = tmp_path / "ran"
    path = altered("dqn_cartpole", policy=edit(Payload(ran)))
    assert "policy.pth" in refusal(path, "cartpole")
    options = ["--game", "cartpole", "--student.network", "mlp", "--out", str(tmp_path / "run")]
    message = commands.refusal(capfd, "distill", "--teacher", str(path), *options)
    assert message.startswith(f"pd-jax distill: {path}: policy.pth")
    assert not ran.exists() and not (tmp_path / "run").exists()


def old_format(payload: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(payload, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def test_code_in_the_pickles_of_data_is_not_run(altered, tmp_path):
    ran = tmp_path / "ran"
    code = base64.b64encode(pickle.dumps(Payload(ran))).decode()

    def poisoned(text: bytes) -> bytes:
        # Every pickle that the library wrote, and some in places where it has plain values.
        data = json.loads(text)
        for value in data.values():
            if isinstance(value, dict) and ":serialized:" in value:
                value[":serialized:"] = code
        data |= {name: {":type:": "<class 'x'>", ":serialized:": code} for name in ("seed", "gamma", "num_timesteps")}
        assert text.count(b":serialized:") > 3
        return json.dumps(data).encode()

    path = altered("dqn_cartpole", data=poisoned)
    # What is read does not depend on them: the agent is as good as before.
    assert load(path, "cartpole").metadata.env_steps is None
    assert not ran.exists()
    # They are no dummies: the library itself runs them, and then finds that its policy class is None.
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stable_baselines3.DQN.load(path)
    assert ran.read_text() == "ran"


def test_without_pytorch_the_extra_is_named(archives, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"are read with PyTorch: pip install 'pd-jax\[sb3\]'"):
        load(archives["dqn_cartpole"], "cartpole")


def test_the_library_itself_is_not_needed(archives, monkeypatch):
    for name in ("stable_baselines3", "sb3_contrib", "cloudpickle", "gymnasium"):
        monkeypatch.setitem(sys.modules, name, None)
    params, _ = import_teacher(str(archives["qrdqn_cartpole"]), "cartpole")
    assert params["head"]["output"]["kernel"].shape == (64, 2)


def test_a_bomb_inside_the_policy_is_refused(altered):
    def bomb(data: bytes) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("policy/data.pkl", b"\x80\x02}q\x00.")
            archive.writestr("policy/data/0", bytes(2**26))
        return buffer.getvalue()

    message = refusal(altered("dqn_cartpole", policy=bomb), "cartpole")
    assert message.startswith("policy.pth: member 'policy/data/0' would unpack from ")


def test_a_member_larger_than_any_agents_is_refused(altered, archives, tmp_path):
    path = altered("dqn_cartpole", data=lambda text: text)
    # A directory entry may announce any size; no memory may be spent on its word.
    raw = bytearray(path.read_bytes())
    place = raw.index(b"PK\x01\x02")
    while raw[place + 46 : place + 50] != b"data":
        place = raw.index(b"PK\x01\x02", place + 4)
    raw[place + 20 : place + 28] = struct.pack("<II", 2**29, 2**29)
    path.write_bytes(bytes(raw))
    assert refusal(path, "cartpole") == f"member 'data' has {2**29:,} bytes, more than any agent's"
