"""The settings of ``pd-jax explain``."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from pd_jax.config.base import Settings
from pd_jax.config.fields import Choice
from pd_jax.config.sections import PathText

Language = Annotated[Literal["en", "ja"], Choice("a language")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExplainConfig(Settings):
    """Say in plain words what a run has done, how good it is, what limits it and what to try next."""

    run: PathText
    """Directory of a run, finished or not."""
    language: Language = "en"
    """English or Japanese."""
