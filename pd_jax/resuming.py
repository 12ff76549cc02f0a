"""What a resumed run may not set anew, though nothing would keep it from going on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pd_jax.config import DistillConfig
from pd_jax.errors import UserError

_PROTOCOL = ("epsilon", "seed_offset", "max_episode_steps")


def check_resumed(config: DistillConfig, there: Mapping[str, Any]) -> None:
    """Raises a UserError for changes to a resumed run that would spoil what it has done so far.

    Args:
      config: with which it is to go on.
      there: the configuration with which it was begun, nested mappings of plain values.
    """
    evaluation = there["evaluation"]
    for name in _PROTOCOL if evaluation["every_rounds"] and config.evaluation.every_rounds else ():
        if getattr(config.evaluation, name) != evaluation[name]:
            raise UserError(
                f"evaluation.{name}: is {evaluation[name]} in {config.out}, whose scores on the way are to be "
                "compared; keep it, or choose another --out"
            )
    before, now = there["schedule"]["rounds"], config.schedule.rounds
    if now < before:
        raise UserError(f"schedule.rounds: {now} is less than {config.out} has ({before})")
    if now > before and config.learner.learning_rate_decay:
        raise UserError(
            f"schedule.rounds: {now} is more than {config.out} has ({before}), and its learning rate falls to 0 over "
            "these; choose another --out"
        )
