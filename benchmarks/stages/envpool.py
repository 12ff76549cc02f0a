"""EnvPool alone: control steps a second by lanes, from the host at once, from the host as they come, and inside jit."""

from __future__ import annotations

import itertools
from typing import Any

import envpool
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.harness.measure import Work, rates, take_turns
from benchmarks.harness.rows import Row, make_row
from benchmarks.stages.context import Context
from pd_jax.environments.envpool import Environment
from pd_jax.environments.tasks import Task


def run(context: Context) -> list[Row]:
    """A row for each number of lanes and way of stepping. Actions are random."""
    rows = []
    for lanes in context.size.lanes:
        rows += _measure(context, lanes)
    return rows


def _measure(context: Context, lanes: int) -> list[Row]:
    task, steps = context.material.task, max(1, context.size.call_env_steps // lanes)
    environments = {name: Environment(task, lanes, 0) for name in ("sync", "jit")}
    works = {
        "sync": host_stepping(environments["sync"], steps),
        "jit": jit_stepping(environments["jit"], steps),
    }
    if lanes > 1:
        works["async"] = _async_stepping(task, lanes, steps)
    seconds = take_turns(works, context.turns)
    for environment in environments.values():
        environment.close()
    return [
        make_row("envpool", {"lanes": lanes, "stepping": name}, "steps/s", rates(lanes * steps, seconds[name]))
        for name in works
    ]


def jit_stepping(environment: Environment, num_steps: int) -> Work:
    """Random play inside one compiled scan, as rollouts step."""
    lanes, num_actions = environment.num_lanes, environment.task.num_actions
    carry: Any = environment.reset()

    @jax.jit
    def many(carry: Any, key: jax.Array) -> Any:
        return _play(environment, carry, jax.random.randint(key, (num_steps, lanes), 0, num_actions))

    key = jax.random.key(0)

    def work() -> object:
        nonlocal carry, key
        key, _ = jax.random.split(key)
        carry, rewards = many(carry, key)
        return carry, rewards

    return work


def repeated_stepping(environment: Environment, actions: np.ndarray, num_steps: int) -> Work:
    """Play of given actions, likewise: each call goes on with the next of them, and with the first after the last.

    Args:
      environment: before its first step.
      actions: ``[T, L, ...]``. What was played from such a start leads to the same states, until they begin anew.
      num_steps: of a call; a divisor of T.
    """
    carry: Any = environment.reset()
    many = jax.jit(lambda carry, actions: _play(environment, carry, actions))
    parts = itertools.cycle(jnp.asarray(actions).reshape(-1, num_steps, *actions.shape[1:]))

    def work() -> object:
        nonlocal carry
        carry, rewards = many(carry, next(parts))
        return carry, rewards

    return work


def _play(environment: Environment, carry: Any, actions: jax.Array) -> Any:
    """Steps of actions ``[T, L, ...]``, from a handle and a time step to the next ones, and the rewards ``[T, L]``."""

    def step(carry: Any, actions: jax.Array) -> tuple[Any, jax.Array]:
        handle, timestep = environment.step(carry[0], actions, carry[1])
        return (handle, timestep), timestep.rewards

    return lax.scan(step, carry, actions)


def host_stepping(environment: Environment, num_steps: int) -> Work:
    """Random play stepped from Python, all lanes at once."""
    generator = np.random.default_rng(0)
    is_last: Any = np.asarray(environment.reset()[1].is_last)

    def work() -> None:
        nonlocal is_last
        for _ in range(num_steps):
            actions = generator.integers(0, environment.task.num_actions, environment.num_lanes, dtype=np.int32)
            is_last = environment.step_host(actions, is_last).is_last

    return work


def _async_stepping(task: Task, lanes: int, num_steps: int) -> Work:
    """Random play in which half of the lanes are waited for, whichever are done first.

    Every call begins and ends with all lanes at rest: what is done between two calls would not be timed.
    """
    half = lanes // 2
    options = {"stack_num": 4, "frame_skip": 4, "reward_clip": False}
    pool: Any = envpool.make(task.env_id, env_type="gymnasium", num_envs=lanes, batch_size=half, seed=0, **options)
    pool.async_reset()
    generator = np.random.default_rng(0)
    ready = [_recv(pool) for _ in range(lanes // half)]

    def send(lane_numbers: np.ndarray) -> None:
        pool.send(generator.integers(0, task.num_actions, len(lane_numbers), dtype=np.int32), lane_numbers)

    def work() -> None:
        for lane_numbers in ready:
            send(lane_numbers)
        for _ in range((num_steps - 1) * lanes // half):
            send(_recv(pool))
        ready[:] = [_recv(pool) for _ in ready]

    return work


def _recv(pool: Any) -> np.ndarray:
    lane_numbers: np.ndarray = pool.recv()[-1]["env_id"]
    return lane_numbers
