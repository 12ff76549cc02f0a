"""How commands are found and run: one table, a module each, and nothing imported that a command does not need."""

from __future__ import annotations

import ast
import gc
import inspect
import sys
import typing
from pathlib import Path

import pytest

import pd_jax
from pd_jax.commands.runner import _nothing_collected, find_function
from pd_jax.config.commands import COMMANDS, TABLE, Command, CommandGroup
from support.commands import run

PACKAGE = Path(pd_jax.__file__).parent
ALL: dict[tuple[str, ...], Command] = {}
for _name, _entry in TABLE.items():
    if isinstance(_entry, CommandGroup):
        ALL |= {(_name, own): command for own, command in _entry.commands.items()}
    else:
        ALL[(_name,)] = _entry

# What the interpreter has imported by the end of a command.
SCRIPT = """
import sys
from pd_jax.cli import main
try:
    code = main(sys.argv[1:])
finally:
    print([name for name in ("jax", "flax", "envpool", "orbax", "tyro") if name in sys.modules], file=sys.stderr)
raise SystemExit(code)
"""


def imported(*argv: str) -> tuple[int, list[str]]:
    """The exit code of a command, and which of the large packages it has imported."""
    ended = run([sys.executable, "-c", SCRIPT, *argv], JAX_PLATFORMS="cpu")
    return ended.code, ast.literal_eval(ended.stderr.splitlines()[-1])


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_command_is_run_by_a_function_that_takes_its_settings(words: tuple[str, ...]) -> None:
    function = find_function(words)
    (parameter,) = inspect.signature(function).parameters
    hints = typing.get_type_hints(function)
    # Nothing, or the exit code.
    assert hints[parameter] is ALL[words].settings and hints["return"] in (type(None), int)
    assert function.__module__ == f"pd_jax.commands.{words[0].replace('-', '_')}"


def test_the_settings_of_a_command_are_looked_up_by_its_name() -> None:
    assert list(COMMANDS) == [words[0] for words in ALL if len(words) == 1]
    assert set(TABLE) - set(COMMANDS) == {"teachers", "monitor"}
    assert all(COMMANDS[name] is ALL[(name,)].settings for name in COMMANDS)
    assert "teachers" not in COMMANDS and COMMANDS.get("distil") is None
    with pytest.raises(KeyError):
        COMMANDS["teachers"]


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        ((), 2),
        (("--help",), 0),
        (("--version",), 0),
        (("teachers", "--help"), 0),
        (("distil",), 2),
        (("teachers", "x"), 2),
    ],
    ids=str,
)
def test_what_names_no_command_imports_no_settings(argv: tuple[str, ...], code: int) -> None:
    assert imported(*argv) == (code, [])


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (("distill", "--help"), 0),
        (("distill", "--teacher", "pong", "--out", "x", "--student.netwrok", "net1"), 2),
        (("train-teacher", "--game", "pong", "--out", "x", "--pqn.minibatches", "3"), 2),
        (("report", "--help"), 0),
        (("report", "{nowhere}"), 2),
        (("teachers",), 0),
        (("teachers", "list", "--json"), 0),
        (("teachers", "show", "pong"), 0),
    ],
    ids=str,
)
def test_what_computes_nothing_imports_no_jax(argv: tuple[str, ...], code: int, tmp_path: Path) -> None:
    argv = tuple(word.replace("{nowhere}", str(tmp_path / "nowhere")) for word in argv)
    assert imported(*argv) == (code, ["tyro"])


@pytest.mark.parametrize("is_enabled", [True, False])
def test_no_garbage_is_looked_for_while_modules_are_imported_nor_among_them_later(is_enabled: bool) -> None:
    class Imported:
        pass

    was_enabled = gc.isenabled()
    (gc.enable if is_enabled else gc.disable)()
    try:
        with pytest.raises(ValueError, match="of an import"), _nothing_collected():
            assert not gc.isenabled()
            kept = Imported()
            raise ValueError("of an import")
        assert gc.isenabled() == is_enabled
        assert not any(thing is kept for thing in gc.get_objects())
        gc.unfreeze()
        assert any(thing is kept for thing in gc.get_objects())
    finally:
        gc.unfreeze()
        (gc.enable if was_enabled else gc.disable)()


def test_the_package_alone_imports_no_jax() -> None:
    ended = run([sys.executable, "-c", "import sys, pd_jax; print({'jax', 'envpool', 'tyro'} & set(sys.modules))"])
    assert (ended.code, ended.stdout) == (0, "set()\n")


def test_library_functions_return_and_only_commands_print() -> None:
    printing = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                printing.add(path.relative_to(PACKAGE).as_posix())
    # Reports and progress print what they are given to whom they are told; the doctor's processes answer the doctor,
    # which speaks for itself where what reads settings is broken.
    allowed = {"cli.py", "report/terminal.py", "system/progress.py"}
    allowed |= {"resources/doctor/plain.py", "resources/doctor/probes.py"}
    assert {name for name in printing if not name.startswith("commands/")} == allowed
