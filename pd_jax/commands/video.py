"""``pd-jax video``: shows teacher and student side by side."""

from __future__ import annotations

from pd_jax.config.video import VideoConfig
from pd_jax.report.videos import print_video
from pd_jax.video.video import run_video, video_path, warn_of_another_teacher


def run(config: VideoConfig) -> None:
    """Plays, draws, and prints what is shown."""
    report = run_video(config)
    warn_of_another_teacher(report)
    print_video(report, str(video_path(config)))
