"""The student's learner: its state, one per-device update, and several of them in one call."""

from __future__ import annotations

import dataclasses
import functools
import math
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import chex
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.flatten_util import ravel_pytree

from pd_jax.config.sections import LearnerConfig
from pd_jax.learner.gradients import MeanLoss, mean_gradients
from pd_jax.networks import partition
from pd_jax.networks.student import Student
from pd_jax.replay import rings
from pd_jax.replay.rings import ReplayState
from pd_jax.system.devices import AXIS, DeviceGroup
from pd_jax.types import Batch

LossFunction = Callable[[Array, Array], Array]
"""``(student_outputs [G, B, A], teacher_q [G, B, A]) -> float32 [G, B]``; knows the mask and the temperatures.

A student of one game calls it without the game axis, which would change how XLA rounds the sums over a minibatch.
"""

Games = tuple[int, ...] | None
"""Places of the games that are learnt, in order; None is all of them."""


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


def learner_template(student: Student, config: LearnerConfig) -> LearnerState:
    """Shapes and dtypes of a learner's state, which is what its checkpoints hold, without computing any of it."""

    def init(key: Array) -> LearnerState:
        variables = student.init(key)
        optimizer_state = make_optimizer(config, total_updates=1).init(variables)
        return LearnerState(variables, optimizer_state, jnp.zeros((), jnp.int32), key)

    template: LearnerState = jax.eval_shape(init, jax.random.key(0))
    return template


def gradient_parts(student: Student, config: LearnerConfig, devices: DeviceGroup) -> int:
    """Parts that each device takes its gradients in: as many as are asked for, and those in what suits the platform."""
    share = config.batch_size // devices.size // config.accumulate
    seen = 1 if config.games == "alternating" else student.num_games
    return config.accumulate * partition.gradient_parts(student.network, share, seen)


class Learner:
    """Updates a student on every device of a group.

    Args:
      student: of G games.
      loss: per example, see :mod:`pd_jax.losses`. It must not look at actions that a game does not have: the student's
        outputs are ``-inf`` there.
      config: optimizer, minibatch, and whether an update sees every game or one after another.
      devices: that share each minibatch.
      total_updates: of the whole run, over which a decaying learning rate falls.
      divergence: as ``loss``; measured and reported as ``game_kl``, not learnt from. None reports none.

    Raises:
      ValueError: the minibatch does not split evenly over the devices, or not into as many parts on each.
    """

    def __init__(
        self,
        student: Student,
        loss: LossFunction,
        config: LearnerConfig,
        devices: DeviceGroup,
        *,
        total_updates: int,
        divergence: LossFunction | None = None,
    ) -> None:
        if config.batch_size % devices.size:
            raise ValueError(f"batch_size {config.batch_size} does not split evenly over {devices.size} devices")
        if config.batch_size // devices.size % config.accumulate:
            share = config.batch_size // devices.size
            raise ValueError(f"{share} examples on each device do not split into {config.accumulate} parts")
        self._student = student
        self._parts = gradient_parts(student, config, devices)
        self._num_games = student.num_games
        self._loss = loss
        self._divergence = divergence
        self._alternating = config.games == "alternating" and student.num_games > 1
        self._optimizer = make_optimizer(config, total_updates)
        self._batch_per_device = config.batch_size // devices.size
        self._devices = devices
        # Compiled whole: one by one, the initialisers and the unused forward pass take twice as long.
        self._init = jax.jit(self._init_state)
        self._update = devices.map(self._device_update, donate=(0,))
        self._update_many: dict[tuple[int, Games], Any] = {}
        self._compiling: dict[tuple[int, Games], Future[None]] = {}

    def init(self, key: Array) -> LearnerState:
        """A fresh student, the same on every device."""
        return self._devices.replicate(self.init_single(key))

    def init_single(self, key: Array) -> LearnerState:
        """As :meth:`init`, without the device axis."""
        state: LearnerState = self._init(key)
        return state

    def update(self, state: LearnerState, batch: Batch) -> tuple[LearnerState, dict[str, Array]]:
        """One update from a given minibatch.

        Args:
          state: with a device axis; donated.
          batch: ``[D, G, B / D, ...]``. Where games alternate, only that of game ``state.updates`` mod G is used.

        Returns:
          the next state and the minibatch's metrics. ``loss``, ``agreement`` (the student's greedy action is the
          teacher's) and ``grad_norm``, float32 ``[D]``, are of the update, means over the games it saw; ``game_loss``,
          ``game_agreement`` and, with a divergence, ``game_kl``, float32 ``[D, G]``, are of each game, NaN if it was
          not seen.
        """
        return self._update(state, batch)

    def update_from_replay(
        self, state: LearnerState, stored: tuple[ReplayState, ...], num_updates: int, games: Games = None
    ) -> tuple[LearnerState, dict[str, Array]]:
        """``num_updates`` updates in one call, each from fresh minibatches of every device's own replays.

        Args:
          state: with a device axis; donated.
          stored: a replay for each game, with a device axis. Lanes, capacity, length of vectors and number of actions
            may differ.
          num_updates: a new number compiles anew, as do other games.
          games: places of those to learn; the replays of others may be empty. None learns all.

        Returns:
          the next state and the metrics of :meth:`update`, means over those updates that saw the game.
        """
        if len(stored) != self._num_games:
            raise ValueError(f"{len(stored)} replays for {self._num_games} games")
        if (compiling := self._compiling.pop((num_updates, games), None)) is not None:
            compiling.result()
        return self._many(num_updates, games)(state, stored)

    def compile_ahead(self, state: LearnerState, stored: tuple[ReplayState, ...], num_updates: int) -> None:
        """Compiles in a thread what :meth:`update_from_replay` will run; that waits for it, and raises what it raised.

        Args:
          state: with a device axis; only its shape is looked at.
          stored: as ``state``.
          num_updates: of a call, in which all games are learnt. If it was asked for before, nothing happens.
        """
        if (num_updates, None) in self._update_many:
            return
        many = self._many(num_updates, None)
        shapes = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), (state, stored)
        )
        done: Future[None] = Future()

        def compile_it() -> None:
            try:
                many.lower(*shapes).compile()
                done.set_result(None)
            except BaseException as error:
                done.set_exception(error)

        self._compiling[num_updates, None] = done
        threading.Thread(target=compile_it, name="compile-updates").start()

    def _many(self, num_updates: int, games: Games) -> Any:
        """Several updates over the devices, made at the first call."""
        if (num_updates, games) not in self._update_many:
            many = functools.partial(self.per_device_updates, num_updates=num_updates, games=games)
            self._update_many[num_updates, games] = self._devices.map(many, donate=(0,))
        return self._update_many[num_updates, games]

    def per_device_updates(
        self, state: LearnerState, stored: tuple[ReplayState, ...], num_updates: int, games: Games = None
    ) -> tuple[LearnerState, dict[str, Array]]:
        """One device's part of :meth:`update_from_replay`, to be mapped over the devices; without their axis."""
        seen = self._games_seen(state.updates + jnp.arange(num_updates), games)
        state, metrics = lax.scan(lambda s, _: self._sampled_update(s, stored, games), state, length=num_updates)
        return state, {
            # Only the NaN of games that an update did not see is left out; others are to be noticed.
            name: jnp.where(seen, value, 0.0).sum(0) / seen.sum(0) if value.ndim > 1 else jnp.mean(value)
            for name, value in metrics.items()
        }

    def _init_state(self, key: Array) -> LearnerState:
        init_key, key = jax.random.split(key)
        variables = self._student.init(init_key)
        return LearnerState(variables, self._optimizer.init(variables), jnp.zeros((), jnp.int32), key)

    def _games_seen(self, updates: Array, games: Games) -> Array:
        """Which games the update after ``updates`` others sees: bool ``[..., G]``."""
        places = jnp.arange(self._num_games)
        if self._alternating:
            return self._turn(updates, games)[..., None] == places
        learnt = jnp.ones(self._num_games, jnp.bool_) if games is None else jnp.isin(places, jnp.array(games))
        return jnp.broadcast_to(learnt, (*updates.shape, self._num_games))

    def _turn(self, updates: Array, games: Games) -> Array:
        """The game whose turn it is after ``updates`` others, where they alternate."""
        return updates % self._num_games if games is None else jnp.array(games)[updates % len(games)]

    def _sampled_update(
        self, state: LearnerState, stored: tuple[ReplayState, ...], games: Games
    ) -> tuple[LearnerState, dict[str, Array]]:
        key, sample_key = jax.random.split(state.key)
        state = dataclasses.replace(state, key=key)
        if self._alternating:
            # Replays differ in shape, so which of them is drawn from is a branch; what follows is the same for all.
            samplers = [
                lambda key, game=game: self._fetch(stored[game], *self._place(stored, game, key))
                for game in range(self._num_games)
            ]
            batch = lax.switch(self._turn(state.updates, games), samplers, sample_key)
            return self._update_on_one(state, batch, games)
        places = [self._place(stored, game, sample_key) for game in range(self._num_games)]

        def fetch(places: Any) -> Batch:
            # What an empty replay gives is not learnt from.
            batches = [self._fetch(store, *here) for store, here in zip(stored, zip(*places, strict=True), strict=True)]
            return jax.tree.map(lambda *parts: jnp.stack(parts), *batches)

        return self._update_on_all(state, jax.tree.map(lambda *parts: jnp.stack(parts), *places), games, fetch)

    @jax.named_scope("sample")
    def _place(self, stored: tuple[ReplayState, ...], game: int, key: Array) -> tuple[Array, Array]:
        """Where one device's slice ``[B / D]`` of a game's minibatch is: lanes and slots.

        The minibatch of all devices is the same for any number of them: lanes are drawn from in as many groups as the
        largest number of devices that lanes and minibatch could be dealt out to, each by a key of its own.
        """
        # A student of one game draws what it drew before there were several.
        key = jax.random.fold_in(key, game) if self._num_games > 1 else key
        groups = math.gcd(stored[game].flags.shape[0], self._batch_per_device)
        first_group = lax.axis_index(AXIS) * groups
        return rings.place(stored[game], key, self._batch_per_device, num_groups=groups, first_group=first_group)

    @jax.named_scope("sample")
    def _fetch(self, stored: ReplayState, lanes: Array, slots: Array) -> Batch:
        """What is stored there of a game, padded to what the games have in common."""
        batch = rings.fetch(stored, lanes, slots)
        missing = self._student.num_actions - batch.teacher_q.shape[-1]
        return Batch(self._student.pad(batch.observations), jnp.pad(batch.teacher_q, ((0, 0), (0, missing))))

    def _device_update(self, state: LearnerState, batch: Batch) -> tuple[LearnerState, dict[str, Array]]:
        if self._alternating:
            return self._update_on_one(state, jax.tree.map(lambda leaf: leaf[state.updates % self._num_games], batch))
        return self._update_on_all(state, batch)

    def _update_on_all(
        self, state: LearnerState, batch: Any, games: Games = None, fetch: Callable[[Any], Batch] = lambda batch: batch
    ) -> tuple[LearnerState, dict[str, Array]]:
        """An update from ``[G, B / D, ...]`` of every game, or from what ``fetch`` makes into that."""

        def mean_loss(variables: Any, batch: Batch) -> tuple[Array, dict[str, Array]]:
            measures = self._measure(self._student.apply(variables, batch.observations), batch.teacher_q)
            learnt = measures["loss"] if games is None else measures["loss"][jnp.array(games)]
            return learnt.mean(), measures

        return self._step(state, mean_loss, batch, axis=1, games=games, fetch=fetch)

    def _update_on_one(
        self, state: LearnerState, batch: Batch, games: Games = None
    ) -> tuple[LearnerState, dict[str, Array]]:
        """An update from ``[B / D, ...]`` of the game whose turn it is."""
        game = self._turn(state.updates, games)
        is_game = (jnp.arange(self._num_games) == game)[:, None, None]

        def loss_of_game(variables: Any, batch: Batch) -> tuple[Array, dict[str, Array]]:
            outputs = self._student.apply_game(variables, batch.observations, game)
            # The loss knows temperatures and masks by their places on the game axis. Zeros stand for the other games:
            # these outputs, with -inf where this game has no action, would give them infinite losses.
            measures = self._measure(jnp.where(is_game, outputs, 0.0), jnp.where(is_game, batch.teacher_q, 0.0))
            return measures["loss"][game], measures

        return self._step(state, loss_of_game, batch, axis=0, games=games)

    def _measure(self, outputs: Array, teacher_q: Array) -> dict[str, Array]:
        """Means over the minibatch, float32 ``[G]`` each."""
        best = jnp.argmax(jnp.where(self._student.mask[:, None], teacher_q, -jnp.inf), axis=-1)
        agrees = jnp.argmax(outputs, axis=-1) == best
        measures = {
            "loss": self._mean(self._loss, outputs, teacher_q),
            "agreement": agrees.mean(axis=1, dtype=jnp.float32),
        }
        if self._divergence is not None:
            measures["kl"] = self._mean(self._divergence, outputs, teacher_q)
        return measures

    def _mean(self, loss: LossFunction, outputs: Array, teacher_q: Array) -> Array:
        """Means over the minibatch, float32 ``[G]``."""
        if self._num_games == 1:
            return loss(outputs.squeeze(0), teacher_q.squeeze(0)).mean()[None]
        losses = loss(outputs, teacher_q)
        chex.assert_shape(losses, teacher_q.shape[:2])
        return losses.mean(axis=1)

    def _step(
        self,
        state: LearnerState,
        loss: MeanLoss,
        batch: Any,
        axis: int,
        games: Games,
        fetch: Callable[[Any], Batch] = lambda batch: batch,
    ) -> tuple[LearnerState, dict[str, Array]]:
        """One device's part: gradients of its slice, averaged over all, then the same step everywhere."""
        gradients, measures = mean_gradients(state.variables, loss, batch, axis=axis, parts=self._parts, fetch=fetch)
        # One vector, so that an update costs exactly one all-reduce on every backend.
        flat, unravel = ravel_pytree((gradients, measures))
        with jax.named_scope("all_reduce"):
            gradients, measures = unravel(lax.pmean(flat, AXIS))
        with jax.named_scope("optimizer"):
            changes, optimizer_state = self._optimizer.update(gradients, state.optimizer_state, state.variables)
            variables = optax.apply_updates(state.variables, changes)
        seen = self._games_seen(state.updates, games)
        metrics = {name: jnp.where(seen, measures[name], 0.0).sum() / seen.sum() for name in ("loss", "agreement")}
        metrics["grad_norm"] = optax.tree.norm(gradients)
        metrics |= {f"game_{name}": jnp.where(seen, value, jnp.nan) for name, value in measures.items()}
        return (
            LearnerState(
                variables=variables,
                optimizer_state=optimizer_state,
                updates=state.updates + 1,
                key=state.key,
            ),
            metrics,
        )
