"""Agents of other libraries as teachers: converted once, checked like our own files, and never executed.

Whatever is wrong with a file is a one-line :class:`~pd_jax.errors.UserError`, raised before anything is written.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from pd_jax.environments.tasks import Task, get_task
from pd_jax.errors import UserError
from pd_jax.teachers import hub
from pd_jax.teachers.checks import check_fits
from pd_jax.teachers.files import Params, naming, open_regular_file, read_teacher
from pd_jax.teachers.formats import file_of, format_of, is_foreign
from pd_jax.teachers.importers import archives, cleanrl, dopamine, sb3, torch_agents, torch_files
from pd_jax.teachers.importers.flax_bytes import restore
from pd_jax.teachers.importers.observation_statistics import read_statistics
from pd_jax.teachers.metadata import Malformed, TeacherMetadata

__all__ = ["hides_normalisation", "import_teacher", "is_foreign"]

_Convert = Callable[[Path, Task, bool], tuple[Params, TeacherMetadata]]
_SB3: tuple[str, _Convert] = ("an archive of Stable-Baselines3", sb3.convert)
_TORCH: tuple[str, _Convert] = ("a file of PyTorch's", torch_agents.convert)
_DOPAMINE: tuple[str, _Convert] = ("a checkpoint of Dopamine's", dopamine.convert)


def _convert_flax(path: Path, task: Task, is_told: bool = False) -> tuple[Params, TeacherMetadata]:
    """A tree of parameters as Flax writes it: of Dopamine, or of CleanRL, which says what is wrong with any other."""
    data = cleanrl.read_model(path)
    tree, sha256 = restore(data), hashlib.sha256(data).hexdigest()
    if dopamine.is_dopamine(tree):
        return dopamine.convert_params(tree, task, path, sha256)
    return cleanrl.convert_tree(tree, task, path, sha256)


_FLAX: tuple[str, _Convert] = ("a model of CleanRL", _convert_flax)
# Their files do not tell of VecNormalize: those with a replay buffer, and policies that were saved alone.
_VAGUE = ("dqn", "qrdqn", "actor-critic", "sac", "tqc", "td3", "ddpg")
_SUFFIXES_ON_THE_HUB = (".safetensors", ".zip", ".cleanrl_model", ".pth", ".pt", ".model", ".bin", ".gz")


def import_teacher(
    path: str | os.PathLike[str], game: str | None, statistics: str | os.PathLike[str] | None = None
) -> tuple[Params, TeacherMetadata]:
    """Converts another library's agent into what :func:`pd_jax.teachers.files.save_teacher` writes.

    Args:
      path: of a Stable-Baselines3 archive, a CleanRL model, a checkpoint of Dopamine, a file of PyTorch's with one of
        the former's networks or one of atari-agents or Sample Factory, or a teacher file of ours, whatever its name; or
        ``hf://owner/repo[/file][@revision]`` for one of these.
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
    local = file_of(text)
    if hub.is_address(text):
        local = hub.download(text, suffixes=_SUFFIXES_ON_THE_HUB)
    with naming(text):
        if is_foreign(local):
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
    is_vague = metadata.algorithm in _VAGUE and metadata.observation["kind"] == "vector"
    return metadata.source_format == "stable-baselines3" and is_vague and not metadata.normalisation


def _importer(local: Path) -> tuple[str, _Convert]:
    """What a foreign file is, by its content, and what reads it."""
    found = format_of(local)
    if found == "pickle":
        return _DOPAMINE
    if found in ("flax", "torch", "gzip"):
        return _FLAX if found == "flax" else _TORCH
    if found == "none":
        return {".cleanrl_model": _FLAX, ".gz": _TORCH}.get(local.suffix.lower(), _SB3)
    try:
        with open_regular_file(local) as file:
            names = set(archives.member_names(file))
    except Malformed:  # Whoever reads it says what is wrong.
        return _SB3
    is_archive = {"data", "policy.pth"} & names
    return _TORCH if torch_files.is_torch_archive(names) and not is_archive else _SB3


def _convert(
    local: Path, game: str | None, statistics: str | os.PathLike[str] | None
) -> tuple[Params, TeacherMetadata]:
    kind, convert = _importer(local)
    if game is None:
        if convert is dopamine.convert:
            dopamine.read_checkpoint(local)  # Or it is another pickle, which is what there is to say.
        raise Malformed(f"is {kind}, which does not say what it plays; add --game NAME")
    task = get_task(game)
    normalisation = None if statistics is None else read_statistics(statistics, task)
    params, metadata = convert(local, task, normalisation is not None)
    if normalisation is not None and metadata.normalisation:
        raise Malformed("holds the statistics of its observations itself: leave out --observation-statistics")
    return params, dataclasses.replace(metadata, normalisation=normalisation) if normalisation else metadata
