"""Which protocol numbers amount to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pd_jax.environments.envpool import Environment
from pd_jax.environments.protocols import PROTOCOLS, protocol_name
from pd_jax.environments.tasks import get_task

CLASSIC = {"max_noops": 30, "sticky_action_probability": 0.0}
MODERN = {"max_noops": 1, "sticky_action_probability": 0.25, "fire_reset": False}


@pytest.mark.parametrize(
    ("rules", "name"),
    [
        (CLASSIC, "classic"),
        (CLASSIC | {"max_episode_steps": None}, "classic"),
        (CLASSIC | {"max_episode_steps": 27_000, "num_threads": 3}, "classic"),
        (MODERN | {"max_episode_steps": 27_000}, "modern"),
        (MODERN | {"fire_reset": True}, "custom"),
        (CLASSIC | {"sticky_action_probability": 0.25}, "custom"),
        (CLASSIC | {"max_episode_steps": 4_500}, "custom"),
        ({"max_noops": 30}, None),
        ({}, None),
        ({"max_noops": "many", "sticky_action_probability": [0.0]}, "custom"),
    ],
)
def test_the_protocol_follows_from_the_numbers(rules: dict[str, Any], name: str | None) -> None:
    assert protocol_name(rules) == name


def test_in_words() -> None:
    assert PROTOCOLS["classic"].describe() == "no sticky actions, up to 30 no-ops"
    assert PROTOCOLS["modern"].describe() == "sticky actions (0.25), no random no-ops, no FIRE at the start"


def test_modern_games_all_open_alike_and_breakouts_ball_waits_for_the_agent() -> None:
    rules = PROTOCOLS["modern"]
    starts = {"max_noops": rules.max_noops, "fire_reset": rules.fire_reset}
    environment = Environment(get_task("breakout"), 8, 0, stepping="host", **starts)
    _, timestep = environment.reset()
    assert len(np.unique(np.asarray(timestep.observations), axis=0)) == 1
    # Nobody presses FIRE: after the first frames nothing moves.
    waiting = [environment.step_host(np.zeros(8, np.int32), np.zeros(8, bool)) for _ in range(9)]
    assert (waiting[-1].observations[0, ..., -1] == waiting[-4].observations[0, ..., -1]).all()
    environment.close()
