"""``pd-jax teachers``: what is bundled, what a teacher file holds, and converting other libraries' agents."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pd_jax.config.evaluate import EvaluateConfig
from pd_jax.config.sections import EvaluationConfig
from pd_jax.config.teachers import ImportTeacherConfig, ListTeachersConfig, ShowTeacherConfig
from pd_jax.environments.protocols import PROTOCOLS
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.report.teachers import describe_entry, describe_statistics, print_teachers
from pd_jax.system.progress import print_warning
from pd_jax.teachers.catalogue import Entry, bundled, find
from pd_jax.teachers.files import save_teacher
from pd_jax.teachers.formats import is_run_of_students
from pd_jax.teachers.metadata import TeacherMetadata

# Enough to tell a good score from that of another network; a few seconds, as only agents of vectors are open.
_EPISODES_WHERE_OPEN = 20


_GIVES = {"q": "Q-values", "logits": "logits", "gaussian": "Gaussians", "means": "continuous actions"}


def run_list(config: ListTeachersConfig) -> None:
    """Prints the bundled teachers."""
    entries = bundled()
    if config.json:
        print(json.dumps([entry.as_json() for entry in entries], indent=2))
    else:
        print_teachers(entries)


def run_show(config: ShowTeacherConfig) -> None:
    """Prints one teacher, and draws its learning curve if a file for it is named.

    Raises:
      UserError: there is no such teacher, or its file is damaged or foreign.
    """
    entry = find(config.name_or_file, config.game)
    is_continuous = entry.metadata.is_continuous
    if config.states and is_continuous:
        raise UserError(f"--states: measures values of single actions; those of {entry.metadata.game} are continuous")
    statistics = _measure(entry, config) if config.states else None
    if config.plot is not None:
        _plot(entry, config.plot)
    if config.json:
        metadata = dataclasses.asdict(entry.metadata)
        print(json.dumps(entry.as_json() | {"metadata": metadata, "statistics": statistics}, indent=2))
        return
    lines = describe_entry(entry)
    if statistics is None and not is_continuous:
        lines += ["", "--states 2000 measures its Q-values and action gaps in 2,000 states of its own play"]
    if statistics is not None:
        lines += ["", *describe_statistics(statistics, entry.metadata.output, config.epsilon)]
    print("\n".join(lines))


def run_import(config: ImportTeacherConfig) -> None:
    """Converts an agent, checks that it loads and plays, and writes the teacher file.

    Raises:
      UserError: the agent cannot be read or does not fit the game, or the file exists; nothing was written.
    """
    if os.path.lexists(config.out):
        raise UserError(f"--out: {config.out} exists; name another file")
    # Late: what reads other libraries' files takes seconds to import.
    from pd_jax.system.computing import computing
    from pd_jax.teachers.importers import hides_normalisation, import_teacher

    if is_run_of_students(config.file):
        with computing():
            _import_student(config)
        return
    with computing():
        params, metadata = import_teacher(config.file, config.game, config.observation_statistics)
        is_open = hides_normalisation(metadata) and config.observation_statistics is None
        if config.evaluate_episodes is None:
            config = dataclasses.replace(config, evaluate_episodes=_EPISODES_WHERE_OPEN if is_open else 0)
        metadata, parameters = _tried_out(config, params, metadata)
    save_teacher(config.out, params, metadata)
    score = metadata.evaluation
    what = _GIVES[metadata.output]
    print(
        f"{config.out}: {metadata.network} for {metadata.game} with {parameters:,} parameters, gives {what} of "
        f"{metadata.num_actions} actions; {_line_of_score(score)}{_line_of_protocol(metadata)}"
    )
    if is_open:
        random_score = get_task(metadata.game).random_score
        random = "" if random_score is None else f"random play: {random_score:,.1f}; "
        print_warning(
            f"{config.file}: does not show whether its observations were normalised: if it does not score as where it "
            f"was trained ({random}evaluate with --evaluate-episodes), give --observation-statistics FILE, or none"
        )


def _import_student(config: ImportTeacherConfig) -> None:
    """Makes a teacher file of a run's student, of all of its games."""
    from pd_jax.deploy.teacher_file import student_as_teacher
    from pd_jax.teachers.loading import load

    if config.observation_statistics is not None:
        raise UserError(f"{config.file}: is a run, whose student sees observations as they are")
    params, games = student_as_teacher(config.file)
    names = [metadata.game for metadata in games]
    task = get_task(config.game)
    if task.name not in names:
        raise UserError(f"{config.file}: its student plays {', '.join(names)}, not {task.name}")
    if config.evaluate_episodes:
        with tempfile.TemporaryDirectory() as directory:
            path = str(Path(directory) / "teacher.safetensors")
            save_teacher(path, params, games)
            index = names.index(task.name)
            score = _score(load(path, task.name), config)
            games[index] = dataclasses.replace(games[index], evaluation=score)
    save_teacher(config.out, params, games)
    teacher = load(config.out, task.name)
    what = _GIVES[teacher.metadata.output]
    print(
        f"{config.out}: {teacher.metadata.network} for {', '.join(names)} with {teacher.num_params:,} parameters, "
        f"gives {what}; {_line_of_score(teacher.metadata.evaluation)}"
    )


def _tried_out(config: ImportTeacherConfig, params: Any, metadata: TeacherMetadata) -> tuple[TeacherMetadata, int]:
    """Loads the teacher as anyone will, and scores it if that is asked for; returns its metadata and its size."""
    from pd_jax.teachers.loading import load

    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "teacher.safetensors")
        try:
            save_teacher(path, params, metadata)
            teacher = load(path)
        except UserError as error:
            raise UserError(str(error).replace(path, config.file)) from None
    if config.evaluate_episodes:
        metadata = dataclasses.replace(metadata, evaluation=_score(teacher, config))
    return metadata, teacher.num_params


def _score(teacher: Any, config: ImportTeacherConfig) -> dict[str, Any]:
    """The ``evaluation`` of a teacher's metadata."""
    from pd_jax.evaluation.games import heeding, play_games
    from pd_jax.evaluation.protocol import Protocol
    from pd_jax.evaluation.scores import Score
    from pd_jax.system.interrupts import Interrupts
    from pd_jax.system.progress import Progress
    from pd_jax.teachers.tasks import check_named_protocol

    evaluation = EvaluationConfig(episodes=config.evaluate_episodes or 0, epsilon=config.epsilon)
    scored = EvaluateConfig(teacher=teacher.source, seed=config.seed, protocol=config.protocol, evaluation=evaluation)
    # What it was loaded from is a file that nobody else knows.
    check_named_protocol(f"teacher {config.file}", teacher.metadata.named_protocol, scored)
    protocol = Protocol.of(scored, teacher.task)
    with Interrupts() as interrupts, Progress(f"evaluate on {teacher.task.name}") as progress:
        on_progress = heeding(interrupts, progress.add("games", protocol.episodes))
        played = play_games(teacher.network.apply, teacher.variables, teacher.task, protocol, on_progress=on_progress)
    told = ("epsilon", "max_noops", "max_episode_steps", "seed")
    named = {"protocol": config.protocol} if config.protocol in PROTOCOLS else {}
    return Score.of(played.returns).to_json() | {name: protocol.to_json()[name] for name in told} | named


def _line_of_protocol(metadata: TeacherMetadata) -> str:
    """What other commands want to be told, if it is not what they take for granted."""
    named = metadata.named_protocol
    return f"; it is played with --protocol {named}" if named not in (None, "classic") else ""


def _line_of_score(score: Mapping[str, Any]) -> str:
    if not score:
        return "not evaluated (--evaluate-episodes)"
    return f"{score['mean']:,.1f} ± {score['standard_error']:,.1f} over {score['episodes']:,} episodes"


def _measure(entry: Entry, config: ShowTeacherConfig) -> dict[str, Any]:
    from pd_jax.evaluation.action_gaps import describe_outputs, played_outputs
    from pd_jax.system.computing import computing
    from pd_jax.teachers.loading import load

    with computing():
        outputs = played_outputs(load(entry.path, config.game), config.states, epsilon=config.epsilon, seed=config.seed)
    return describe_outputs(outputs) | {"epsilon": config.epsilon, "seed": config.seed}


def _plot(entry: Entry, out_png: str) -> None:
    from pd_jax.report.figures import plot_learning_curve

    title = f"{entry.metadata.algorithm.upper()}, {entry.metadata.name}"
    plot_learning_curve(entry.curve, out_png, title=title, references=entry.references)
