"""Who plays: rollouts in jit or from the host, live and recorded play, and play ahead of the updates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pd_jax.system.lazy import lazy_names

if TYPE_CHECKING:
    from pd_jax.actors.live import LivePlay
    from pd_jax.actors.play import Play
    from pd_jax.actors.recorded import RecordedPlay
    from pd_jax.actors.rollout import ActingStudent, FinishedEpisodes, LaneState, Unroll, make_rollout, start
    from pd_jax.actors.shuffled import ShuffledPlay

__all__ = [
    "ActingStudent",
    "FinishedEpisodes",
    "LaneState",
    "LivePlay",
    "Play",
    "RecordedPlay",
    "ShuffledPlay",
    "Unroll",
    "make_rollout",
    "start",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "live": ["LivePlay"],
            "play": ["Play"],
            "recorded": ["RecordedPlay"],
            "rollout": ["ActingStudent", "FinishedEpisodes", "LaneState", "Unroll", "make_rollout", "start"],
            "shuffled": ["ShuffledPlay"],
        },
    )
