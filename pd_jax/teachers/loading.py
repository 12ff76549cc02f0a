"""Teachers found by name among the bundled ones, or by file; one, or several of one game."""

from __future__ import annotations

import os

from pd_jax.config.credibility import CredibilityConfig
from pd_jax.environments.spaces import simulator_of
from pd_jax.system.computing import computing
from pd_jax.system.files import expand_home
from pd_jax.system.progress import print_warning
from pd_jax.teachers.catalogue import bundled_files, locate
from pd_jax.teachers.checks import check_fits
from pd_jax.teachers.committee import load_committee
from pd_jax.teachers.files import fingerprint, read_teacher
from pd_jax.teachers.formats import is_foreign
from pd_jax.teachers.importers import hides_normalisation, import_teacher
from pd_jax.teachers.joined import split
from pd_jax.teachers.metadata import TeacherMetadata
from pd_jax.teachers.teacher import Teacher


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
    _warn_of_simulator(metadata, text)
    return Teacher(metadata, params, text, fingerprint(path))


def _warn_of_simulator(metadata: TeacherMetadata, source: str) -> None:
    """Says where a teacher comes from another version of the simulator: it may play otherwise there."""
    if metadata.simulator and (here := simulator_of(metadata.env_id)) != metadata.simulator:
        print_warning(
            f"{source}: is of {metadata.simulator}, and {metadata.env_id} runs on {here or 'another simulator'} here: "
            "its score may differ"
        )
