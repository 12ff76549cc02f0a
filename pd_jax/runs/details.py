"""``details.json``: what a run's page shows and none of its other files holds. Needs no JAX."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pd_jax.errors import UserError
from pd_jax.evaluation.comparison import Comparison
from pd_jax.runs.lineage import code
from pd_jax.system.files import to_json, write_atomically
from pd_jax.system.text import printable, show
from pd_jax.system.values import section

FORMAT_VERSION = 1
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "envpool", "numpy", "orbax-checkpoint")
_MOST_BYTES = 64 * 2**20


@dataclasses.dataclass(frozen=True)
class TaughtBy:
    """A teacher of a run.

    Attributes:
      game: that it plays.
      name: as its metadata have it.
      source: the name or file that the run had it by.
      sha256: of its file; empty where there is none.
    """

    game: str
    name: str
    source: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class Details:
    """What ended a run.

    Attributes:
      code: as `pd_jax.runs.lineage.code` has it.
      versions: of Python and of the packages that compute.
      teachers: one for each game.
      games: by name, student and teacher compared in states of the student's final games.
    """

    code: Mapping[str, Any]
    versions: Mapping[str, str]
    teachers: tuple[TaughtBy, ...]
    games: Mapping[str, Comparison]

    @classmethod
    def of(cls, teachers: Sequence[TaughtBy], games: Mapping[str, Comparison]) -> Details:
        """Of a run that this very process has ended."""
        return cls(code(), versions(), tuple(teachers), games)

    def write(self, path: Path) -> None:
        """Replaces the file as a whole.

        Raises:
          OSError: it cannot be written.
        """
        content = {
            "format_version": FORMAT_VERSION,
            "code": dict(self.code),
            "versions": dict(self.versions),
            "teachers": [dataclasses.asdict(teacher) for teacher in self.teachers],
            "games": {name: comparison.to_json() for name, comparison in self.games.items()},
        }
        write_atomically(path, json.dumps(to_json(content), indent=1, ensure_ascii=False) + "\n")


def versions() -> dict[str, str]:
    """Of Python and of the packages that compute, those that are installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def read_details(path: Path) -> Details | None:
    """What :meth:`Details.write` left; None where there is no such file.

    Raises:
      UserError: it is damaged, of a newer version, or something else.
    """
    where = printable(str(path))
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UserError(f"{where}: takes more than {_MOST_BYTES} bytes; it is not a run's details")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{where}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError):
        raise UserError(f"{where}: is not JSON") from None
    if not isinstance(content, dict):
        raise UserError(f"{where}: holds {show(content)}, not a mapping")
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise UserError(f"{where}: is in format {show(version)}, and this pd_jax reads {FORMAT_VERSION}")
    where = f"{where}: "
    teachers = content.get("teachers")
    if not isinstance(teachers, list):
        raise UserError(f"{where}teachers: {show(teachers)} is not a list")
    return Details(
        code=_texts(section(content, "code", where)),
        versions=_texts(section(content, "versions", where)),
        teachers=tuple(_teacher(teacher, where) for teacher in teachers),
        games={
            printable(name): Comparison.from_json(entry, f"{where}games.{printable(name)}.")
            for name, entry in section(content, "games", where).items()
        },
    )


def _teacher(entry: Any, where: str) -> TaughtBy:
    names = [field.name for field in dataclasses.fields(TaughtBy)]
    if not isinstance(entry, dict) or not all(isinstance(entry.get(name), str) for name in names):
        raise UserError(f"{where}teachers: {show(entry)} is not a teacher")
    return TaughtBy(**{name: printable(entry[name]) if entry[name] else "" for name in names})


def _texts(entries: Mapping[str, Any]) -> dict[str, str]:
    return {printable(name): printable(value) for name, value in entries.items() if isinstance(value, str) and value}
