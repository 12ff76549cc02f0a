"""Files on the Hugging Face Hub: ``hf://owner/repo[/file][@revision]``, through ``huggingface_hub`` and its cache.

The library's own environment variables hold: ``HF_HUB_OFFLINE``, ``HF_ENDPOINT``, ``HF_HOME``, ``HF_HUB_ETAG_TIMEOUT``,
``HF_HUB_DOWNLOAD_TIMEOUT`` and its credentials. What was fetched once is used again without a network.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pd_jax.errors import UserError

_SCHEME = "hf://"
_FORM = "hf://owner/repo[/file][@revision]"
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_ADDRESS = re.compile(
    rf"hf://(?P<repo>{_NAME}/{_NAME})(?:/(?P<file>[^@]{{1,400}}))?(?:@(?P<revision>[\w./-]{{1,200}}))?"
)
_MAX_BYTES = 2**30
_MAX_LISTED = 10
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
    return text.startswith(_SCHEME)


def parse(text: str) -> Address:
    """Takes an address apart.

    Raises:
      UserError: it has another form.
    """
    match = _ADDRESS.fullmatch(text)
    file = (match["file"] or "file") if match else ""
    if match is None or not file.isprintable() or not {"", ".", ".."}.isdisjoint(file.split("/")):
        raise UserError(f"{text[:200]!r} is not of the form {_FORM}")
    return Address(match["repo"], match["file"], match["revision"])


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
    try:
        import huggingface_hub
        from huggingface_hub import constants, errors
    except ImportError:
        raise UserError(f"{text}: is fetched with huggingface_hub: pip install 'pd-jax[hub]'") from None
    if address.file is None:
        address = dataclasses.replace(address, file=_only_file(text, address, suffixes))
    where = {"repo_id": address.repo, "filename": address.file, "revision": address.revision}
    problem = None if constants.HF_HUB_OFFLINE else _ask(where)
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
        if file.lower().endswith(tuple(suffixes)) and not _NO_AGENTS.fullmatch(file) and not file.startswith(unpacked)
    ]
    if len(found) == 1:
        return found[0]
    at = f"@{address.revision}" if address.revision else ""
    if not found:
        raise UserError(f"{text}: {address.repo} has no file that is read ({', '.join(suffixes)})")
    listed = ", ".join(f"hf://{address.repo}/{file}{at}" for file in found[:_MAX_LISTED] if file.isprintable())
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


def _ask(where: dict[str, Any]) -> Exception | None:
    """Asks the hub for the file, once: what is wrong, or None. What is wrong with the file itself is a UserError.

    The library's own download would ask a hub that does not answer for six minutes, if the file is not in its cache.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    try:
        size = get_hf_file_metadata(hf_hub_url(**where), timeout=constants.HF_HUB_ETAG_TIMEOUT).size
    except Exception as error:
        return error
    return None if size is None or size <= _MAX_BYTES else UserError(f"has {size:,} bytes, more than any agent's")


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
