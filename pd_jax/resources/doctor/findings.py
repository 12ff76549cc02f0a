"""What a check has found."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Status = Literal["ok", "note", "warning", "broken"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of what the doctor says.

    Attributes:
      about: what was looked at, such as ``memory``.
      status: ``broken`` if the main job cannot run so; ``warning`` if something else cannot, or it may not; ``note`` if
        it is good to know.
      says: in words, of one line or several.
      remedy: what to do, for a warning and what is broken.
      facts: the same for programs, plain values.
    """

    about: str
    status: Status
    says: str
    remedy: str = ""
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """What ``pd-jax doctor --json`` prints of it."""
        return dataclasses.asdict(self) | {"remedy": self.remedy or None, "facts": dict(self.facts)}


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """All of them, in order."""

    version: str
    findings: Sequence[Finding]

    @property
    def is_sound(self) -> bool:
        """Whether the main job, ``pd-jax distill``, can run."""
        return all(finding.status != "broken" for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """What ``pd-jax doctor --json`` prints."""
        return {
            "pd_jax": self.version,
            "is_sound": self.is_sound,
            "findings": [finding.as_json() for finding in self.findings],
        }

    def lines(self) -> list[str]:
        """For people: a line for each, and below it what to do."""
        width = max(len(finding.about) for finding in self.findings)
        told = []
        for finding in self.findings:
            first, *rest = finding.says.split("\n")
            told.append(f"{finding.status:<7}  {finding.about:<{width}}  {first}")
            rest += [f"-> {finding.remedy}"] * bool(finding.remedy)
            told += [f"{'':<7}  {'':<{width}}  {line}" for line in rest]
        broken = [finding.about for finding in self.findings if finding.status == "broken"]
        warned = [finding.about for finding in self.findings if finding.status == "warning"]
        end = f"broken, and pd-jax distill needs it: {', '.join(broken)}" if broken else "pd-jax distill can run"
        return [f"pd-jax {self.version}", "", *told, "", end + (f"; see {', '.join(warned)}" if warned else "")]
