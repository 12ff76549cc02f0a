"""What a distillation's student came from, for its ``lineage.json``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pd_jax.distill.counters import DistillCounters
from pd_jax.distill.setup import DistillSetup
from pd_jax.replay.recordings import Dataset
from pd_jax.runs.lineage import Parent, leave_lineage, parent_at, teacher_parent, teacher_parents
from pd_jax.system.files import expand_home
from pd_jax.teachers.files import params_fingerprint


def write_distillation_lineage(setup: DistillSetup, counters: DistillCounters, directory: Path, variables: Any) -> None:
    """Writes it, of a run that has ended and whose files are whole.

    Args:
      setup: of the run.
      counters: where it stands.
      directory: the run's.
      variables: the student's.
    """
    parents = []
    for name, teacher, dataset in zip(setup.names, setup.teachers, setup.datasets, strict=True):
        parents += teacher_parents(teacher, directory, game=name)
        if dataset is not None:
            parents.append(recording_parent(dataset, directory, game=name))
    if counters.init_from is not None:
        parents.append(start_parent(setup.config.init_from, counters.init_from, directory))
    about = {
        "games": list(setup.names),
        "network": setup.config.student.network,
        "updates": counters.updates,
        "parameters_sha256": params_fingerprint(variables["params"]),
    }
    leave_lineage(directory, "distill", parents, about)


def recording_parent(dataset: Dataset, directory: Path, *, game: str) -> Parent:
    """A recording as a parent of the run in ``directory``."""
    header = dataset.header
    about = {"game": game, "identity": header.identity, "steps": dataset.num_steps * header.num_lanes}
    if "://" in dataset.path:
        # The address may hold what is nobody else's business.
        return Parent(role="recording", name=os.path.basename(dataset.path.rstrip("/")), about=about)
    return parent_at("recording", dataset.path, directory, about)


def start_parent(init_from: str | None, told: Mapping[str, Any], directory: Path) -> Parent:
    """What a student has started from, as a parent of the run in ``directory``.

    Args:
      init_from: as the settings name it; what is there now may be another student by now.
      told: what the run's checkpoints say of it.
      directory: the run's.
    """
    about = {name: told.get(name) for name in ("network", "games", "updates", "parameters_sha256")}
    name, sha256 = str(told.get("source")), told.get("file_sha256")
    path = None if init_from is None else expand_home(init_from)
    if path is None or os.path.basename(os.path.abspath(path)) != name:
        return Parent(role="start", name=name, sha256=sha256, about=about)
    if sha256 is not None:
        parent = teacher_parent(path, directory, sha256=sha256, role="start")
        return Parent(**{**vars(parent), "about": {**parent.about, **about}})
    found = parent_at("start", path, directory, about)
    is_still = found.lineage is not None and found.lineage.about.get("parameters_sha256") == about["parameters_sha256"]
    return found if is_still else Parent(**{**vars(found), "lineage": None})
