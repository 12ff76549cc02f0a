"""The settings of ``pd-jax push``."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pd_jax.config.base import Settings
from pd_jax.config.fields import Bounds, Choice
from pd_jax.config.idle import Idle
from pd_jax.config.sections import PathText

_TO = re.compile(r"hf://[^/@\s]+/[^/@\s]+")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PushConfig(Settings):
    """Publish a run's student on the Hugging Face Hub, with a model card; without --send it is only shown what would be
    sent."""

    run: PathText
    """Directory of the run whose student to publish; it has ended."""
    to: str
    """The repository: hf://owner/name. It is made if it is not there."""
    checkpoint: Annotated[Literal["newest", "best"], Choice("a checkpoint")] = "newest"
    """Which of the run's checkpoints: the newest, or the best of those that ``evaluation.every_rounds`` scored."""
    licence: str | None = None
    """Of the weights, by the hub's identifier, such as apache-2.0; None is that of the teachers, if it is one."""
    out: PathText | None = None
    """Directory to leave all files in, as they would be sent; it must be empty or not there. None leaves none."""
    send: bool = False
    """Send it, in one commit, with the token of HF_TOKEN or of 'hf auth login'."""
    replace: bool = False
    """Let it take the place of all that is in a repository of other content."""
    private: bool = False
    """Make a repository that is not there private."""
    timeout_seconds: Annotated[float, Bounds(0.1, 3600.0)] = 60.0
    """How long the hub may say nothing before it is given up."""

    def idle(self) -> Iterator[Idle]:
        if not self.send:
            for key in ("replace", "private", "timeout_seconds"):
                yield Idle(key, "send", "is for what is sent; add --send")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if not _TO.fullmatch(self.to):
            yield "to", f"{self.to[:200]!r} is not of the form hf://owner/name"
        if ":/" in self.run:
            yield "run", f"{self.run[:200]!r} is an address; give a run's directory"
        if self.out is not None and ":/" in self.out:
            yield "out", f"{self.out[:200]!r} is an address; give a directory, and the address as --to"
