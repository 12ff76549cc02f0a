"""Games that are added to a student: what it begins as, what is looked at of the old games, and what it forgets.

Before the first update the student is scored in its old games, under the run's protocol and on the starts that the
student will meet at the end; or its score is that of the run that it comes from, if that one was taken so. What is
forgotten is the difference.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from pd_jax.config.distill import DistillConfig
from pd_jax.config.loading import read_config
from pd_jax.distill.counters import GameCounters
from pd_jax.distill.experience import Experience
from pd_jax.distill.setup import DistillSetup
from pd_jax.environments.tasks import Task
from pd_jax.errors import UserError
from pd_jax.evaluation.protocol import Protocol
from pd_jax.evaluation.scores import Score
from pd_jax.learner.anchor import Adding
from pd_jax.learner.learner import LearnerState
from pd_jax.networks.added import grown, heads_of
from pd_jax.replay.rings import ReplayState
from pd_jax.runs.directory import read_run
from pd_jax.runs.start import Start
from pd_jax.system.files import expand_home
from pd_jax.system.interrupts import Interrupts
from pd_jax.system.progress import Meter

_SEED_OFFSET = 5_000_000
"""Away from the seeds of the play that is learnt from, and of the games that are scored."""


def with_new_heads(setup: DistillSetup, adding: Adding, start: Start, fresh: LearnerState) -> LearnerState:
    """A student before its first update: the old one, with the heads of a fresh student for the added games.

    Args:
      setup: of the run.
      adding: of its updates.
      start: the old student.
      fresh: a student of all games from scratch, with a device axis. Its optimizer's state is that of all parameters
        before a first update, and stays.

    Returns:
      the state, with the anchor that a penalty needs; its importances, if it is to have any, are still 0.
    """
    devices = setup.devices
    old = heads_of(start.variables["params"], range(len(setup.old)), several=True)
    whole = jax.tree.map(np.asarray, devices.first(fresh.variables))
    variables = {**whole, "params": grown(whole["params"], old)}
    anchor = adding.anchor_of(variables["params"])
    begun = fresh.starting_from(devices.replicate(variables))
    return begun if anchor is None else dataclasses.replace(begun, anchor=devices.replicate(anchor))


def describe_adding(setup: DistillSetup) -> str:
    """A line for the terminal."""
    old, new = (", ".join(setup.names[place] for place in places) for places in (setup.old, _new(setup)))
    return f"adds {new} to {old}: {setup.config.adding.describe()}"


def play_of_old_games(
    setup: DistillSetup, meter: Meter, interrupts: Interrupts
) -> tuple[tuple[ReplayState | None, ...], list[int]]:
    """Some play of the old games, to be looked at and not learnt from: the beginning of their recordings, or live.

    Args:
      setup: of a run that wants it.
      meter: counts its steps.
      interrupts: heeded after every rollout.

    Returns:
      by game, a replay with a device axis, None of added ones; and of each old game the steps that are there.

    Raises:
      UserError: an old teacher gives NaN or infinite outputs in it.
    """
    config = setup.config
    rollouts = config.old_rollouts
    capacity = max(config.lanes[place] for place in setup.old) * rollouts * config.stored_length
    playing = setup.of_games(
        setup.old,
        seed=config.seed + _SEED_OFFSET,
        schedule=dataclasses.replace(config.schedule, rounds=1, steps_per_round=config.adding.old_steps),
        replay=dataclasses.replace(config.replay, capacity=capacity),
    )
    games = [GameCounters(name=setup.names[place]) for place in setup.old]
    for game, dataset in zip(games, playing.datasets, strict=True):
        game.recorded_steps = 0 if dataset is None else dataset.num_steps
    experience = Experience(playing, games, meter, interrupts)
    try:
        experience.open()
        experience.play_round()
        stored = experience.replay.stored
    finally:
        experience.close()
    for game, teacher in zip(games, playing.teachers, strict=True):
        if game.stopped_at is not None:
            raise UserError(f"{game.name}: teacher {teacher.source} gave NaN or infinite outputs in the old play")
    return (*stored, *(None for _ in _new(setup))), [game.env_steps for game in games]


def merged(setup: DistillSetup, learnt: Sequence[Any], looked_at: Sequence[Any]) -> tuple[Any, ...]:
    """The replays by game: of those that are played what they hold, of others what is looked at of them, or None.

    Args:
      setup: of the run.
      learnt: of the games that are played.
      looked_at: by game, see :func:`play_of_old_games`; empty if there is none.
    """
    by_game = dict(enumerate(looked_at)) | dict(zip(setup.played, learnt, strict=True))
    return tuple(by_game.get(place) for place in range(len(setup.tasks)))


def known_scores(setup: DistillSetup, start: Start) -> dict[str, Score]:
    """The scores of the old student that its run has taken already: of the same games under the same protocol.

    Args:
      setup: of the run that adds games.
      start: the old student.

    Returns:
      by game; none of games that are to be played.
    """
    path = expand_home(setup.config.init_from or "")
    run = read_run(path)
    summary, before = run.read_summary(), read_config(DistillConfig, run.config_path)
    if summary is None or summary.updates != start.updates:
        return {}
    known = {}
    for place in setup.old:
        task = setup.tasks[place]
        game = summary.games.get(task.name)
        is_same = Protocol.of(before, task) == Protocol.of(setup.config, task)
        if is_same and game is not None and game.student is not None:
            known[task.name] = game.student
    return known


def score_before(
    setup: DistillSetup, games: Sequence[GameCounters], play: Callable[[int], Score], say: Callable[[str], None]
) -> None:
    """Takes the scores of the old student, before its first update.

    Args:
      setup: of the run.
      games: where each game stands; gets them.
      play: scores the student in a game.
      say: is told of each.
    """
    # A run that was stopped here, and is resumed, has a student of its own, which is the old one still.
    known = {} if setup.start is None else known_scores(setup, setup.start)
    for place in setup.old:
        game, task = games[place], setup.tasks[place]
        if game.before is not None:
            continue
        score = known.get(task.name)
        game.before = (score or play(place)).to_json()
        taken = "of its run's summary" if score is not None else "played now"
        say(f"{task.name}: the student scores {game.before['mean']:.1f} before anything is added ({taken})")


def about_games(setup: DistillSetup, games: Sequence[GameCounters], after: Mapping[str, Score]) -> dict[str, Any]:
    """What the summary says of each game: what it scored before, and what of that is forgotten.

    Args:
      setup: of a run that adds games.
      games: where each stands.
      after: the student's scores at the end, by game.

    Returns:
      by game: ``is_added``; of the old ones ``score_before`` with its standard error, ``forgotten`` (before minus
      after) and ``forgotten_percent``, the same as a share of what the score before lies above random play, None where
      that is not known or not above it.
    """
    about: dict[str, Any] = {name: {"is_added": place not in setup.old} for place, name in enumerate(setup.names)}
    for place in setup.old:
        task, before = setup.tasks[place], games[place].before
        if before is not None:
            about[task.name] |= forgotten_of(task, before, after[task.name])
    return about


def forgotten_of(task: Task, before: dict[str, Any], after: Score) -> dict[str, Any]:
    """What :func:`about_games` says of an old game."""
    forgotten = before["mean"] - after.mean
    above = None if task.random_score is None else before["mean"] - task.random_score
    return {
        "score_before": before["mean"],
        "score_before_standard_error": before["standard_error"],
        "forgotten": forgotten,
        "forgotten_percent": None if above is None or above <= 0 else 100 * forgotten / above,
    }


def about_adding(setup: DistillSetup) -> dict[str, Any]:
    """What the summary says of the way that games were added."""
    settings = setup.config.adding
    told: dict[str, Any] = {"games": [setup.names[place] for place in _new(setup)], "learn": settings.learn}
    if settings.learn == "all":
        told["penalty"] = settings.penalty
    if settings.replays:
        told["new_share"] = settings.new_share
    elif settings.learn == "all":
        told["penalty_weight"] = settings.penalty_weight
    return {"adding": told}


def _new(setup: DistillSetup) -> range:
    """Places of the games that are added."""
    return range(len(setup.old), len(setup.tasks))
