"""Temperatures that a run finds from its play: when, and what is told of them.

They are found once the first round is played, before the first update, and stay: a target that moved would be another
loss every round. A teacher that becomes another one has them found anew, from what the replay holds then. They are kept
in the learner's state, which checkpoints hold, and beside it in the counters, for whoever asks what they were.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pd_jax.config.sections import LossConfig
from pd_jax.distill.counters import GameCounters
from pd_jax.distill.setup import DistillSetup
from pd_jax.learner.learner import FoundTemperature
from pd_jax.learner.objective import temperatures

_NEAR = 0.01
"""Of the target: a mean entropy that is farther above it is worth a word."""


def due_temperatures(config: LossConfig, games: Sequence[GameCounters], teachers: Sequence[str]) -> tuple[int, ...]:
    """Places of the games whose temperature is to be found now: they have play, and a teacher it was not found for.

    Args:
      config: of the run.
      games: where each stands.
      teachers: what tells the present teacher of each from others.
    """
    return tuple(
        place
        for place, (game, teacher) in enumerate(zip(games, teachers, strict=True))
        if config.is_auto_for(place) and game.env_steps > 0 and game.temperature_of != teacher
    )


def note_temperatures(
    setup: DistillSetup,
    games: Sequence[GameCounters],
    teachers: Sequence[str],
    places: Sequence[int],
    found: Sequence[FoundTemperature],
) -> list[str]:
    """Takes over what was found; returns what is to be told of it, a line each.

    Args:
      setup: of the run.
      games: where each stands; kept up to date.
      teachers: as for :func:`due_temperatures`.
      places: of the games that it was found for.
      found: of each of these.
    """
    lines = []
    for place, (temperature, entropy) in zip(places, found, strict=True):
        game, task = games[place], setup.tasks[place]
        game.temperature, game.temperature_of = temperature, teachers[place]
        share = entropy / math.log(task.num_actions) if task.num_actions > 1 else 0.0
        line = f"{task.name}: temperature {temperature:.4g}; the teacher's policy has an entropy of {share:.1%} there"
        if share > setup.config.loss.target_entropy * (1 + _NEAR):
            line += f", and at no temperature of {setup.config.loss.target_entropy:.1%}: equal outputs leave that much"
        lines.append(line)
    return lines


def temperature_values(names: Sequence[str], games: Sequence[GameCounters]) -> dict[str, float]:
    """The metrics that tell of them: ``temperature``, of several games with their names before.

    Args:
      names: the games'.
      games: where each stands.
    """
    prefixes = [f"{name}/" if len(names) > 1 else "" for name in names]
    return {
        f"{prefix}temperature": game.temperature
        for prefix, game in zip(prefixes, games, strict=True)
        if game.temperature is not None
    }


def temperatures_in_use(
    config: LossConfig, gives_logits: Sequence[bool], games: Sequence[GameCounters]
) -> list[float] | None:
    """What the outputs of each game's teacher are divided by; None where the loss divides them by nothing.

    Args:
      config: of the run.
      gives_logits: of each game's teacher, whether it gives logits; otherwise it gives Q-values.
      games: where each stands.
    """
    if not config.has_temperature:
        return None
    own = temperatures(config, gives_logits)
    return [value if game.temperature is None else game.temperature for value, game in zip(own, games, strict=True)]
