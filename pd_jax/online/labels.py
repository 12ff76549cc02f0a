"""The labels in a replay while the target changes: which are stale, and what is done about them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from pd_jax.config.online import OnlineConfig
from pd_jax.replay import rings
from pd_jax.replay.relabel import Relabeller
from pd_jax.replay.rings import ReplayState
from pd_jax.system.devices import DeviceGroup
from pd_jax.types import PolicyApply


@dataclasses.dataclass
class RelabelTotals:
    """What relabelling has cost so far: ``steps`` relabelled, in all lanes together, and ``seconds``."""

    steps: int = 0
    seconds: float = 0.0


class Labels:
    """Follows one replay, from when it is empty.

    Args:
      config: whose ``stale`` says what becomes of a step that an older target labelled.
      apply: the target's network.
      devices: that hold the replay.
      totals: are kept up to date.
    """

    def __init__(self, config: OnlineConfig, apply: PolicyApply, devices: DeviceGroup, totals: RelabelTotals) -> None:
        self._config = config
        self._devices = devices
        self._totals = totals
        self._relabeller = Relabeller(apply, devices)
        self._fresh = 0
        """Newest time steps of each lane that the present target labelled."""
        self._values: dict[str, float] = {}

    def renew(self, stored: ReplayState, variables: Any, on_block: Callable[[], None]) -> ReplayState:
        """The replay once the target is another.

        Args:
          stored: with a device axis; not to be used any more.
          variables: of the new target.
          on_block: called now and then; what it raises leaves the replay unusable.
        """
        self._fresh = 0
        if self._config.stale != "relabel" or not self._size(stored):
            return self.age(stored)
        started = time.monotonic()
        relabelled = self._relabeller.relabel(stored, variables, on_block)
        seconds = time.monotonic() - started
        self._totals.steps += relabelled.steps
        self._totals.seconds += seconds
        self._values = {"relabel_seconds": seconds, "relabelled_steps": relabelled.steps}
        self._values["relabel_changed"] = relabelled.changed
        return relabelled.stored

    def played(self, stored: ReplayState, num_steps: int) -> ReplayState:
        """The replay after the present target has added ``num_steps`` time steps to each lane."""
        self._fresh += num_steps
        return self.age(stored)

    def age(self, stored: ReplayState) -> ReplayState:
        """The replay without the stale steps that are too old by now."""
        if self._config.stale != "age_out":
            return stored
        kept = (self._config.max_stale_steps or 0) // self._config.env.num_lanes
        return rings.keep_newest(stored, max(kept, self._fresh))

    def stale_share(self, stored: ReplayState) -> float:
        """Share of the stored steps whose outputs are an older target's."""
        size = self._size(stored)
        if self._config.stale == "relabel" or not size:
            return 0.0
        return max(0.0, 1.0 - self._fresh / size)

    def take_values(self) -> dict[str, float]:
        """Metrics of the relabelling since they were last taken."""
        values, self._values = self._values, {}
        return values

    def _size(self, stored: ReplayState) -> int:
        return int(self._devices.first(stored.size))
