"""Agents of other libraries as teachers: converted once, checked like our own files, and never executed.

Whatever is wrong with a file is a one-line :class:`~pd_jax.errors.UserError`, raised before anything is written.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from pd_jax.environments.tasks import Task, get_task
from pd_jax.errors import UserError
from pd_jax.teachers.checks import check_fits
from pd_jax.teachers.files import Params, PathLike, naming, read_teacher
from pd_jax.teachers.importers import cleanrl, hub, sb3
from pd_jax.teachers.importers.observation_statistics import read_statistics
from pd_jax.teachers.metadata import Malformed, TeacherMetadata

__all__ = ["hides_normalisation", "import_teacher", "is_foreign"]

_FORMATS: Mapping[str, tuple[str, Callable[[Path, Task, bool], tuple[Params, TeacherMetadata]]]] = {
    ".zip": ("an archive of Stable-Baselines3", sb3.convert),
    ".cleanrl_model": ("a model of CleanRL", cleanrl.convert),
}


def is_foreign(path: PathLike) -> bool:
    """Whether it is a file that only :func:`import_teacher` reads: of another library, or on the hub."""
    text = os.fspath(path)
    return hub.is_address(text) or Path(text).suffix in _FORMATS


def import_teacher(
    path: str | os.PathLike[str], game: str | None, statistics: str | os.PathLike[str] | None = None
) -> tuple[Params, TeacherMetadata]:
    """Converts another library's agent into what :func:`pd_jax.teachers.files.save_teacher` writes.

    Args:
      path: of a Stable-Baselines3 archive (``.zip``), a CleanRL model (``.cleanrl_model``) or a teacher file of ours
        (``.safetensors``), or ``hf://owner/repo/file[@revision]`` for one of these.
      game: the task it plays, by name or EnvPool id. Only a teacher file of ours says so itself: None will do there.
      statistics: of the observations that it was trained on, if these were normalised: a file of numbers, see
        `pd_jax.teachers.importers.observation_statistics`. ``"none"`` says that it saw them as they are, whatever
        became of its rewards.

    Returns:
      Parameters, a nested dict of finite float32 arrays, and metadata. Both fit the game and its action set.

    Raises:
      UserError: the file is missing, damaged, hostile or of another format, its agent is of a kind that is not read,
        it does not fit the game, its observations were normalised and nothing is said of how, or a package is missing.
        The message begins with ``path``, or with that of the statistics.
    """
    text = os.fspath(path)
    local = Path(text)
    if hub.is_address(text):
        local = hub.download(text, suffixes=(".safetensors", *_FORMATS))
    with naming(text):
        if local.suffix in _FORMATS:
            params, metadata = _convert(local, game, statistics)
        else:
            if statistics is not None:
                raise Malformed("is a teacher file, which says itself what it sees: leave out --observation-statistics")
            params, metadata = read_teacher(local, game)
            if game is not None and get_task(game).name != get_task(metadata.game).name:
                raise UserError(f"{text}: plays {metadata.game}, not {game}")
    check_fits(params, metadata, text)
    return params, metadata


def hides_normalisation(metadata: TeacherMetadata) -> bool:
    """Whether an imported teacher's source does not show if its observations were normalised, and no one said so.

    Stable-Baselines3 keeps the statistics of ``VecNormalize`` in a file of their own. An archive of PPO or A2C tells
    that there are some; one of an algorithm with a replay buffer does not, unless they are of frames.
    """
    is_seen = metadata.output == "logits" or metadata.observation["kind"] != "vector"
    return metadata.source_format == "stable-baselines3" and not is_seen and not metadata.normalisation


def _convert(
    local: Path, game: str | None, statistics: str | os.PathLike[str] | None
) -> tuple[Params, TeacherMetadata]:
    kind, convert = _FORMATS[local.suffix]
    if game is None:
        raise Malformed(f"is {kind}, which does not say what it plays; add --game NAME")
    task = get_task(game)
    normalisation = None if statistics is None else read_statistics(statistics, task)
    params, metadata = convert(local, task, normalisation is not None)
    return params, dataclasses.replace(metadata, normalisation=normalisation) if normalisation else metadata
