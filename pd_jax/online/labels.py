"""The labels in a replay while the target changes: which are stale, and what is done about them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from pd_jax.config.online import OnlineConfig
from pd_jax.replay.relabel import Relabeller
from pd_jax.replay.replay import Replay
from pd_jax.system.devices import DeviceGroup
from pd_jax.types import PolicyApply


@dataclasses.dataclass
class RelabelTotals:
    """What relabelling has cost so far: ``steps`` relabelled, in all lanes together, and ``seconds``."""

    steps: int = 0
    seconds: float = 0.0


class Labels:
    """Follows the labels of one game's rings, from when these are empty.

    Args:
      config: whose ``stale`` says what becomes of a step that an older target labelled.
      apply: the target's network.
      devices: that hold the replay.
      totals: are kept up to date.
    """

    def __init__(self, config: OnlineConfig, apply: PolicyApply, devices: DeviceGroup, totals: RelabelTotals) -> None:
        self._config = config
        self._totals = totals
        self._relabeller = Relabeller(apply, devices)
        self._fresh = 0
        """Newest time steps of each lane that the present target labelled."""
        self._values: dict[str, float] = {}

    def renew(self, replay: Replay, variables: Any, on_block: Callable[[], None]) -> None:
        """The target is another.

        Args:
          replay: of the one game.
          variables: of the new target.
          on_block: called now and then; what it raises leaves the replay unusable.
        """
        self._fresh = 0
        if self._config.stale != "relabel" or not replay.steps_held(0):
            self._age(replay)
            return
        started = time.monotonic()
        relabelled = replay.relabel(0, self._relabeller, variables, on_block)
        seconds = time.monotonic() - started
        self._totals.steps += relabelled.steps
        self._totals.seconds += seconds
        self._values = {"relabel_seconds": seconds, "relabelled_steps": relabelled.steps}
        self._values["relabel_changed"] = relabelled.changed

    def played(self, replay: Replay, num_steps: int) -> None:
        """The present target has added ``num_steps`` time steps to each lane."""
        self._fresh += num_steps
        self._age(replay)

    def stale_share(self, replay: Replay) -> float:
        """Share of the stored steps whose outputs are an older target's."""
        held = replay.steps_held(0)
        if self._config.stale == "relabel" or not held:
            return 0.0
        return max(0.0, 1.0 - self._fresh / held)

    def take_values(self) -> dict[str, float]:
        """Metrics of the relabelling since they were last taken."""
        values, self._values = self._values, {}
        return values

    def _age(self, replay: Replay) -> None:
        """Drops the stale steps that are too old by now."""
        if self._config.stale == "age_out":
            kept = (self._config.max_stale_steps or 0) // self._config.env.num_lanes
            replay.keep_newest(0, max(kept, self._fresh))
