"""The accepted counts, by the versions of the libraries that they are of, and what is held against them."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pd_jax.errors import UserError
from pd_jax.system.files import write_atomically

Counts = Mapping[str, int]

FILE = Path(__file__).parents[1] / "results" / "guards.json"
FORMAT_VERSION = 1
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "envpool")

BOUNDS: Mapping[str, Counts] = {
    "distillation": {"compiled again": 0, "decision: launches": 2},
    "updates of net2": {"launches": 1, "uploads": 0, "ring copies": 0, "all-reduce operations": 1},
    "updates of dqn": {"launches": 1, "uploads": 0, "ring copies": 0, "all-reduce operations": 1},
    "updates of mlp": {"launches": 1, "uploads": 0, "ring copies": 0, "all-reduce operations": 1},
    "updates of two games": {"launches": 1, "uploads": 0, "ring copies": 0, "all-reduce operations": 1},
    "insertion": {"ring copies": 0},
    "rollout": {"launches": 1},
    "evaluation": {"launches": 1},
}
"""What holds with all versions: how the programs are built, not how a compiler puts them together."""


def stack() -> str:
    """The kind of processor and the versions that counts depend on, in words."""
    return ", ".join([platform.machine(), *(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)])


def read_accepted(path: Path = FILE) -> dict[str, dict[str, Counts]]:
    """The accepted counts: by :func:`stack`, by program; nothing if there is no file.

    Args:
      path: of the file.

    Raises:
      UserError: it cannot be read, or is another one.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
        stacks = {name: dict(programs) for name, programs in content["stacks"].items()}
        numbers = (number for programs in stacks.values() for counts in programs.values() for number in counts.values())
        if content["format_version"] != FORMAT_VERSION or not all(isinstance(number, int) for number in numbers):
            raise ValueError
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a file of python -m benchmarks.guards --write") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    return stacks


def write_accepted(counted: Mapping[str, Counts], path: Path = FILE) -> None:
    """Takes counts in as the accepted ones of this process's versions; those of other versions stay.

    Args:
      counted: by program; those that are not among them stay as they are.
      path: of the file.

    Raises:
      UserError: it cannot be read or written, or is another one.
    """
    stacks = read_accepted(path)
    stacks[stack()] = {**stacks.get(stack(), {}), **counted}
    content: dict[str, Any] = {"format_version": FORMAT_VERSION, "stacks": dict(sorted(stacks.items()))}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def exceeded(counted: Mapping[str, Counts], allowed: Mapping[str, Counts]) -> list[str]:
    """Which counts have grown, one line each.

    Args:
      counted: by program.
      allowed: likewise. What is only in one of them is not compared, but for a kind of operation that is new.
    """
    found = []
    for program, counts in counted.items():
        most = allowed.get(program)
        if most is None:
            continue
        for name, number in counts.items():
            limit = most.get(name, 0 if _total(name) in most else number)
            if number > limit:
                found.append(f"{program}: {name}: {number:,}, accepted {limit:,}")
    return found


def _total(name: str) -> str | None:
    """Of what a number of operations of one kind is a part; None for other counts."""
    before, space, last = name.rpartition(" ")
    return f"{before[: before.rfind(' ') + 1]}{last}" if space and last == "operations" else None


def fewer(counted: Mapping[str, Counts], accepted: Mapping[str, Counts]) -> list[str]:
    """Which counts have fallen, one line each; arguments as for :func:`exceeded`."""
    return [
        f"{program}: {name}: {counted[program].get(name, 0):,}, accepted {number:,}"
        for program, counts in accepted.items()
        if program in counted
        for name, number in counts.items()
        if counted[program].get(name, 0) < number
    ]
