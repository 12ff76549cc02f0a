"""The student's learner: its updates on every device of a group, compiled once."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pd_jax.config.adding import AddingConfig
from pd_jax.config.sections import LearnerConfig, LossConfig
from pd_jax.learner import conflicts, importance, temperature
from pd_jax.learner.anchor import Adding, Anchor
from pd_jax.learner.balance import make_balance
from pd_jax.learner.by_game import shared_layers
from pd_jax.learner.objective import AutoTemperature, LossFunction, WeightFunction
from pd_jax.learner.rule import (
    Games,
    LearnerState,
    Metrics,
    before_first_update,
    init_state,
    init_student,
    make_optimizer,
    make_rule,
)
from pd_jax.learner.update import update, updates_from_replay
from pd_jax.networks.student import Student
from pd_jax.replay.rings import ReplayState
from pd_jax.replay.sequences import Stretch
from pd_jax.system.computing import computing
from pd_jax.system.devices import Bound, DeviceGroup, quick_to_compile
from pd_jax.system.kept import kept
from pd_jax.types import Batch

T = TypeVar("T")


class FoundTemperature(NamedTuple):
    """A temperature that was found from the play, and the mean entropy of the teacher's policy at it, in nats."""

    temperature: float
    entropy: float


def learner_template(
    student: Student, config: LearnerConfig, loss: LossConfig, adding: AddingConfig | None = None
) -> LearnerState:
    """Shapes and dtypes of a learner's state, which is what its checkpoints hold, without computing any of it.

    Args:
      student, config, loss: of the run.
      adding: of a run that adds games, or may; None adds none.
    """
    has_anchor = adding is not None and bool(adding.games) and adding.learn == "all" and adding.penalty != "none"

    def init(key: Array) -> LearnerState:
        variables = student.init(key)
        optimizer_state = make_optimizer(config, total_updates=1).init(variables)
        temperature = jnp.zeros(student.num_games, jnp.float32) if loss.is_auto else None
        average = None if config.average_decay is None else variables
        balance = make_balance(config, student.num_games)
        learnt = None if balance is None else balance.init()
        anchor = None
        if has_anchor:
            params = variables["params"]
            anchor = Anchor(params, params if adding is not None and adding.penalty == "ewc" else None)
        return LearnerState(
            variables, optimizer_state, jnp.zeros((), jnp.int32), key, temperature, average, learnt, anchor
        )

    template: LearnerState = jax.eval_shape(init, jax.random.key(0))
    return template


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
      weigh: what examples count in the loss; None has all count the same.
      auto: of temperatures that are found from the play and kept in the state; ``loss``, ``divergence`` and ``weigh``
        are then not looked at.
      adding: of games that are added to a student; None adds none.
      stretch: as for :func:`pd_jax.learner.rule.make_rule`.

    Attributes:
      rule: of its updates, see :mod:`pd_jax.learner.rule`.

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
        weigh: WeightFunction | None = None,
        auto: AutoTemperature | None = None,
        adding: Adding | None = None,
        stretch: Stretch | None = None,
    ) -> None:
        rule = make_rule(
            student,
            loss,
            config,
            devices,
            total_updates=total_updates,
            divergence=divergence,
            weigh=weigh,
            auto=auto,
            adding=adding,
            stretch=stretch,
        )
        self.rule = rule
        self._devices = devices
        # Compiled whole: one by one, the initialisers and the unused forward pass take twice as long.
        quickly = quick_to_compile(devices.platform)
        self._init_student = _compiled_once(Bound(init_student, (student,)), quickly)
        self._init = _compiled_once(Bound(before_first_update, (rule,)), quickly)
        self._init_everywhere = devices.on_every(Bound(before_first_update, (rule,)), quickly)
        self._update = devices.map(Bound(update, (rule,)), donate=(0,))
        self._update_many: dict[tuple[int, Games], Any] = {}
        self._settle: dict[tuple[int, ...], Any] = {}
        self._cosines: dict[Games, Any] = {}
        self._compiling: dict[tuple[int, Games], Future[Any]] = {}

    def init(self, key: Array) -> LearnerState:
        """A fresh student, the same on every device."""
        return self._init_everywhere(*self._init_student(key))

    def init_single(self, key: Array) -> LearnerState:
        """As :meth:`init`, without the device axis."""
        state: LearnerState = self._init(*self._init_student(key))
        return state

    @property
    def template(self) -> LearnerState:
        """Shapes and dtypes of :meth:`init_single`."""
        template: LearnerState = jax.eval_shape(functools.partial(init_state, self.rule), jax.random.key(0))
        return template

    def init_ahead(self, key: Array) -> Callable[[], LearnerState]:
        """Begins :meth:`init` in a thread, most of which is compiling; returns what waits for it."""
        return _in_thread("init-student", lambda: jax.block_until_ready(self.init(key))).result

    def update(self, state: LearnerState, batch: Batch) -> tuple[LearnerState, Metrics]:
        """One update from a given minibatch.

        Args:
          state: with a device axis; donated.
          batch: ``[D, G, B / D, ...]``. Where games alternate, only that of game ``state.updates`` mod G is used.

        Returns:
          the next state and the minibatch's metrics. ``loss``, ``agreement`` (the student's greedy action is the
          teacher's) and ``grad_norm``, float32 ``[D]``, are of the update, means over the games it saw; ``game_loss``,
          ``game_agreement``, with a divergence ``game_kl`` and with a balance ``game_weight``, float32 ``[D, G]``, are
          of each game, NaN if it was not seen.
        """
        return self._update(state, batch)

    def update_from_replay(
        self, state: LearnerState, stored: tuple[ReplayState, ...], num_updates: int, games: Games = None
    ) -> tuple[LearnerState, Metrics]:
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
        if len(stored) != self.rule.num_games:
            raise ValueError(f"{len(stored)} replays for {self.rule.num_games} games")
        if (compiling := self._compiling.pop((num_updates, games), None)) is not None:
            compiling.result()
        return self._many(num_updates, games)(state, stored)

    def settle_temperatures(
        self, state: LearnerState, stored: tuple[ReplayState, ...], games: tuple[int, ...]
    ) -> tuple[LearnerState, list[FoundTemperature]]:
        """Finds the temperatures of some games from what is stored, on the devices; they are part of the state then.

        Args:
          state: with a device axis.
          stored: as for :meth:`update_from_replay`; those of ``games`` are not empty.
          games: places of games whose temperature is to be found.

        Returns:
          the state, and what was found of each of ``games``.
        """
        if games not in self._settle:
            assert self.rule.auto is not None
            mask = jnp.asarray(self.rule.student.mask)
            settle = functools.partial(temperature.settle, self.rule.auto, mask, self._devices, games=games)
            self._settle[games] = self._devices.map(settle)
        state, found = self._settle[games](state, stored)
        values, entropies = self._devices.fetch_first(found)
        return state, [FoundTemperature(*map(float, each)) for each in zip(values, entropies, strict=True)]

    def gradient_cosines(
        self, state: LearnerState, stored: tuple[ReplayState, ...], games: Games = None
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """How the games' gradients lie to one another in the layers that they share, on a minibatch of its own.

        Nothing is learnt from it, and the state stays as it is, its key too.

        Args:
          state: with a device axis.
          stored: as for :meth:`update_from_replay`.
          games: places of those that are looked at; None is all.

        Returns:
          by layer, and last of all of them together (``torso``), cosines float32 ``[G, G]`` and norms float32 ``[G]``;
          NaN where a game was not looked at, or has no gradient there.
        """
        if games not in self._cosines:
            measure = functools.partial(conflicts.gradient_cosines, self.rule, games=games)
            self._cosines[games] = self._devices.map(measure)
        found: dict[str, tuple[np.ndarray, np.ndarray]] = self._devices.fetch_first(self._cosines[games](state, stored))
        return {name: found[name] for name in (*shared_layers(state.variables), conflicts.ALL_LAYERS)}

    def estimate_importance(
        self, state: LearnerState, stored: tuple[ReplayState | None, ...]
    ) -> tuple[LearnerState, float]:
        """Finds what each parameter matters to the old games, see `pd_jax.learner.importance`; part of the state then.

        Args:
          state: with a device axis, of the old student.
          stored: as for :meth:`update_from_replay`; those of games that are added may be None.

        Returns:
          the state, and the mean that the importances were divided by.
        """
        assert self.rule.adding is not None
        share = max(1, importance.SAMPLES // self._devices.size)
        estimate = functools.partial(importance.estimate, self.rule, self.rule.adding, share)
        state, mean = self._devices.map(estimate)(state, stored)
        return state, float(self._devices.fetch_first(mean))

    def compile_ahead(self, state: LearnerState, stored: tuple[ReplayState, ...], num_updates: int) -> None:
        """Traces what :meth:`update_from_replay` will run, and compiles it in a thread, which that method waits for.

        Args:
          state: with a device axis; only its shapes and where it lies are looked at.
          stored: as ``state``.
          num_updates: of a call, in which all games are learnt. If it was asked for before, nothing happens.
        """
        if (num_updates, None) in self._update_many:
            return
        shapes: Any = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), (state, stored)
        )
        self._many(num_updates, None)
        # Traced here and now: in a thread it would wait for emulators that start, which keep Python to themselves, and
        # the compiler, which does not need Python, would begin that much later.
        try:
            compile_now = self.lower(shapes[0], shapes[1], num_updates).compile
        except Exception as error:
            failed: Future[Any] = Future()
            failed.set_exception(error)
            self._compiling[num_updates, None] = failed
            return
        self._compiling[num_updates, None] = _in_thread("compile-updates", compile_now)

    def lower(self, state: LearnerState, stored: tuple[ReplayState, ...], num_updates: int) -> jax.stages.Lowered:
        """What :meth:`update_from_replay` will run, of all games, before it is compiled; arguments may be shapes."""
        lowered: jax.stages.Lowered = self._many(num_updates, None).lower(state, stored)
        return lowered

    def _many(self, num_updates: int, games: Games) -> Any:
        """Several updates over the devices, made at the first call."""
        if (num_updates, games) not in self._update_many:
            many = Bound(updates_from_replay, (self.rule,), (("num_updates", num_updates), ("games", games)))
            self._update_many[num_updates, games] = self._devices.map(many, donate=(0,))
        return self._update_many[num_updates, games]


@kept(16)
def _compiled_once(function: Bound, options: tuple[tuple[str, Any], ...]) -> Any:
    # JAX would look for a hash, which not all students have.
    return jax.jit(functools.partial(function), compiler_options=dict(options) or None)


def _in_thread(name: str, work: Callable[[], T]) -> Future[T]:
    """Begins some work, under this thread's settings of JAX; what it raises is raised where it is waited for."""
    done: Future[T] = Future()

    @computing()
    def do_it() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=do_it, name=name).start()
    return done
