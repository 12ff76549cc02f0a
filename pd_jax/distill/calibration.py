"""How large the inputs of a student's layers are, seen in its own play: what 8-bit integers need to know beforehand."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import jax
import numpy as np

from pd_jax.config.distill import DistillConfig
from pd_jax.config.sections import StudentConfig
from pd_jax.environments.envpool import Environment
from pd_jax.evaluation.protocol import Protocol
from pd_jax.networks.quantisation import is_quantised
from pd_jax.networks.student import Student, make_student
from pd_jax.runs.start import Start
from pd_jax.teachers.files import params_fingerprint

_LANES = 16
_STEPS = 256
# Away from the seeds of the play that is learnt from and of the games that are scored.
_SEED_OFFSET = 3_000_000


def calibrated(start: Start, student: Student, config: DistillConfig) -> Start:
    """What a student with quantisation starts from, with the ranges of its layers' inputs.

    Args:
      start: of the same student without quantisation, which plays 4,096 steps of each game; or of one that has ranges
        already, which stay.
      student: with quantisation.
      config: the run's.
    """
    if is_quantised(start.variables["params"]):
        return start
    plain = make_student(_plain(config.student), student.tasks)
    variables = student.calibrated(start.variables, _own_play(plain, start, config))
    variables = jax.tree.map(np.asarray, variables)
    observations = _LANES * _STEPS
    return dataclasses.replace(
        start,
        variables=variables,
        calibration={"observations": observations, "sha256": params_fingerprint(variables["params"])},
    )


def _plain(config: StudentConfig) -> StudentConfig:
    return dataclasses.replace(config, quantisation="none")


def _own_play(plain: Student, start: Start, config: DistillConfig) -> Iterator[list[np.ndarray]]:
    """What the student sees when it plays all its games, step by step, with the random actions of a scored game."""
    environments, steps = [], []
    generator = np.random.default_rng(config.seed)
    policies = [jax.jit(plain.policy(game)) for game in range(plain.num_games)]
    try:
        for game, task in enumerate(plain.tasks):
            options, seed = Protocol.of(config, task).environment_options, config.seed + _SEED_OFFSET + game * _LANES
            environments.append(Environment(task, _LANES, seed, stepping="host", **options))
            steps.append(environments[-1].reset()[1])
        for _ in range(_STEPS):
            shown = [np.ascontiguousarray(step.observations) for step in steps]
            yield shown
            for game, (task, environment) in enumerate(zip(plain.tasks, environments, strict=True)):
                outputs = np.asarray(policies[game](start.variables, shown[game]))
                is_random = generator.random(_LANES) < config.evaluation.epsilon
                any_action = generator.integers(task.num_actions, size=_LANES)
                actions = np.where(is_random, any_action, outputs.argmax(axis=1))
                steps[game] = environment.step_host(actions, np.asarray(steps[game].is_last))
    finally:
        for environment in environments:
            environment.close()
