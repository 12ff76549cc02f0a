"""A teacher in memory: its network, weights and metadata; found by name among the bundled ones or by file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pd_jax.config.credibility import CredibilityConfig
from pd_jax.environments.tasks import Task, get_task
from pd_jax.networks import partition
from pd_jax.networks.greedy import GreedyPolicy
from pd_jax.networks.joint import GameNetwork
from pd_jax.networks.partition import PartSizes
from pd_jax.system.computing import computing
from pd_jax.system.files import expand_home
from pd_jax.system.progress import print_warning
from pd_jax.teachers.catalogue import bundled_files, locate
from pd_jax.teachers.checks import build_network, check_fits
from pd_jax.teachers.files import fingerprint, read_teacher
from pd_jax.teachers.formats import is_foreign
from pd_jax.teachers.importers import hides_normalisation, import_teacher
from pd_jax.teachers.joined import split
from pd_jax.teachers.metadata import TeacherMetadata
from pd_jax.types import PolicyApply


class Teacher(GreedyPolicy):
    """A policy network that labels observations with Q-values (or logits).

    Args:
      metadata: what it is.
      params: nested dict of float32 arrays that fit the network the metadata names.
      source: the file it came from.
      sha256: of that file.
      network: takes the parameters, in the place of the network the metadata names.

    Attributes:
      network: the linen module, or another object with its ``apply(teacher.variables, observations)``.
      variables: ``{"params": ...}`` on the default device.
    """

    def __init__(self, metadata: TeacherMetadata, params: Any, source: str, sha256: str, network: Any = None) -> None:
        self.metadata = metadata
        self.source = source
        self.sha256 = sha256
        self.network = build_network(metadata) if network is None else network
        self.variables = {"params": jax.tree.map(jnp.asarray, params)}
        self._task = get_task(metadata.game)

    def __call__(self, observations: Array | np.ndarray) -> Array:
        """Q-values (or logits) of a batch: :meth:`outputs`.

        Args:
          observations: uint8 ``[N, 84, 84, 4]``, oldest frame first, or float32 ``[N, D]``.

        Returns:
          float32 ``[N, actions]``.

        Raises:
          ObservationsError: another shape or dtype; a UserError and a ValueError.
        """
        return self.outputs(observations)

    @property
    def name(self) -> str:
        """As its metadata has it."""
        return self.metadata.name

    @property
    def task(self) -> Task:
        """The game it plays."""
        return self._task

    @property
    def members(self) -> tuple[Teacher, ...]:
        """Itself; of a committee, the teachers that are in it."""
        return (self,)

    @property
    def apply(self) -> PolicyApply:
        """The network's: ``(variables, observations [N, ...]) -> float32 [N, actions]``."""
        apply: PolicyApply = self.network.apply
        return apply

    @property
    def gives_logits(self) -> bool:
        """Whether the outputs are a policy's logits instead of Q-values."""
        return self.metadata.output == "logits"

    def with_sizes(self, sizes: PartSizes) -> Teacher:
        """The same teacher, whose large batches a CPU divides into parts of other sizes; itself where nothing
        differs."""
        network = self.network
        other = network.with_sizes(sizes) if isinstance(network, GameNetwork) else partition.with_sizes(network, sizes)
        if other == network:
            return self
        return Teacher(self.metadata, self.variables["params"], self.source, self.sha256, other)


def bundled_names() -> tuple[str, ...]:
    """Names of the teachers that come with the package.

    Returns:
      what `load` and ``--teacher`` take.
    """
    return tuple(bundled_files())


@computing()
def load(
    name_or_path: str | os.PathLike[str], game: str | None = None, credibility: CredibilityConfig | None = None
) -> Teacher:
    """Loads a bundled teacher by name, a teacher file, or the agent of another library; or several of one game.

    Args:
      name_or_path: such as ``"pong"``, the path of a teacher file, of an archive of Stable-Baselines3, of a CleanRL
        model or of such a network as PyTorch saves it, whatever these are called, or
        ``hf://owner/repo[/file][@revision]`` for one of these files on the Hugging Face Hub, or the directory of a run
        that leaves a teacher file (`train-teacher`, `online`); or several of these of one game, joined by ``+``, which
        are one teacher together.
      game: what it plays, for files that do not say so: those of other libraries. Teacher files name their game; those
        of several games leave it to be said which one is meant.
      credibility: what each of several counts; None is the default.

    Returns:
      a teacher; its ``sha256`` is that of the file that was read, whatever its format.

    Raises:
      UserError: no such name or file, a damaged or foreign file, weights that do not fit the network or the game, a
        format that needs the game or a package that is missing, a file of several games without one of them.
    """
    names = split(os.fspath(name_or_path))
    if len(names) > 1:
        # A committee is a teacher too.
        from pd_jax.teachers.committee import load_committee

        return load_committee(os.fspath(name_or_path), names, lambda name: load(name, game), credibility)
    text = expand_home(names[0])
    if text.lower() not in bundled_files() and is_foreign(text):
        params, metadata = import_teacher(text, game)
        if hides_normalisation(metadata):
            print_warning(
                f"{text}: does not show whether its observations were normalised; if they were, it plays badly: "
                "pd-jax teachers import takes their statistics, and tells"
            )
        return Teacher(metadata, params, text, metadata.source_sha256)
    _, path = locate(text)
    params, metadata = read_teacher(path, game)
    check_fits(params, metadata, text)
    return Teacher(metadata, params, text, fingerprint(path))


def count_teachers_params(teachers: Iterable[Teacher]) -> int:
    """Number of scalars of all teachers together; a network that several games share is one teacher."""
    each = [member for teacher in teachers for member in teacher.members]
    return sum({member.sha256: member.num_params for member in each}.values())
