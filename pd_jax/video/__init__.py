"""Teacher and student side by side on the same start, as MP4 and GIF."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pd_jax.system.lazy import lazy_names

if TYPE_CHECKING:
    from pd_jax.video.video import run_video

__all__ = ["run_video"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, {"video": ["run_video"]})
