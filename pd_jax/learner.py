"""The student's learner: its state, one per-device update, and several of them in one call."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.flatten_util import ravel_pytree

from pd_jax import replay
from pd_jax.config import LearnerConfig
from pd_jax.distributed import AXIS, DeviceGroup
from pd_jax.replay import ReplayState
from pd_jax.types import Batch

LossFunction = Callable[[Array, Array], Array]
"""``(student_logits [B, A], teacher_q [B, A]) -> float32 [B]``."""


@flax.struct.dataclass
class LearnerState:
    """What training goes on from; identical on every device.

    Attributes:
      variables: the student's.
      optimizer_state: optax's.
      updates: int32 scalar, updates done.
      key: PRNG key of the sampling.
    """

    variables: Any
    optimizer_state: Any
    updates: Array
    key: Array


def make_optimizer(config: LearnerConfig, total_updates: int) -> optax.GradientTransformation:
    """RMSProp as in the paper, or Adam; behind a bound on the gradient's norm if one is set.

    Args:
      config: rates and bounds.
      total_updates: after which a decaying learning rate is 0. The state's structure does not depend on it.
    """
    # A schedule in both cases: the optimizer's state keeps its shape.
    learning_rate = optax.constant_schedule(config.learning_rate)
    if config.learning_rate_decay:
        learning_rate = optax.linear_schedule(config.learning_rate, 0.0, total_updates)
    if config.optimizer == "rmsprop":
        optimizer = optax.rmsprop(learning_rate, decay=config.rmsprop_decay, eps=config.rmsprop_epsilon)
    else:
        optimizer = optax.adam(learning_rate)
    if config.max_grad_norm is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optimizer)


class Learner:
    """Updates a student on every device of a group.

    Args:
      network: the student's module.
      loss: per example, see :mod:`pd_jax.losses`.
      config: optimizer and minibatch.
      devices: that share each minibatch.
      total_updates: of the whole run, over which a decaying learning rate falls.

    Raises:
      ValueError: the minibatch does not split evenly over the devices.
    """

    def __init__(
        self, network: Any, loss: LossFunction, config: LearnerConfig, devices: DeviceGroup, *, total_updates: int
    ) -> None:
        if config.batch_size % devices.size:
            raise ValueError(f"batch_size {config.batch_size} does not split evenly over {devices.size} devices")
        self._network = network
        self._loss = loss
        self._optimizer = make_optimizer(config, total_updates)
        self._batch_per_device = config.batch_size // devices.size
        self._devices = devices
        # Compiled whole: one by one, the initialisers and the unused forward pass take twice as long.
        self._init = jax.jit(self._init_state)
        self._update = devices.map(self._device_update, donate=(0,))
        self._update_many: dict[int, Callable[..., Any]] = {}

    def init(self, key: Array, observations: Array) -> LearnerState:
        """A fresh student, the same on every device.

        Args:
          key: PRNG key.
          observations: an example of a batch, ``[B, ...]``.
        """
        return self._devices.replicate(self.init_single(key, observations))

    def init_single(self, key: Array, observations: Array) -> LearnerState:
        """As :meth:`init`, without the device axis."""
        state: LearnerState = self._init(key, observations)
        return state

    def update(self, state: LearnerState, batch: Batch) -> tuple[LearnerState, dict[str, Array]]:
        """One update from a given minibatch.

        Args:
          state: with a device axis; donated.
          batch: ``[D, B / D, ...]``.

        Returns:
          the next state and the minibatch's ``loss``, ``agreement`` and ``grad_norm``, float32 ``[D]``.
        """
        return self._update(state, batch)

    def update_from_replay(
        self, state: LearnerState, stored: ReplayState, num_updates: int
    ) -> tuple[LearnerState, dict[str, Array]]:
        """``num_updates`` updates in one call, each from a fresh minibatch of every device's own replay.

        Args:
          state: with a device axis; donated.
          stored: with a device axis.
          num_updates: a new number compiles anew.

        Returns:
          the next state and the mean metrics of the call, float32 ``[D]``.
        """
        if num_updates not in self._update_many:

            def many(state: LearnerState, stored: ReplayState) -> tuple[LearnerState, dict[str, Array]]:
                state, metrics = lax.scan(lambda s, _: self._sampled_update(s, stored), state, length=num_updates)
                return state, jax.tree.map(jnp.mean, metrics)

            self._update_many[num_updates] = self._devices.map(many, donate=(0,))
        return self._update_many[num_updates](state, stored)

    def _init_state(self, key: Array, observations: Array) -> LearnerState:
        init_key, key = jax.random.split(key)
        variables = self._network.init(init_key, observations)
        return LearnerState(variables, self._optimizer.init(variables), jnp.zeros((), jnp.int32), key)

    def _sampled_update(self, state: LearnerState, stored: ReplayState) -> tuple[LearnerState, dict[str, Array]]:
        key, sample_key = jax.random.split(state.key)
        batch = replay.sample(stored, jax.random.fold_in(sample_key, lax.axis_index(AXIS)), self._batch_per_device)
        return self._device_update(dataclasses.replace(state, key=key), batch)

    def _device_update(self, state: LearnerState, batch: Batch) -> tuple[LearnerState, dict[str, Array]]:
        """One device's part: gradients of its slice, averaged over all, then the same step everywhere."""

        def mean_loss(variables: Any) -> tuple[Array, Array]:
            student_logits = self._network.apply(variables, batch.observations)
            agrees = jnp.argmax(student_logits, axis=-1) == jnp.argmax(batch.teacher_q, axis=-1)
            return self._loss(student_logits, batch.teacher_q).mean(), agrees.mean(dtype=jnp.float32)

        (loss, agreement), gradients = jax.value_and_grad(mean_loss, has_aux=True)(state.variables)
        # One vector, so that an update costs exactly one all-reduce on every backend.
        flat, unravel = ravel_pytree((gradients, loss, agreement))
        gradients, loss, agreement = unravel(lax.pmean(flat, AXIS))
        changes, optimizer_state = self._optimizer.update(gradients, state.optimizer_state, state.variables)
        metrics = {"loss": loss, "agreement": agreement, "grad_norm": optax.tree.norm(gradients)}
        return (
            LearnerState(
                variables=optax.apply_updates(state.variables, changes),
                optimizer_state=optimizer_state,
                updates=state.updates + 1,
                key=state.key,
            ),
            metrics,
        )
