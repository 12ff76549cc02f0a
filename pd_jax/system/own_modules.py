"""Modules of the user's own, imported before a command runs: they register environments and networks by name.

A command line says which, by ``--import``. Settings files do not: whoever sends one sends no program with it. Processes
that a command starts import the same modules; an environment variable tells them.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import MutableMapping, Sequence
from pathlib import Path

from pd_jax.errors import UserError
from pd_jax.system.text import printable

OPTION = "--import"
VARIABLE = "PD_JAX_IMPORT"
"""Environment variable: files and names of modules, one after another as in ``PATH``."""


def take_from(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separates the modules that a command line names, wherever it does, from all else.

    Args:
      argv: the words after ``pd-jax``.

    Returns:
      files and names of modules; the other words.

    Raises:
      UserError: the option has no value.
    """
    named: list[str] = []
    others: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        option, equals, value = word.partition("=")
        if option != OPTION:
            others.append(word)
            continue
        if not equals:
            value = rest.pop(0) if rest and not rest[0].startswith("-") else ""
        if not value:
            raise UserError(f"{OPTION}: needs the name of a module, or a Python file")
        named.append(value)
    return named, others


def tell_others(named: Sequence[str], environment: MutableMapping[str, str] | None = None) -> None:
    """Has :func:`import_all` import these too, in this process and those that it starts.

    Args:
      named: as :func:`take_from` gives them.
      environment: ``os.environ`` by default.
    """
    environment = os.environ if environment is None else environment
    # Others may be started elsewhere.
    places = [os.path.abspath(name) if _is_file(name) else name for name in named]
    known = [name for name in environment.get(VARIABLE, "").split(os.pathsep) if name]
    environment[VARIABLE] = os.pathsep.join(dict.fromkeys([*known, *places]))


def import_all() -> None:
    """Imports what ``VARIABLE`` names; what has been imported stays as it is.

    Raises:
      UserError: there is no such module or file, or it fails.
    """
    for name in os.environ.get(VARIABLE, "").split(os.pathsep):
        if name:
            _import(name)


def _is_file(name: str) -> bool:
    return name.endswith(".py") or os.sep in name


def _import(name: str) -> None:
    where = f"{OPTION} {printable(name)}"
    try:
        if _is_file(name):
            if not Path(name).exists():
                raise UserError("there is no such file")
            _import_file(Path(name))
        else:
            importlib.import_module(name)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    except ModuleNotFoundError as error:
        if error.name == name.partition(".")[0] and not _is_file(name):
            raise UserError(f"{where}: there is no such module; a file is named with its .py") from None
        raise UserError(f"{where}: {error}") from None
    except SyntaxError as error:
        raise UserError(f"{where}: {error}") from None
    # One that ends the program would end it without a word.
    except (Exception, SystemExit) as error:
        line = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"{where}: {type(error).__name__}: {' '.join(str(error).split())} ({line.filename}, line {line.lineno})"
        ) from None


def _import_file(path: Path) -> None:
    # By a name that no other module has: a file may be called as a package is.
    name = f"pd_jax_import_{path.resolve().as_posix()}"
    if name in sys.modules:
        return
    specification = importlib.util.spec_from_file_location(name, path)
    if specification is None or specification.loader is None:
        raise UserError("is no Python file")
    module = importlib.util.module_from_spec(specification)
    # Dataclasses look for their module.
    sys.modules[name] = module
    try:
        specification.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
