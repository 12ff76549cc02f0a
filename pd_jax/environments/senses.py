"""Senses: what a student sees of a task, where that is not what the task shows; `sensors` computes it.

A sample is what is sensed at one step: a frame, a console's memory, or some numbers of a vector. On its way to the
student it is chosen and made smaller, gets noise, comes late, and is lost now and then, in this order. An observation
is the newest samples that arrived, one after another: the frames of a stack, or the vectors of a window.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

from pd_jax.environments.tasks import RAM_SIZE, Task
from pd_jax.errors import UserError

if TYPE_CHECKING:
    import numpy as np

SIZES = (84, 64, 42)
"""Sides of frames, in pixels."""
FULL_SIZE = SIZES[0]
FRAMES = 4
"""Frames in a stack, of all that is not said to see fewer."""

Source = Literal["same", "frames", "ram"]
Also = Literal["none", "ram"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Senses:
    """What is sensed of a task. Hashable, for ``jax.jit``.

    Attributes:
      task: what the environment shows.
      source: ``"same"`` senses what the task shows; ``"frames"`` and ``"ram"`` a game's screen and its memory.
      frames: of a stack, 1 to 4.
      size: of a frame's side in pixels, one of ``SIZES``; smaller frames are means over areas of the larger ones.
      components: places of those numbers of a vector that are sensed, in this order; None is all of them.
      window: steps in an observation of vectors.
      noise: standard deviation of the Gaussian noise that every sample gets: one for all of its numbers, or one for
        each. In the units of the numbers; of frames in grey levels, rounded and cut at 0 and 255.
      missing: chance that a sample is lost, for every step and lane anew; the one before stands in its place. The first
        of an episode is never lost.
      delay: steps that a sample takes to arrive; until the first has, it stands there from the start.
      also: ``"ram"`` has the console's memory beside frames: bytes that follow a frame's pixels in a sample.
      also_components: places of those bytes that are sensed, in this order; None is all of them.
    """

    task: Task
    source: Source = "same"
    frames: int = FRAMES
    size: int = FULL_SIZE
    components: tuple[int, ...] | None = None
    window: int = 1
    noise: tuple[float, ...] = (0.0,)
    missing: float = 0.0
    delay: int = 0
    also: Also = "none"
    also_components: tuple[int, ...] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether a student sees what the task shows."""
        return self == Senses(task=self.task)

    @property
    def is_random(self) -> bool:
        """Whether samples get noise, or are lost."""
        return self.is_noisy or self.missing > 0

    @property
    def is_noisy(self) -> bool:
        """Whether samples get noise."""
        return any(self.noise)

    @property
    def sees_frames(self) -> bool:
        """Whether samples are frames; otherwise they are vectors."""
        return self.source == "frames" or (self.source == "same" and self.task.kind == "atari")

    @property
    def sees_ram(self) -> bool:
        """Whether samples are of a console's memory."""
        return self.source == "ram" or (self.source == "same" and self.task.ram)

    @property
    def beside(self) -> Literal["frames", "ram"] | None:
        """What is sensed and not shown by the task; None if the task shows it."""
        if self.sees_frames:
            if self.task.kind != "atari":
                return "frames"
            return "ram" if self.num_also else None
        return "ram" if self.sees_ram and not self.task.ram else None

    @property
    def is_of_shown_steps(self) -> bool:
        """Whether each sample follows from what the task shows at its step alone: recorded play without it will do."""
        return self.beside is None and not self.is_random and not self.delay

    @property
    def num_also(self) -> int:
        """Bytes of a console's memory in a sample, beside a frame."""
        if self.also == "none":
            return 0
        return RAM_SIZE if self.also_components is None else len(self.also_components)

    @property
    def stack(self) -> int:
        """Samples in an observation."""
        return self.frames if self.sees_frames else self.window

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Of one sample: ``(size, size)``, or ``(numbers,)``; with a memory beside, ``(size x size + bytes,)``."""
        if self.num_also:
            return (self.size**2 + self.num_also,)
        if self.sees_frames:
            return (self.size, self.size)
        if self.components is not None:
            return (len(self.components),)
        return (RAM_SIZE,) if self.sees_ram else self.task.frame_shape

    @property
    def dtype(self) -> Literal["uint8", "float32"]:
        """Of samples and observations."""
        return "uint8" if self.sees_frames else "float32"

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Of an observation: ``(size, size, frames)``, oldest frame first, or ``(window x numbers,)``, likewise."""
        shape = self.sample_shape
        if self.num_also:
            return (self.frames * shape[0],)
        return (*shape, self.frames) if self.sees_frames else (self.window * shape[0],)

    @property
    def perceived(self) -> Task:
        """The task as a student of these senses sees it; what the environment shows is :attr:`task`."""
        if self.is_plain:
            return self.task
        return dataclasses.replace(
            self.task,
            kind="atari" if self.sees_frames else "vector",
            observation_shape=self.observation_shape,
            observation_dtype=self.dtype,
            components=(),
            ram=self.sees_ram,
            window=self.frames if self.num_also else 1 if self.sees_frames else self.window,
            also=self.num_also,
        )

    @property
    def told(self) -> dict[str, Any]:
        """What files say of them: everything but the task, in plain values."""
        fields = {item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.name != "task"}
        if self.also == "none":
            # As before there was such.
            del fields["also"], fields["also_components"]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}

    def of_samples(self, shown: np.ndarray) -> np.ndarray:
        """The samples of recorded play, where they follow from what the task showed.

        Args:
          shown: newest frames uint8 ``[..., 84, 84]`` or vectors float32 ``[..., D]``.

        Returns:
          ``[..., *sample_shape]``.
        """
        if self.sees_frames:
            # Settings are read without NumPy.
            from pd_jax.environments.screens import smaller

            return smaller(shown, self.size)
        return shown if self.components is None else shown[..., list(self.components)]

    def describe(self) -> str:
        """Such as ``1 frame of 42x42``, or ``numbers 0, 2 of 4, a window of 8, noise 0.1, 20 % missing``."""
        if self.sees_frames:
            parts = [f"{self.frames} frame{'s' * (self.frames > 1)} of {self.size}x{self.size}"]
            if self.num_also:
                parts.append(f"{self.num_also} bytes of the memory beside")
        else:
            what = "bytes of the memory" if self.sees_ram else "numbers"
            total = RAM_SIZE if self.sees_ram else self.task.frame_shape[0]
            chosen = self.components
            parts = [f"{total} {what}" if chosen is None else f"{what} {', '.join(map(str, chosen))} of {total}"]
            if self.window > 1:
                parts.append(f"a window of {self.window}")
        if self.is_noisy:
            parts.append(f"noise {', '.join(f'{deviation:g}' for deviation in self.noise)}")
        if self.delay:
            parts.append(f"{self.delay} step{'s' * (self.delay > 1)} late")
        if self.missing:
            parts.append(f"{100 * self.missing:g} % missing")
        return ", ".join(parts)


def make_senses(
    task: Task,
    *,
    source: Source = "same",
    frames: int | None = None,
    size: int | None = None,
    components: tuple[int, ...] | None = None,
    window: int | None = None,
    noise: tuple[float, ...] = (0.0,),
    missing: float = 0.0,
    delay: int = 0,
    also: Also = "none",
    also_components: tuple[int, ...] | None = None,
    where: str = "student.observation",
) -> Senses:
    """Senses of a task, checked against it.

    Args:
      task: what the environment shows.
      source, frames, size, components, window, noise, missing, delay, also, also_components: as the attributes of
        :class:`Senses`; None is what a student sees that nothing is said of.
      where: the section of the settings, for messages.

    Raises:
      UserError: the task has nothing of the kind.
    """
    if source != "same" and not task.is_console:
        raise UserError(
            f"{where}.source: {source!r} is of games of Atari, and {task.name} shows {task.observation_shape[-1]} "
            "numbers"
        )
    if size is not None and size not in SIZES:
        raise UserError(f"{where}.size: {size} is none of {', '.join(map(str, SIZES))} pixels")
    of_frames, of_vectors = {"frames": frames, "size": size}, {"components": components, "window": window}
    draft = Senses(task=task, source=source)
    for name, value in (of_vectors if draft.sees_frames else of_frames).items():
        if value is not None:
            kind, shown = ("vectors", "frames") if draft.sees_frames else ("frames", "a vector")
            raise UserError(f"{where}.{name}: is of {kind}, and what is seen of {task.name} is {shown}")
    (numbers, *_) = draft.sample_shape
    if components is not None:
        _check_places(components, numbers, f"{where}.components", f"{task.name}'s {numbers} numbers")
        numbers = len(components)
    if also != "none" and not draft.sees_frames:
        shown = "the memory" if draft.sees_ram else "a vector"
        raise UserError(f"{where}.also: {also!r} is beside frames, and what is seen of {task.name} is {shown}")
    if also_components is not None and also != "none":
        _check_places(also_components, RAM_SIZE, f"{where}.also_components", f"the {RAM_SIZE} bytes of the memory")
    if len(noise) != 1 and (draft.sees_frames or len(noise) != numbers):
        wanted = "one number for all pixels" if draft.sees_frames else f"one number, or one for each of {numbers}"
        raise UserError(f"{where}.noise: has {len(noise)} numbers; it is {wanted}")
    return Senses(
        task=task,
        # One way to say it.
        source="same" if source == ("frames" if task.kind == "atari" else "ram") else source,
        frames=FRAMES if frames is None else frames,
        size=FULL_SIZE if size is None else size,
        components=components,
        window=1 if window is None else window,
        noise=noise,
        missing=missing,
        delay=delay,
        also=also,
        also_components=also_components,
    )


def _check_places(places: tuple[int, ...], count: int, where: str, of_what: str) -> None:
    """Raises a UserError unless these are some of so many places, each once."""
    if not places:
        raise UserError(f"{where}: names none; leave it out for all {count}")
    for place in places:
        if not 0 <= place < count:
            raise UserError(f"{where}: {place} is none of {of_what}, 0 to {count - 1}")
    if len(set(places)) < len(places):
        raise UserError(f"{where}: a number is there twice")
