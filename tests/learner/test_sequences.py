"""Truncated backpropagation through time: against PyTorch's gradients of whole episodes, and over several devices."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from pd_jax.config.sections import LearnerConfig, StudentConfig
from pd_jax.environments.tasks import get_task
from pd_jax.learner.learner import Learner
from pd_jax.learner.minibatch import draw_minibatch
from pd_jax.learner.rule import UpdateRule, init_state, make_rule
from pd_jax.learner.update import answer, measure, updates_from_replay
from pd_jax.losses import mse_loss
from pd_jax.networks.student import make_student
from pd_jax.replay import rings
from pd_jax.replay.sequences import Stretch
from pd_jax.system.devices import AXIS, DeviceGroup
from pd_jax.types import Trajectory

ONE = DeviceGroup.local(1)
FEATURES, ACTIONS, SIZE, UNITS = 5, 3, 6, 4
TASK = dataclasses.replace(get_task("cartpole"), observation_shape=(FEATURES,), num_actions=ACTIONS)
# Of both lanes: where episodes open, and where observations end them.
OPENS = np.array([[1, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]], bool).T
ENDS = np.roll(OPENS, -1, axis=0)


def student(kind: str) -> Any:
    return make_student(
        StudentConfig(network="mlp", mlp_hidden=(UNITS,), memory=kind, memory_size=SIZE),  # type: ignore[arg-type]
        [TASK],
    )


def trajectory(lanes: int = 2, steps: int = 12, seed: int = 0) -> Trajectory:
    rng = np.random.default_rng(seed)
    opens = np.tile(OPENS, (steps // 12, lanes // 2))
    return Trajectory(
        observations=rng.standard_normal((steps, lanes, FEATURES)).astype(np.float32),
        is_first=opens,
        is_decision=~np.tile(ENDS, (steps // 12, lanes // 2)),
        actions=np.zeros((steps, lanes), np.int32),
        rewards=np.zeros((steps, lanes), np.float32),
        teacher_q=rng.standard_normal((steps, lanes, ACTIONS)).astype(np.float32),
    )


def stored(played: Trajectory, capacity: int) -> rings.ReplayState:
    return rings.insert(rings.init(played.is_first.shape[1], capacity, (FEATURES,), "float32", ACTIONS), played)


def rule_of(kind: str, length: int, burn_in: int, sequences: int = 4) -> UpdateRule:
    config = LearnerConfig(batch_size=sequences * length, sequence_length=length, burn_in=burn_in)
    return make_rule(student(kind), mse_loss, config, ONE, total_updates=10)


def gradients(rule: UpdateRule, variables: Any, replay: rings.ReplayState, key: jax.Array) -> tuple[Any, Any, Any]:
    """Ours, with where the sequences are: ``(gradients, measures, places)``."""

    def found(variables: Any, replay: rings.ReplayState) -> Any:
        drawn, fetch = draw_minibatch(rule, variables, (replay,), key)

        def loss(variables: Any) -> Any:
            outputs, batch = answer(rule, variables, fetch(drawn))
            measures = measure(rule, outputs, batch.teacher_q, batch.weights, batch.counts)
            return measures["loss"].mean(), measures

        gradients, measures = jax.grad(loss, has_aux=True)(variables)
        return gradients, measures, drawn["places"]

    mapped = jax.jit(jax.vmap(found, axis_name=AXIS))(*jax.tree.map(lambda leaf: leaf[None], (variables, replay)))
    result: tuple[Any, Any, Any] = jax.tree.map(lambda leaf: np.asarray(leaf[0]), mapped)
    return result


class Peer:
    """The same network in PyTorch, one step of one lane at a time."""

    def __init__(self, kind: str, variables: Any) -> None:
        params = jax.tree.map(lambda leaf: torch.tensor(np.asarray(leaf), requires_grad=True), variables["params"])
        self.kind, self.params = kind, params
        self.leaves = params

    def start(self) -> Any:
        zeros = torch.zeros(1, SIZE)
        return zeros if self.kind == "gru" else (zeros, zeros)

    def step(self, observation: np.ndarray, state: Any) -> tuple[torch.Tensor, Any]:
        torso, memory, head = (self.params[name] for name in ("torso", "memory", "head"))
        features = torch.relu(torch.tensor(observation)[None] @ torso["fc1"]["kernel"] + torso["fc1"]["bias"])
        recurrent, entering = memory["recurrent"], memory["input"]
        if self.kind == "gru":
            bias = torch.cat([torch.zeros(2 * SIZE), recurrent["bias"]])
            state = torch.gru_cell(features, state, entering["kernel"].T, recurrent["kernel"].T, entering["bias"], bias)
            hidden = state
        else:
            weights = entering["kernel"].T, recurrent["kernel"].T, entering["bias"], torch.zeros(4 * SIZE)
            state = torch.lstm_cell(features, state, *weights)
            hidden = state[0]
        return hidden @ head["output"]["kernel"] + head["output"]["bias"], state


def peer_gradients(
    kind: str, variables: Any, played: Trajectory, windows: list[tuple[int, int]], length: int, burn_in: int
) -> tuple[Any, float]:
    """PyTorch's, of windows that are told by lane and first step that is learnt from; the history before a burn-in is
    not there."""
    peer, losses = Peer(kind, variables), []
    for lane, begin in windows:
        state = peer.start()
        for time in range(begin - burn_in, begin + length):
            if played.is_first[time, lane]:
                state = peer.start()
            if time == begin:
                state = jax.tree.map(lambda part: part.detach(), state)
            outputs, state = peer.step(played.observations[time, lane], state)
            if time >= begin and played.is_decision[time, lane]:
                losses.append(((outputs[0] - torch.tensor(played.teacher_q[time, lane])) ** 2).sum())
    loss = torch.stack(losses).mean()
    loss.backward()
    return jax.tree.map(lambda leaf: leaf.grad.numpy(), peer.leaves), float(loss.detach())


@pytest.mark.parametrize("kind", ["gru", "lstm"])
@pytest.mark.parametrize(("length", "burn_in"), [(12, 0), (4, 3)], ids=["whole", "truncated"])
def test_gradients_are_pytorchs_of_the_unrolled_network(kind: str, length: int, burn_in: int) -> None:
    """Of whole episodes nothing is truncated, and they are the full gradients; otherwise they end at the burn-in."""
    played = trajectory()
    replay, rule = stored(played, 12), rule_of(kind, length, burn_in)
    variables = init_state(rule, jax.random.key(1)).variables
    found, measures, (lanes, starts) = gradients(rule, variables, replay, jax.random.key(3))
    windows = list(zip(lanes[0].tolist(), starts[0].tolist(), strict=True))
    assert len(windows) == 4
    assert (len(set(windows)) > 2) or length == 12
    expected, loss = peer_gradients(kind, variables, played, windows, length, burn_in)
    assert measures["loss"] == pytest.approx(loss, rel=1e-5)
    for ours, theirs in zip(jax.tree.leaves(found["params"]), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_longer_sequence_has_another_gradient_than_a_truncated_one() -> None:
    """So that the test above could fail: what is truncated is not nothing."""
    played = trajectory()
    variables = init_state(rule_of("gru", 12, 0), jax.random.key(1)).variables
    whole, _ = peer_gradients("gru", variables, played, [(0, 4)], 5, 0)
    later, _ = peer_gradients("gru", variables, played, [(0, 6)], 3, 2)
    kernels = [each["memory"]["recurrent"]["kernel"] for each in (whole, later)]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-3


@pytest.mark.slow
def test_sequences_are_the_same_in_one_share_and_in_two() -> None:
    config = LearnerConfig(batch_size=16, sequence_length=4, burn_in=2, learning_rate=3e-3, rmsprop_epsilon=1e-4)
    replay = stored(trajectory(lanes=4, steps=24), 24)
    halves = jax.tree.map(
        lambda leaf: leaf.reshape(2, 2, *leaf.shape[1:]) if leaf.ndim else jnp.stack([leaf] * 2), replay
    )
    two = dataclasses.replace(ONE, devices=ONE.devices * 2)
    rule = make_rule(student("gru"), mse_loss, config, two, total_updates=10)
    start = init_state(rule, jax.random.key(2))
    shared = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), start)
    many = functools.partial(updates_from_replay, rule, num_updates=5)
    after, metrics = jax.jit(jax.vmap(many, axis_name=AXIS))(shared, (halves,))
    learner = Learner(student("gru"), mse_loss, config, ONE, total_updates=10)
    expected, expected_metrics = learner.update_from_replay(
        learner.init(jax.random.key(2)), (ONE.replicate(replay),), 5
    )
    for found, wanted in zip(jax.tree.leaves(after.variables), jax.tree.leaves(expected.variables), strict=True):
        np.testing.assert_allclose(found, np.concatenate([wanted] * 2), atol=1e-6)
    for name in ("loss", "agreement"):
        np.testing.assert_allclose(metrics[name], np.concatenate([expected_metrics[name]] * 2), rtol=1e-5)


def test_parts_of_a_minibatch_of_sequences_add_up() -> None:
    replay, found = stored(trajectory(lanes=4, steps=24), 24), []
    for accumulate in (1, 2):
        config = LearnerConfig(batch_size=16, sequence_length=4, burn_in=2, accumulate=accumulate)
        learner = Learner(student("lstm"), mse_loss, config, ONE, total_updates=10)
        assert learner.rule.gradient_parts == accumulate
        found.append(learner.update_from_replay(learner.init(jax.random.key(2)), (ONE.replicate(replay),), 3)[0])
    for one, two in zip(*(jax.tree.leaves(state.variables) for state in found), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


@pytest.mark.slow
def test_games_of_several_students_learn_from_their_own_sequences() -> None:
    """With a head for each game, the loss of each is that of the game alone, and stretches keep to themselves."""
    tasks = [get_task("cartpole"), get_task("acrobot")]
    config = StudentConfig(network="mlp", mlp_hidden=(UNITS,), head_hidden=4, memory="gru", memory_size=SIZE)
    both = make_student(config, tasks)
    rng = np.random.default_rng(0)
    played = trajectory()
    replays = [
        rings.insert(
            rings.init(2, 12, task.observation_shape, "float32", task.num_actions),
            dataclasses.replace(
                played,
                observations=rng.standard_normal((12, 2, *task.observation_shape)).astype(np.float32),
                teacher_q=rng.standard_normal((12, 2, task.num_actions)).astype(np.float32),
            ),
        )
        for task in tasks
    ]
    settings = LearnerConfig(batch_size=8, sequence_length=4, burn_in=1)
    mask = jnp.asarray(both.mask[:, None])

    def loss(outputs: Any, teacher_q: Any) -> Any:
        return mse_loss(jnp.where(mask, outputs, 0.0), teacher_q)

    learner = Learner(both, loss, settings, ONE, total_updates=10, stretch=Stretch(6, 2))
    state, metrics = learner.update_from_replay(learner.init(jax.random.key(0)), tuple(map(ONE.replicate, replays)), 2)
    assert metrics["game_loss"].shape == (1, 2)
    assert np.isfinite(metrics["game_loss"]).all()
    assert int(state.updates[0]) == 2


def test_a_minibatch_that_is_no_whole_sequences_is_refused() -> None:
    with pytest.raises(ValueError, match="10 steps on each device are not 1 parts of whole sequences of 4"):
        make_rule(student("gru"), mse_loss, LearnerConfig(batch_size=10, sequence_length=4), ONE, total_updates=1)
