"""The protocol of a score: one precedence of the step limit, wherever it is asked for."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest

from pd_jax.config.distill import DistillConfig
from pd_jax.config.evaluate import EvaluateConfig
from pd_jax.config.online import OnlineConfig
from pd_jax.config.sections import EnvConfig, EvaluationConfig, OneGameEnvConfig, StudentEvaluationConfig
from pd_jax.environments.envpool import Environment
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.evaluation.protocol import Protocol, Rules

CARTPOLE, PONG = get_task("cartpole"), get_task("pong")


@pytest.mark.parametrize(("of_protocol", "of_env"), itertools.product([None, 70], [None, 90]))
def test_a_game_is_cut_by_the_protocol_before_the_environment_before_the_task(
    of_protocol: int | None, of_env: int | None
) -> None:
    config = DistillConfig(
        teacher="pong",
        out="-",
        env=EnvConfig(max_episode_steps=of_env),
        evaluation=StudentEvaluationConfig(max_episode_steps=of_protocol),
    )
    assert Protocol.of(config, PONG).max_episode_steps == (of_protocol or of_env or 27_000)


def test_a_command_whose_environments_have_no_limit_takes_the_tasks() -> None:
    config = EvaluateConfig(teacher="cartpole")
    assert Protocol.of(config, CARTPOLE).max_episode_steps == 500
    assert Protocol.of(config, PONG).max_episode_steps == 27_000


def test_the_teacher_of_an_online_run_is_scored_as_the_run_scores() -> None:
    config = OnlineConfig(game="cartpole", out="-", env=OneGameEnvConfig(max_episode_steps=33))
    ours, teachers = (Protocol.of(settings, CARTPOLE) for settings in (config, config.training("cartpole")))
    assert ours == teachers
    assert ours.max_episode_steps == 33


def test_starts_are_moved_by_every_offset() -> None:
    config = EvaluateConfig(teacher="pong", seed=3, evaluation=EvaluationConfig(seed_offset=100, episodes=7))
    protocol = Protocol.of(config, PONG, seed_offset=20)
    assert (protocol.seed, protocol.episodes) == (123, 7)
    assert Protocol.of(config, PONG, episodes=2).episodes == 2


def test_an_environment_takes_what_the_protocol_says_of_it() -> None:
    config = EvaluateConfig(teacher="cartpole", evaluation=EvaluationConfig(max_episode_steps=5))
    environment = Environment(CARTPOLE, 1, 0, **Protocol.of(config, CARTPOLE).environment_options)
    (_, timestep), steps = environment.reset(), 0
    while not np.asarray(timestep.is_last).all():
        # Left and right by turns: the pole stands for longer than that.
        timestep, steps = (
            environment.step_host(np.array([steps % 2], np.int32), np.asarray(timestep.is_last)),
            steps + 1,
        )
    environment.close()
    assert steps == 5


def test_it_is_kept_without_the_threads_which_change_nothing() -> None:
    config = DistillConfig(teacher="pong", out="-")
    more = dataclasses.replace(config, env=EnvConfig(num_threads=3))
    protocol, same = Protocol.of(config, PONG), Protocol.of(more, PONG)
    assert protocol == same
    assert Protocol.from_json(same.to_json()) == protocol
    assert "num_threads" not in same.to_json()


@pytest.mark.parametrize(
    ("evaluation", "env", "limit"),
    [({"max_episode_steps": 70}, {"max_episode_steps": 90}, 70), ({}, {"max_episode_steps": 90}, 90), ({}, {}, None)],
)
def test_a_runs_files_are_read_with_the_same_precedence(
    evaluation: dict[str, Any], env: dict[str, Any], limit: int | None
) -> None:
    rules = Rules.of_run({"evaluation": evaluation, "env": env}, {"evaluation_epsilon": 0.1}, PONG, "")
    assert rules == Rules(epsilon=0.1, max_noops=None, sticky_action_probability=None, max_episode_steps=limit)


def test_a_limit_that_is_the_tasks_own_says_nothing() -> None:
    rules = Rules.of_run({"evaluation": {"max_episode_steps": 27_000}}, {}, PONG, "")
    assert rules.max_episode_steps is None


def test_a_damaged_file_is_named() -> None:
    with pytest.raises(UserError, match=r"^x: max_episode_steps: 'long' is not a whole number from 0 on$"):
        Rules.of_run({"evaluation": {"max_episode_steps": "long"}}, {}, PONG, "x: ")
