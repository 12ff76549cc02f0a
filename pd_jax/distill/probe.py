"""Play of a teacher that nobody learns from, and what a student's sensors make of it: looked at before a run begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from pd_jax.environments.senses import Senses
from pd_jax.environments.tasks import Task
from pd_jax.evaluation.evaluator import Evaluator
from pd_jax.evaluation.protocol import Protocol
from pd_jax.networks.recent import shift_in
from pd_jax.networks.sensing import LaneSensors
from pd_jax.teachers import Teacher

LANES = 16
_STEPS = 256
_EVERY = {"atari": 2, "vector": 1}
"""Steps from one state that is looked at to the next: 2,048 states of games of frames, 4,096 of others."""
# Away from the seeds of the play that is learnt from, of the games that are scored and of calibration.
_SEED_OFFSET = 4_000_000


class Probed(NamedTuple):
    """The decisions of a step: what was shown, what is sensed of it, in which lanes, and what had been played there
    before, as `pd_jax.networks.recent` has it; NumPy's, ``[N, ...]``."""

    shown: np.ndarray
    sensed: np.ndarray
    lanes: np.ndarray
    recent: np.ndarray


def probe(
    config: Any,
    teacher: Teacher,
    task: Task,
    senses: Senses,
    *,
    game: int = 0,
    last_actions: int = 0,
    on_step: Callable[[], object] | None = None,
) -> Iterator[Probed]:
    """Has a teacher play for a moment.

    Args:
      config: of the run: its seed, its epsilon and its protocol.
      teacher, task: who plays, and what.
      senses: of the student.
      game: its place among the run's, each of which has play of its own.
      last_actions: that the student sees beside.
      on_step: called after every step; what it raises ends the play.
    """
    seed = config.seed + _SEED_OFFSET + game * LANES
    evaluator = Evaluator(
        task,
        teacher.network.apply,
        # Without end.
        episodes=_STEPS * LANES,
        num_lanes=LANES,
        epsilon=config.epsilon,
        seed=seed,
        environment_options=Protocol.of(config, task).environment_options | {"beside": senses.beside},
    )
    sensors = LaneSensors(senses, LANES, seed)
    games: list[list[tuple[float, int]]] = [[] for _ in range(LANES)]
    play = evaluator.play(teacher.variables, games)
    every = _EVERY[senses.perceived.kind]
    recent = np.zeros((LANES, last_actions * task.num_actions), np.float32)
    try:
        for step, decision in enumerate(play):
            seen = sensors.see(decision.timestep)
            recent = np.where(np.asarray(decision.timestep.is_first)[:, None], 0.0, recent)
            if step % every == every - 1:
                decides = np.flatnonzero(~np.asarray(decision.timestep.is_last))
                shown = np.asarray(decision.timestep.observations)
                yield Probed(shown[decides], seen[decides], decides, recent[decides])
            if last_actions:
                recent = np.asarray(shift_in(task, recent, decision.actions))
            if on_step is not None:
                on_step()
            if step + 1 >= _STEPS:
                break
    finally:
        play.close()
