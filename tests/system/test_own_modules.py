"""Modules of the user's own: which ones a command line names, and what becomes of those that are wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pd_jax.cli import main
from pd_jax.config import DistillConfig, load_config, own_networks
from pd_jax.errors import UserError
from pd_jax.system import own_modules

NETWORK = """
import flax.linen as nn
from pd_jax.networks import register_network
register_network("of_a_file", lambda options: nn.Dense(4))
"""


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(own_modules.VARIABLE, raising=False)
    monkeypatch.setattr(own_networks, "registered", {})
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("pd_jax_import_"):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("argv", "named", "others"),
    [
        (["distill", "--resume"], [], ["distill", "--resume"]),
        (["--import", "a.py", "distill"], ["a.py"], ["distill"]),
        (["distill", "--out", "x", "--import=b", "--import", "a.py"], ["b", "a.py"], ["distill", "--out", "x"]),
    ],
)
def test_they_are_named_anywhere_in_a_command_line(argv: list[str], named: list[str], others: list[str]) -> None:
    assert own_modules.take_from(argv) == (named, others)


@pytest.mark.parametrize("argv", [["--import"], ["--import="], ["--import", "--out", "x"]])
def test_an_option_without_a_name_is_refused(argv: list[str]) -> None:
    with pytest.raises(UserError, match=r"^--import: needs the name of a module, or a Python file$"):
        own_modules.take_from(argv)


def test_other_processes_are_told_each_once_and_by_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    environment = {own_modules.VARIABLE: "first"}
    own_modules.tell_others(["a.py", "first", "second", "a.py"], environment)
    assert environment[own_modules.VARIABLE].split(os.pathsep) == ["first", str(tmp_path / "a.py"), "second"]


def test_a_network_of_a_file_is_a_students(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--out", "x", "--teacher", "cartpole", "--student.network", "of_a_file", "--student.mlp-hidden", "8"]
    with pytest.raises(UserError, match=r"'of_a_file' is not a network \(.*\); one of your own .* --import FILE\.py$"):
        load_config(DistillConfig, options, "distill")
    (tmp_path / "own.py").write_text(NETWORK)
    monkeypatch.setenv(own_modules.VARIABLE, str(tmp_path / "own.py"))
    own_modules.import_all()
    own_modules.import_all()
    # For frames and for vectors; and it may look at the widths of an mlp.
    assert load_config(DistillConfig, options, "distill").student.network == "of_a_file"
    pong = [*options[:2], "--teacher", "pong", *options[4:]]
    assert load_config(DistillConfig, pong, "distill").student.network == "of_a_file"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no such file"),
        ("x = 1\ny = x / 0\n", "ZeroDivisionError: division by zero ({path}, line 2)"),
        ("x = (\n", "'(' was never closed ({path.name}, line 1)"),
        ("import sys\nsys.exit(0)\n", "SystemExit: 0 ({path}, line 2)"),
        (
            "open('/no/such/file')\n",
            "FileNotFoundError: [Errno 2] No such file or directory: '/no/such/file' ({path}, ",
        ),
        ("import no_such_package\n", "No module named 'no_such_package'"),
        ("from pd_jax.networks import register_network\nregister_network('mlp', None)", "'mlp' cannot be the"),
    ],
)
def test_what_cannot_be_imported_is_one_line(
    text: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "own.py"
    if text is not None:
        path.write_text(text)
    assert main(["teachers", "list", "--import", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"pd-jax teachers list: --import {path}: {message.format(path=path)}")
    assert err.count("\n") == 1
    assert own_modules.VARIABLE not in os.environ


def test_a_module_that_is_not_there_and_a_plan_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--import", "no_such_module", "teachers"]) == 2
    assert main(["plan", "--import", "json"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "pd-jax teachers: --import no_such_module: there is no such module; a file is named with its .py",
        "pd-jax plan: --import: pd-jax plan compiles what comes with pd_jax",
    ]
