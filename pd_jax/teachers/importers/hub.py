"""Files on the Hugging Face Hub: ``hf://owner/repo/file[@revision]``, through ``huggingface_hub`` and its cache.

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
_FORM = "hf://owner/repo/file[@revision]"
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_ADDRESS = re.compile(rf"hf://(?P<repo>{_NAME}/{_NAME})/(?P<file>[^@]{{1,400}})(?:@(?P<revision>[\w./-]{{1,200}}))?")
_MAX_BYTES = 2**30


@dataclasses.dataclass(frozen=True)
class Address:
    """A ``file`` of the repository ``"owner/name"``, at a branch, tag or commit; None is the newest."""

    repo: str
    file: str
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
    parts = match["file"].split("/") if match else []
    if match is None or not match["file"].isprintable() or not {"", ".", ".."}.isdisjoint(parts):
        raise UserError(f"{text[:200]!r} is not of the form {_FORM}")
    return Address(match["repo"], match["file"], match["revision"])


def download(text: str, suffixes: Sequence[str]) -> Path:
    """Fetches a file, or finds it in the cache.

    Args:
      text: the address.
      suffixes: that the file's name may have; others are refused before anything is asked of the hub.

    Returns:
      the file in the cache; its name ends like the one on the hub.

    Raises:
      UserError: no such address, repository, revision or file, one that is gated, no network and no copy in the cache,
        a file larger than any agent's, or ``huggingface_hub`` is not installed.
    """
    address = parse(text)
    if not address.file.lower().endswith(tuple(suffixes)):
        raise UserError(f"{text}: is none of the files that are read ({', '.join(suffixes)})")
    try:
        import huggingface_hub
        from huggingface_hub import constants, errors
    except ImportError:
        raise UserError(f"{text}: is fetched with huggingface_hub: pip install 'pd-jax[hub]'") from None
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
