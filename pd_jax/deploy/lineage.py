"""``pd-jax lineage``: what a product came from, and whether each file of it is what was written."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pd_jax.errors import UserError
from pd_jax.runs.lineage import LINEAGE_NAME, Lineage, Parent, code, file_sha256, product_files, read_lineage
from pd_jax.system.text import printable, spell_count
from pd_jax.teachers.catalogue import bundled_files


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verified:
    """A product or one of its parents, as it was found.

    Attributes:
      title: what it is.
      state: how it was found, in words.
      faults: files that are not what was written, each with what is wrong; of this one alone.
      parents: what it was made from.
    """

    title: str
    state: str
    faults: tuple[str, ...] = ()
    parents: tuple[Verified, ...] = ()

    @property
    def all_faults(self) -> tuple[str, ...]:
        """Of this one and of all it came from, each once."""
        return tuple(dict.fromkeys([*self.faults, *(fault for parent in self.parents for fault in parent.all_faults)]))

    def lines(self) -> Iterator[str]:
        """The tree, a line for each."""
        yield f"{self.title}: {self.state}"
        for index, parent in enumerate(self.parents):
            is_last = index == len(self.parents) - 1
            first, *rest = parent.lines()
            yield ("└─ " if is_last else "├─ ") + first
            for line in rest:
                yield ("   " if is_last else "│  ") + line


def verify_lineage(directory: str | os.PathLike[str], search: Sequence[str] = ()) -> Verified:
    """Verifies a product and all that it came from, as far as that is at hand.

    Args:
      directory: of a run, a recording or an export.
      search: where parents may be that are not where they were: directories that hold them, or are them.

    Returns:
      the tree; nothing is raised for what was altered below, which its ``all_faults`` name.

    Raises:
      UserError: it has no lineage, or one that was altered or is none.
    """
    path = Path(directory)
    if not path.is_dir():
        raise UserError(f"{path}: is not a directory" if path.exists() else f"{path}: there is no such directory")
    lineage = read_lineage(path)
    if lineage is None:
        raise UserError(
            f"{path}: has no {LINEAGE_NAME}: it was made before there was one, is not finished, or is no run, "
            "recording or export"
        )
    return _verify_product(_title(lineage), lineage, path, [Path(place) for place in search])


def _verify_product(title: str, lineage: Lineage, directory: Path, search: Sequence[Path]) -> Verified:
    there = set(product_files(directory))
    faults = []
    for name, digest in sorted(lineage.files.items()):
        fault = _fault_of(directory / name, digest) if name in there else "missing"
        if fault:
            faults.append(f"{printable(str(directory / name))}: {fault}")
    state = f"{spell_count(len(lineage.files) - len(faults), 'file')} intact"
    if faults:
        state += f", {spell_count(len(faults), 'file')} not"
    if more := sorted(there - lineage.files.keys()):
        state += f"; {spell_count(len(more), 'file')} more that it does not know ({printable(more[0])})"
    parents = _parents_as_told(lineage, directory, search)
    return Verified(title=title, state=state, faults=tuple(faults), parents=parents)


def _verify_parent(parent: Parent, beside: Path | None, search: Sequence[Path], *, by_this_code: bool) -> Verified:
    """A parent of the product that is, or was, in the directory ``beside``; None is not known."""
    place = None if beside is None or parent.at is None else Path(os.path.normpath(beside / parent.at))
    path, title = _locate(parent, place, search), _title_of_parent(parent)
    if path is None:
        inner = None if place is None else (place.parent if parent.sha256 is not None else place)
        return Verified(title=title, state="not at hand", parents=_parents_as_told(parent.lineage, inner, search))
    faults: list[str] = []
    fault = "" if parent.sha256 is None else _fault_of(path, parent.sha256)
    if fault and parent.about.get("bundled") is True and not by_this_code:
        return Verified(title=title, state="not at hand: this pd_jax comes with another of this name")
    if fault:
        faults.append(f"{printable(str(path))}: {fault}")
    directory = path if path.is_dir() else path.parent
    told, state = parent.lineage, "altered" if faults else "intact"
    if told is None:
        if path.is_dir():
            state = f"had no {LINEAGE_NAME}: what was made before there was one, or was not finished"
        return Verified(title=title, state=state, faults=tuple(faults))
    try:
        own = read_lineage(directory)
    except UserError as error:
        faults.append(str(error))
        own = None
    else:
        if own is None:
            faults.append(f"{printable(str(directory / LINEAGE_NAME))}: missing")
    if own is None:
        parents = _parents_as_told(told, directory, search)
        return Verified(title=title, state="altered", faults=tuple(faults), parents=parents)
    is_scored_again = own.sha256 != told.sha256 and _has_same_student(told, own)
    if own.sha256 != told.sha256 and not is_scored_again:
        parents = _parents_as_told(told, directory, search)
        state = (
            f"{state}, but its run is another by now" if parent.sha256 else "is another by now: it has gone on since"
        )
        return Verified(title=title, state=state, faults=tuple(faults), parents=parents)
    found = _verify_product(title, own, directory, search)
    if is_scored_again:
        found = dataclasses.replace(found, state=f"{found.state}; scored or reported again since, the same student")
    if parent.sha256 is not None:
        found = dataclasses.replace(found, state=f"{state}; its run: {found.state}")
    return dataclasses.replace(found, faults=(*faults, *found.faults))


def _has_same_student(told: Lineage, own: Lineage) -> bool:
    """Whether a run has the checkpoints that it had, so that nothing but its scores or its report is another."""
    before, now = (
        {name: digest for name, digest in lineage.files.items() if name.startswith("checkpoints/")}
        for lineage in (told, own)
    )
    return bool(before) and before == now


def _parents_as_told(lineage: Lineage | None, beside: Path | None, search: Sequence[Path]) -> tuple[Verified, ...]:
    """The parents of a product, by its lineage; None has none."""
    if lineage is None:
        return ()
    by_this_code = lineage.code.get("source_sha256") == code()["source_sha256"]
    return tuple(_verify_parent(parent, beside, search, by_this_code=by_this_code) for parent in lineage.parents)


def _locate(parent: Parent, place: Path | None, search: Sequence[Path]) -> Path | None:
    """Where a parent is: of several that could be it, the one that it was; None if there is none."""
    if parent.about.get("bundled") is True:
        return bundled_files().get(parent.name)
    named = [place] if place is not None else []
    named += [directory / parent.name for directory in search]
    named += [directory for directory in search if directory.absolute().name == parent.name]
    named = [path for path in named if _is_one(parent, path)]
    deeper = (path for directory in search for path in sorted(directory.glob("*/*")) if path.name == parent.name)
    for path in [*named, *(path for path in deeper if _is_one(parent, path))]:
        if _is_it(parent, path):
            return path
    return named[0] if named else None


def _is_one(parent: Parent, path: Path) -> bool:
    return path.is_file() if parent.sha256 is not None else path.is_dir()


def _is_it(parent: Parent, path: Path) -> bool:
    if parent.sha256 is not None:
        return _fault_of(path, parent.sha256) == ""
    try:
        lineage = read_lineage(path)
    except UserError:
        return False
    return (lineage and lineage.sha256) == (parent.lineage and parent.lineage.sha256)


def _fault_of(path: Path, digest: str) -> str:
    """What is wrong with a file, ``""`` if nothing."""
    try:
        return "" if file_sha256(path) == digest else "altered"
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"


def _title(lineage: Lineage) -> str:
    revision = lineage.code.get("revision")
    made = f"pd_jax {lineage.code.get('pd_jax')}" + (f" at {str(revision)[:12]}" if revision else "")
    if lineage.code.get("source_sha256") == code()["source_sha256"]:
        made += ", this very code"
    return f"{lineage.kind} {lineage.name} ({_about(lineage)}{made})"


def _about(lineage: Lineage) -> str:
    updates = lineage.about.get("updates")
    return f"{updates:,} updates, " if isinstance(updates, int) else ""


def _title_of_parent(parent: Parent) -> str:
    game = parent.about.get("game")
    of = f" of {game}" if isinstance(game, str) else ""
    bundled = ", bundled" if parent.about.get("bundled") is True else ""
    digest = parent.sha256 or parent.about.get("parameters_sha256")
    kind = "" if parent.lineage is None or parent.sha256 is not None else f", {parent.lineage.kind}"
    told = f"{digest[:12]}{bundled}{kind}" if isinstance(digest, str) else f"{bundled}{kind}".removeprefix(", ")
    return f"{parent.role}{of} {parent.name}" + (f" ({told})" if told else "")
