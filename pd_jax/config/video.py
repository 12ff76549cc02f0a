"""The settings of ``pd-jax video``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Literal

from pd_jax.config.base import CommandConfig
from pd_jax.config.fields import Bounds, Choice
from pd_jax.config.games import games_conflicts
from pd_jax.config.idle import Idle
from pd_jax.config.sections import CountOrZero, Paths, PathText, Probability, Seed, Words

MOST_PAIRS = 16
"""Pairs of teacher and student in one picture."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoConfig(CommandConfig):
    """Show a run's teacher and student side by side on the same start: what they see, want and do.

    They play as they do for the run's score: its seed, no-ops, protocol and random actions. So what is shown is the
    beginning of the games that the run's own evaluation has played.
    """

    seed: Seed | None = None  # type: ignore[assignment]
    """Seed of the emulators and of the random actions; None is that of the run's own evaluation."""
    run: PathText
    """Directory of the run whose student to show; it has ended."""
    checkpoint: Annotated[Literal["newest", "best"], Choice("a checkpoint")] = "newest"
    """Which of the run's checkpoints: the newest, or the best of those that ``evaluation.every_rounds`` scored."""
    teacher: Paths | None = None
    """Names of bundled teachers, or files, one for each game that is shown; None is those that the run names."""
    game: Words | None = None
    """Names or EnvPool ids of the games; None is all that the student plays, in a grid."""
    lanes: tuple[Annotated[int, Bounds(0, 2**16)], ...] = (0,)
    """Lanes of the evaluation, counted from 0: each is another start. Several are shown in a grid."""
    out: PathText | None = None
    """File: .mp4, beside which there is a .gif and a .json of that name; or .gif, which needs no ffmpeg. None is
    video.mp4 in the run. A video that is there is replaced."""
    length: Annotated[float, Bounds(0.1, 3600.0)] | None = 60.0
    """Seconds of the video at most; null shows whole games."""
    start: CountOrZero = 0
    """Decisions that are played before the video begins."""
    speed: Annotated[float, Bounds(0.1, 100.0)] = 1.0
    """Times the pace that people play the game at: 15 decisions a second in Atari."""
    fps: Annotated[int, Bounds(1, 60)] = 30
    """Frames a second at most: one shows one decision, or every second, third ... if there are more of these."""
    scale: Annotated[float, Bounds(1.0, 4.0)] | None = None
    """Size of the screens, in pixels for one of theirs; None is 2, or 1.5 in a grid."""
    bars: Annotated[Literal["probabilities", "values"], Choice("bars")] = "probabilities"
    """What the bars are: the teacher's outputs softened by the run's temperature beside the student's probabilities,
    which were to equal them; or the outputs as they are."""
    epsilon: Probability | None = None
    """Chance of a random action; None is that of the run's evaluation."""
    gif: bool = True
    """Write a part of the video as GIF as well."""
    gif_start: Annotated[float, Bounds(0.0, 3600.0)] = 0.0
    """Second of the video at which the GIF begins."""
    gif_length: Annotated[float, Bounds(0.1, 600.0)] = 10.0
    """Seconds of the GIF at most."""

    def idle(self) -> Iterator[Idle]:
        if not self.gif:
            for name in ("gif_start", "gif_length"):
                yield Idle(name, "gif", "is for a GIF, and gif is false")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        suffix = "" if self.out is None else self.out.rpartition(".")[2].lower()
        if self.out is not None and suffix not in ("mp4", "gif"):
            yield "out", f"{self.out!r} is no name of a video; end it in .mp4 or .gif"
        if suffix == "gif" and not self.gif:
            yield "gif", "false, and out is the name of a GIF; leave one out"
        if not self.lanes:
            yield "lanes", "is empty; give at least one"
        if repeated := [lane for lane in self.lanes if self.lanes.count(lane) > 1]:
            yield "lanes", f"{repeated[0]} is there {self.lanes.count(repeated[0])} times"
        pairs = len(self.lanes) * len(self.game or ("",))
        if pairs > MOST_PAIRS:
            yield "lanes", f"{pairs} pairs of teacher and student; a picture has room for {MOST_PAIRS}"
        if self.length is not None and self.gif and self.gif_start >= self.length:
            yield "gif_start", f"{self.gif_start:g}, and the video ends after {self.length:g} seconds"
        yield from games_conflicts(self.game or ())
