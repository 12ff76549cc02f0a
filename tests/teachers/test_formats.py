"""Files are what they hold, whatever they are called."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import flax.serialization
import numpy as np
import pytest

from pd_jax.cli import main
from pd_jax.errors import UserError
from pd_jax.teachers import load
from pd_jax.teachers.formats import format_of, is_foreign
from support import commands
from support.sb3_models import make_model

NAMES = ["A.ZIP", "x.model", "noending", "x.cleanrl_model", "x.safetensors", "x.pth", "a.zip"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Good files for CartPole by what they are."""
    directory = tmp_path_factory.mktemp("files")
    model = make_model("ppo", "cartpole")
    model.save(directory / "a.zip")
    model.policy.save(directory / "p.pth")
    rng = np.random.default_rng(0)
    sizes = [(4, 120), (120, 84), (84, 2)]
    layers = {
        f"Dense_{i}": {"kernel": rng.standard_normal(size).astype("f4"), "bias": np.zeros(size[1], "f4")}
        for i, size in enumerate(sizes)
    }
    (directory / "m").write_bytes(flax.serialization.to_bytes({"params": layers}))
    commands.write_teacher(directory / "t.safetensors", "cartpole")
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("content", "source"),
    [("a.zip", "stable-baselines3"), ("p.pth", "stable-baselines3"), ("m", "cleanrl"), ("t.safetensors", "")],
)
def test_every_format_is_read_under_every_name(name, content, source, files, tmp_path):
    (tmp_path / name).write_bytes(files[content])
    assert load(tmp_path / name, "cartpole").metadata.source_format == source
    assert is_foreign(tmp_path / name) == (source != "")


def test_commands_take_an_archive_of_any_name(files, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("A.ZIP", "model"):
        Path(name).write_bytes(files["a.zip"])
        out = ["--out", f"{name}.safetensors"]
        assert main(["teachers", "import", name, "--game", "cartpole", *out]) == 0
        message = commands.refusal(capfd, "teachers", "show", name)
        assert "is not read as it is; pd-jax teachers import FILE --game NAME" in message


def test_a_bundled_name_is_no_file(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("cartpole").write_bytes(files["a.zip"])
    assert load("cartpole").source == "cartpole" and load("cartpole").metadata.source_format == ""
    assert load("./cartpole", "cartpole").metadata.source_format == "stable-baselines3"


def test_what_begins_in_no_known_way_goes_by_its_name(tmp_path):
    for name, wanted in (("a.ZIP", "zip"), ("a.cleanrl_model", "flax"), ("a.safetensors", "other"), ("a", "other")):
        for content in (b"", b"no such format", b"\x80", b"\x80\x7f", b"{"):
            (tmp_path / name).write_bytes(content)
            assert format_of(tmp_path / name) == wanted
    assert [is_foreign(name) for name in ("a.zip", "d/b.Cleanrl_Model", "hf://a/b/c.safetensors")] == [True] * 3
    assert [is_foreign(name) for name in ("pong", "a.safetensors", "zip", "a.zip/b", "a.pth", "a\0b")] == [False] * 6


def test_what_is_no_regular_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    assert format_of(tmp_path / "fifo") == format_of(tmp_path) == format_of(tmp_path / "absent") == "none"


def test_a_pickle_is_not_opened_and_said_to_be_one(tmp_path):
    for protocol in (2, 3, 4, 5):
        path = tmp_path / "agent.pkl"
        path.write_bytes(pickle.dumps({"weights": [1.0]}, protocol))
        assert format_of(path) == "pickle"
        with pytest.raises(UserError, match=r"agent\.pkl: is a pickle, which could run anything and is not opened"):
            load(path, "cartpole")


def test_formats_are_told_apart_without_jax():
    code = "import sys, pd_jax.teachers.formats as f; f.is_foreign('a.zip'); sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
