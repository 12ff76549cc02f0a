"""What a student with senses of its own cannot learn, estimated before it learns from play that nobody learns from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pd_jax.distill.probe import probe
from pd_jax.distill.setup import DistillSetup
from pd_jax.evaluation.irreducible import Unseen, estimate_unseen, policies
from pd_jax.networks.continuous import mean_actions
from pd_jax.system.devices import platform_of, tracing_for


def unseen_in(setup: DistillSetup, game: int, on_step: Callable[[], object] = lambda: None) -> tuple[Unseen, str]:
    """Has a game's teacher play, and finds what is left of the loss with what the student senses of that.

    Args:
      setup: of the run, whose student has senses of its own.
      game: its place.
      on_step: called after every step; what it raises ends the play.

    Returns:
      what is left, and its unit. Losses of policies are told by the divergence KL(teacher ‖ student), whichever of them
      is learnt.
    """
    task, teacher, senses = setup.tasks[game], setup.teachers[game], setup.student.senses[game]
    actions = setup.student.last_actions
    steps = list(probe(setup.config, teacher, task, senses, game=game, last_actions=actions, on_step=on_step))
    states, sensed, lanes, recent = (np.concatenate(parts) for parts in zip(*steps, strict=True))
    # Beside thousands of grey levels, neighbours by what was played are no nearer: they are looked for by frames alone.
    if actions and sensed.dtype != np.uint8:
        sensed = np.concatenate([sensed.reshape(len(sensed), -1), recent], axis=1)
    targets, unit = _targets(setup, game, _outputs(teacher.network.apply, teacher.variables, states))
    return estimate_unseen(sensed, states, targets, lanes, is_policy=unit == "nats"), unit


def _targets(setup: DistillSetup, game: int, outputs: np.ndarray) -> tuple[np.ndarray, str]:
    """What is matched, and the unit of the loss; of continuous tasks the actions without noise, whatever the loss."""
    loss, gives_logits = setup.config.loss, setup.gives_logits[game]
    if setup.tasks[game].is_continuous:
        return np.asarray(mean_actions(jnp.asarray(outputs), setup.tasks[game]), np.float64), "squared units of actions"
    if loss.gives_q:
        return outputs.astype(np.float64), "squared units of Q"
    if loss.kind == "nll":
        return np.eye(outputs.shape[1])[outputs.argmax(axis=1)], "nats"
    return policies(outputs, loss.temperature_for(game, teacher_gives_logits=gives_logits)), "nats"


def _outputs(apply: Any, variables: Any, observations: np.ndarray) -> np.ndarray:
    """A teacher's outputs, batch by batch of one size."""
    asked, found = jax.jit(apply), []
    with tracing_for(platform_of(variables)):
        for start in range(0, len(observations), 256):
            batch = observations[start : start + 256]
            padded = np.concatenate([batch, np.repeat(batch[:1], 256 - len(batch), axis=0)])
            found.append(np.asarray(asked(variables, padded))[: len(batch)])
    return np.concatenate(found)
