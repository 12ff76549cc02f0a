"""The stores of play: rings of frames on the devices, and recordings on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pd_jax.system.lazy import lazy_names

if TYPE_CHECKING:
    from pd_jax.replay.header import DatasetHeader
    from pd_jax.replay.recordings import Dataset, DatasetWriter
    from pd_jax.replay.rings import FrameRings, ReplayState

__all__ = [
    "Dataset",
    "DatasetHeader",
    "DatasetWriter",
    "FrameRings",
    "ReplayState",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "header": ["DatasetHeader"],
            "recordings": ["Dataset", "DatasetWriter"],
            "rings": ["FrameRings", "ReplayState"],
        },
    )
