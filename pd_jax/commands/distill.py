"""``pd-jax distill``: distils teachers into a student."""

from __future__ import annotations

import shlex

from pd_jax.config.distill import DistillConfig
from pd_jax.config.video import VideoConfig
from pd_jax.distill.session import distill
from pd_jax.report.terminal import print_distillation
from pd_jax.report.videos import print_video
from pd_jax.system import hosts
from pd_jax.system.progress import print_warning


def run(config: DistillConfig) -> None:
    """Distils, and prints the scores; of several processes process 0 does. Then shows the play, if that is wanted."""
    summary = distill(config)
    if hosts.is_primary():
        print_distillation(summary, config.out)
        if config.video:
            _show(config.out)


def _show(run: str) -> None:
    """Makes the video; the run has ended by now, and whatever goes wrong is a warning."""
    command = f"pd-jax video --run {shlex.quote(run)}"
    if hosts.current() is not None:
        print_warning(f"--video is for a run of one process; afterwards: {command}")
        return
    try:
        # What a video takes need not be there beside a run without one.
        from pd_jax.video.video import run_video, video_path

        print_video(run_video(VideoConfig(run=run)), str(video_path(VideoConfig(run=run))))
    except Exception as error:
        print_warning(f"no video: {error}; the run is whole, and {command} tries again")
