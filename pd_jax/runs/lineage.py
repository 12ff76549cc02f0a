"""``lineage.json``: what a product came from, with the SHA-256 of all that is in it. Needs no JAX.

A product is a directory: a run, a recording, an export. Its lineage lists its files, the code that made it, and its
parents, each with the lineage that the parent itself had then. So the chain is whole where no parent is at hand, and
every file of it can be verified where it is.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from pd_jax.errors import UserError
from pd_jax.system.files import _UNFINISHED, to_json, write_atomically
from pd_jax.system.progress import print_warning, warn_if_unwritable
from pd_jax.system.text import printable
from pd_jax.teachers.catalogue import bundled_files
from pd_jax.teachers.files import fingerprint
from pd_jax.teachers.formats import HUB_SCHEME, file_of
from pd_jax.version import __version__

LINEAGE_NAME = "lineage.json"
FORMAT_VERSION = 1
VIDEO_NAMES = frozenset({"video.mp4", "video.gif", "video.json"})
"""Files that show a run's student; they are made after it, and made again."""
_NO_PART = VIDEO_NAMES | {LINEAGE_NAME, "tb", "tracking.json", "wandb", "replay", "profile", "diverged", "logs"}
"""What lies in a run's directory and is none of its results; nor are locks."""
_HEX = re.compile(r"[0-9a-f]{40,64}")
_MOST_BYTES = 64 * 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parent:
    """What a product was made from.

    Attributes:
      role: ``teacher``, ``recording``, ``start``, ``run``, ``champion`` and their like.
      name: of its file or directory, without the way there; or a bundled teacher's.
      at: the way there from the product's directory; None where that would tell of the machine, or leads nowhere.
      sha256: of the file; None of a directory.
      about: what else is known of it then, such as the hash of its parameters; plain values.
      lineage: that it had, if it had one.
    """

    role: str
    name: str
    at: str | None = None
    sha256: str | None = None
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    lineage: Lineage | None = None

    def to_json(self) -> dict[str, Any]:
        """As a file has it."""
        whole = {"role": self.role, "name": self.name, "at": self.at, "sha256": self.sha256, "about": dict(self.about)}
        return whole | {"lineage": None if self.lineage is None else self.lineage.to_json()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lineage:
    """What a product came from.

    Attributes:
      kind: ``distill``, ``online``, ``train-teacher``, ``recording``, ``export`` or ``renewal``.
      name: of its directory.
      created: when this was written, ISO 8601.
      code: version of pd_jax, revision of its checkout or None, and the SHA-256 of its source.
      about: what the product says of itself; plain values.
      files: SHA-256 by path in the directory.
      parents: what it was made from.
    """

    kind: str
    name: str
    created: str
    code: Mapping[str, Any]
    about: Mapping[str, Any]
    files: Mapping[str, str]
    parents: tuple[Parent, ...]

    def to_json(self) -> dict[str, Any]:
        """As a file has it, with a seal."""
        content = self._content()
        return content | {"sha256": _seal(content)}

    @property
    def sha256(self) -> str:
        """Of all that it says."""
        return _seal(self._content())

    def to_text(self) -> str:
        """The file, to the byte."""
        return json.dumps(self.to_json(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    def _content(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "kind": self.kind,
            "name": self.name,
            "created": self.created,
            "code": dict(self.code),
            "about": dict(self.about),
            "files": dict(self.files),
            "parents": [parent.to_json() for parent in self.parents],
        }


def write_lineage(
    directory: str | os.PathLike[str],
    kind: str,
    parents: Iterable[Parent],
    about: Mapping[str, Any] | None = None,
    *,
    name: str | None = None,
) -> Lineage:
    """Writes the lineage of a product that is whole.

    Args:
      directory: the product's; all its files are hashed.
      kind: as `Lineage` has it.
      parents: what it was made from.
      about: what it says of itself.
      name: of the directory that it is going to be; None is that of this one.

    Returns:
      what was written.

    Raises:
      OSError: a file cannot be read, or the lineage not be written.
    """
    directory = Path(directory)
    lineage = Lineage(
        kind=kind,
        name=name or directory.absolute().name,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        code=code(),
        about=to_json(about or {}),
        files={path: file_sha256(directory / path) for path in product_files(directory)},
        parents=tuple(parents),
    )
    write_atomically(directory / LINEAGE_NAME, lineage.to_text())
    return lineage


def leave_lineage(
    directory: str | os.PathLike[str], kind: str, parents: Iterable[Parent], about: Mapping[str, Any] | None = None
) -> None:
    """As :func:`write_lineage`, of what is worth having without it: a full disk is a warning."""
    with warn_if_unwritable(Path(directory) / LINEAGE_NAME):
        write_lineage(directory, kind, parents, about)


def list_anew(directory: str | os.PathLike[str], names: Iterable[str]) -> None:
    """Puts files that were written again into the lineage of a product, if it has one that is whole.

    Args:
      directory: the product's.
      names: of files in it.

    Raises:
      OSError: a file cannot be read, or the lineage not be written.
    """
    directory = Path(directory)
    try:
        lineage = read_lineage(directory)
    except UserError:
        # Altered: whoever verifies it is told, and not helped over it here.
        return
    if lineage is not None:
        files = dict(lineage.files) | {name: file_sha256(directory / name) for name in names}
        text = dataclasses.replace(lineage, files=dict(sorted(files.items()))).to_text()
        write_atomically(directory / LINEAGE_NAME, text)


def read_lineage(directory: str | os.PathLike[str]) -> Lineage | None:
    """The lineage of a product; None where there is none.

    Raises:
      UserError: it was altered, is none, or is of a newer version.
    """
    path = Path(directory) / LINEAGE_NAME
    where = printable(str(path))
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UserError(f"{where}: is no lineage: it takes more than {_MOST_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{where}: cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
    try:
        fields = json.loads(text)
        version = fields["format_version"]
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise UserError(f"{where}: is in format {version}, and this pd_jax reads {FORMAT_VERSION}: upgrade pd_jax")
        lineage = _parse(fields)
        is_whole = lineage.to_text() == text
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        is_whole = False
    if not is_whole:
        raise UserError(f"{where}: altered: it is not what was written")
    return lineage


def product_files(directory: Path) -> list[str]:
    """The files of a product, by their paths in its directory, sorted; links are not followed.

    A directory in it that has a lineage of its own is another product.
    """
    found = []
    for place, directories, files in os.walk(directory):
        here = Path(place).relative_to(directory)
        if here != Path() and LINEAGE_NAME in files:
            directories.clear()
            continue
        directories[:] = [name for name in directories if not (here == Path() and name in _NO_PART)]
        for name in files:
            is_part = not (name.startswith(".lock") or name.endswith((_UNFINISHED, ".__lock")))
            if is_part and not (here == Path() and name in _NO_PART):
                found.append((here / name).as_posix())
    return sorted(found)


def file_sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes, in hex; raises an OSError if it cannot be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parent_at(
    role: str,
    path: str | os.PathLike[str],
    beside: str | os.PathLike[str],
    about: Mapping[str, Any] | None = None,
    *,
    sha256: str | None = None,
) -> Parent:
    """A file or directory as a parent, with the lineage that it has now.

    Args:
      role: as `Parent` has it.
      path: where it is.
      beside: the directory of the product, where that is going to be.
      about: what else is known of it.
      sha256: of a file, as it was read; None hashes one that is there.
    """
    if os.fspath(path).startswith(HUB_SCHEME):
        return Parent(role=role, name=os.fspath(path), sha256=sha256, about=to_json(about or {}))
    path = Path(path)
    if sha256 is None and path.is_file():
        sha256 = file_sha256(path)
    return Parent(
        role=role,
        name=path.absolute().name,
        at=_way(path, Path(beside)),
        sha256=sha256,
        about=to_json(about or {}),
        lineage=_lineage_of(path, sha256),
    )


class _Member(Protocol):
    """A teacher in memory, which is `pd_jax.teachers.Teacher`: nothing here imports JAX."""

    source: str
    sha256: str


class _Members(Protocol):
    """One that may be several."""

    @property
    def members(self) -> Iterable[_Member]: ...


def teacher_parent(
    source: str,
    beside: str | os.PathLike[str],
    *,
    game: str | None = None,
    sha256: str | None = None,
    role: str = "teacher",
) -> Parent:
    """A teacher as a parent.

    Args:
      source: as users name it: a bundled name, a file, a run's directory, an address, or the label of a function.
      beside: as for :func:`parent_at`.
      game: that it plays.
      sha256: as `pd_jax.teachers.Teacher` has it; None is worked out of a file that is there.
      role: in the product.
    """
    about = {} if game is None else {"game": game}
    bundled = bundled_files().get(source.lower())
    if bundled is not None:
        own = fingerprint(bundled)
        # A run's directory may be called so.
        if sha256 in (None, own):
            return Parent(role=role, name=source.lower(), sha256=own, about=about | {"bundled": True})
    if source.startswith(HUB_SCHEME) or not os.path.exists(source):
        name = source if source.startswith(HUB_SCHEME) else os.path.basename(os.path.normpath(source))
        return Parent(role=role, name=name, sha256=sha256, about=about)
    file = file_of(source)
    if file.is_dir():
        # A run's student: what teaches are its parameters.
        known = {} if sha256 is None else {"parameters_sha256": sha256}
        return parent_at(role, file, beside, about | known)
    return parent_at(role, file, beside, about, sha256=sha256)


def teacher_parents(teacher: _Members, directory: Path | str, *, game: str) -> list[Parent]:
    """A teacher as a parent of what is in ``directory``; of several that are one, each of them."""
    return [teacher_parent(member.source, directory, game=game, sha256=member.sha256) for member in teacher.members]


@functools.cache
def code() -> dict[str, Any]:
    """Which pd_jax this is: its version, its revision where it runs from a checkout, and the SHA-256 of its source."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()} {file_sha256(path)}\n".encode())
    return {"pd_jax": __version__, "revision": _revision(package.parent), "source_sha256": digest.hexdigest()}


def _revision(checkout: Path) -> str | None:
    """The commit that is checked out, as Git's own files say it; None where there is none."""
    try:
        git = checkout / ".git"
        if git.is_file():
            git = checkout / git.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref:"):
            return head if _HEX.fullmatch(head) else None
        name = head.removeprefix("ref:").strip()
        common = git / "commondir"
        for place in (git, git / common.read_text(encoding="utf-8").strip() if common.exists() else git):
            if (place / name).is_file():
                found = (place / name).read_text(encoding="utf-8").strip()
                return found if _HEX.fullmatch(found) else None
            packed = place / "packed-refs"
            for line in packed.read_text(encoding="utf-8").splitlines() if packed.is_file() else ():
                commit, _, own = line.partition(" ")
                if own == name and _HEX.fullmatch(commit):
                    return commit
    except (OSError, UnicodeDecodeError):
        pass
    return None


def _way(path: Path, beside: Path) -> str | None:
    """The way from a directory to a path; None where it would go by the root or by a user's home."""
    path, beside = path.absolute(), beside.absolute()
    common = os.path.commonpath([os.path.normpath(path), os.path.normpath(beside)])
    home = Path.home()
    if common in {"/", "/home", "/Users", str(home.parent)}:
        return None
    way = Path(os.path.relpath(path, beside))
    return None if home.name and home.name != "root" and home.name in way.parts else way.as_posix()


def _lineage_of(path: Path, sha256: str | None) -> Lineage | None:
    """The lineage beside a file that it lists, or in a directory."""
    directory = path if path.is_dir() else path.parent
    try:
        lineage = read_lineage(directory)
    except UserError as error:
        print_warning(f"{error}; it is left out")
        return None
    if lineage is None or path.is_dir():
        return lineage
    return lineage if lineage.files.get(path.name) == sha256 else None


def _seal(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _parse(fields: Mapping[str, Any]) -> Lineage:
    """Raises one of the errors that a mapping of another make gives."""
    files = {_checked(path, str): _checked(digest, str) for path, digest in fields["files"].items()}
    for path in files:
        parts = PurePosixPath(path)
        if parts.is_absolute() or ".." in parts.parts or not path.isprintable():
            raise ValueError(path)
    return Lineage(
        kind=_checked(fields["kind"], str),
        name=_checked(fields["name"], str),
        created=_checked(fields["created"], str),
        code=_checked(fields["code"], dict),
        about=_checked(fields["about"], dict),
        files=files,
        parents=tuple(_parsed_parents(_checked(fields["parents"], list))),
    )


def _parsed_parents(parents: Sequence[Mapping[str, Any]]) -> Iterator[Parent]:
    for fields in parents:
        lineage = fields["lineage"]
        yield Parent(
            role=_checked(fields["role"], str),
            name=_checked(fields["name"], str),
            at=_checked(fields["at"], str, type(None)),
            sha256=_checked(fields["sha256"], str, type(None)),
            about=_checked(fields["about"], dict),
            lineage=None if lineage is None else _parse(lineage),
        )


def _checked(value: Any, *types: type) -> Any:
    if not isinstance(value, types) or (isinstance(value, str) and not value.isprintable()):
        raise TypeError
    return value
