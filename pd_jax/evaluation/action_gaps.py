"""How far apart a teacher's Q-values are, and what a temperature makes of them.

Teachers differ in this by more than an order of magnitude: the median gap between the best action and the next is
some hundredths for Pong, 0.14 for CartPole and 0.8 for Acrobot. The temperature of the distillation loss has to suit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from pd_jax.actors import rollout
from pd_jax.actors.stepping import stepping_options
from pd_jax.environments.envpool import Environment
from pd_jax.system.devices import platform_of, tracing_for
from pd_jax.teachers.teacher import Teacher

TEMPERATURES = (0.001, 0.01, 0.1, 1.0, 10.0)
_LANES = 8
_ROLLOUT_LENGTH = 32


def played_outputs(teacher: Teacher, num_states: int, *, epsilon: float, seed: int) -> np.ndarray:
    """A teacher's outputs along its own play: 8 lanes side by side, each from the beginning of a game.

    Args:
      teacher: who plays.
      num_states: decisions wanted, at least 1; every lane contributes equally many but for the last few.
      epsilon: chance of a random action.
      seed: of the emulators and the exploration.

    Returns:
      float32 ``[num_states, actions]``, Q-values or logits, in the order of play.
    """
    platform = platform_of(teacher.variables)
    environment = Environment(teacher.task, _LANES, seed, **stepping_options("auto", platform))
    state = rollout.start(environment, jax.random.key(seed))
    play = rollout.make_rollout(environment, teacher.network.apply, _ROLLOUT_LENGTH)
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < num_states:
        with tracing_for(platform):
            state, trajectory, _ = play(teacher.variables, state, epsilon)
        # Nothing is decided on terminal observations.
        parts.append(np.asarray(trajectory.teacher_q)[np.asarray(trajectory.is_decision)])
    environment.close()
    return np.concatenate(parts)[:num_states]


def describe_outputs(outputs: np.ndarray, temperatures: Sequence[float] = TEMPERATURES) -> dict[str, Any]:
    """Scale and action gaps of Q-values, and the policies that temperatures make of them.

    Args:
      outputs: float ``[N, actions]`` Q-values or logits, at least 2 actions.
      temperatures: each above 0.

    Returns:
      ``states``, ``mean_absolute``, ``standard_deviation`` (over states and actions), ``mean_action_gap`` and
      ``median_action_gap`` (best minus second best, Bellemare et al. 2016), and for each of ``temperatures`` a row of
      ``temperature``, ``mean_gap`` and ``median_gap`` (gaps over the temperature, in nats between the two actions),
      ``entropy`` (mean over states, in nats, of softmax(outputs / temperature)) and ``best_probability`` (mean).
    """
    values = np.asarray(outputs, np.float64)
    second, best = np.partition(values, -2, axis=-1)[:, -2:].T
    gaps = best - second
    rows = []
    for temperature in temperatures:
        entropies, best_probabilities = _softmax_statistics(values / temperature)
        rows.append(
            {
                "temperature": temperature,
                "mean_gap": float(gaps.mean() / temperature),
                "median_gap": float(np.median(gaps) / temperature),
                "entropy": float(entropies.mean()),
                "best_probability": float(best_probabilities.mean()),
            }
        )
    return {
        "states": len(values),
        "mean_absolute": float(np.abs(values).mean()),
        "standard_deviation": float(values.std()),
        "mean_action_gap": float(gaps.mean()),
        "median_action_gap": float(np.median(gaps)),
        "temperatures": rows,
    }


def _softmax_statistics(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Entropy in nats and largest probability, ``[N]`` each, of the softmax of ``[N, actions]``."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    weights = np.exp(shifted)
    total = weights.sum(axis=-1)
    # -sum p log p, with log p = shifted - log(total); a weight that is 0 adds nothing however low its logit.
    entropies = np.log(total) - (weights * shifted).sum(axis=-1) / total
    return entropies, 1.0 / total
