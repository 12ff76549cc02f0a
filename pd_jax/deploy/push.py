"""``pd-jax push``: a run's student with a model card, left in a folder, and sent to the Hugging Face Hub."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pd_jax.config.distill import DistillConfig
from pd_jax.config.loading import read_config
from pd_jax.config.online import OnlineConfig
from pd_jax.config.push import PushConfig
from pd_jax.config.yaml import write_yaml
from pd_jax.deploy.card_rules import LICENCES, check_repository, faults, licence_of
from pd_jax.deploy.hub_commit import Outcome, send
from pd_jax.deploy.model_card import Card, PlayedGame, TaughtBy, card_metadata, card_text
from pd_jax.deploy.publication import Publication, identity, public_name, public_settings
from pd_jax.deploy.student import TrainedStudent, load_trained
from pd_jax.environments.protocols import PROTOCOLS
from pd_jax.errors import UserError, nearest
from pd_jax.evaluation.protocol import Protocol
from pd_jax.networks.policy import count_params
from pd_jax.runs.directory import RunDirectory, read_run
from pd_jax.runs.students import student_metadata
from pd_jax.runs.summary import Summary
from pd_jax.system.computing import computing
from pd_jax.system.files import left_if_whole, to_json
from pd_jax.system.text import printable
from pd_jax.teachers.catalogue import bundled_files, read_entry
from pd_jax.teachers.files import open_regular_file, params_fingerprint, save_teacher
from pd_jax.teachers.formats import HUB_SCHEME, PUBLISHED_NAME, file_of
from pd_jax.teachers.hub import CONFIG_NAME, PUBLICATION_NAME, SUMMARY_NAME, parse
from pd_jax.teachers.metadata import Malformed, TeacherMetadata
from pd_jax.version import __version__

CARD_NAME = "README.md"
VIDEO_NAME = "replay.mp4"
"""What the hub's pages of reinforcement learning show."""
_VIDEO_OF_RUN = "video.mp4"
_MOST_VIDEO_BYTES = 100 * 2**20


@dataclasses.dataclass(frozen=True)
class Pushed:
    """What was, or would be, sent.

    Attributes:
      address: of the repository.
      files: bytes by name.
      out: where they were left; None if nowhere.
      outcome: of sending; None if nothing was sent.
    """

    address: str
    files: Mapping[str, bytes]
    out: str | None
    outcome: Outcome | None

    @property
    def card(self) -> str:
        """The model card, README.md."""
        return self.files[CARD_NAME].decode()


@computing()
def run_push(config: PushConfig) -> Pushed:
    """Prepares a run's student for the hub, leaves it in a folder if that is wanted, and sends it if that is.

    Args:
      config: which run, and where to.

    Returns:
      all files, and what became of them.

    Raises:
      UserError: the run has not ended or has no student that can be published, the repository's name is none or it
        holds something else, there is no token, or the hub does not answer. Nothing is in the repository then that was
        not there before, and nothing in the folder.
    """
    for key, problem in config.conflicts():
        raise UserError(f"{key}: {problem}")
    repository = parse(config.to).repo if config.to.startswith(HUB_SCHEME) else config.to
    check_repository(repository)
    _check_out(config.out)
    files = collect_files(config.run, repository, checkpoint=config.checkpoint, licence=config.licence)
    outcome = None
    if config.send:
        outcome = send(
            repository,
            files,
            message=f"pd-jax push {__version__}",
            replaces=config.replace,
            private=config.private,
            timeout_seconds=config.timeout_seconds,
        )
    if config.out is not None:
        with left_if_whole(Path(config.out), replaces=False) as directory:
            for name, content in files.items():
                (directory / name).write_bytes(content)
    return Pushed(config.to, files, config.out, outcome)


def collect_files(
    run_path: str, repository: str, *, checkpoint: Any = "newest", licence: str | None = None
) -> dict[str, bytes]:
    """All files of a publication, by name; nothing of this machine is in them.

    Args:
      run_path: the run's directory.
      repository: ``owner/name``.
      checkpoint: the newest, or the best.
      licence: of the weights, an identifier of the hub's; None is that of the teachers.

    Raises:
      UserError: as `run_push`, of the run.
    """
    run = read_run(run_path)
    if run.command not in ("distill", "online"):
        raise UserError(f"{run_path}: is a run of pd-jax {run.command}; push publishes students, of distill and online")
    if (run.path / PUBLISHED_NAME).is_file():
        raise UserError(f"{run_path}: is what pd-jax push left; give the run itself")
    summary = run.read_summary()
    if summary is None:
        raise UserError(f"{run_path}: has not ended, and has no scores yet: it has no {SUMMARY_NAME}")
    trained = load_trained(run_path, checkpoint=checkpoint)
    if checkpoint == "newest" and summary.updates is not None and summary.updates != trained.counters.updates:
        raise UserError(
            f"{run_path}: its scores are of {summary.updates:,} updates, and its newest checkpoint has "
            f"{trained.counters.updates:,}; resume it to its end"
        )
    assert isinstance(trained.config, DistillConfig)
    name = run.path.absolute().name
    settings_of: DistillConfig | OnlineConfig = trained.config
    if run.command == "online":
        settings_of = read_config(OnlineConfig, run.config_path)
    settings = public_settings(settings_of, name)
    params = jax.tree.map(np.asarray, trained.variables["params"])
    taught_by = _teachers(run, settings_of, trained, summary)
    video = _video(run)
    # The scores are those of the end of the run, which are not those of its best checkpoint.
    scored = summary if checkpoint == "newest" else _without_scores(summary)
    card = _card(run, repository, trained, scored, taught_by, licence, has_video=video is not None)
    if problems := [*faults(card_metadata(card))]:
        raise UserError(f"{CARD_NAME}: the hub would refuse it: {problems[0]}")
    files = {
        CARD_NAME: card_text(card).encode(),
        CONFIG_NAME: f"# pd-jax {run.command}\n{write_yaml(settings)}".encode(),
        SUMMARY_NAME: (json.dumps(to_json(summary), indent=2, ensure_ascii=False) + "\n").encode(),
        PUBLISHED_NAME: _model(run_path, name, trained, params, card, settings),
        **({} if video is None else {VIDEO_NAME: video}),
    }
    publication = Publication(
        name=name,
        student=identity(settings, trained.counters.games),
        parameters_sha256=card.parameters_sha256,
        counters=trained.counters,
        files={file: hashlib.sha256(content).hexdigest() for file, content in files.items()},
    )
    return {**files, PUBLICATION_NAME: publication.to_text().encode()}


def _card(
    run: RunDirectory,
    repository: str,
    trained: TrainedStudent,
    summary: Summary,
    taught_by: Sequence[TaughtBy],
    licence: str | None,
    *,
    has_video: bool,
) -> Card:
    config, counters = trained.config, trained.counters
    assert isinstance(config, DistillConfig)
    told = summary.get("temperature")
    temperatures = told if isinstance(told, list) else [told] * len(trained.names)
    steps = {game.name: game.env_steps for game in counters.games}
    games = [
        PlayedGame(
            task=task,
            student=None if (entry := summary.games.get(task.name)) is None else entry.student,
            teacher=None if entry is None else entry.teacher,
            protocol=Protocol.of(config, task),
            env_steps=steps.get(task.name, 0),
            temperature=temperature,
            taught_by=teacher,
        )
        for task, teacher, temperature in zip(trained.student.tasks, taught_by, temperatures, strict=True)
    ]
    return Card(
        repository=repository,
        run_name=run.path.absolute().name,
        command=run.command,
        network=trained.network,
        parameters=count_params(trained.variables),
        teacher_parameters=summary.teacher_parameters,
        loss=config.loss.kind,
        behaviour=config.behaviour.policy,
        gives_logits=not config.loss.gives_q,
        updates=counters.updates,
        wall_seconds=counters.wall_seconds if summary.wall_seconds is None else summary.wall_seconds,
        seed=config.seed,
        games=tuple(games),
        licence=_licence(licence, taught_by),
        licence_words=tuple(teacher.licence for teacher in taught_by if teacher.licence),
        has_video=has_video,
        parameters_sha256=params_fingerprint(trained.variables["params"]),
    )


def _licence(wanted: str | None, teachers: Sequence[TaughtBy]) -> str:
    """The identifier that the card has."""
    if wanted is not None:
        if wanted not in LICENCES:
            raise UserError(
                f"licence: {wanted[:100]!r} is no identifier that the hub knows{nearest(wanted[:100], LICENCES)}; "
                "such as apache-2.0, mit, cc-by-4.0, other, unknown"
            )
        return wanted
    told = dict.fromkeys(licence_of(teacher.licence or "") for teacher in teachers)
    (first, *rest) = told
    if first is None or rest:
        words = ", ".join(dict.fromkeys(printable(teacher.licence or "not stated") for teacher in teachers))
        raise UserError(
            f"licence: is that of the teachers, which is not one that the hub knows ({words}); say what it is with "
            "--licence, such as apache-2.0, other or unknown"
        )
    return first


def _teachers(
    run: RunDirectory, config: DistillConfig | OnlineConfig, trained: TrainedStudent, summary: Summary
) -> list[TaughtBy]:
    """The teacher of each game: from its file where that is at hand and is the very one."""
    games = trained.counters.games
    if isinstance(config, OnlineConfig):
        file = run.path / "teacher.safetensors"
        return [_described(str(file), "learnt in the same run", "", game) for game in trained.names]
    names = summary.get("teacher")
    labels = names if isinstance(names, list) else [names]
    found = []
    for index, (given, game) in enumerate(zip(config.teacher, trained.names, strict=True)):
        sha256 = games[index].teacher_sha256 if index < len(games) else ""
        label = labels[index] if index < len(labels) and isinstance(labels[index], str) else None
        found.append(_taught_by(given, sha256, game, label))
    return found


def _taught_by(given: str, sha256: str, game: str, label: str | None) -> TaughtBy:
    name = printable(label or public_name(given))
    if given.startswith(HUB_SCHEME):
        return TaughtBy(name=name, sha256=sha256, source=given, repository=parse(given).repo)
    bundled = bundled_files().get(given.lower())
    if bundled is not None:
        by = _described(str(bundled), f"bundled with pd_jax as {given.lower()}", sha256, game)
        if by.network is not None:
            return by
    elif (path := file_of(given)).is_file():
        by = _described(str(path), f"the file {public_name(given)}", sha256, game)
        if by.network is not None:
            return by
    # It is another one by now, it is gone, or it is of a format that says nothing of itself.
    return TaughtBy(name=name, sha256=sha256, source=f"given as {public_name(given)}")


def _described(path: str, source: str, sha256: str, game: str) -> TaughtBy:
    """What a teacher file says of itself; of another than the very one, or a damaged one, only how it was called."""
    try:
        entry = read_entry(path, Path(path), game)
    except UserError:
        return TaughtBy(name=public_name(path), sha256=sha256, source=source)
    if sha256 and entry.sha256 != sha256:
        return TaughtBy(name=public_name(path), sha256=sha256, source=source)
    metadata = entry.metadata
    return TaughtBy(
        name=metadata.name,
        sha256=entry.sha256,
        source=source,
        network=metadata.network,
        algorithm=metadata.algorithm,
        env_steps=metadata.env_steps,
        # Of a run it is the command with its directory on this machine.
        how_made=metadata.how_made if source.startswith("bundled") else "",
        licence=metadata.licence,
    )


def _model(
    run_path: str,
    name: str,
    trained: TrainedStudent,
    params: Any,
    card: Card,
    settings: Mapping[str, Any],
) -> bytes:
    """The teacher file of the student, with its scores."""
    assert isinstance(trained.config, DistillConfig)
    games = student_metadata(run_path, trained.student, trained.config, trained.counters.updates)
    told = [
        dataclasses.replace(
            metadata,
            how_made=f"the student of {name!r} after {trained.counters.updates} updates",
            training_config={key: value for key, value in settings.items() if key != "out"},
            licence=card.licence,
            evaluation=_evaluation(game, trained.config),
        )
        for metadata, game in zip(games, card.games, strict=True)
    ]
    return _bytes_of(params, told)


def _bytes_of(params: Any, metadata: Sequence[TeacherMetadata]) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / PUBLISHED_NAME
        save_teacher(path, params, metadata)
        return path.read_bytes()


def _evaluation(game: PlayedGame, config: DistillConfig) -> dict[str, Any]:
    """The score as a teacher file has it; nothing of one that has no spread."""
    score, protocol = game.student, game.protocol
    if score is None or score.standard_error is None or score.low is None:
        return {}
    told: dict[str, Any] = {
        name: getattr(protocol, name) for name in ("epsilon", "max_noops", "max_episode_steps", "seed")
    }
    return score.to_json() | told | ({"protocol": config.protocol} if config.protocol in PROTOCOLS else {})


def _video(run: RunDirectory) -> bytes | None:
    """The run's video, if it has one."""
    path = run.path / _VIDEO_OF_RUN
    if not os.path.lexists(path):
        return None
    try:
        with open_regular_file(path) as file:
            content = file.read(_MOST_VIDEO_BYTES + 1)
    except Malformed as problem:
        raise UserError(f"{path}: {problem}") from None
    if len(content) > _MOST_VIDEO_BYTES or content[4:8] != b"ftyp":
        what = "is larger than 100 MiB" if len(content) > _MOST_VIDEO_BYTES else "is no MP4 file"
        raise UserError(f"{path}: {what}; make it again, or take it away")
    return content


def _without_scores(summary: Summary) -> Summary:
    return dataclasses.replace(summary, games={})


def _check_out(out: str | None) -> None:
    """Raises a UserError unless the folder is empty or not there."""
    if out is None or not os.path.lexists(out):
        return
    if not os.path.isdir(out):
        raise UserError(f"{out}: is a file; --out takes a directory")
    if names := os.listdir(out):
        raise UserError(f"{out}: is not empty ({min(names)}); choose another --out")
