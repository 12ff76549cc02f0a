"""Files on the Hugging Face Hub: ``hf://owner/repo[/file][@revision]``, through ``huggingface_hub`` and its cache.

What is there was written by strangers: sizes are bounded, names are those of plain files, and nothing is executed. No
JAX here.

The library's own environment variables hold: ``HF_HUB_OFFLINE``, ``HF_ENDPOINT``, ``HF_HOME``, ``HF_HUB_ETAG_TIMEOUT``,
``HF_HUB_DOWNLOAD_TIMEOUT`` and its credentials. What was fetched once is used again without a network.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pd_jax.errors import UserError
from pd_jax.system.text import printable
from pd_jax.teachers.formats import HUB_SCHEME, PUBLISHED_NAME

_FORM = "hf://owner/repo[/file][@revision]"
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_ADDRESS = re.compile(
    rf"hf://(?P<repo>{_NAME}/{_NAME})(?:/(?P<file>[^@]{{1,400}}))?(?:@(?P<revision>[\w./-]{{1,200}}))?"
)
_MAX_BYTES = 2**30
_MAX_BYTES_OF_TEXT = 2**24
_MAX_LISTED = 10
PUBLICATION_NAME = "publication.json"
"""In a repository, or a folder, that ``pd-jax push`` made: which student it is, and where its run stood."""
CONFIG_NAME = "config.yaml"
"""Of its run."""
SUMMARY_NAME = "summary.json"
"""Likewise."""
# Of a file and of a commit; the cache's paths are made of both.
_TAG = re.compile(r"[A-Za-z0-9_.-]{1,200}")
# What Stable-Baselines3 and RL-Zoo leave beside an agent.
_NO_AGENTS = re.compile(r"(.*/)?(train_eval_metrics\.zip|pytorch_variables\.pth|.*optimizer\.pth|vec_?normalize\.pkl)")


@dataclasses.dataclass(frozen=True)
class Address:
    """A ``file`` of the repository ``"owner/name"``, at a branch, tag or commit; None is the one file, the newest."""

    repo: str
    file: str | None
    revision: str | None


def is_address(text: str) -> bool:
    """Whether it names a file on the hub."""
    return text.startswith(HUB_SCHEME)


def parse(text: str) -> Address:
    """Takes an address apart.

    Raises:
      UserError: it has another form.
    """
    match = _ADDRESS.fullmatch(text)
    if match is None or not _is_plain(match["file"] or "file"):
        raise UserError(f"{text[:200]!r} is not of the form {_FORM}")
    return Address(match["repo"], match["file"], match["revision"])


def _is_plain(name: str) -> bool:
    """Whether a name is that of a file in a repository, and leads nowhere else."""
    return name.isprintable() and "\\" not in name and {"", ".", ".."}.isdisjoint(name.split("/"))


def download(text: str, suffixes: Sequence[str]) -> Path:
    """Fetches a file, or finds it in the cache.

    Args:
      text: the address.
      suffixes: that the file's name may have; others are refused before anything is asked of the hub. Of a repository
        without a file, the one file that has one of these is meant.

    Returns:
      the file in the cache; its name ends like the one on the hub.

    Raises:
      UserError: no such address, repository, revision or file, one that is gated, no network and no copy in the cache,
        a file larger than any agent's, a repository with none or several to choose from, or ``huggingface_hub`` is not
        installed.
    """
    address = parse(text)
    if address.file is None and address.repo.lower().endswith(tuple(suffixes)):
        raise UserError(f"{text[:200]!r} is not of the form {_FORM}")
    if address.file is not None and not address.file.lower().endswith(tuple(suffixes)):
        raise UserError(f"{text}: is none of the files that are read ({', '.join(suffixes)})")
    check_library(text)
    if address.file is None:
        address = dataclasses.replace(address, file=_only_file(text, address, suffixes))
    return _fetch(text, address, _MAX_BYTES)


def download_student(text: str) -> Path:
    """Fetches what ``pd-jax push`` sent, or finds it in the cache; all of it is of one commit.

    Args:
      text: the address of the repository.

    Returns:
      a directory in the cache, with the files of that name.

    Raises:
      UserError: as `download`; or the repository is none that ``pd-jax push`` made.
    """
    address = parse(text)
    if address.file is not None:
        raise UserError(f"{text[:200]}: names a file; a student is a repository: {HUB_SCHEME}{address.repo}")
    check_library(text)
    names = _files(text, address)
    if missing := sorted({CONFIG_NAME, PUBLICATION_NAME, PUBLISHED_NAME} - {*names}):
        raise UserError(
            f"{text}: {address.repo} holds no student that pd-jax push sent (no {missing[0]}); what it holds may be a "
            "teacher: --teacher"
        )
    first = _fetch(text, dataclasses.replace(address, file=PUBLICATION_NAME), _MAX_BYTES_OF_TEXT)
    for name in (CONFIG_NAME, SUMMARY_NAME, PUBLISHED_NAME):
        if name in names:
            limit = _MAX_BYTES if name == PUBLISHED_NAME else _MAX_BYTES_OF_TEXT
            # The cache has a directory for each commit.
            _fetch(text, Address(address.repo, name, first.parent.name), limit)
    return first.parent


@contextlib.contextmanager
def naming_address(text: str, local: Path) -> Iterator[None]:
    """Errors of a directory in the cache name the address that it came from."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace(str(local), text)) from None


def check_library(what: str) -> None:
    """Raises a UserError, which begins with ``what``, if ``huggingface_hub`` is not installed."""
    try:
        import huggingface_hub  # noqa: F401
    except ImportError:
        raise UserError(f"{what}: is fetched with huggingface_hub: pip install 'pd-jax[hub]'") from None


def _fetch(text: str, address: Address, most_bytes: int) -> Path:
    """A file of a repository, in the cache; of more bytes it is refused before any is fetched."""
    import huggingface_hub
    from huggingface_hub import constants, errors

    where = {"repo_id": address.repo, "filename": address.file, "revision": address.revision}
    problem = None if constants.HF_HUB_OFFLINE else _ask(where, most_bytes)
    if isinstance(problem, UserError):
        raise UserError(f"{text}: {problem}")
    try:
        return Path(huggingface_hub.hf_hub_download(**where, local_files_only=problem is not None))
    except errors.LocalEntryNotFoundError as error:
        raise UserError(f"{text}: {_reason(problem or error, address)}") from None
    # The disk that its cache is on, and whatever the HTTP library that it uses raises.
    except Exception as error:
        raise UserError(f"{text}: {_reason(error, address)}") from None


def _only_file(text: str, address: Address, suffixes: Sequence[str]) -> str:
    """The one file of a repository that may be an agent."""
    files = _files(text, address)
    # The hub shows archives of Stable-Baselines3 beside what they hold.
    unpacked = tuple(f"{file[: -len('.zip')]}/" for file in files if file.endswith(".zip"))
    found = [
        file
        for file in sorted(files)
        if _is_plain(file)
        and file.lower().endswith(tuple(suffixes))
        and not _NO_AGENTS.fullmatch(file)
        and not file.startswith(unpacked)
    ]
    if len(found) == 1:
        return found[0]
    at = f"@{address.revision}" if address.revision else ""
    if not found:
        raise UserError(f"{text}: {address.repo} has no file that is read ({', '.join(suffixes)})")
    listed = ", ".join(f"hf://{address.repo}/{file}{at}" for file in found[:_MAX_LISTED])
    more = f", and {len(found) - _MAX_LISTED} more" if len(found) > _MAX_LISTED else ""
    raise UserError(f"{text}: {address.repo} has {len(found)} files that may be meant; choose one: {listed}{more}")


def _files(text: str, address: Address) -> list[str]:
    """The names of a repository's files, from the hub or, without a network, from the cache."""
    from huggingface_hub import HfApi, constants, errors, snapshot_download

    problem: Exception | None = None
    if not constants.HF_HUB_OFFLINE:
        try:
            api, timeout = HfApi(endpoint=constants.ENDPOINT), constants.HF_HUB_ETAG_TIMEOUT
            found = api.model_info(address.repo, revision=address.revision, timeout=timeout)
            return [sibling.rfilename for sibling in found.siblings or []]
        except (errors.GatedRepoError, errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
            raise UserError(f"{text}: {_reason(error, address)}") from None
        except Exception as error:  # Whatever the HTTP library that it uses raises.
            problem = error
    try:
        folder = snapshot_download(
            address.repo, revision=address.revision, local_files_only=True, cache_dir=constants.HF_HUB_CACHE
        )
    except Exception as error:
        raise UserError(f"{text}: {_reason(problem or error, address)}") from None
    paths = (path for path in Path(folder).rglob("*") if path.is_file())
    return [path.relative_to(folder).as_posix() for path in paths]


def _ask(where: dict[str, Any], most_bytes: int) -> Exception | None:
    """Asks the hub for the file, once: what is wrong, or None. What is wrong with the file itself is a UserError.

    The library's own download would ask a hub that does not answer for six minutes, if the file is not in its cache.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    try:
        found = get_hf_file_metadata(hf_hub_url(**where), timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception as error:
        return error
    for tag in (found.commit_hash, found.etag):
        if tag is not None and (not _TAG.fullmatch(tag) or not tag.strip(".")):
            return UserError(f"{constants.ENDPOINT} calls {where['filename']} {printable(tag)}, which is no tag")
    if found.size is None or found.size <= most_bytes:
        return None
    more = "more than any agent's" if most_bytes == _MAX_BYTES else f"more than any {where['filename']}"
    return UserError(f"has {found.size:,} bytes, {more}")


def _reason(error: Exception, address: Address) -> str:
    """What an error of the library's says to who is at the keyboard; the more special ones first."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        return f"{address.repo} is gated: ask for access on its page and log in with 'hf auth login'"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"there is no repository {address.repo}, or it is private: log in with 'hf auth login'"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{address.repo} has no revision {address.revision or 'main'!r}"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return "is not in the cache, and HF_HUB_OFFLINE forbids fetching it"
    if isinstance(error, errors.EntryNotFoundError):
        return f"{address.repo} has no file {address.file!r}"
    summary = " ".join(str(error).split())[:200] or type(error).__name__
    return f"is not in the cache, and cannot be fetched from {constants.ENDPOINT}: {summary}"
