"""Another student's parameters, which a student starts from."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pd_jax.errors import UserError
from pd_jax.networks.added import heads_of
from pd_jax.networks.quantisation import is_quantised, without_ranges
from pd_jax.networks.student import Student
from pd_jax.runs.directory import read_run
from pd_jax.runs.students import load_teacher, read_distilled
from pd_jax.system.files import expand_home
from pd_jax.teachers.files import check_params, params_fingerprint
from pd_jax.teachers.formats import PUBLISHED_NAME
from pd_jax.teachers.metadata import TeacherMetadata
from pd_jax.teachers.tasks import check_is_one

_UPDATES = re.compile(r"after ([0-9]{1,12}) updates")


@dataclasses.dataclass(frozen=True, eq=False)
class Start:
    """What a student starts from.

    Attributes:
      source: the run's directory, or the file, as the user named it.
      network: its network's name.
      games: that it plays.
      updates: that it has had; None where its file does not say.
      sha256: of its parameters, as `pd_jax.teachers.files.params_fingerprint` has it.
      file_sha256: of its file; None of a run.
      variables: NumPy arrays in the shapes of the student that starts.
      kept: those of the games that the student that starts goes on with, in its order; empty if the order is theirs and
        they are all.
      calibration: for a student with quantisation, over how many ``observations`` of each game the ranges of its inputs
        were found, and the ``sha256`` of the parameters with them; None if they were there, or there are none.
    """

    source: str
    network: str
    games: tuple[str, ...]
    updates: int | None
    sha256: str
    file_sha256: str | None
    variables: Any
    calibration: dict[str, Any] | None = None
    kept: tuple[str, ...] = ()

    @property
    def left_out(self) -> tuple[str, ...]:
        """Games of the source that the student that starts does not play."""
        return tuple(game for game in self.games if game not in self.kept) if self.kept else ()

    def describe(self) -> str:
        """A line for the terminal."""
        updates = "" if self.updates is None else f" after {self.updates:,} updates"
        seen = (
            "" if self.calibration is None else f"; calibrated over {self.calibration['observations']:,} observations"
        )
        return (
            f"starts from {self.source}: {self.network} of {', '.join(self.games)}{updates} "
            f"(parameters {self.sha256[:12]}){seen}{self._describe_kept()}"
        )

    def _describe_kept(self) -> str:
        if not self.kept:
            return ""
        dropped = f", without {', '.join(self.left_out)}" if self.left_out else ""
        return f"; goes on with {', '.join(self.kept)}{dropped}"

    def to_json(self) -> dict[str, Any]:
        """What checkpoints and summaries say of it; where it lies on this machine is no part of that."""
        return {
            "source": os.path.basename(os.path.abspath(self.source)),
            "network": self.network,
            "games": list(self.games),
            "updates": self.updates,
            "parameters_sha256": self.sha256,
            **({} if self.calibration is None else {"calibration": self.calibration}),
            **({"kept": list(self.kept), "left_out": list(self.left_out)} if self.kept else {}),
            "file_sha256": self.file_sha256,
        }


def saved_steps(out: str | os.PathLike[str]) -> list[int]:
    """The steps of the checkpoints in a run's directory, by their names; none where there is no run."""
    directory = Path(out) / "checkpoints"
    return [int(entry.name) for entry in directory.iterdir() if entry.name.isdigit()] if directory.is_dir() else []


def goes_on(out: str | os.PathLike[str], *, resume: bool) -> bool:
    """Whether a run goes on from a checkpoint of its own, so that what it was to start from does not matter."""
    return resume and bool(saved_steps(out))


def load_start(init_from: str, network: str, student: Student) -> Start:
    """Reads what a student is to start from, and checks that it is such a student.

    Args:
      init_from: the directory of a ``distill`` run, whose newest intact checkpoint is meant, or a teacher: its name, or
        its file.
      network: the name of the student's network.
      student: that starts. Of several games it may have some of those that are there, in any order. One with
        quantisation may start from one without; the ranges of its inputs are still to be found then.

    Raises:
      UserError: there is no such run or file, no intact checkpoint in it, or it is of other games, another network or
        other sizes, or a weight is not finite.
    """
    path = expand_home(init_from)
    wanted = tuple(task.name for task in student.tasks)
    if os.path.isdir(path) and not any(
        (Path(path) / name).is_file() for name in ("config.yaml", "teacher.safetensors", PUBLISHED_NAME)
    ):
        raise UserError(f"init_from: {init_from}: holds no run of pd-jax distill")
    found = _of_run(path) if _is_run(path) else _of_teacher(path, wanted[0])
    if found.network != network or not {*wanted} <= {*found.games}:
        raise UserError(
            f"init_from: {init_from} is a {found.network} for {', '.join(found.games)}, and the run wants a "
            f"{network} for {', '.join(wanted)}{_how_to_add(found, network, wanted)}"
        )
    params = found.variables["params"]
    if found.games != wanted:
        several = len(wanted) > 1
        params = heads_of(params, [found.games.index(game) for game in wanted], several=several)
        found = dataclasses.replace(found, kept=wanted)
        if not several and "fc2" in params["head"] and network not in ("multi3", "multi10"):
            raise UserError(
                f"init_from: {init_from} has a hidden layer in the head of each of {', '.join(found.games)}, and a "
                f"{network} of {wanted[0]} alone has none; keep two games"
            )
    template = jax.eval_shape(student.init, jax.random.key(0))["params"]
    if is_quantised(params) and not is_quantised(template):
        raise UserError(f"init_from: {init_from} has quantisation; give --student.quantisation int8")
    if not is_quantised(params):
        template = without_ranges(template)
    if (there := _is_normed(params)) != _is_normed(template):
        has, wants = ("has", "False") if there else ("has no", "True")
        raise UserError(f"init_from: {init_from} {has} layer_norm, and student.layer_norm is {wants}")
    shapes = jax.tree.map(lambda leaf: leaf.shape, template)
    check_params(params, shapes, f"init_from: {init_from}")
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)):
        raise UserError(f"init_from: {init_from}: a weight is NaN or infinite")
    return dataclasses.replace(found, source=init_from, variables={"params": params})


def _is_normed(params: Mapping[str, Any]) -> bool:
    """Whether layers are normalised, by the names of the parameters."""
    return any(
        name.startswith("norm") or (isinstance(part, Mapping) and _is_normed(part)) for name, part in params.items()
    )


def _is_run(path: str) -> bool:
    """Whether it is a run's directory, and its own student is meant: that of online is not its teacher's file."""
    if not os.path.isfile(os.path.join(path, "config.yaml")) or os.path.isfile(os.path.join(path, PUBLISHED_NAME)):
        return False
    command = read_run(path).command
    if command == "train-teacher":
        return False
    if command != "distill":
        raise UserError(f"init_from: {path} is a run of pd-jax {command}; give a run of pd-jax distill, or a file")
    return True


def _of_run(path: str) -> Start:
    found = read_distilled(read_run(path))
    params = jax.tree.map(np.asarray, found.variables["params"])
    games = tuple(task.name for task in found.student.tasks)
    updates = int(found.metadata["updates"])
    sha256 = params_fingerprint(params)
    return Start(path, found.config.student.network, games, updates, sha256, None, {"params": params})


def _of_teacher(path: str, game: str) -> Start:
    # A file of several games is the same weights for each of them.
    teacher = load_teacher(path, game)
    check_is_one(teacher, "init_from")
    metadata = teacher.metadata
    # Students may have layers of other widths, which are seen from the weights.
    if what := dataclasses.replace(metadata, channels=None, hidden=None, head_hidden=None).untrainable:
        raise UserError(f"init_from: {path} has {what}; students are plain networks with relu")
    params = jax.tree.map(np.asarray, teacher.variables["params"])
    games = tuple(metadata.games) or (metadata.game,)
    sha256 = params_fingerprint(params)
    return Start(path, metadata.network, games, _updates(metadata), sha256, teacher.sha256, {"params": params})


def _updates(metadata: TeacherMetadata) -> int | None:
    """That a student's file says."""
    said = _UPDATES.search(metadata.how_made) if metadata.algorithm == "policy-distillation" else None
    return None if said is None else int(said[1])


def _how_to_add(found: Start, network: str, wanted: Sequence[str]) -> str:
    """What to do where the run wants games beside those that are there; ``""`` if that is not what is wrong."""
    if found.network != network or not {*found.games} & {*wanted}:
        return ""
    added = [game for game in wanted if game not in found.games]
    return f"; --add-teacher adds {', '.join(added)}"
