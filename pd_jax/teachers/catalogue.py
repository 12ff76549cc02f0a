"""What the bundled teachers, and other teacher files, say of themselves; read without JAX."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError, nearest
from pd_jax.system.files import expand_home
from pd_jax.teachers.files import fingerprint, read_teacher
from pd_jax.teachers.formats import file_of, is_foreign, is_run_of_students
from pd_jax.teachers.metadata import TeacherMetadata

_ZOO = Path(__file__).parent / "zoo"
_SUFFIX = ".safetensors"
# Far beyond anything a game gives or a training needs.
_MAX_SCORE = 1e100
_MAX_DEPTH = 50


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

    @property
    def references(self) -> dict[str, float]:
        """Those of the two that are known, by the names ``random`` and ``human``."""
        scores = {"random": self.random_score, "human": self.human_score}
        return {name: score for name, score in scores.items() if score is not None}

    @property
    def curve(self) -> list[tuple[float, float, float, float]]:
        """The learning curve: rows ``(step, score, low, high)``, with the ends of the 95 % interval."""
        points = self.metadata.learning_curve
        margins = [1.96 * point["standard_error"] for point in points]
        return [
            (point["env_steps"], point["mean"], point["mean"] - margin, point["mean"] + margin)
            for point, margin in zip(points, margins, strict=True)
        ]

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
    return [read_entry(name, path) for name, path in bundled_files().items()]


def bundled_files() -> dict[str, Path]:
    """The files that come with the package, by the name of the teacher in them."""
    return {path.name.removesuffix(_SUFFIX): path for path in sorted(_ZOO.glob(f"*{_SUFFIX}"))}


def locate(name_or_path: str) -> tuple[str, Path]:
    """The name and the file of a bundled teacher, or the path that was given, and the file, which need not exist.

    Raises:
      UserError: what was given can only be meant as a name, and no bundled teacher has it.
    """
    files = bundled_files()
    name_or_path = expand_home(name_or_path)
    name = name_or_path.lower()
    if name in files:
        return name, files[name]
    path = file_of(name_or_path)
    if is_run_of_students(name_or_path):
        raise UserError(
            f"{name_or_path}: is a run directory without a teacher.safetensors; pd-jax teachers import RUN --game NAME "
            "--out teacher.safetensors makes a teacher file of a run's student"
        )
    if is_foreign(name_or_path):
        raise UserError(
            f"{name_or_path}: is not read as it is; pd-jax teachers import FILE --game NAME --out "
            "teacher.safetensors makes a teacher file of it"
        )
    if not name_or_path.endswith(_SUFFIX) and os.sep not in name_or_path and not path.exists():
        raise UserError(
            f"{name_or_path!r} is neither a bundled teacher nor a file{nearest(name_or_path, files)} "
            f"({'bundled: ' + ', '.join(files) if files else 'none are bundled'})"
        )
    return name_or_path, path


def find(name_or_path: str, game: str | None = None) -> Entry:
    """A bundled teacher by its name, or a teacher file; ``game`` is one of the games of a file of several.

    Raises:
      UserError: there is neither; or the file is damaged or foreign.
    """
    return read_entry(*locate(name_or_path), game)


def read_entry(name: str, path: Path, game: str | None = None) -> Entry:
    """Reads one file.

    Raises:
      UserError: as `pd_jax.teachers.files.read_teacher` does, or because no table or plot could hold what it says.
    """
    params, metadata = read_teacher(path, game)
    scores = [value for point in [metadata.evaluation, *metadata.learning_curve] for value in _numbers(point)]
    # Integers in JSON may be too large for a float.
    if any(abs(value) > _MAX_SCORE for value in scores):
        raise UserError(f"{path}: metadata: has scores beyond {_MAX_SCORE:g}")
    if _depth(metadata.training_config) > _MAX_DEPTH or _depth(metadata.observation) > _MAX_DEPTH:
        raise UserError(f"{path}: metadata: is nested more than {_MAX_DEPTH} deep")
    return Entry(
        name=name,
        path=path,
        metadata=metadata,
        parameters=_count(params),
        size_bytes=path.stat().st_size,
        sha256=fingerprint(path),
    )


def _numbers(point: Mapping[str, Any]) -> list[float]:
    return [point[name] for name in ("mean", "standard_error") if name in point] + list(point.get("ci95", ()))


def _depth(value: Any) -> int:
    """How deeply lists and mappings lie in one another."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, list | Mapping)]:
        depth += 1
        level = [inner for item in level for inner in (item.values() if isinstance(item, Mapping) else item)]
    return depth


def _count(params: Mapping[str, Any]) -> int:
    return sum(_count(leaf) if isinstance(leaf, Mapping) else leaf.size for leaf in params.values())
