"""What ``pd-jax push`` leaves and sends: the files of a student, and the one that says which student it is.

What is read may have been written by anybody.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pd_jax.config.base import CommandConfig
from pd_jax.config.fields import fields
from pd_jax.config.loading import to_mapping
from pd_jax.distill.counters import DistillCounters, GameCounters
from pd_jax.errors import UserError
from pd_jax.runs.directory import NEVER_COMPARED, OF_ONE_START
from pd_jax.system.text import printable, show
from pd_jax.system.values import count, number, section, word
from pd_jax.teachers.catalogue import bundled_files
from pd_jax.teachers.formats import HUB_SCHEME
from pd_jax.teachers.hub import PUBLICATION_NAME
from pd_jax.version import __version__

FORMAT_VERSION = 1
_MOST_BYTES = 2**24
# How long it learnt, how it was scored and on what: a run that goes on, or is scored again, is the same student.
_NOT_ITSELF = frozenset(
    {"teacher", "data", "init_from", "teacher_snapshots", "schedule.rounds", "evaluation", "actors"}
    | {"learner.num_devices", *NEVER_COMPARED, *OF_ONE_START}
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Publication:
    """Which student a folder or a repository holds.

    Attributes:
      name: of its run.
      student: hash of what makes it this run's student and no other's: its settings and its teachers.
      parameters_sha256: as `pd_jax.teachers.files.params_fingerprint` has it.
      counters: where its run stood.
      files: SHA-256 of the other files, by name.
    """

    name: str
    student: str
    parameters_sha256: str
    counters: DistillCounters
    files: Mapping[str, str]

    def to_text(self) -> str:
        """As a file has it."""
        games = [
            {name: getattr(game, name) for name in ("name", "env_steps", "teacher_sha256", "recording")}
            for game in self.counters.games
        ]
        whole = {
            "format_version": FORMAT_VERSION,
            "pd_jax_version": __version__,
            "name": self.name,
            "student": self.student,
            "parameters_sha256": self.parameters_sha256,
            "updates": self.counters.updates,
            "wall_seconds": self.counters.wall_seconds,
            "network": self.counters.network,
            "games": games,
            "files": dict(sorted(self.files.items())),
        }
        return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def read_publication(directory: Path) -> Publication:
    """Reads and checks ``publication.json``.

    Raises:
      UserError: there is none, it is damaged, or of a newer version.
    """
    path = directory / PUBLICATION_NAME
    where = f"{printable(str(path))}: "
    try:
        with open(path, "rb") as file:
            content = file.read(_MOST_BYTES)
    except OSError as error:
        raise UserError(f"{where}cannot be read: {error.strerror or error}") from None
    return parse_publication(content, where)


def parse_publication(content: bytes, where: str) -> Publication:
    """What :meth:`Publication.to_text` made; raises a UserError, which begins with ``where``, for anything else."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        raise UserError(f"{where}is not JSON") from None
    if not isinstance(found, dict) or count(found, "format_version", where) is None:
        raise UserError(f"{where}is nothing that pd-jax push made")
    if found["format_version"] > FORMAT_VERSION:
        raise UserError(f"{where}is of a newer pd_jax (format {found['format_version']}): upgrade pd_jax")
    entries = found.get("games")
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{where}games: {show(entries)} is not a list of games")
    games = [
        GameCounters(
            name=word(entry, "name", where),
            env_steps=count(entry, "env_steps", where) or 0,
            teacher_sha256=_optional_word(entry, "teacher_sha256", where),
            recording=_optional_word(entry, "recording", where),
        )
        for entry in entries
    ]
    counters = DistillCounters(
        updates=count(found, "updates", where) or 0,
        wall_seconds=number(found, "wall_seconds", where) or 0.0,
        network=word(found, "network", where),
        games=games,
    )
    files = section(found, "files", where)
    return Publication(
        name=word(found, "name", where),
        student=word(found, "student", where),
        parameters_sha256=word(found, "parameters_sha256", where),
        counters=counters,
        files={printable(name): word(files, name, where) for name in files},
    )


def public_settings(config: CommandConfig, run_name: str) -> dict[str, Any]:
    """The settings of a run as others may see them: of what lay on this machine, only how it was called.

    Args:
      config: any command's.
      run_name: of the run.

    Returns:
      a nested mapping of plain values, as ``config.yaml`` has it.
    """
    settings = {key: value for key, value in to_mapping(config).items() if key not in OF_ONE_START}
    for key, field in fields(type(config)).items():
        if field.is_path and key in settings:
            value = settings[key]
            settings[key] = [*map(public_name, value)] if isinstance(value, list) else value and public_name(value)
    return settings | {"out": f"runs/{run_name}"}


def public_name(path: str) -> str:
    """A bundled teacher's name, an address, or the last part of a path."""
    if path.startswith(HUB_SCHEME) or path.lower() in bundled_files():
        return path
    return Path(path).absolute().name or "root"


def identity(settings: Mapping[str, Any], games: list[GameCounters]) -> str:
    """What :attr:`Publication.student` is, of settings as :func:`public_settings` gives them."""
    own = _without(settings, "")
    taught = [[game.name, game.teacher_sha256, game.recording] for game in games]
    return hashlib.sha256(json.dumps([own, taught], sort_keys=True).encode()).hexdigest()


def _without(settings: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {
        key: _without(value, f"{prefix}{key}.") if isinstance(value, Mapping) else value
        for key, value in settings.items()
        if f"{prefix}{key}" not in _NOT_ITSELF
    }


def _optional_word(entry: Mapping[str, Any], key: str, where: str) -> str:
    return word(entry, key, where) if entry.get(key) else ""
