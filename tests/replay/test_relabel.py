"""Relabelled play is play that the new teacher had labelled from the beginning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pd_jax.actors.live import LivePlay
from pd_jax.config.sections import EnvConfig
from pd_jax.environments.tasks import get_task
from pd_jax.networks.registry import make_network
from pd_jax.replay import rings
from pd_jax.replay.relabel import Relabeller
from pd_jax.system.devices import DeviceGroup
from pd_jax.teachers import load
from pd_jax.types import Trajectory

DEVICES = DeviceGroup.local(1)
LANES = 3


def random_play(task_name: str, num_steps: int, seed: int = 0) -> tuple[Trajectory, np.ndarray]:
    """Play of ``LANES`` lanes, and the observations ``[T, L, ...]`` that a policy would have been shown.

    Stacks are kept as they grow, by EnvPool's rule: four times the first frame, then the oldest goes.
    """
    task, rng = get_task(task_name), np.random.default_rng(seed)
    shape = (num_steps, LANES)
    is_first, is_decision = rng.random(shape) < 0.15, rng.random(shape) < 0.9
    is_first[0] = True
    if task.kind == "vector":
        frames = shown = rng.normal(size=(*shape, *task.frame_shape)).astype(np.float32)
    else:
        frames = rng.integers(256, size=(*shape, *task.frame_shape), dtype=np.uint8)
        shown = np.zeros((*shape, *task.observation_shape), np.uint8)
        for step, lane in np.ndindex(*shape):
            if is_first[step, lane]:
                shown[step, lane] = frames[step, lane][..., None]
            else:
                shown[step, lane] = np.concatenate([shown[step - 1, lane][..., 1:], frames[step, lane][..., None]], -1)
    nothing = np.zeros(shape, np.float32)
    labels = rng.normal(size=(*shape, task.num_actions)).astype(np.float32)
    return Trajectory(frames, is_first, is_decision, nothing.astype(np.int32), nothing, labels), shown


def stored_play(play: Trajectory, capacity: int, rollout: int) -> Any:
    frames = play.observations
    state = rings.init(LANES, capacity, frames.shape[2:], frames.dtype, play.teacher_q.shape[-1])
    for start in range(0, len(frames), rollout):
        state = rings.insert(state, jax.tree.map(lambda leaf, at=start: jnp.asarray(leaf[at : at + rollout]), play))
    return DEVICES.replicate(state)


@pytest.mark.parametrize(("task_name", "network_name"), [("pong", "net3"), ("acrobot", "mlp")])
@pytest.mark.parametrize(("num_steps", "capacity"), [(24, 80), (96, 80), (80, 80)])
def test_every_stored_step_gets_the_new_teachers_outputs_for_what_it_had_shown(
    task_name: str, network_name: str, num_steps: int, capacity: int, random_policy: Callable[..., Any]
) -> None:
    network, variables = random_policy(task_name, network_name)
    play, shown = random_play(task_name, num_steps)
    before = stored_play(play, capacity, rollout=8)
    others = {name: np.asarray(getattr(before, name)) for name in ("observations", "flags", "position", "size")}
    blocks: list[None] = []
    done = Relabeller(network.apply, DEVICES).relabel(before, variables, lambda: blocks.append(None))
    apply = jax.jit(network.apply)
    expected = np.stack([np.asarray(apply(variables, shown[step])) for step in range(num_steps)])
    teacher_q = rings.steps_of(done.stored, "teacher_q")[0]
    # Of a full ring the oldest 3 steps of each lane may have lost a part of their stack; those are never drawn.
    oldest = 0 if num_steps <= capacity - 8 else num_steps - capacity + 3
    for step in range(oldest, num_steps):
        np.testing.assert_array_equal(teacher_q[:, step % capacity], expected[step], err_msg=str(step))
    for name, value in others.items():
        np.testing.assert_array_equal(np.asarray(getattr(done.stored, name)), value, err_msg=name)
    assert done.steps == LANES * min(num_steps, capacity)
    assert len(blocks) == -(-min(num_steps, capacity) // 64)


def test_what_changed_is_counted_once_and_among_decisions_alone(random_policy: Callable[..., Any]) -> None:
    network, variables = random_policy("acrobot", "mlp")
    play, shown = random_play("acrobot", 70)
    # The last of two blocks begins within the first one.
    done = Relabeller(network.apply, DEVICES).relabel(stored_play(play, 70, rollout=10), variables)
    best = np.asarray(network.apply(variables, shown.reshape(-1, 6))).reshape(70, LANES, 3).argmax(-1)
    changed = (best != play.teacher_q.argmax(-1)) & play.is_decision
    assert 0 < changed.sum() < play.is_decision.sum()
    assert done.changed == pytest.approx(changed.sum() / play.is_decision.sum())


def test_the_same_teacher_changes_no_bit_of_what_it_labelled_in_live_play() -> None:
    teacher = load("cartpole")
    play = LivePlay(teacher, teacher.task, EnvConfig(num_lanes=4), rollout_length=40, epsilon=0.3, seed=3)
    (trajectory,) = play.rollouts(1)
    play.close()
    state = rings.insert(rings.init(4, 64, (4,), np.float32, 2), trajectory)
    live = np.asarray(trajectory.teacher_q).swapaxes(0, 1)
    done = Relabeller(teacher.network.apply, DEVICES).relabel(DEVICES.replicate(state), teacher.variables)
    np.testing.assert_array_equal(rings.steps_of(done.stored, "teacher_q")[0, :, :40], live)
    assert done.changed == 0.0


def test_an_empty_replay_has_nothing_to_relabel() -> None:
    network = make_network("mlp", 2)
    variables = network.init(jax.random.key(0), np.zeros((1, 4), np.float32))
    state = DEVICES.replicate(rings.init(LANES, 16, (4,), np.float32, 2))
    done = Relabeller(network.apply, DEVICES).relabel(state, variables)
    assert (done.steps, done.changed) == (0, 0.0)
    assert not np.asarray(done.stored.teacher_q).any()
