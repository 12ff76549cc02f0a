"""What is found out before a guided training begins: the scale of a student's outputs, and the temperature.

A student that was distilled by a loss on policies gives logits. Its best action is right and its numbers are no
returns, which is what Q-learning takes its own targets from: one update on these would undo the policy. So its output
layer is replaced by a positive multiple of itself plus a constant, which leaves every decision as it was.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pd_jax.config.algorithms import PQNConfig
from pd_jax.environments.envpool import Environment
from pd_jax.errors import UserError
from pd_jax.learner.temperature import temperature_of
from pd_jax.trainers import pqn
from pd_jax.trainers.guided_pqn import GuidedPQN

OPENING_STEPS = 128
"""Steps of every lane at least that are looked at."""
_OUTPUT = "output"
_UNKNOWN_SCALE = 0.01
# Of a horizon of 100 steps: nothing beyond is looked at.
_LEAST_LOSS_OF_WEIGHT = 0.01


@dataclasses.dataclass(frozen=True)
class OpeningPlay:
    """Some steps of play by a learner, ``[T, L, ...]`` each, NumPy arrays.

    Attributes:
      outputs, teacher_q: float32 with an axis for the actions, of the learner and of the teacher.
      chosen: float32, the learner's output of the action that was played.
      next_value: float32, its largest output at the step that follows.
      rewards: float32, as they are learnt from.
      terminated, is_last: bool, as `pd_jax.trainers.pqn.Transitions` has them.
      weight: float32, 0 for steps that are no transitions.
    """

    outputs: np.ndarray
    teacher_q: np.ndarray
    chosen: np.ndarray
    next_value: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    is_last: np.ndarray
    weight: np.ndarray


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What a student's outputs became: ``Q = scale * output + offset``."""

    scale: float
    offset: float


def play_opening(
    guided: GuidedPQN, network: Any, variables: Any, environment: Environment, config: PQNConfig, key: Array
) -> OpeningPlay:
    """Has the learner play, nearly without exploration, and asks the teacher what it thinks of it.

    Args:
      guided: the algorithm.
      network: the learner's.
      variables: its weights.
      environment: its lanes, which nobody has reset.
      config: of the learning.
      key: of the play.

    Raises:
      UserError: the teacher's outputs are NaN or infinite.
    """
    unroll = pqn.make_play(network.apply, environment, config)
    if environment.stepping == "jit":
        unroll = jax.jit(unroll)

    @jax.jit
    def look(variables: Any, teacher_variables: Any, lanes: Any, records: pqn.PlayedStep) -> dict[str, Array]:
        transitions = pqn.transitions_of(network, variables, lanes, records, config)

        def outputs_of(apply: Any, weights: Any) -> Array:
            # Step by step: no more is in memory than while it is played.
            each: Array = jax.lax.map(lambda seen: apply(weights, seen), transitions.observations)
            return each

        outputs = outputs_of(network.apply, variables)
        chosen = jnp.take_along_axis(outputs, transitions.actions[..., None], axis=-1)[..., 0]
        own = {name: getattr(transitions, name) for name in ("next_value", "rewards", "terminated", "is_last")}
        teacher_q = outputs_of(guided.teacher.apply, teacher_variables)
        return {"outputs": outputs, "teacher_q": teacher_q, "chosen": chosen, "weight": transitions.weight} | own

    lanes, seen = pqn.start(environment, config, key), []
    for _ in range(math.ceil(OPENING_STEPS / config.rollout_length)):
        lanes, records, _ = unroll(variables, lanes, config.epsilon_end)
        seen.append(jax.device_get(look(variables, guided.teacher.variables, lanes, records)))
    play = OpeningPlay(**{name: np.concatenate([each[name] for each in seen]) for name in seen[0]})
    if not np.isfinite(play.teacher_q).all():
        raise UserError(f"guidance.teacher: {guided.teacher.source}: its outputs are NaN or infinite")
    return play


def calibrate(play: OpeningPlay, gamma: float, *, gives_logits: bool, scale: float | None) -> Calibration:
    """What turns a student's logits into Q-values.

    The scale is the quotient of the spreads, over the actions of a state, of the teacher's Q-values and the student's
    outputs: how they differ between states is left out, as a policy's logits are free there. It is rounded to a power
    of two, so that no weight loses a digit. The offset is that at which the Q-values of what was played are in the mean
    the discounted rewards that followed, and beyond the play's end these very Q-values.

    Args:
      play: of the student.
      gamma: discount per step.
      gives_logits: whether the teacher does, whose outputs have no scale then.
      scale: that is to be taken; None finds it.
    """
    if scale is None:
        theirs, own = (_spread(outputs, play.weight) for outputs in (play.teacher_q, play.outputs))
        scale = _UNKNOWN_SCALE if gives_logits or not theirs > 0 or not own > 0 else theirs / own
        scale = float(2.0 ** round(math.log2(scale)))
    # Targets are a constant plus a multiple of the offset: a share of it for each step that is looked beyond.
    no_rewards, ones = np.zeros_like(play.rewards), np.ones_like(play.next_value)
    returns = _returns(play, play.rewards, scale * play.next_value, gamma)
    shares = _returns(play, no_rewards, ones, gamma)
    total = max(float(play.weight.sum()), 1.0)
    error = float((play.weight * (returns - scale * play.chosen)).sum()) / total
    share = float((play.weight * shares).sum()) / total
    return Calibration(scale, error / max(1.0 - share, _LEAST_LOSS_OF_WEIGHT))


def with_outputs(variables: Any, calibration: Calibration) -> Any:
    """The variables of a network of one game whose outputs are a multiple of what they were, plus a constant."""
    params = variables["params"]
    output = params["head"][_OUTPUT]
    scale, offset = jnp.float32(calibration.scale), jnp.float32(calibration.offset)
    changed = {"kernel": output["kernel"] * scale, "bias": output["bias"] * scale + offset}
    return {**variables, "params": {**params, "head": {**params["head"], _OUTPUT: changed}}}


def find_temperature(play: OpeningPlay, target_entropy: float) -> float:
    """The temperature at which the teacher's policy has a mean entropy, as a share of the largest, over the play."""
    teacher_q = jnp.asarray(play.teacher_q[play.weight > 0])[None]
    num_actions = teacher_q.shape[-1]
    target = jnp.array([target_entropy * math.log(num_actions)], jnp.float32)
    found, _ = jax.jit(temperature_of)(teacher_q, jnp.ones((1, num_actions), bool), target)
    return float(found[0])


def _spread(outputs: np.ndarray, weight: np.ndarray) -> float:
    """Root of the mean square of what outputs differ from the mean over their state's actions."""
    centred = outputs.astype(np.float64) - outputs.mean(axis=-1, keepdims=True)
    return float(np.sqrt((weight * (centred**2).mean(axis=-1)).sum() / max(float(weight.sum()), 1.0)))


def _returns(play: OpeningPlay, rewards: np.ndarray, next_value: np.ndarray, gamma: float) -> np.ndarray:
    """Discounted rewards to the end of the game, or of the play, and from there ``next_value``."""
    targets = pqn.lambda_returns(
        jnp.asarray(rewards),
        jnp.asarray(next_value, jnp.float32),
        jnp.asarray(play.terminated),
        jnp.asarray(play.is_last),
        gamma=gamma,
        td_lambda=1.0,
    )
    return np.asarray(targets)
