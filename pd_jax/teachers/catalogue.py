"""What the bundled teachers, and other teacher files, say of themselves; read without JAX."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pd_jax.errors import UserError, nearest
from pd_jax.tasks import get_task
from pd_jax.teachers.files import TeacherMetadata, fingerprint, read_teacher

_ZOO = Path(__file__).parent / "zoo"
_SUFFIX = ".safetensors"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One teacher file, checked as `pd_jax.teachers.files.read_teacher` checks it.

    Attributes:
      name: a bundled teacher's name, which loads it, or the path that was given.
      path: the file.
      metadata: what it says of the teacher.
      parameters: number of scalars.
      size_bytes: of the file.
      sha256: of the file.
    """

    name: str
    path: Path
    metadata: TeacherMetadata
    parameters: int
    size_bytes: int
    sha256: str

    @property
    def random_score(self) -> float | None:
        """What random play scores; None where it was not measured."""
        return self._reference("random_score")

    @property
    def human_score(self) -> float | None:
        """What a human tester scored; None where there is none."""
        return self._reference("human_score")

    def _reference(self, name: str) -> float | None:
        try:
            score: float | None = getattr(get_task(self.metadata.game), name)
        except UserError:  # A file may name any game.
            return None
        return score

    def as_json(self) -> dict[str, Any]:
        """The row of ``pd-jax teachers --json``; what is not known is None."""
        metadata, evaluation = self.metadata, self.metadata.evaluation
        return {
            "name": self.name,
            "game": metadata.game,
            "env_id": metadata.env_id,
            "network": metadata.network,
            "hidden_sizes": list(metadata.hidden_sizes),
            "layer_norm": metadata.layer_norm,
            "parameters": self.parameters,
            "output": metadata.output,
            "score": evaluation.get("mean"),
            "standard_error": evaluation.get("standard_error"),
            "ci95": evaluation.get("ci95"),
            "episodes": evaluation.get("episodes"),
            "epsilon": evaluation.get("epsilon"),
            "random_score": self.random_score,
            "human_score": self.human_score,
            "env_steps": metadata.env_steps,
            "algorithm": metadata.algorithm,
            "licence": metadata.licence,
            "created": metadata.created,
            "size_bytes": self.size_bytes,
            "sha256": self.sha256,
        }


def bundled() -> list[Entry]:
    """The teachers that come with the package, by name."""
    return [read_entry(path.name.removesuffix(_SUFFIX), path) for path in sorted(_ZOO.glob(f"*{_SUFFIX}"))]


def find(name_or_path: str) -> Entry:
    """A bundled teacher by its name, or a teacher file.

    Raises:
      UserError: there is neither; or the file is damaged or foreign.
    """
    bundled_files = {path.name.removesuffix(_SUFFIX): path for path in sorted(_ZOO.glob(f"*{_SUFFIX}"))}
    name = name_or_path.lower()
    if name in bundled_files:
        return read_entry(name, bundled_files[name])
    if not name_or_path.endswith(_SUFFIX) and os.sep not in name_or_path and not Path(name_or_path).exists():
        raise UserError(
            f"{name_or_path!r} is neither a bundled teacher nor a file{nearest(name_or_path, bundled_files)} "
            f"(bundled: {', '.join(bundled_files)})"
        )
    return read_entry(name_or_path, Path(name_or_path))


def read_entry(name: str, path: Path) -> Entry:
    """Reads one file; raises a UserError as `pd_jax.teachers.files.read_teacher` does."""
    params, metadata = read_teacher(path)
    return Entry(
        name=name,
        path=path,
        metadata=metadata,
        parameters=_count(params),
        size_bytes=path.stat().st_size,
        sha256=fingerprint(path),
    )


def _count(params: Mapping[str, Any]) -> int:
    return sum(_count(leaf) if isinstance(leaf, Mapping) else leaf.size for leaf in params.values())
