"""The settings of ``pd-jax monitor``'s commands."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Literal

from pd_jax.config.base import CommandConfig
from pd_jax.config.fields import Bounds, Choice
from pd_jax.config.idle import Idle, idle_atari
from pd_jax.config.protocols import ProtocolSettings, idle_backend, protocol_conflicts
from pd_jax.config.sections import Count, EmulatorConfig, Lanes, PathText, Positive, Probability

Variant = Annotated[int, Bounds(0, 255)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MonitorEnvConfig(EmulatorConfig):
    """How environments run, where the policy plays itself."""

    num_lanes: Lanes = 16
    """Games that are played side by side, each of which is watched alone."""
    mode: Variant | None = None
    """Of the game, as the emulator numbers them (Atari only); None is the game's own."""
    difficulty: Variant | None = None
    """Of the game, likewise."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WatchedEnvConfig(MonitorEnvConfig):
    """How environments run, where the policy plays itself."""

    num_lanes: Lanes = 1
    """Games that are played side by side, each of which is watched alone."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DisturbanceConfig:
    """What is done to the observations that the policy sees, to measure what is noticed."""

    noise: Annotated[float, Bounds(0.0, 255.0)] = 0.0
    """Standard deviation of Gaussian noise that is added to each pixel, of 0 to 255, or to each number of a vector."""
    occlusion: Annotated[int, Bounds(0, 84)] = 0
    """Side of a black square in the middle of the frame, in pixels."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MonitorConfig(ProtocolSettings, CommandConfig):
    """What both commands take: a policy, and how it plays."""

    run: PathText | None = None
    """Directory of the run whose student is watched."""
    policy: PathText | None = None
    """Instead of a run: an ONNX file of pd-jax export, the name of a bundled teacher, or a teacher's file."""
    checkpoint: Annotated[Literal["newest", "best"], Choice("a checkpoint")] = "newest"
    """Which of the run's checkpoints."""
    game: str | None = None
    """Which of its games, of a policy of several."""
    teacher: PathText | None = None
    """Name or file of a teacher, whose actions are compared with the policy's."""
    data: PathText | None = None
    """Recording to take the play from; the actions are the recorded ones."""
    epsilon: Probability = 0.05
    """Chance of a random action, where the policy plays."""
    env: MonitorEnvConfig = dataclasses.field(default_factory=MonitorEnvConfig)

    def play_idle(self, because: str, why: str) -> Iterator[Idle]:
        """All that is of the policy's own play, where there is none."""
        for key in ("epsilon", "env", "protocol"):
            yield Idle(key, because, why)

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.run is None and self.checkpoint != "newest":
            yield "checkpoint", f"{self.checkpoint!r} of no run; give --run DIR"
        if self.run is not None and self.policy is not None:
            yield "policy", "and run: both name the policy; give one"
        yield from protocol_conflicts(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitMonitorConfig(MonitorConfig):
    """Work out thresholds from a recording, or from the policy's own play."""

    out: PathText
    """The file of thresholds to write, which must not exist."""
    decisions: Count = 150_000
    """Decisions to work them out from, in all lanes together; of a recording, at most."""
    block: Annotated[int, Bounds(4, 65_536)] = 256
    """Decisions of a lane whose mean is tested as one."""
    false_alarms: Positive = 1.0
    """False alarms that are allowed in a million decisions, of all signals together."""

    def idle(self) -> Iterator[Idle]:
        if self.data is not None:
            yield from self.play_idle("data", "is of the policy's own play, and data is a recording")
        games = self.game or self.policy
        yield from idle_atari((games,) if games and self.data is None else (), "policy", _ATARI_KEYS)
        yield from idle_backend(self)

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.run is None and self.policy is None:
            yield "run", "missing, and policy too; give --run DIR or --policy NAME_OR_FILE"
        yield from super().conflicts()


@dataclasses.dataclass(frozen=True, kw_only=True)
class WatchMonitorConfig(MonitorConfig):
    """Compare a recording, a log or the policy's own play with thresholds."""

    thresholds: PathText
    """The file that pd-jax monitor fit wrote."""
    log: PathText | None = None
    """Log of decisions, a JSON line for each; - is standard input."""
    play: bool = False
    """Have the policy play, to measure what is noticed."""
    decisions: Count = 10_000
    """Decisions of that play, in all lanes together."""
    disturbance: DisturbanceConfig = dataclasses.field(default_factory=DisturbanceConfig)
    env: WatchedEnvConfig = dataclasses.field(default_factory=WatchedEnvConfig)
    json: bool = False
    """Print alarms and the summary as JSON lines."""
    figure: PathText | None = None
    """PNG file to draw the signals in, which must not exist."""

    def idle(self) -> Iterator[Idle]:
        if not self.play:
            yield from self.play_idle("play", "is of the policy's own play; add --play")
            for key in ("decisions", "disturbance", "seed"):
                yield Idle(key, "play", "is of the policy's own play; add --play")
        if self.log is not None:
            for key in ("teacher", "game"):
                yield Idle(key, "log", "is for a policy that decides here, and a log has what was decided")
        yield from idle_backend(self)

    def conflicts(self) -> Iterator[tuple[str, str]]:
        sources = [name for name in ("data", "log", "play") if getattr(self, name)]
        if len(sources) != 1:
            told = " and ".join(sources) or "none"
            yield sources[1] if sources else "data", f"{told} given; give one of --data, --log and --play"
        elif self.log is None and self.run is None and self.policy is None:
            yield "run", "missing, and policy too; give --run DIR or --policy NAME_OR_FILE"
        if self.figure is not None and not self.figure.endswith(".png"):
            yield "figure", f"{self.figure!r} does not end in .png"
        yield from super().conflicts()


_ATARI_KEYS = ("protocol", "env.sticky_action_probability", "env.max_noops", "env.fire_reset", "env.backend")
