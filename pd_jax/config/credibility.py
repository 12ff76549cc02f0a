"""The settings of several teachers of one game: what each counts in the one policy that they become."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pd_jax.config.fields import Bounds, Choice, OneOrMany, make_tuples
from pd_jax.config.idle import Idle
from pd_jax.config.sections import Positive

JOIN = "+"
"""Between the teachers of one game, in what names them."""
# Far beyond what any game gives.
_Score = Annotated[float, Bounds(-1e9, 1e9)]
if TYPE_CHECKING:
    # What one may give from Python; there is always a tuple afterwards.
    PerMember = float | tuple[float, ...]
else:
    PerMember = Annotated[tuple[Positive, ...], OneOrMany()]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CredibilityConfig:
    """What each of several teachers of one game counts, which are joined by + in teacher."""

    by: Annotated[Literal["none", "score", "state", "both"], Choice("a measure of credibility")] = "both"
    """None is the plain mean of their policies; score weighs by their evaluated scores above random play; state by how
    sure each is in the state and how far most of the others agree with it there; both does both."""
    scores: tuple[_Score, ...] | None = None
    """Scores of the teachers, in their order; None is what their files say."""
    temperature: PerMember | None = None
    """What the teachers' outputs are divided by to be policies: one number for all, or one for each in their order;
    None is 0.01 for Q-values and 1.0 for logits."""

    def __post_init__(self) -> None:
        make_tuples(self)


def joins(teachers: Sequence[str] | None) -> list[str]:
    """Those of the names that may be of several teachers: a file's name may have the sign as well."""
    return [name for name in teachers or () if JOIN in name]


def of_teacher(credibility: CredibilityConfig, teacher: str) -> CredibilityConfig:
    """The section as it is for one of the names; of a teacher that is alone, which it says nothing of, the default."""
    return credibility if joins((teacher,)) else CredibilityConfig()


def idle_credibility(credibility: CredibilityConfig, teachers: Sequence[str] | None) -> Iterator[Idle]:
    """What nothing looks at where no teachers are joined, or where no scores count.

    Args:
      credibility: the section.
      teachers: as they are named.
    """
    if not joins(teachers):
        yield Idle("credibility", "teacher", "is for several teachers of one game, such as --teacher pong+FILE")
    elif credibility.by in ("none", "state"):
        why = f"is for credibility by score, and credibility.by is {credibility.by!r}"
        yield Idle("credibility.scores", "credibility.by", why)


def credibility_conflicts(credibility: CredibilityConfig, teachers: Sequence[str] | None) -> Iterator[tuple[str, str]]:
    """Yields, as `CommandConfig.conflicts` does, numbers that could be of one game's teachers or of another's."""
    games = len(joins(teachers))
    for key in ("scores", "temperature"):
        value = getattr(credibility, key)
        if games > 1 and value is not None and not (key == "temperature" and len(value) == 1):
            yield (
                f"credibility.{key}",
                f"is of the teachers of one game, and {games} games have several; distil them from recordings, each "
                "collected with its own",
            )
