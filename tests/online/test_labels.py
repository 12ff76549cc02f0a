"""What becomes of stored outputs when the target is another."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pd_jax.config.online import OnlineConfig
from pd_jax.config.sections import OneGameEnvConfig, StudentConfig
from pd_jax.online.labels import Labels, RelabelTotals
from pd_jax.replay import rings
from pd_jax.replay.replay import Replay, RingSize
from pd_jax.system.devices import DeviceGroup
from pd_jax.types import Trajectory

DEVICES = DeviceGroup.local(1)
LANES, CAPACITY = 2, 24
INSERT = DEVICES.map(rings.insert)
SAMPLE = jax.jit(rings.sample, static_argnums=2)


def shift(variables: Any, observations: jax.Array) -> jax.Array:
    """A target whose outputs tell it, and the step, apart."""
    return jnp.concatenate([observations, variables + 0 * observations], -1)


class Player:
    """Plays steps that are numbered per lane, with targets that are numbered."""

    def __init__(self, stale: str, max_stale_steps: int | None = None) -> None:
        config = OnlineConfig(
            game="cartpole",
            out="-",
            stale=stale,  # type: ignore[arg-type]
            max_stale_steps=max_stale_steps,
            env=OneGameEnvConfig(num_lanes=LANES),
            student=StudentConfig(network="mlp"),
        )
        self.totals = RelabelTotals()
        self.labels = Labels(config, shift, DEVICES, self.totals)
        self.replay = Replay([RingSize(LANES, CAPACITY, (1,), np.float32, 2)], DEVICES)
        self.steps = 0
        self.target = 0.0
        self.labelled_by: list[float] = []

    def renew(self) -> None:
        self.target += 1
        self.labels.renew(self.replay, jnp.float32(self.target), lambda: None)

    def play(self, length: int) -> None:
        numbers = np.arange(self.steps, self.steps + length, dtype=np.float32)
        observations = np.tile(numbers[:, None, None], (1, LANES, 1))
        ones, nothing = np.ones((length, LANES), bool), np.zeros((length, LANES), np.float32)
        outputs = np.asarray(shift(jnp.float32(self.target), jnp.asarray(observations)))
        trajectory = Trajectory(observations, ones, ones, nothing.astype(np.int32), nothing, outputs)
        self.replay.insert(0, jax.tree.map(jnp.asarray, trajectory))
        self.steps += length
        self.labelled_by += [self.target] * length
        self.labels.played(self.replay, length)

    def draws(self) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of many drawn steps, and the targets that labelled them."""
        state = jax.tree.map(lambda leaf: leaf[0], self.replay.stored[0])
        batch = SAMPLE(state, jax.random.key(self.steps), 400)
        assert (np.asarray(batch.observations[:, 0]) == np.asarray(batch.teacher_q[:, 0])).all()
        return np.asarray(batch.observations[:, 0]).astype(int), np.asarray(batch.teacher_q[:, 1])


# Played steps, and None where the target becomes another.
HISTORY = [4, None, 4, 4, None, 4, None, None, 8, 8, 8, None, 4, 4]


@pytest.mark.parametrize("max_stale_steps", [None, 1, 6, 17, 1000])
def test_age_out_draws_no_older_targets_step_beyond_the_age_allowed_and_all_others(max_stale_steps: int | None) -> None:
    player = Player("age_out", max_stale_steps)
    allowed = (max_stale_steps or 0) // LANES
    dropped_from = 0
    for event in HISTORY:
        if event is None:
            player.renew()
        else:
            player.play(event)
        # Step by step: what the present target labelled, or is young enough. What was dropped does not come back.
        wanted = {
            step
            for step in range(max(dropped_from, player.steps - CAPACITY), player.steps)
            if player.labelled_by[step] == player.target or player.steps - step <= allowed
        }
        dropped_from = min(wanted, default=player.steps)
        if wanted:
            drawn, labels = player.draws()
            assert set(drawn) == wanted
            assert all(labels == np.array(player.labelled_by)[drawn])
            stale = sum(player.labelled_by[step] != player.target for step in wanted)
            assert player.labels.stale_share(player.replay) == pytest.approx(stale / len(wanted))
        else:
            assert player.labels.stale_share(player.replay) == 0


def test_relabel_leaves_no_outputs_of_an_older_target() -> None:
    player = Player("relabel")
    relabelled = []
    for event in HISTORY:
        if event is None:
            player.renew()
            relabelled.append(LANES * min(player.steps, CAPACITY))
        else:
            player.play(event)
        drawn, labels = player.draws()
        assert set(drawn) == set(range(max(0, player.steps - CAPACITY), player.steps))
        assert (labels == player.target).all()
        assert player.labels.stale_share(player.replay) == 0
    assert player.totals.steps == sum(relabelled)
    assert player.totals.seconds > 0
    assert player.labels.take_values()["relabelled_steps"] == relabelled[-1]
    assert player.labels.take_values() == {}


def test_keep_leaves_every_step_as_it_was_labelled_and_says_how_many_are_stale() -> None:
    player = Player("keep")
    for event in (8, None, 4, None, 4):
        if event is None:
            player.renew()
        else:
            player.play(event)
    drawn, labels = player.draws()
    assert set(drawn) == set(range(16))
    assert all(labels == np.array(player.labelled_by)[drawn])
    assert player.labels.stale_share(player.replay) == pytest.approx(12 / 16)
