"""Agents of atari-agents: they answer as their own network does, and what is none is refused in one line."""

from __future__ import annotations

import functools
import gzip
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pd_jax.deploy.scoring
from pd_jax.cli import main
from pd_jax.config.distill import DistillConfig
from pd_jax.distill.setup import make_setup
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.evaluation.evaluator import EpisodeScores
from pd_jax.evaluation.protocol import Protocol
from pd_jax.teachers import Teacher, load
from pd_jax.teachers.files import save_teacher
from pd_jax.teachers.formats import format_of, is_foreign
from pd_jax.teachers.importers import import_teacher
from support import commands
from support.sb3_models import randomise, real_observations, varied_observations

FRAMES = varied_observations(get_task("pong"), 16)


class AtariNet(nn.Module):
    """Their network as it is published: private attributes, which PyTorch names after the class."""

    def __init__(self, actions: int, atoms: int = 0) -> None:
        super().__init__()
        if atoms:
            self.__support = nn.Parameter(torch.linspace(-10, 10, atoms), requires_grad=False)
        convolutions = [nn.Conv2d(4, 32, 8, 4), nn.Conv2d(32, 64, 4, 2), nn.Conv2d(64, 64, 3, 1)]
        self.__features = nn.Sequential(*(part for layer in convolutions for part in (layer, nn.ReLU())))
        self.__head = nn.Sequential(nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, actions * max(1, atoms)))
        self.atoms = atoms

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        outputs = self.__head(torch.flatten(self.__features(frames.float() / 255), 1))
        if not self.atoms:
            return outputs
        probabilities = outputs.unflatten(1, (-1, self.atoms)).softmax(dim=2)
        return probabilities @ self.__support


@functools.cache
def make(actions: int = 6, atoms: int = 0) -> AtariNet:
    """Not to be changed; the dicts that it gives are new ones."""
    network = AtariNet(actions, atoms)
    support = dict(network.named_parameters()).get("_AtariNet__support")
    kept = None if support is None else support.clone()
    randomise(network)
    if support is not None and kept is not None:
        support.data.copy_(kept)
    return network


def answers(network: nn.Module, observations: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return network(torch.from_numpy(np.ascontiguousarray(observations.transpose(0, 3, 1, 2)))).numpy()


def dumped(state: Any, is_new: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=is_new)
    return buffer.getvalue()


def saved(path: Path, state: Any, is_new: bool = True, level: int = 0) -> Path:
    """A gzip file; packing random weights tight would take long and gain little."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(dumped(state, is_new), level))
    return path


def checkpoint(network: nn.Module) -> dict[str, Any]:
    """Beside the network stands what is of no use here."""
    optimizer = {"state": {0: {"step": 7, "exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}
    return {"estimator_state": network.state_dict(), "optim_state": optimizer, "step": 7}


def refusal(path: Path, game: str = "pong") -> str:
    with pytest.raises(UserError) as refused:
        load(path, game)
    message = str(refused.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and message.isprintable()
    return message.removeprefix(f"{path}: ")


def assert_answers(path: Path, network: nn.Module, seen: np.ndarray) -> Teacher:
    teacher, theirs = load(path, "pong"), answers(network, seen)
    assert theirs.std(axis=0).min() > 1e-2
    np.testing.assert_allclose(teacher(seen), theirs, rtol=0, atol=1e-4)
    return teacher


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """A thousand stacks of Pong as random play shows them."""
    return real_observations(get_task("pong"), 1000)


@pytest.mark.slow
@pytest.mark.parametrize("atoms", [0, 51])
def test_an_agent_answers_as_its_network_over_a_thousand_frames(atoms, frames, tmp_path):
    network = make(atoms=atoms)
    path = saved(tmp_path / "model_1.gz", checkpoint(network), level=9)
    assert_answers(path, network, frames)


@pytest.mark.parametrize(
    ("atoms", "folder", "is_new"),
    [(0, "DQN_modern", True), (0, "MDQN_modern", False), (51, "C51_classic", True), (51, "C51_classic", False)],
)
def test_an_agent_answers_as_its_network_and_tells_what_its_folders_tell(atoms, folder, is_new, tmp_path):
    network = make(atoms=atoms)
    path = saved(tmp_path / folder / "Pong" / "2" / "model_49750000.gz", checkpoint(network), is_new, level=is_new)
    teacher = assert_answers(path, network, FRAMES)
    metadata = teacher.metadata
    algorithm = {"DQN_modern": "dqn", "MDQN_modern": "m-dqn", "C51_classic": "c51"}[folder]
    assert (metadata.source_format, metadata.algorithm, metadata.network) == ("atari-agents", algorithm, "dqn")
    assert (metadata.env_steps, metadata.seed) == (49_750_000, 2)
    protocol = folder.rpartition("_")[2]
    sticky = {"modern": 0.25, "classic": 0.0}[protocol]
    assert metadata.training_config == {"protocol": protocol, "sticky_action_probability": sticky}
    assert metadata.named_protocol == protocol
    assert metadata.support == (tuple(map(float, torch.linspace(-10, 10, 51))) if atoms else ())
    save_teacher(tmp_path / "t.safetensors", *import_teacher(path, "pong"))
    np.testing.assert_array_equal(load(tmp_path / "t.safetensors")(FRAMES), teacher(FRAMES))


def test_an_agent_of_a_protocol_plays_by_another_only_if_that_is_asked_for(tmp_path, capfd, monkeypatch):
    played: list[str] = []

    def play(apply: Any, variables: Any, task: Any, protocol: Protocol, **more: Any) -> EpisodeScores:
        played.append(f"{protocol.sticky_action_probability} {protocol.max_noops} {protocol.fire_reset}")
        return EpisodeScores(np.zeros(protocol.episodes), np.ones(protocol.episodes, int))

    monkeypatch.setattr(pd_jax.deploy.scoring, "play_games", play)
    modern, classic = (
        saved(tmp_path / f"DQN_{name}" / "Pong" / "0" / "model_1.gz", checkpoint(make()))
        for name in ("modern", "classic")
    )
    before = commands.contents(tmp_path)
    student = {"student.network": "net3", "replay.capacity": 1024, "out": tmp_path / "run"}
    for command, own in (("evaluate", {}), ("distill", student)):
        message = commands.refusal(capfd, command, *commands.options({"teacher": modern, "game": "pong"} | own))
        assert message == (
            f"pd-jax {command}: teacher {modern}: is of protocol 'modern', and these settings are 'classic'; say "
            "--protocol modern, or another one to mix them"
        )
    assert commands.contents(tmp_path) == before and not played
    agent = {"teacher": modern, "game": "pong", "evaluation.episodes": 2}
    for protocol in ("modern", "classic"):
        commands.succeed("evaluate", agent | {"protocol": protocol})
    commands.succeed("evaluate", agent | {"teacher": classic})
    assert played == ["0.25 1 False", "0.0 30 True", "0.0 30 True"]
    # Imported, it is the same.
    out = tmp_path / "t.safetensors"
    imported = ["teachers", "import", str(modern), "--game", "pong", "--out", str(out)]
    message = commands.refusal(capfd, *imported, "--evaluate-episodes", "2")
    assert message.startswith(f"pd-jax teachers import: teacher {modern}: is of protocol 'modern', and these settings")
    assert not out.exists()
    assert main(imported) == 0 and "; it is played with --protocol modern" in capfd.readouterr().out
    message = commands.refusal(capfd, "evaluate", "--teacher", str(out))
    assert message.startswith(f"pd-jax evaluate: teacher {out}: is of protocol 'modern', and these settings are")
    config = DistillConfig(teacher=str(modern), game="pong", out=str(tmp_path / "run"), protocol="modern")
    assert make_setup(config).teachers[0].metadata.named_protocol == "modern"


def test_a_file_alone_tells_what_its_name_tells(tmp_path):
    network = make()
    path = saved(tmp_path / "model_1000000.gz", checkpoint(network))
    metadata = load(path, "PongNoFrameskip-v4").metadata
    assert (metadata.env_steps, metadata.seed, metadata.algorithm) == (1_000_000, None, "dqn")
    assert metadata.training_config == {}
    assert load(saved(tmp_path / "best.gz", checkpoint(network)), "pong").metadata.env_steps is None


def test_what_is_unpacked_and_what_was_never_a_checkpoint_is_read_too(tmp_path):
    network = make()
    (tmp_path / "model_5").write_bytes(dumped(checkpoint(network)))
    saved(tmp_path / "x", network.state_dict())
    assert [format_of(tmp_path / name) for name in ("model_5", "x")] == ["zip", "gzip"] and is_foreign(tmp_path / "x")
    for name in ("model_5", "x"):
        assert_answers(tmp_path / name, network, FRAMES)


def test_the_command_imports_and_refuses_to_say_without_a_game(tmp_path, capfd):
    path = saved(tmp_path / "model_250000.gz", checkpoint(make()))
    assert main(["teachers", "import", str(path), "--game", "pong", "--out", str(tmp_path / "t.safetensors")]) == 0
    assert load(tmp_path / "t.safetensors").metadata.env_steps == 250_000
    with pytest.raises(UserError, match="which does not say what it plays; add --game NAME"):
        load(path)
    before = commands.contents(tmp_path)
    options = ["--game", "breakout", "--out", str(tmp_path / "b.safetensors")]
    message = commands.refusal(capfd, "teachers", "import", str(path), *options)
    assert message == f"pd-jax teachers import: {path}: has 6 actions, breakout has 4"
    assert commands.contents(tmp_path) == before


def change(**tensors: Any) -> Any:
    def edit(state: dict[str, Any]) -> None:
        for name, value in tensors.items():
            name = f"_AtariNet__{name.replace('__', '.')}"
            if value is None:
                state.pop(name)
            else:
                state[name] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "atoms", "complaint"),
    [
        (change(head__2__bias=None), 0, "tensor '_AtariNet__head.2.bias' is missing; the estimator holds"),
        (change(features__6__weight=torch.ones(1)), 0, "tensor '_AtariNet__features.6.weight' does not belong to the"),
        (lambda state: state.update(extra=torch.ones(1)), 0, "tensor 'extra' does not belong to the estimator of DQN,"),
        (
            change(features__0__weight=torch.ones(32, 1, 8, 8)),
            0,
            "tensor '_AtariNet__features.0/kernel' has shape (8, 8, 1, 32), the network needs (8, 8, 4, 32)",
        ),
        (
            change(head__0__weight=torch.ones(512, 7744)),
            0,
            "tensor '_AtariNet__head.0/kernel' has shape (7744, 512), the network needs (3136, 512)",
        ),
        (change(head__2__bias=torch.full((6,), torch.nan)), 0, "tensor '_AtariNet__head.2.bias' holds NaN"),
        (
            change(head__2__bias=torch.full((6,), 1e300, dtype=torch.float64)),
            0,
            "tensor '_AtariNet__head.2.bias' holds",
        ),
        (change(head__2__bias="text"), 0, "holds '_AtariNet__head.2.bias', which is no tensor"),
        (change(support=torch.linspace(-10, 10, 50)), 51, "has 306 outputs, which are no number of actions with 50"),
        (change(support=torch.zeros(51)), 51, "tensor '_AtariNet__support' is no range of values"),
        (change(support=torch.ones(51, 1)), 51, "tensor '_AtariNet__support' is no range of values"),
        (change(support=None), 51, "has 306 actions, pong has 6"),
        (lambda state: state.clear(), 0, "is a file of PyTorch's without weights by name"),
    ],
)
def test_another_estimator_is_refused(edit, atoms, complaint, tmp_path):
    state = make(atoms=atoms).state_dict()
    edit(state)
    assert refusal(saved(tmp_path / "model_1.gz", {"estimator_state": state})).startswith(complaint)


def test_another_action_set_and_another_game_are_refused(tmp_path):
    full = saved(tmp_path / "model_1.gz", checkpoint(make(actions=18)))
    assert refusal(full) == "has 18 actions, pong has 6; it was trained with the full action set of 18"
    assert refusal(full, "cartpole") == "its network sees frames, and cartpole shows vectors"
    # Q*bert has as many actions as Pong: nothing but the folder tells them apart.
    qbert = saved(tmp_path / "DQN_modern" / "Qbert" / "0" / "model_1.gz", checkpoint(make()))
    assert refusal(qbert) == "lies in the folder of 'Qbert', not of pong"
    assert load(qbert, "qbert").task.name == "qbert"


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return exec, (f"open({str(self.path)!r}, 'w').write('ran')",)


@pytest.mark.parametrize("is_new", [True, False], ids=["zip", "before 1.6"])
def test_nothing_in_a_file_is_run(is_new, tmp_path):
    ran = tmp_path / "ran"
    state = make().state_dict()
    hostile = saved(tmp_path / "a.gz", {"estimator_state": state | {"_AtariNet__x": Payload(ran)}}, is_new)
    assert "which is no tensor" in refusal(hostile)
    # Beside the estimator nothing is looked at.
    beside = saved(tmp_path / "b.gz", {"estimator_state": state, "x": Payload(ran)}, is_new)
    assert load(beside, "pong").task.name == "pong"
    assert not ran.exists()


def test_what_is_no_gzip_file_of_weights_is_refused(tmp_path):
    good = gzip.compress(dumped(checkpoint(make())), compresslevel=1)
    path = tmp_path / "model_1.gz"

    def refused(content: bytes) -> str:
        path.write_bytes(content)
        return refusal(path)

    for content in (b"", b"no such thing", b"\x1f\x8b", good[:-4], good[: len(good) // 2], good[:200]):
        assert refused(content).startswith("not a gzip file, or a damaged one ("), content[:10]
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 0x55
    assert refused(bytes(flipped)).startswith(("not a gzip file, or a damaged one (", "not a zip archive, or a"))
    assert refused(good + b"more").startswith("not a gzip file, or a damaged one (")
    assert refused(gzip.compress(b"")) == refused(gzip.compress(b"text"))
    assert refused(gzip.compress(b"text")).startswith("not a zip archive, or a damaged one (")
    assert refused(gzip.compress(pickle.dumps([1.0]))).startswith("not a zip archive, or a damaged one (")
    assert refused(gzip.compress(good)).startswith("not a zip archive, or a damaged one (")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "model_1.gz"
    content = gzip.compress(bytes(2**26))
    path.write_bytes(content)
    limit = 200 * len(content)
    assert refusal(path) == (
        f"would unpack from {len(content):,} to more than {limit:,} bytes; no more of it was unpacked"
    )
    # In as many parts as one likes.
    path.write_bytes(gzip.compress(bytes(2**20)) * 40)
    assert refusal(path).startswith("would unpack from ")
