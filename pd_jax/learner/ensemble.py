"""Several students of one shape that train in one program, each as if it were alone.

They share replays, and differ in seed, temperature and learning rate, which are inputs of the program rather than
constants in it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pd_jax.config.sections import LearnerConfig
from pd_jax.learner.objective import AutoTemperature, LossFunction, WeightFunction
from pd_jax.learner.rule import LearnerState, Metrics, UpdateRule, make_rule
from pd_jax.learner.update import updates_from_replay
from pd_jax.networks.student import Student
from pd_jax.replay.rings import ReplayState
from pd_jax.replay.sequences import Stretch
from pd_jax.system.devices import DeviceGroup


class EnsembleLearner:
    """Updates K students on every device of a group: `jax.vmap` over the updates of one.

    Args:
      student: of all of them.
      loss_at: gives the loss at a temperature, a float32 scalar; a loss without one ignores it.
      config: as of a learner of one student, but for the learning rate.
      devices: that share each minibatch.
      total_updates: of the whole run.
      temperatures: of each student.
      learning_rates: of each student.
      weigh_at: gives what examples count at a temperature; None has all count the same.
      auto: of temperatures that are in the students' states; ``loss_at`` and ``weigh_at`` are then not looked at.
      stretch: as for :func:`pd_jax.learner.rule.make_rule`.

    Raises:
      ValueError: the minibatch does not split evenly over the devices, or there is not a temperature for each rate.
    """

    def __init__(
        self,
        student: Student,
        loss_at: Callable[[Any], LossFunction],
        config: LearnerConfig,
        devices: DeviceGroup,
        *,
        total_updates: int,
        temperatures: Sequence[float],
        learning_rates: Sequence[float],
        weigh_at: Callable[[Any], WeightFunction | None] = lambda _: None,
        auto: AutoTemperature | None = None,
        stretch: Stretch | None = None,
    ) -> None:
        if len(temperatures) != len(learning_rates):
            raise ValueError(f"{len(temperatures)} temperatures for {len(learning_rates)} learning rates")
        self._student = student
        self._loss_at, self._weigh_at, self._auto = loss_at, weigh_at, auto
        self._config, self._stretch = config, stretch
        self._devices = devices
        self._total_updates = total_updates
        self._settings = devices.replicate(
            (jnp.asarray(temperatures, jnp.float32), jnp.asarray(learning_rates, jnp.float32))
        )
        self._update_many: dict[int, Callable[..., Any]] = {}
        self._rule(temperatures[0], learning_rates[0])  # Checks the minibatch.

    def stack(self, states: Sequence[LearnerState]) -> LearnerState:
        """States of single students, without a device axis, as one on every device, ``[D, K, ...]``."""
        stacked: LearnerState = self._devices.replicate(jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))
        return stacked

    def unstack(self, states: LearnerState, index: int) -> LearnerState:
        """The state of one student, without a device axis, of ``[D, K, ...]``."""
        state: LearnerState = jax.tree.map(lambda leaf: leaf[index], self._devices.first(states))
        return state

    def update_from_replay(
        self, states: LearnerState, stored: tuple[ReplayState, ...], num_updates: int
    ) -> tuple[LearnerState, Metrics]:
        """``num_updates`` updates of every student in one call, each from minibatches of its own.

        Args:
          states: ``[D, K, ...]``; donated.
          stored: as for a learner of one student; all students draw from it.
          num_updates: a new number compiles anew.

        Returns:
          the next states and the metrics of each student, ``[D, K, ...]``.
        """
        if num_updates not in self._update_many:
            many = functools.partial(self._updates, num_updates=num_updates)
            self._update_many[num_updates] = self._devices.map(many, donate=(0,))
        return self._update_many[num_updates](states, stored, self._settings)

    def _updates(
        self,
        states: LearnerState,
        stored: tuple[ReplayState, ...],
        settings: tuple[Array, Array],
        num_updates: int,
    ) -> tuple[LearnerState, Metrics]:
        def of_one(state: LearnerState, temperature: Array, rate: Array) -> tuple[LearnerState, Metrics]:
            return updates_from_replay(self._rule(temperature, rate), state, stored, num_updates=num_updates)

        return jax.vmap(of_one)(states, *settings)

    def _rule(self, temperature: Any, learning_rate: Any) -> UpdateRule:
        """Of one student, whose settings may be numbers or what is being traced."""
        return make_rule(
            self._student,
            self._loss_at(temperature),
            dataclasses.replace(self._config, learning_rate=learning_rate),
            self._devices,
            total_updates=self._total_updates,
            weigh=self._weigh_at(temperature),
            auto=self._auto,
            stretch=self._stretch,
        )


def fetch_members(devices: DeviceGroup, metrics: dict[str, Array], count: int) -> list[Callable[[], dict[str, Any]]]:
    """For each student what gives its metrics; they are fetched from the devices once, when the first is asked for.

    Args:
      devices: of the ensemble.
      metrics: ``[D, K, ...]``.
      count: K.
    """
    first = devices.first(metrics)

    @functools.cache
    def fetched() -> dict[str, np.ndarray]:
        return {name: np.asarray(value) for name, value in first.items()}

    def fetch(index: int) -> dict[str, Any]:
        return {name: value[index] for name, value in fetched().items()}

    return [functools.partial(fetch, index) for index in range(count)]
