"""What names several teachers of one game: names and files joined by ``+``; read without JAX."""

from __future__ import annotations

import os

from pd_jax.config.credibility import JOIN
from pd_jax.errors import UserError
from pd_jax.system.files import expand_home
from pd_jax.teachers.catalogue import bundled_files
from pd_jax.teachers.formats import HUB_SCHEME


def split(text: str) -> tuple[str, ...]:
    """The teachers that a text names, one or several.

    A bundled name, or a file or directory that is there, is itself, also where there is a ``+`` in it; of several that
    it could be, the longest. What follows an address on the hub and stands for nothing belongs to the address.

    Args:
      text: as ``--teacher`` takes it.

    Raises:
      UserError: there is nothing on one side of a ``+``.
    """
    if JOIN not in text or _is_there(text):
        return (text,)
    parts, members, place = text.split(JOIN), list[str](), 0
    while place < len(parts):
        ends = range(len(parts), place, -1)
        end = next((end for end in ends if _is_there(JOIN.join(parts[place:end]))), place + 1)
        member = JOIN.join(parts[place:end])
        if not member:
            raise UserError(f"{text!r}: a teacher is missing beside {JOIN!r}")
        if members and members[-1].startswith(HUB_SCHEME) and not _stands_alone(member):
            members[-1] += JOIN + member
        else:
            members.append(member)
        place = end
    return tuple(members)


def _is_there(text: str) -> bool:
    if not text:
        return False
    path = expand_home(text)
    return path.lower() in bundled_files() or os.path.exists(path)


def _stands_alone(text: str) -> bool:
    return text.startswith(HUB_SCHEME) or _is_there(text)
