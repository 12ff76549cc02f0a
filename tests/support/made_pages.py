"""Runs of several kinds, with all that their pages show, that nobody trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pd_jax.environments.tasks import get_task
from pd_jax.evaluation.comparison import Comparison, Place, compare
from pd_jax.runs.details import Details, TaughtBy
from pd_jax.runs.directory import RunDirectory, read_run
from support.made_runs import write_distillation


def comparison(game: str = "pong", *, seed: int = 0, states: int = 300, agree: float = 0.8) -> Comparison:
    """A student of this game that agrees with its teacher now and then; frames are of noise, with one bright square."""
    task, generator = get_task(game), np.random.default_rng(seed)
    teacher = generator.normal(size=(states, task.num_actions)).astype(np.float32)
    student = generator.normal(size=teacher.shape).astype(np.float32)
    agrees = generator.random(states) < agree
    student[agrees] = 3 * teacher[agrees]
    shape = (states, *task.observation_shape)
    if task.kind == "atari":
        seen = np.full(shape, 90, np.uint8)
        for index in range(states):
            row, column = generator.integers(0, 76, 2)
            seen[index, row : row + 8, column : column + 8] = 200
    else:
        seen = generator.normal(size=shape).astype(np.float32)
    places = [Place(index % 4, 0, 50 * (index // 4)) for index in range(states)]
    return compare(
        teacher, student, places, seen, actions=task.action_names, every=50, student_temperature=1.0, gives_logits=False
    )


def write_details(run: RunDirectory, games: Sequence[str]) -> None:
    """``details.json`` of these games."""
    teachers = [TaughtBy(game=game, name=f"{game}-dqn", source=game, sha256="c0ffee" * 10 + "abcd") for game in games]
    Details.of(teachers, {game: comparison(game) for game in games}).write(run.details_path)


def write_metrics(run: RunDirectory, games: Sequence[str], *, updates: int = 1000, every: int = 50) -> None:
    """A loss that falls, an agreement that rises, a score now and then."""
    generator, lines = np.random.default_rng(0), []
    for step in range(every, updates + 1, every):
        loss, agreement = 2.0 * np.exp(-3 * step / updates) + 0.01, 1 - 0.7 * np.exp(-4 * step / updates)
        line: dict[str, Any] = {"step": step, "time": 0.0, "loss": loss, "agreement": agreement}
        line |= {"seconds/updates": 2.0, "seconds/stepping": 1.0, "seconds/inference": 0.5, "seconds/input": 0.0}
        if len(games) > 1:
            for game in games:
                line[f"{game}/loss"] = loss * generator.uniform(0.8, 1.2)
                line[f"{game}/agreement"] = min(1.0, agreement * generator.uniform(0.9, 1.1))
        lines.append(line)
        if step % (5 * every) == 0:
            scores = {f"score/{game}": 15 * agreement for game in games}
            ends = {f"score_low/{game}": 14 * agreement for game in games}
            ends |= {f"score_high/{game}": 16 * agreement for game in games}
            lines.append({"step": step, "time": 0.0} | scores | ends)
    run.metrics_path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_whole_run(path: Path, game: str = "pong", **more: Any) -> RunDirectory:
    """A finished run with everything but a page and a video."""
    summary = {"time_shares": {"stepping": 0.2, "inference": 0.1, "updates": 0.65, "input": 0.05}, "platform": "cpu"}
    write_distillation(path, game=game, summary=summary | {"devices": 1, "wall_seconds": 3723.0}, **more)
    run = read_run(path)
    write_metrics(run, [game])
    write_details(run, [game])
    return run
