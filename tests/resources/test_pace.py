"""How fast a training goes: what is counted, and what the shares are shares of."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from pd_jax.environments.envpool import Environment
from pd_jax.environments.tasks import get_task
from pd_jax.evaluation.scores import Score
from pd_jax.networks.registry import make_network
from pd_jax.report.terminal import print_teacher
from pd_jax.resources import pace
from pd_jax.resources.pace import Pace
from pd_jax.runs.summary import GameSummary, Summary


def test_the_first_iteration_and_those_that_only_fill_a_replay_are_not_counted() -> None:
    pace = Pace()
    assert pace.env_steps_per_second is None
    for seconds, updates in ((100.0, 8), (1.0, 0), (2.0, 8), (3.0, 8)):
        pace.count(50, seconds, updates=updates)
    assert pace.env_steps_per_second == 100 / 5


def test_shares_add_up_to_one_unless_the_times_contradict_each_other() -> None:
    assert pace.time_shares({"stepping": 2.0, "inference": 1.0}, 4.0) == {
        "stepping": 0.5,
        "inference": 0.25,
        "updates": 0.25,
    }
    # A little more than the whole is nothing but noise.
    assert pace.time_shares({"stepping": 3.15, "inference": 1.05}, 4.0) == {
        "stepping": pytest.approx(0.75),
        "inference": pytest.approx(0.25),
        "updates": 0.0,
    }
    # On a machine that is busier now, the parts may take longer than the whole did.
    assert pace.time_shares({"stepping": 6.0, "inference": 2.0}, 4.0) is None


def test_a_busy_machine_leaves_what_bounds_a_training_open(capsys: pytest.CaptureFixture[str]) -> None:
    environment, network = Environment(get_task("cartpole"), 8, 0), make_network("mlp", 2)
    pace = Pace()
    for _ in range(2):
        pace.count(80, 1e-9, updates=1)
    speed = pace.summarise([(environment, network)], network.init(jax.random.key(0), jnp.zeros((1, 4))))
    environment.close()
    assert (speed["time_shares"], speed["bound_by"]) == (None, None)
    games = {"cartpole": GameSummary(Score(1.0, 0.1, 0.8, 1.2, 4), None)}
    print_teacher(Summary(games, env_steps=160, wall_seconds=1.0, about={"teacher": "x"} | speed, is_flat=True))
    assert "(the machine was too busy to tell what bounds it)" in capsys.readouterr().out


def test_the_largest_share_is_what_bounds_a_training() -> None:
    environment, network = Environment(get_task("cartpole"), 8, 0), make_network("mlp", 2)
    variables = network.init(jax.random.key(0), jnp.zeros((1, 4)))
    pace = Pace()
    assert pace.summarise([(environment, network)], variables) == {}
    for _ in range(2):
        pace.count(80, 1000.0, updates=1)
    # Ten steps of 8 lanes in 1,000 s: a machine that needs 10 s for the steps alone is not one of these.
    summary = pace.summarise([(environment, network)], variables)
    environment.close()
    assert summary["env_steps_per_second"] == 0.08
    assert summary["bound_by"] == "updates"
    assert summary["time_shares"]["updates"] > 0.99
    assert sum(summary["time_shares"].values()) == pytest.approx(1)


@pytest.mark.parametrize("stepping", ["jit", "host"])
def test_a_continuous_task_is_stepped_by_actions_of_its_own(stepping: Any) -> None:
    environment = Environment(get_task("Pendulum-v1"), 3, 0, stepping=stepping)
    assert pace.stepping_seconds(environment, steps=2) > 0
    environment.close()
