"""Games of Atari of which the console's memory is seen, alone or beside their frames."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from pd_jax.environments.envpool import Environment
from pd_jax.environments.tasks import get_task, known_task
from pd_jax.errors import UserError

LANES, STEPS = 3, 30
ACTIONS = np.random.default_rng(0).integers(6, size=(STEPS, LANES)).astype(np.int32)


def played(environment: Environment) -> tuple[list[Any], list[Any]]:
    """Time steps and the memory of the consoles beside them, stepped from the host."""
    steps, memories = [environment.reset()[1]], [environment.ram]
    for actions in ACTIONS:
        steps.append(environment.step_host(actions, np.asarray(steps[-1].is_last)))
        memories.append(environment.ram)
    return jax.tree.map(np.array, steps), memories


@pytest.mark.parametrize(("name", "beside"), [("pong_ram", "frames"), ("pong", "ram")])
def test_memory_and_frames_of_one_step_are_those_of_the_emulator(name: str, beside: Any) -> None:
    task = get_task(name)
    steps, memories = played(Environment(task, LANES, 5, stepping="host", beside=beside, max_episode_steps=20))
    plain, _ = played(Environment(get_task("pong"), LANES, 5, stepping="host", max_episode_steps=20))
    for step, memory, frames in zip(steps, memories, plain, strict=True):
        ram, seen = (step.observations, step.beside) if task.ram else (step.beside, step.observations)
        assert ram.dtype == np.float32
        np.testing.assert_allclose(ram, memory / 255, rtol=1e-6)
        np.testing.assert_array_equal(seen, frames.observations)
        np.testing.assert_array_equal(step.rewards, frames.rewards)
        np.testing.assert_array_equal(step.is_first, frames.is_first)
    assert any(step.is_first.any() for step in steps[1:])


@pytest.mark.parametrize(("name", "beside"), [("pong_ram", "frames"), ("pong", "ram")])
def test_stepped_inside_jit_both_are_the_same(name: str, beside: Any) -> None:
    task = get_task(name)
    steps, _ = played(Environment(task, LANES, 5, stepping="host", beside=beside))
    environment = Environment(task, LANES, 5, stepping="jit", beside=beside)
    handle, timestep = environment.reset()
    step = jax.jit(environment.step)
    for actions, expected in zip(ACTIONS, steps[1:], strict=True):
        handle, timestep = step(handle, actions, timestep)
        jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, timestep), expected)
    environment.close()


def test_a_memory_task_goes_by_the_names_of_others() -> None:
    task = get_task("pong_ram")
    assert (task.name, task.env_id, task.pool_id, task.observation_shape) == (
        "pong_ram",
        "Pong-ram-v5",
        "Pong-v5",
        (128,),
    )
    assert get_task("Pong-ram-v5") == get_task("PONG_RAM") == known_task("pong_ram") == task
    assert get_task("ms_pacman_ram").pool_id == "MsPacman-v5"
    assert task.is_console
    assert task.action_names == get_task("pong").action_names
    assert not get_task("cartpole").is_console
    with pytest.raises(UserError, match="cartpole is no game of Atari"):
        get_task("cartpole_ram")
    assert known_task("cartpole_ram") is None


def test_memory_is_refused_where_there_is_none() -> None:
    with pytest.raises(ValueError, match="memory beside frames is EnvPool's"):
        Environment(get_task("cartpole"), 1, 0, beside="ram")
    with pytest.raises(ValueError, match="memory beside frames is EnvPool's"):
        Environment(get_task("pong_ram"), 1, 0, stepping="host", backend="ale")
