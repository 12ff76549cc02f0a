"""Sends files to a repository of the Hugging Face Hub, in one commit; all or nothing.

The token comes from ``HF_TOKEN`` or the library's own file. It goes to the hub alone: nothing here prints or writes it,
and no message has it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pd_jax.deploy.publication import parse_publication
from pd_jax.errors import UserError
from pd_jax.system.text import printable
from pd_jax.teachers.hub import PUBLICATION_NAME

# What the hub itself puts into a repository that it makes.
_OF_THE_HUB = frozenset({".gitattributes"})
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MOST_BYTES = 2**24


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of it.

    Attributes:
      url: of the repository's page.
      commit: that holds it now.
      is_new: whether the repository was made for it.
      removed: files that the commit took away.
    """

    url: str
    commit: str
    is_new: bool
    removed: tuple[str, ...]


class _NoAnswerError(Exception):
    """The hub did not answer in time, or not at all; not one of the errors that its library tries again after."""


def send(
    repository: str,
    files: Mapping[str, bytes],
    *,
    message: str,
    replaces: bool,
    private: bool,
    timeout_seconds: float,
) -> Outcome:
    """Makes the repository's newest state these files.

    Args:
      repository: ``owner/name``; it is made if it is not there.
      files: bytes by name; ``publication.json`` says which student they are.
      message: of the commit.
      replaces: whether other content may be taken away.
      private: whether a repository that is made is private.
      timeout_seconds: how long the hub may say nothing.

    Returns:
      what became of it.

    Raises:
      UserError: ``huggingface_hub`` is not installed, there is no token, or it is none that may write there; the
        repository holds something else; or the hub does not answer or refuses. The repository holds then what it held.
    """
    try:
        import huggingface_hub
        from huggingface_hub import constants
    except ImportError:
        raise UserError("send: is done with huggingface_hub: pip install 'pd-jax[hub]'") from None
    if constants.HF_HUB_OFFLINE:
        raise UserError("send: HF_HUB_OFFLINE forbids it")
    token = huggingface_hub.get_token()
    if not token:
        raise UserError("send: there is no token: set HF_TOKEN, or log in with 'hf auth login'")
    api = huggingface_hub.HfApi(endpoint=constants.ENDPOINT, token=token)
    there: _There | None = None
    stage = "asked who the token is of"
    try:
        with _patience(timeout_seconds):
            api.whoami(token=token)
            stage = "asked for the repository"
            there = _what_is_there(api, repository)
            removed = _check_may_replace(repository, there, files, replaces=replaces)
            if there is None:
                stage = "asked to make the repository"
                api.create_repo(repository, private=private or None, exist_ok=False)
            stage = "sent"
            commit = api.create_commit(
                repository,
                [
                    # Buffers, not bytes: these go by HTTP alone, under the same patience.
                    *(huggingface_hub.CommitOperationAdd(name, io.BytesIO(data)) for name, data in files.items()),
                    *(huggingface_hub.CommitOperationDelete(name, is_folder=False) for name in removed),
                ],
                commit_message=message,
                # Whatever else was sent meanwhile is not taken away unseen.
                parent_commit=None if there is None else there.commit,
            )
    except UserError:
        raise
    except Exception as error:
        reason = _reason(error, repository, token)
        is_empty = stage == "sent" and there is None
        left = f"; {repository} was made, and is empty" if is_empty else "; nothing was sent"
        if stage == "sent" and isinstance(error, _NoAnswerError):
            left = f"; whether it has taken the commit is not known: look at {constants.ENDPOINT}/{repository}"
        raise UserError(f"send: {constants.ENDPOINT}, {stage}: {reason}{left}") from None
    url = f"{constants.ENDPOINT}/{repository}"
    return Outcome(url, str(commit.oid), there is None, removed)


@dataclasses.dataclass(frozen=True)
class _There:
    """What a repository holds: names, its newest commit, and which student it says it is (None: it does not say)."""

    names: tuple[str, ...]
    commit: str | None
    student: str | None


def _what_is_there(api: Any, repository: str) -> _There | None:
    """What the repository holds; None if there is none."""
    from huggingface_hub import errors

    try:
        info = api.model_info(repository)
    except errors.GatedRepoError:
        raise
    except errors.RepositoryNotFoundError:
        return None
    names = tuple(sorted(sibling.rfilename for sibling in info.siblings or []))
    commit = info.sha if isinstance(info.sha, str) and _COMMIT.fullmatch(info.sha) else None
    student = _student_there(api, repository, commit) if PUBLICATION_NAME in names else None
    return _There(names, commit, student)


def _student_there(api: Any, repository: str, commit: str | None) -> str | None:
    """Which student a repository says it holds; None if what it says is nothing of ours."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session

    # Read, not kept: the cache is for what is used.
    url = hf_hub_url(repository, PUBLICATION_NAME, revision=commit or "main", endpoint=api.endpoint)
    response = get_session().get(url, headers=build_hf_headers(token=api.token))
    if response.status_code != 200 or len(response.content) > _MOST_BYTES:
        return None
    try:
        return parse_publication(response.content, "").student
    except UserError:
        return None


def _check_may_replace(
    repository: str, there: _There | None, files: Mapping[str, bytes], *, replaces: bool
) -> tuple[str, ...]:
    """The files that are to be taken away; raises a UserError if what is there may not be."""
    if there is None:
        return ()
    own = parse_publication(files[PUBLICATION_NAME], "").student
    others = [name for name in there.names if name not in _OF_THE_HUB]
    if others and not replaces and there.student != own:
        what = "another student" if there.student is not None else f"something else ({_list(others)})"
        raise UserError(
            f"to: hf://{repository} holds {what}; choose another repository, or --replace takes all that away"
        )
    return tuple(name for name in others if name not in files)


def _list(names: list[str]) -> str:
    shown = ", ".join(printable(Path(name).name if len(name) > 60 else name) for name in names[:3])
    return f"{shown}, and {len(names) - 3} more" if len(names) > 3 else shown


@contextlib.contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """The library's requests end after so long a silence, and none is tried again: it has no timeouts of its own, and
    after some errors it asks six times."""
    import huggingface_hub
    from huggingface_hub.utils import _http, are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = getattr(_http, "_GLOBAL_CLIENT_FACTORY", None)
    hidden, level = are_progress_bars_disabled(), huggingface_hub.logging.get_verbosity()

    def make() -> Any:
        client = (before or _http.default_client_factory)()
        send_request = client.send

        def send_once(request: Any, *args: Any, **kwargs: Any) -> Any:
            # Some of the library's functions say themselves that there is no limit.
            request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), seconds)
            try:
                response = send_request(request, *args, **kwargs)
            except Exception as error:
                names = {kind.__name__ for kind in type(error).__mro__}
                if "TimeoutException" in names:
                    raise _NoAnswerError(f"it said nothing for {seconds:g} s") from None
                if "TransportError" in names:
                    raise _NoAnswerError(f"it cannot be reached: {error}") from None
                raise
            if response.status_code == 429 or response.status_code >= 500:
                raise _NoAnswerError(f"it answered with {response.status_code} {response.reason_phrase}")
            return response

        client.send = send_once
        return client

    huggingface_hub.set_client_factory(make)
    huggingface_hub.logging.set_verbosity(50)
    disable_progress_bars()
    try:
        yield
    finally:
        huggingface_hub.set_client_factory(before or _http.default_client_factory)
        huggingface_hub.logging.set_verbosity(level)
        if not hidden:
            enable_progress_bars()


def _reason(error: Exception, repository: str, token: str) -> str:
    """What an error says to who is at the keyboard, without the token."""
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        reason = f"{repository} is gated"
    elif status == 401:
        reason = "it does not know the token: make another one, or log in with 'hf auth login'"
    elif status == 403:
        reason = f"the token may not write to {repository}: it needs the role 'write'"
    elif status in (409, 412):
        reason = f"{repository} was changed meanwhile; push again"
    else:
        reason = " ".join(str(error).split()) or type(error).__name__
    return printable_without(reason, token)


def printable_without(text: str, token: str) -> str:
    """A message in one line without the token, whatever the hub or a proxy put into it."""
    clean = text.replace(token, "***")
    return "".join(letter if letter.isprintable() else " " for letter in clean)[:400]
