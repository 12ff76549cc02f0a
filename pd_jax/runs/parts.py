"""The sizes of the parts that a run's batches are divided into: settled as it begins, and kept."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

from pd_jax.config.base import Settings
from pd_jax.config.loading import from_mapping
from pd_jax.config.sections import PartsConfig
from pd_jax.errors import UserError
from pd_jax.networks.partition import PartSizes, part_sizes
from pd_jax.runs.directory import read_run
from pd_jax.system import hosts
from pd_jax.system.text import printable

EARLIER = PartSizes()
"""Of runs that have no word of them: they began before sizes followed the machine."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Settled(Settings):
    """The section alone, as a run has it."""

    parts: PartsConfig = dataclasses.field(default_factory=PartsConfig)


def settle(parts: PartsConfig, out: str | None, *, resume: bool) -> PartsConfig:
    """The section ``parts`` in numbers, for ``auto`` those that the run has, or that suit this machine.

    Another order of sums is other bits, so a run keeps its sizes wherever it goes on. Of several processes all take
    those of process 0.

    Args:
      parts: as it was given.
      out: the run's directory; None if it has none.
      resume: whether the run in it is gone on with, if there is one.

    Raises:
      UserError: the run's own file cannot be read, or has sizes that are impossible.
    """
    otherwise = None
    if resume and out is not None and os.path.exists(os.path.join(out, "config.yaml")):
        otherwise = sizes_of_run(read_run(out).config, f"{printable(os.path.join(out, 'config.yaml'))}: ")
    numbers = hosts.from_primary("parts", json.dumps(dataclasses.asdict(part_sizes(PartsConfig(), otherwise))))
    return PartsConfig(**dataclasses.asdict(part_sizes(parts, PartSizes(**json.loads(numbers)))))


def sizes_of_run(config: Mapping[str, Any], where: str) -> PartSizes:
    """The sizes of a run that is there.

    Args:
      config: its resolved configuration, nested mappings of plain values.
      where: what messages begin with.

    Raises:
      UserError: they are impossible.
    """
    own = {"parts": config["parts"]} if "parts" in config else {}
    return part_sizes(from_mapping(_Settled, own, where).parts, EARLIER)


def check_kept(begun: Mapping[str, int], now: Mapping[str, int], path: str | os.PathLike[str]) -> None:
    """Raises a UserError unless a run goes on with the sizes that its checkpoint was made with.

    Args:
      begun: of the checkpoint.
      now: of the run.
      path: the run's directory, for messages.
    """
    for name, size in now.items():
        if begun.get(name) != size:
            raise UserError(
                f"{path}: parts.{name} is {size}, and its checkpoint was made with {begun.get(name)!r}; another order "
                "of sums is other bits: give the latter, or choose another --out"
            )
