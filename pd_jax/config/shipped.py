"""The settings files that come with pd_jax, by name: ``--config pong`` is ``configs/pong.yaml``, in a clone or not.

A wheel has them in ``pd_jax/configs``; a clone has them where everybody sees them, in ``configs``.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from pd_jax.errors import UserError, nearest
from pd_jax.system.text import printable

_HEADER = re.compile(r"# pd-jax ([a-z][a-z-]*(?: [a-z][a-z-]*)?)")
_NAME = re.compile(r"(?:configs/)?([A-Za-z0-9][A-Za-z0-9_/-]{0,99}?)(?:\.ya?ml)?")
_TAKES = "# Takes "
# Of "Rusu et al. (2016)" and "Ms. Pac-Man", no full stop ends a sentence.
_END_OF_SENTENCE = re.compile(r"(?<!\bal)(?<!\bMs)\. (?=[A-Z-])")
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


def names_for(command: str) -> tuple[str, ...]:
    """The names of the files whose settings a command takes."""
    taken = (command, *_ALSO_TAKES.get(command, ()))
    return tuple(name for name, file in shipped().items() if _command_of(file) in taken)


@dataclasses.dataclass(frozen=True)
class About:
    """What the comment at the top of a settings file says.

    Attributes:
      command: that it is for, such as ``distill`` or ``monitor fit``; empty if it does not say.
      line: the whole command line, such as ``pd-jax distill --config configs/pong.yaml``; likewise.
      does: its first sentence.
      takes: how long and on what, such as ``three minutes on two CPU cores``; empty where that was not measured.
    """

    command: str
    line: str
    does: str
    takes: str

    def as_json(self) -> dict[str, str | None]:
        """For ``pd-jax configs --json``; what is not known is None."""
        return {name: value or None for name, value in dataclasses.asdict(self).items()}


def read_about(file: Path) -> About:
    """What a settings file, or a script, says of itself."""
    lines = file.read_text(encoding="utf-8").splitlines()
    header = _HEADER.match(lines[0]) if lines else None
    comment: list[str] = []
    takes = ""
    for line in lines:
        if line.startswith(_TAKES):
            takes = line.removeprefix(_TAKES).removesuffix(".")
        elif line.startswith("# ") and not line.startswith("# pd-jax "):
            comment.append(line.removeprefix("# "))
        elif comment:
            break
    does = _END_OF_SENTENCE.split(" ".join(comment))[0].removesuffix(".") + "."
    return About(header[1] if header else "", lines[0].removeprefix("# ") if header else "", does, takes)


def find_named(given: str) -> tuple[str, Path]:
    """One of our files by its name or the end of that, whatever command it is for.

    Args:
      given: such as ``pong``, ``quick/multi3``, ``multi3.yaml`` or ``configs/pong.yaml``.

    Returns:
      its name and the file.

    Raises:
      UserError: none of ours has that name, or several have.
    """
    match, files = _NAME.fullmatch(given), shipped()
    name = match[1] if match else given
    if name in files:
        return name, files[name]
    alike = [own for own in files if own.endswith(f"/{name}")]
    if len(alike) > 1:
        raise UserError(f"{printable(given)}: may be {' or '.join(alike)}; give one of these names")
    if not alike:
        hint = nearest(name[:100], [*files, *(own.rpartition("/")[2] for own in files)])
        raise UserError(f"{printable(given)}: no such settings{hint}; pd-jax configs lists them")
    return alike[0], files[alike[0]]


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
