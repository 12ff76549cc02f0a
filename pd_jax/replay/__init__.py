"""The stores of play: rings of frames on the devices, recordings on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pd_jax.system.lazy import lazy_names

if TYPE_CHECKING:
    from pd_jax.replay.recordings import Dataset, DatasetWriter

__all__ = [
    "Dataset",
    "DatasetWriter",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "recordings": ["Dataset", "DatasetWriter"],
    },
)
