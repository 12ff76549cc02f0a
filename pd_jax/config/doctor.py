"""The settings of ``pd-jax doctor``."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from pd_jax.config.base import Settings
from pd_jax.config.fields import Bounds
from pd_jax.config.sections import PathText


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoctorConfig(Settings):
    """Say what is installed, which devices there are, what is wrong and what to do.

    The exit code is 0 if the main job can run, and 1 if something is broken that it cannot run without.
    """

    out: PathText = "runs"
    """Directory where runs are to be written, which need not exist: can it be, and is there space?"""
    timeout: Annotated[float, Bounds(1.0, 600.0)] = 120.0
    """Seconds after which a check is given up, such as that of a device that does not answer."""
    json: bool = False
    """Print JSON."""
