"""The settings of what a student sees, where that is not what its teacher sees."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Literal

from pd_jax.config.fields import Bounds, Choice, OneOrMany, make_tuples
from pd_jax.environments.senses import Senses, make_senses
from pd_jax.environments.tasks import Task

if TYPE_CHECKING:
    Deviations = float | tuple[float, ...]
else:
    Deviations = Annotated[tuple[Annotated[float, Bounds(0.0, 1e6)], ...], OneOrMany()]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObservationConfig:
    """What the student sees, where that is not what its teacher sees."""

    source: Annotated[Literal["same", "frames", "ram"], Choice("a source of observations")] = "same"
    """Of games of Atari: the screen, or the 128 bytes of the console's memory; same is what the teacher sees."""
    frames: Annotated[int, Bounds(1, 4)] | None = None
    """Frames in a stack; None is 4."""
    size: Annotated[int, Bounds(42, 84)] | None = None
    """Side of a frame in pixels: 84, 64 or 42; None is 84."""
    components: tuple[Annotated[int, Bounds(0, 2**16)], ...] | None = None
    """Places of the numbers of a vector that are seen, from 0; None is all of them."""
    window: Annotated[int, Bounds(1, 256)] | None = None
    """Steps of a vector that are seen at once, the newest and those before it; None is 1."""
    noise: Deviations = 0.0
    """Standard deviation of Gaussian noise on what is seen: one number, or one for each number of a vector."""
    missing: Annotated[float, Bounds(0.0, 0.99)] = 0.0
    """Chance that a step's sample is lost; the one before is seen again."""
    delay: Annotated[int, Bounds(0, 256)] = 0
    """Steps that samples come late."""
    also: Annotated[Literal["none", "ram"], Choice("what is seen beside frames")] = "none"
    """Beside the frames of a game of Atari, the bytes of the console's memory (ram)."""
    also_components: tuple[Annotated[int, Bounds(0, 2**16)], ...] | None = None
    """Places of those bytes that are seen, from 0; None is all 128 (also only)."""

    def __post_init__(self) -> None:
        make_tuples(self)

    @property
    def is_plain(self) -> bool:
        """Whether nothing is said of what the student sees."""
        plain = ObservationConfig()
        return all(getattr(self, item.name) == getattr(plain, item.name) for item in dataclasses.fields(plain))

    @property
    def window_steps(self) -> int:
        """Steps of a vector in an observation."""
        return self.window or 1

    def of(self, task: Task, where: str = "student.observation") -> Senses:
        """The senses that these settings stand for in a task.

        Raises:
          UserError: the task has nothing of the kind.
        """
        assert isinstance(self.noise, tuple)
        return make_senses(
            task,
            source=self.source,
            frames=self.frames,
            size=self.size,
            components=self.components,
            window=self.window,
            noise=self.noise,
            missing=self.missing,
            delay=self.delay,
            also=self.also,
            also_components=self.also_components,
            where=where,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudentObservationConfig(ObservationConfig):
    """What the student sees, where that is not what its teacher sees."""

    last_actions: Annotated[int, Bounds(0, 64)] = 0
    """Actions before this step that the student sees beside, as they were played in its lane, whoever chose them; none
    from before the episode."""

    @property
    def recorded(self) -> ObservationConfig:
        """What of it is recorded for the student: recordings hold the actions anyway."""
        return ObservationConfig(
            **{item.name: getattr(self, item.name) for item in dataclasses.fields(ObservationConfig)}
        )
