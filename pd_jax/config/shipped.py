"""The settings files that come with pd_jax, by name: ``--config pong`` is ``configs/pong.yaml``, in a clone or not.

A wheel has them in ``pd_jax/configs``; a clone has them where everybody sees them, in ``configs``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from pd_jax.errors import UserError, nearest
from pd_jax.system.text import printable

_HEADER = re.compile(r"# pd-jax ([a-z][a-z-]*(?: [a-z][a-z-]*)?)")
_NAME = re.compile(r"(?:configs/)?([A-Za-z0-9][A-Za-z0-9_/-]{0,99}?)(?:\.ya?ml)?")
# A plan is of a distillation, whose settings it takes.
_ALSO_TAKES: Mapping[str, tuple[str, ...]] = {"plan": ("distill",)}


def shipped() -> dict[str, Path]:
    """The files by name, such as ``"pong"`` and ``"quick/multi3"``, in alphabetical order."""
    package = Path(__file__).parents[1]
    folder = package / "configs"
    # Beside an installed package, `configs` is somebody else's.
    if not folder.is_dir() and (package.parent / "pyproject.toml").is_file():
        folder = package.parent / "configs"
    paths = {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.yaml")}
    return dict(sorted(paths.items()))


def find_settings(given: str, command: str) -> Path:
    """The file that ``--config`` means: one that is there, or else one of ours by its name or the end of that.

    Args:
      given: a path, or such as ``pong``, ``quick/multi3``, ``multi3.yaml`` or ``configs/pong.yaml``.
      command: the command that the settings are for. Where several of our names end alike, its own are meant.

    Returns:
      the file; or ``given``, where whoever reads it says best what is wrong.

    Raises:
      UserError: there is no such file and none of ours has that name; or several have, or none that is for the command.
    """
    path, match = Path(given), _NAME.fullmatch(given)
    if match is None or (os.path.lexists(given) and not path.is_dir()):
        return path
    name, files = match[1], shipped()
    named = {own: _command_of(file) for own, file in files.items() if own == name or own.endswith(f"/{name}")}
    if path.parent.is_dir() and path.parent != Path():
        # One's own folder of settings: a name that is not in it is a mistake.
        return path
    if named:
        return files[_choose(given, name, named, command)]
    if path.is_dir():
        return path
    here = [file.name for file in Path().glob("*.y*ml")]
    own = [other for other, file in files.items() if _command_of(file) == command]
    hint = nearest(path.name, here) or nearest(name, files)
    raise UserError(f"{printable(given)}: no such file{hint}{_listed(own)}")


def _choose(given: str, name: str, named: Mapping[str, str], command: str) -> str:
    """The one of some files, given by name with their commands, that is meant for a command."""
    for wanted in (command, *_ALSO_TAKES.get(command, ())):
        found = [own for own, of in named.items() if of == wanted]
        if name in found or len(found) == 1:
            return name if name in found else found[0]
        if found:
            raise UserError(f"{printable(given)}: may be {' or '.join(found)}; give one of these names")
    commands = ", ".join(dict.fromkeys(f"pd-jax {of}" for of in named.values()))
    own = [other for other, file in shipped().items() if _command_of(file) == command]
    raise UserError(f"{printable(given)}: holds settings of {commands}, not of pd-jax {command}{_listed(own)}")


def _listed(names: Iterable[str]) -> str:
    listed = ", ".join(names)
    return f" (by name: {listed})" if listed else ""


def _command_of(file: Path) -> str:
    """The command in the first line of a file; of a group, with the group's name."""
    with file.open(encoding="utf-8") as lines:
        match = _HEADER.match(lines.readline())
    return match[1] if match else ""
