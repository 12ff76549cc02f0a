"""Run directories as a report sees them: found, read, and checked against what runs write."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pd_jax.config.commands import COMMANDS
from pd_jax.config.games import MLPS
from pd_jax.config.sections import ADVANTAGE_LOSSES, StudentConfig, needs_temperature
from pd_jax.environments.tasks import TASKS
from pd_jax.errors import UserError
from pd_jax.evaluation.protocol import Rules
from pd_jax.evaluation.scores import Score
from pd_jax.runs.directory import NEVER_COMPARED, RunDirectory, read_run
from pd_jax.runs.summary import GameSummary, Summary
from pd_jax.system.text import printable
from pd_jax.system.values import count, flat, number, section, show_setting, word

SCORED_COMMANDS = ("distill", "online", "evaluate", "train-teacher")
"""The commands whose runs end in scores."""

_DEPTH = 2
_HEADER = b"# pd-jax "
# A teacher's learning curve takes 100 bytes a point.
_MAX_SUMMARY_BYTES = 64 * 2**20
# What makes no other student of the same kind, and what a result has a field of its own for.
_NO_SETTINGS = NEVER_COMPARED | frozenset(
    "seed teacher game data evaluation checkpoint parts learner.num_devices learner.updates_per_call "
    "learner.gradient_cosines_every loss.kind loss.temperature student.network student.mlp_hidden student.channels "
    "student.hidden student.head_hidden".split()
)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What kind of student a run makes, whatever the game.

    Attributes:
      command: that made it.
      network: by name, with the sizes that the name leaves open.
      loss: by name; the algorithm if rewards taught it; None if nothing tells.
      temperature: of a loss that has one, or those of the games where they differ; ``auto`` if any was found from the
        play, which differs between seeds; None is the default, 0.01 for Q-values and 1 for logits.
      together: the games that one student has learnt, sorted; empty for a student of one game.
      checkpoint: ``newest`` or ``best``.
    """

    command: str
    network: str
    loss: str | None
    temperature: float | tuple[float, ...] | Literal["auto"] | None
    together: tuple[str, ...] = ()
    checkpoint: str = "newest"


@dataclasses.dataclass(frozen=True)
class Result:
    """What one run says of one game.

    Attributes:
      run: the run's directory, as it was found.
      game: our name of it.
      rules: of both scores.
      recipe: the student's, None where only a teacher was scored.
      settings: of the training, by dotted key, without those that ``recipe`` or another field holds.
      seed: of the training; a path where the run that was scored is gone.
      teacher_name: what it is called, and by which name or file the run had it.
      teacher, student: their scores, None where one did not play.
      random_score: of random play, None where it is not known.
      student_parameters, teacher_parameters: the latter of all teachers together; None where one did not play.
      env_steps, updates: of the student's training, or the teacher's if it is alone.
    """

    run: str
    game: str
    rules: Rules
    recipe: Recipe | None
    settings: Mapping[str, Any]
    seed: int | str
    teacher_name: str
    teacher: Score | None
    student: Score | None
    random_score: float | None
    student_parameters: int | None
    teacher_parameters: int | None
    env_steps: int | None
    updates: int | None


def find_runs(
    paths: Sequence[str | os.PathLike[str]],
    warn: Callable[[str], None],
    skip: Callable[[UserError], None] | None = None,
) -> list[RunDirectory]:
    """The runs that ``paths`` are, or hold one or two levels below them.

    Args:
      paths: directories. What is not a run is looked into; a run is not.
      warn: is told of what was left out.
      skip: is told why a run cannot be read, and the others are returned; without it, that is raised.

    Returns:
      The runs with scores, each once, in the order they were named; those of one directory by name.

    Raises:
      UserError: there is no such directory, or no such run in it, not even one that cannot be read.
    """
    runs: dict[str, RunDirectory] = {}
    unreadable: list[UserError] = []
    for path in map(Path, paths):
        where = printable(str(path))
        if not path.is_dir():
            raise UserError(f"{where}: {'is a file, not a run directory' if path.exists() else 'no such directory'}")
        unreadable.clear()
        found = list(_runs_below(path, _DEPTH, unreadable))
        if unreadable and skip is None:
            raise unreadable[0]
        for error in unreadable:
            assert skip is not None  # It would have been raised.
            skip(error)
        if not found and not unreadable:
            raise UserError(f"{where}: holds no run of pd-jax {', '.join(SCORED_COMMANDS)}, nor do directories in it")
        for run in found:
            real = os.path.realpath(run.path)
            if real in runs:
                warn(f"{printable(str(run.path))}: is the same run as {printable(str(runs[real].path))}; counted once")
            runs.setdefault(real, run)
    return list(runs.values())


def _runs_below(path: Path, depth: int, unreadable: list[UserError]) -> Iterator[RunDirectory]:
    if _has_our_header(path / "config.yaml"):
        try:
            run = read_run(path)
        except UserError as error:
            unreadable.append(error)
            return
        if run.command in SCORED_COMMANDS:
            yield run
            return
    if not depth:
        return
    try:
        entries = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"{printable(str(path))}: cannot be read: {error.strerror}") from error
    for entry in entries:
        yield from _runs_below(entry, depth - 1, unreadable)


def _has_our_header(path: Path) -> bool:
    """Whether a file is a run's configuration: other programs have a config.yaml too."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(_HEADER)) == _HEADER


def read_results(run: RunDirectory, warn: Callable[[str], None]) -> list[Result] | None:
    """What a run says of each of its games.

    Args:
      run: with scores.
      warn: is told of what cannot be known.

    Returns:
      one for each game; None while the run has not ended.

    Raises:
      UserError: its summary or configuration is damaged, or is not of such a run.
    """
    summary = _read_summary(run)
    if summary is None:
        return None
    games = summary.games
    if any(entry.student is not None for entry in games.values()):
        recipe, settings, seed = _training(run, summary, tuple(games), warn)
    else:
        network = summary.get("teacher_network") or run.config.get("network")
        algorithm = summary.get("algorithm") or run.config.get("algorithm")
        settings = {"network": show_setting(network or ""), "algorithm": show_setting(algorithm or "")}
        recipe, seed = None, _seed(run)
    names = _teacher_names(run, summary, list(games))
    return [
        Result(
            run=str(run.path),
            game=printable(game),
            rules=Rules.of_run(run.config, summary, TASKS.get(game), f"{printable(str(run.config_path))}: "),
            recipe=recipe,
            settings=settings,
            seed=seed,
            teacher_name=names[game],
            teacher=entry.teacher,
            student=entry.student,
            random_score=_random_score(entry, game),
            student_parameters=summary.student_parameters,
            teacher_parameters=summary.teacher_parameters,
            env_steps=summary.env_steps,
            updates=summary.updates,
        )
        for game, entry in games.items()
    ]


def _read_summary(run: RunDirectory) -> Summary | None:
    path, where = run.summary_path, printable(str(run.summary_path))
    if not path.exists():
        return None
    if not path.is_file() or path.stat().st_size > _MAX_SUMMARY_BYTES:
        raise UserError(f"{where}: is not a summary: {'too large' if path.is_file() else 'not a regular file'}")
    try:
        return run.read_summary()
    except RecursionError:
        raise UserError(f"{where}: is not a summary: nested too deeply") from None


def _random_score(entry: GameSummary, game: str) -> float | None:
    task = TASKS.get(game)
    return task.random_score if entry.random_score is None and task is not None else entry.random_score


def _training(
    run: RunDirectory, summary: Mapping[str, Any], games: tuple[str, ...], warn: Callable[[str], None]
) -> tuple[Recipe, dict[str, Any], int | str]:
    """How a student was trained: its recipe, settings and seed, for ``evaluate`` from the run that it scored."""
    if run.command != "evaluate":
        return _recipe(run, summary, games), _settings(run), _seed(run)
    scored = summary.get("run") or run.config.get("run")
    checkpoint = show_setting(run.config.get("checkpoint", "newest"))
    if not isinstance(scored, str) or not Path(scored, "config.yaml").is_file():
        network = show_setting(summary.get("student_network") or "unknown")
        warn(
            f"{printable(str(run.path))}: the run that it scored is not at {printable(str(scored))}, so that its "
            "student's loss and seed are unknown"
        )
        together = games if len(games) > 1 else ()
        return Recipe("distill", network, None, None, together, checkpoint), {}, str(scored or run.path)
    trained = read_run(scored)
    recipe = dataclasses.replace(_recipe(trained, _read_summary(trained) or {}, games), checkpoint=checkpoint)
    settings, schedule = _settings(trained), section(trained.config, "schedule", "")
    factors = schedule.get("rounds"), schedule.get("updates_per_round")
    if checkpoint == "newest" and all(type(factor) is int for factor in factors):
        # Scored before its run had ended, it is not the student that the run ended with.
        planned = math.prod(factors)  # type: ignore[arg-type]
        if summary.get("updates") != planned:
            settings["updates"] = show_setting(summary.get("updates"))
    return recipe, settings, _seed(trained)


def _recipe(run: RunDirectory, summary: Mapping[str, Any], games: tuple[str, ...]) -> Recipe:
    where = f"{printable(str(run.config_path))}: "
    asked = run.config.get("game")
    if isinstance(asked, list) and len(asked) > 1:
        # An evaluation may be of some of the games that its student has learnt.
        games = tuple(map(show_setting, asked))
    together = tuple(sorted(games)) if len(games) > 1 else ()
    if run.command == "train-teacher":
        network, algorithm = word(run.config, "network", where), word(run.config, "algorithm", where)
        return Recipe(run.command, f"{network}{_sizes(network, run.config)}", algorithm, None, together)
    student, loss = section(run.config, "student", where), section(run.config, "loss", where)
    network, kind = word(student, "network", f"{where}student."), word(loss, "kind", f"{where}loss.")
    network += _sizes(network, student)
    return Recipe(run.command, network, kind, _temperature(summary, kind, loss, where), together)


def _sizes(network: str, settings: Mapping[str, Any]) -> str:
    """Those of the network's sizes that its name leaves open, or that are not what the name stands for."""
    sizes = [settings.get("mlp_hidden")] if network in MLPS else [settings.get("channels"), settings.get("hidden")]
    texts = [show_setting(size) for size in sizes if size is not None]
    if settings.get("head_hidden") not in (None, StudentConfig.head_hidden):
        texts.append(f"heads {show_setting(settings['head_hidden'])}")
    return "".join(f" {text}" for text in texts)


def _temperature(
    summary: Mapping[str, Any], kind: str, loss: Mapping[str, Any], where: str
) -> float | tuple[float, ...] | Literal["auto"] | None:
    """The temperature of all games, or that of each where they differ."""
    if not needs_temperature(kind, show_setting(loss.get("weights", "none"))):
        return None
    asked = loss.get("temperature")
    if "auto" in (asked if isinstance(asked, list) else [asked]) or (asked is None and kind in ADVANTAGE_LOSSES):
        return "auto"
    # The summary has what null in the configuration became.
    told = summary.get("temperature")
    values = asked if told is None else told
    values = values if isinstance(values, list) else [values]
    numbers = [number({"temperature": value}, "temperature", f"{where}loss.") for value in values]
    if len(set(numbers)) == 1:
        return numbers[0]
    known = [value for value in numbers if value is not None]
    return tuple(known) if len(known) == len(numbers) else None


def _settings(run: RunDirectory) -> dict[str, Any]:
    """What the training was told, by dotted key; keys that the run is too old to have stand at their defaults."""
    values = flat(_defaults(run.command)) | flat(run.config)
    settings = {key: value for key, value in values.items() if not _is_left_out(key)}
    return settings | {"data": "recorded" if run.config.get("data") else "live", "updates": "all"}


def _is_left_out(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in _NO_SETTINGS)


def _defaults(command: str) -> dict[str, Any]:
    config_class: Any = COMMANDS.get(command)
    defaults: dict[str, Any] = {}
    for field in dataclasses.fields(config_class) if config_class is not None else ():
        if field.default is not dataclasses.MISSING:
            defaults[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            # The factories of settings make their sections.
            defaults[field.name] = dataclasses.asdict(field.default_factory())
    return defaults


def _teacher_names(run: RunDirectory, summary: Mapping[str, Any], games: list[str]) -> dict[str, str]:
    """By game: the name in the teacher's file, and what the run called it by, so that two files of one name differ."""
    names = {}
    for index, game in enumerate(games):
        words: list[str] = []
        for value in (summary.get("teacher"), run.config.get("teacher")):
            name = value.get(game) if isinstance(value, dict) else value
            if isinstance(name, list):
                name = name[index] if index < len(name) else None
            if isinstance(name, str) and printable(name) not in words:
                words.append(printable(name))
        names[game] = f"{words[0]} ({words[1]})" if len(words) == 2 else "".join(words)
    return names


def _seed(run: RunDirectory) -> int:
    return count(run.config, "seed", f"{printable(str(run.config_path))}: ") or 0
