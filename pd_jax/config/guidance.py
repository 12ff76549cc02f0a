"""The settings of a teacher that guides a learner from rewards: how much of what is learnt is its, and until when."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pd_jax.config.fields import Bounds, Choice, OneOrMany, expand_homes, make_tuples
from pd_jax.config.idle import Idle, idle_loss
from pd_jax.config.sections import LossConfig, PathText, Positive

if TYPE_CHECKING:
    # What one may give from Python. There is always a tuple afterwards: make_tuples sees to it.
    Points = str | tuple[str, ...]
else:
    Points = Annotated[tuple[str, ...], OneOrMany()]

_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{0,9})?([eE][-+]?[0-9]{1,2})?|\.[0-9]{1,9}")
_MOST_WEIGHT = 1e6
_FADING = {"schedule": ("0:3", "0.1:0.3", "0.5:0.1", "1:0"), "return_ratio": ("0:10",)}
"""Fast as long as the teacher decides alone, then slowly: between 0.3 and 0.03 both have their say."""
_BEFORE = {"schedule": ("0:10", "0.5:0"), "return_ratio": ("0:10",)}
"""What None was in runs that have it in their files."""
_SCHEDULES = ("reward_weight", "distillation_weight", "teacher_share")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuidanceLossConfig(LossConfig):
    """As of a student that learns from its teacher alone, and closer to what the teacher does than to what it thinks of
    the rest, which rewards tell better."""

    target_entropy: Annotated[float, Bounds(0.001, 0.99)] = 0.1
    """Mean entropy of the teacher's policy over the play, as a share of the logarithm of the number of actions, that
    the temperature auto is to give."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuidanceConfig:
    """A teacher that is imitated while its pupil already learns from rewards."""

    teacher: PathText | None = None
    """Name, file or distill run of the teacher that guides (PQN of one game); with init_from a distilled student goes
    on from what it has learnt. None learns from rewards alone."""
    loss: GuidanceLossConfig = dataclasses.field(default_factory=GuidanceLossConfig)
    fade: Annotated[Literal["schedule", "return_ratio"], Choice("a way to fade")] = "schedule"
    """How the distillation ends: by its schedule alone, or as the learner's returns come up to the teacher's, as in
    QDagger (Agarwal et al. 2022)."""
    reward_weight: Points = ("0:1",)
    """What the loss of Q-learning counts: points PROGRESS:VALUE, of which the progress is the share of the training,
    with straight lines between them."""
    distillation_weight: Points | None = None
    """What the distillation counts, likewise, its loss in units of Q; times what fade leaves of it. None is 0:3 0.1:0.3
    0.5:0.1 1:0, and 0:10 for return_ratio."""
    teacher_share: Points = ("0:0",)
    """Chance that the teacher acts, at every step of every lane anew, likewise."""
    learner_temperature: Positive | None = None
    """The learner's Q-values are divided by it to be the logits of its policy. None is what the teacher's Q-values are
    divided by; beside a teacher of logits it is scale."""
    scale: Positive | None = None
    """Q-values of a logit of 1, for a student that gives logits. None fits it to the teacher's Q-values, and is 0.01
    beside a teacher of logits."""

    def __post_init__(self) -> None:
        make_tuples(self)
        expand_homes(self)

    @property
    def settled(self) -> GuidanceConfig:
        """With the fading that None stands for in a run that begins now."""
        if self.distillation_weight is not None:
            return self
        return dataclasses.replace(self, distillation_weight=_FADING[self.fade])

    @property
    def is_on(self) -> bool:
        """Whether a teacher guides."""
        return self.teacher is not None

    def points(self, name: str) -> tuple[tuple[float, float], ...]:
        """The points of one of the schedules, as numbers.

        Args:
          name: ``reward_weight``, ``distillation_weight`` or ``teacher_share``.

        Raises:
          ValueError: what is wrong with it.
        """
        texts = getattr(self, name)
        if texts is None:
            texts = _BEFORE[self.fade]
        return read_points(texts, 1.0 if name == "teacher_share" else _MOST_WEIGHT)

    @property
    def teacher_acts(self) -> bool:
        """Whether any action may be the teacher's."""
        return any(value > 0 for _, value in self.points("teacher_share"))

    @property
    def distils(self) -> bool:
        """Whether anything is ever learnt from the teacher's outputs."""
        return any(value > 0 for _, value in self.points("distillation_weight"))


def read_points(texts: tuple[str, ...], most: float) -> tuple[tuple[float, float], ...]:
    """The points of a schedule.

    Args:
      texts: ``PROGRESS:VALUE`` each, or one that is a value alone.
      most: the largest value.

    Returns:
      ``(progress, value)`` of each, the progress rising.

    Raises:
      ValueError: a text is no point, a progress is not in [0, 1] or does not rise, or a value is not in [0, most].
    """
    points: list[tuple[float, float]] = []
    for text in texts:
        left, colon, right = text.partition(":")
        if not colon and len(texts) == 1:
            left, right = "0", text
        for part in (left, right):
            if not _NUMBER.fullmatch(part.removeprefix("-")):
                raise ValueError(f"{text[:60]!r} is not PROGRESS:VALUE, such as 0.5:0")
        progress, value = float(left), float(right)
        if not 0 <= progress <= 1:
            raise ValueError(f"{text!r}: a progress of {progress:g} is not between 0 and 1")
        if points and progress <= points[-1][0]:
            raise ValueError(f"{text!r} comes after {points[-1][0]:g}: a schedule that runs backwards")
        if not 0 <= value <= most:
            what = "is negative" if value < 0 else f"is more than {most:,.0f}"
            raise ValueError(f"{text!r}: {value:g} {what}")
        points.append((progress, value))
    return tuple(points)


def value_at(points: tuple[tuple[float, float], ...], progress: float) -> float:
    """The value of a schedule at some progress: on the line between its neighbours, and beyond the ends at these."""
    before = [point for point in points if point[0] <= progress]
    after = [point for point in points if point[0] > progress]
    if not before:
        return after[0][1]
    if not after:
        return before[-1][1]
    (start, low), (end, high) = before[-1], after[0]
    return low + (high - low) * (progress - start) / (end - start)


def guidance_conflicts(guidance: GuidanceConfig, algorithm: str, num_games: int) -> Iterator[tuple[str, str]]:
    """Yields what is impossible in the guidance of a training with this algorithm, of so many games."""
    if not guidance.is_on:
        return
    if algorithm != "pqn":
        yield "guidance.teacher", f"guides pqn, and algorithm is {algorithm!r}"
    if num_games > 1:
        yield "guidance.teacher", f"guides the learner of one game, and there are {num_games}"
    schedules = {}
    for name in _SCHEDULES:
        try:
            schedules[name] = guidance.settled.points(name)
        except ValueError as error:
            yield f"guidance.{name}", str(error)
    if len(schedules) == len(_SCHEDULES):
        yield from _nothing_learnt(guidance, schedules)
    temperature = guidance.loss.temperature
    if isinstance(temperature, tuple) and len(temperature) > 1:
        yield "guidance.loss.temperature", f"{len(temperature)} temperatures, and one game is learnt"


def _nothing_learnt(
    guidance: GuidanceConfig, schedules: dict[str, tuple[tuple[float, float], ...]]
) -> Iterator[tuple[str, str]]:
    rewards, distillation = schedules["reward_weight"], schedules["distillation_weight"]
    for progress in sorted({0.0, 1.0, *(point[0] for point in (*rewards, *distillation))}):
        # As returns come up to the teacher's, nothing may be left of the distillation at any time.
        fades = guidance.fade == "return_ratio"
        if value_at(rewards, progress) == 0 and (fades or value_at(distillation, progress) == 0):
            also = "fade return_ratio may leave" if fades else "guidance.distillation_weight is"
            yield "guidance.reward_weight", f"is 0 at progress {progress:g}, where {also} 0 too: nothing is learnt"
            return


def idle_guidance(guidance: GuidanceConfig) -> Iterator[Idle]:
    """What a training without a teacher that guides does not look at, or a loss does not have."""
    if not guidance.is_on:
        for field in dataclasses.fields(GuidanceConfig):
            if field.name != "teacher":
                key = f"guidance.{field.name}"
                yield Idle(key, "guidance.teacher", "is for a teacher that guides; add --guidance.teacher")
        return
    for idle in idle_loss(guidance.loss):
        yield Idle(f"guidance.{idle.key}", f"guidance.{idle.because}", idle.why)
    if guidance.loss.gives_q:
        why = f"is of policies, and guidance.loss.kind is {guidance.loss.kind}"
        yield Idle("guidance.learner_temperature", "guidance.loss.kind", why)
