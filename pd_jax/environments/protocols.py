"""The two protocols that agents of Atari are trained and scored under, by name; one that is neither is ``custom``.

``classic`` is Mnih et al.'s (2015), and so Rusu et al.'s (2016): a random number of no-ops opens a game. ``modern`` is
Machado et al.'s (2018): actions stick, and neither random no-ops nor a FIRE open a game. In both a game ends when it is
over or after 108,000 frames, which is 27,000 control steps, and actions are those of the game's minimal set.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from pd_jax.environments.tasks import ATARI_MAX_EPISODE_STEPS

CUSTOM = "custom"
ProtocolName = Literal["classic", "modern", "custom"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlayRules:
    """How games of Atari are played under a protocol.

    Attributes:
      max_noops: as for `pd_jax.environments.envpool.Environment`. With 1 every game opens alike: with one no-op, or
        with FIRE alone.
      sticky_action_probability: chance that a frame repeats the action before it.
      fire_reset: whether FIRE opens a game that has this action.
      max_episode_steps: control steps after which a game is cut.
    """

    max_noops: int
    sticky_action_probability: float
    fire_reset: bool
    max_episode_steps: int = ATARI_MAX_EPISODE_STEPS

    def describe(self) -> str:
        """Such as ``sticky actions (0.25), no random no-ops, no FIRE at the start``."""
        sticky = self.sticky_action_probability
        parts = [
            f"sticky actions ({sticky:g})" if sticky else "no sticky actions",
            f"up to {self.max_noops:,} no-ops" if self.max_noops > 1 else "no random no-ops",
        ]
        return ", ".join(parts if self.fire_reset else [*parts, "no FIRE at the start"])


PROTOCOLS: Mapping[str, PlayRules] = MappingProxyType(
    {
        "classic": PlayRules(max_noops=30, sticky_action_probability=0.0, fire_reset=True),
        "modern": PlayRules(max_noops=1, sticky_action_probability=0.25, fire_reset=False),
    }
)
"""The protocols by name."""

STARTS = ("max_noops", "sticky_action_probability", "fire_reset")
"""What a protocol says beside the step limit, by the names of the settings and of `PlayRules`."""


def protocol_name(rules: Mapping[str, Any]) -> str | None:
    """The protocol that numbers amount to, whoever wrote them.

    Args:
      rules: the fields of `PlayRules`, which may be anything. Without ``fire_reset`` there was one; with no
        ``max_episode_steps``, or None, games were cut at the task's own limit.

    Returns:
      a name of `PROTOCOLS`, ``"custom"`` for other numbers, or None where some are not told.
    """
    told = {"fire_reset": True} | {name: rules[name] for name in STARTS if name in rules}
    if len(told) < len(STARTS):
        return None
    told["max_episode_steps"] = rules.get("max_episode_steps") or ATARI_MAX_EPISODE_STEPS
    return next((name for name, known in PROTOCOLS.items() if dataclasses.asdict(known) == told), CUSTOM)
