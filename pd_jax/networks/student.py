"""A student: one network that plays several games, or one, and what the games have in common for it."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pd_jax.config.games import MLPS, check_student_network
from pd_jax.config.sections import StudentConfig
from pd_jax.environments.senses import Senses
from pd_jax.environments.tasks import Task
from pd_jax.errors import UserError
from pd_jax.networks.heads import action_mask
from pd_jax.networks.lane_policy import LanePolicy
from pd_jax.networks.memory import Memory
from pd_jax.networks.mixed import JointTorso, Layout
from pd_jax.networks.normalisation import Normalisation
from pd_jax.networks.partition import PartSizes, in_one_part, with_sizes
from pd_jax.networks.policy import MultiGameNetwork
from pd_jax.networks.quantisation import calibrate, is_quantised, with_ranges
from pd_jax.networks.recent import shift_in
from pd_jax.networks.registry import check_own_torso, make_network
from pd_jax.networks.sensing import with_senses
from pd_jax.networks.torsos import MLPTorso
from pd_jax.types import PolicyApply

if TYPE_CHECKING:
    # EnvPool takes seconds to import.
    from pd_jax.environments.envpool import TimeStep


@dataclasses.dataclass(frozen=True)
class Student:
    """The network of a student of G games, as a function of arrays with a game axis. Hashable, for ``jax.jit``.

    Attributes:
      network: a linen module: a :class:`pd_jax.networks.policy.MultiGameNetwork`, or one without a game axis for one
        game.
      tasks: the games as the student sees them, in the order of the game axis.
      senses: what it sees of each; none are those of a student that sees what the games show.
      last_actions: how many of the actions that were played before it sees beside.
    """

    network: Any
    tasks: tuple[Task, ...]
    senses: tuple[Senses, ...] = ()
    last_actions: int = 0

    @property
    def shown(self) -> tuple[Task, ...]:
        """The games as their environments show them."""
        return tuple(own.task for own in self.senses) or self.tasks

    @property
    def num_games(self) -> int:
        """G."""
        return len(self.tasks)

    @property
    def num_actions(self) -> int:
        """A, the size of the widest action set."""
        return max(task.num_actions for task in self.tasks)

    @property
    def is_continuous(self) -> bool:
        """Whether actions are vectors of floats; there is one game then."""
        return self.tasks[0].is_continuous

    @property
    def gives_actions(self) -> bool:
        """Whether the student of a continuous task gives actions, and no Gaussians."""
        return self.is_continuous and bool(self.network.head.num_actions == self.num_actions)

    def own_outputs(self, outputs: Array, game: int) -> Array:
        """Those of outputs ``[N, A]`` that a game has, in the order of its actions."""
        # A continuous task has no other beside it, and its outputs may be more than there are components.
        return outputs if self.is_continuous else outputs[:, : self.tasks[game].num_actions]

    @property
    def mask(self) -> np.ndarray:
        """bool ``[G, A]``, True where the game has the action."""
        return action_mask([task.num_actions for task in self.tasks])

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Of one observation of any game: ``(84, 84, 4)``, or ``(D,)`` with D the length of the longest vector; of a
        student that sees several things, of the longest line of them (`pd_jax.networks.mixed`)."""
        if self.layouts:
            return (max(layout.size for layout in self.layouts),)
        # Frames are all alike, so the largest shape is theirs or the longest vector's.
        return max(task.observation_shape for task in self.tasks)

    @property
    def observation_dtype(self) -> str:
        """``"uint8"`` or ``"float32"``."""
        if self.layouts:
            return "uint8" if self.layouts[0].in_bytes else "float32"
        return self.tasks[0].observation_dtype

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """Of each game, how what it shows lies in a line; none of a student that sees one thing of one kind."""
        torso = getattr(self.network, "torso", None)
        return torso.layouts if isinstance(torso, JointTorso) else ()

    @functools.partial(jax.jit, static_argnums=0)
    def init(self, key: Array) -> Any:
        """Fresh variables. Traced once, whoever asks for them or for their shapes."""
        leading = (self.num_games, 1) if self._has_game_axis else (1,)
        return self.network.init(key, jnp.zeros((*leading, *self.observation_shape), self.observation_dtype))

    def apply(self, variables: Any, observations: Array) -> Array:
        """Outputs for every game.

        Args:
          variables: the network's.
          observations: ``[G, B, ...]``, padded to ``observation_shape``.

        Returns:
          float32 ``[G, B, A]``, ``-inf`` where the game has no such action.
        """
        if self._has_game_axis:
            outputs: Array = self.network.apply(variables, observations)
            return outputs
        return self.network.apply(variables, observations[0])[None]

    def apply_game(self, variables: Any, observations: Array, game: int | Array) -> Array:
        """Outputs for one game.

        Args:
          variables: the network's.
          observations: ``[B, ...]``, padded to ``observation_shape``.
          game: its place on the game axis, an int or an int32 scalar.

        Returns:
          float32 ``[B, A]``, ``-inf`` where the game has no such action.
        """
        if self._has_game_axis:
            outputs: Array = self.network.apply(variables, observations, game, method="one_game")
        else:
            outputs = self.network.apply(variables, observations)
        return outputs

    @property
    def memory(self) -> Memory | None:
        """The recurrent layer; None where what is seen now is all that counts."""
        return getattr(self.network, "memory", None)

    @property
    def state_size(self) -> int:
        """Numbers that each lane's memory holds; 0 without memory."""
        return 0 if self.memory is None else self.memory.state_size

    def remember(self, variables: Any, observations: Array, is_first: Array, state: Array) -> tuple[Array, Array]:
        """Outputs of a student with memory for sequences of every game.

        Args:
          variables: the network's.
          observations: ``[G, B, T, ...]``, padded to ``observation_shape``.
          is_first: bool ``[G, B, T]``, where an episode opens.
          state: float32 ``[G, B, state_size]``, of before the first step.

        Returns:
          float32 ``[G, B, T, A]``, ``-inf`` where the game has no such action, and the state after the last step.
        """
        if self._has_game_axis:
            outputs: tuple[Array, Array] = self.network.apply(
                variables, observations, is_first, state, method="remember"
            )
            return outputs
        alone, state = self.network.apply(variables, observations[0], is_first[0], state[0], method="remember")
        return alone[None], state[None]

    def remember_game(
        self, variables: Any, observations: Array, is_first: Array, state: Array, game: int | Array
    ) -> tuple[Array, Array]:
        """As :meth:`remember`, of one game and without the game axis."""
        if self._has_game_axis:
            arguments = (variables, observations, is_first, state, game)
            outputs: tuple[Array, Array] = self.network.apply(*arguments, method="one_game_remember")
        else:
            outputs = self.network.apply(variables, observations, is_first, state, method="remember")
        return outputs

    def pad(self, observations: Array, game: int = 0, recent: Array | None = None) -> Array:
        """Appends zeros to vectors ``[..., d]`` up to ``observation_shape``; frames are as they should be. Of a student
        that sees several things, they are put into a line first.

        Args:
          observations: as the game shows them, ``[..., *shape]``.
          game: its place.
          recent: float32 ``[..., n]``, the last actions as `pd_jax.networks.recent` has them; None is none yet.
        """
        if self.layouts:
            observations = self.layouts[game].pack(observations, recent)
        missing = self.observation_shape[-1] - observations.shape[-1]
        if not missing:
            return observations
        return jnp.pad(observations, [(0, 0)] * (observations.ndim - 1) + [(0, missing)])

    def with_sizes(self, sizes: PartSizes) -> Student:
        """The same student, whose large batches a CPU divides into parts of other sizes."""
        return dataclasses.replace(self, network=with_sizes(self.network, sizes))

    def calibrated(self, variables: Any, batches: Iterable[Sequence[np.ndarray]]) -> Any:
        """The variables of a student with quantisation, from those of the same student without.

        Args:
          variables: NumPy arrays or arrays; ranges that are there already stay, and nothing is looked for.
          batches: at least one, each with every game's own observations ``[B, ...]``, equally many; the ranges of all
            layers' inputs are the largest that are seen. Only looked at if there are no ranges yet.

        Returns:
          NumPy arrays, of the shapes that :meth:`init` gives.
        """
        params = variables["params"]
        if is_quantised(params):
            return variables
        template = jax.eval_shape(self.init, jax.random.key(0))["params"]
        network = in_one_part(self.network)
        shown = (self._joined(observations) for observations in batches)
        return calibrate(network, {**variables, "params": with_ranges(params, template)}, shown)

    def _joined(self, observations: Sequence[np.ndarray]) -> Array:
        """Every game's own observations as the network takes them."""
        padded = [self.pad(jnp.asarray(own), game) for game, own in enumerate(observations)]
        return jnp.stack(padded) if self._has_game_axis else padded[0]

    def policy(self, game: int) -> Any:
        """What plays one of the games: a :class:`GamePolicy`, or a :class:`RememberingPolicy` of a student with memory,
        or one that sees its last actions. Policies of the same student and game are equal."""
        has_state = self.memory is not None or self.last_actions > 0
        return RememberingPolicy(self, game) if has_state else GamePolicy(self, game)

    def player(self, game: int) -> PolicyApply | LanePolicy:
        """What plays one of the games behind its senses, of what the game shows; without senses its :meth:`policy`."""
        return with_senses(self.policy(game), self.senses[game] if self.senses else None)

    @property
    def _has_game_axis(self) -> bool:
        return isinstance(self.network, MultiGameNetwork)


@dataclasses.dataclass(frozen=True)
class GamePolicy:
    """A student as the policy of one game, for rollouts and evaluations, which know of no others."""

    student: Student
    game: int

    def __call__(self, variables: Any, observations: Array) -> Array:
        """Maps the game's own observations ``[N, ...]`` to float32 ``[N, actions]`` of its own action set."""
        outputs = self.student.apply_game(variables, self.student.pad(observations, self.game), self.game)
        return self.student.own_outputs(outputs, self.game)


@dataclasses.dataclass(frozen=True)
class RememberingPolicy:
    """A student with a state as the policy of one game: a `pd_jax.networks.lane_policy.LanePolicy`. The state is what
    each lane remembers, and behind it the last actions that were played there, if the student sees them."""

    student: Student
    game: int

    @property
    def state_size(self) -> int:
        """Numbers in the state of one lane."""
        return self.student.state_size + self.student.last_actions * self.student.tasks[self.game].num_actions

    def start(self, num_lanes: int) -> np.ndarray:
        """Empty states, float32 ``[N, state_size]``."""
        return np.zeros((num_lanes, self.state_size), np.float32)

    def decide(self, variables: Any, timestep: TimeStep, state: Array, key: Array) -> tuple[Array, Array]:
        """As :meth:`step`, of what lanes show."""
        return self.step(variables, timestep.observations, timestep.is_first, state)

    def step(self, variables: Any, observations: Array, is_first: Array, state: Array) -> tuple[Array, Array]:
        """One step of every lane, to be traced.

        Args:
          variables: the student's.
          observations: the game's own, ``[N, ...]``.
          is_first: bool ``[N]``, where an episode opens: what was before is forgotten.
          state: float32 ``[N, state_size]``.

        Returns:
          float32 ``[N, actions]`` of its own action set, and the state for the next step, once :meth:`note` knows what
          was played.
        """
        student, recent = self.student, None
        if student.last_actions:
            state, recent = state[:, : student.state_size], state[:, student.state_size :]
            recent = jnp.where(is_first[:, None], 0.0, recent)
        shown = student.pad(observations, self.game, recent)
        if student.memory is None:
            outputs = student.apply_game(variables, shown, self.game)
        else:
            outputs, state = student.remember_game(variables, shown[:, None], is_first[:, None], state, self.game)
            outputs = outputs[:, 0]
        if recent is not None:
            state = jnp.concatenate([state, recent], axis=1)
        return student.own_outputs(outputs, self.game), state

    def note(self, state: Array, actions: Any) -> Array:
        """The state after actions were played, to be traced.

        Args:
          state: as :meth:`step` left it.
          actions: int ``[N]``, or of a continuous task float32 ``[N, components]``.
        """
        student = self.student
        if not student.last_actions:
            return state
        kept, recent = state[:, : student.state_size], state[:, student.state_size :]
        return jnp.concatenate([kept, shift_in(student.tasks[self.game], recent, actions)], axis=1)


def make_student(config: StudentConfig, tasks: Sequence[Task]) -> Student:
    """The student that a configuration asks for.

    One game gets the paper's single-game network, with a head that is just the output layer, unless the name is
    ``multi3`` or ``multi10``; several games get a torso that they share and heads with a hidden layer.

    Args:
      config: the network that learns.
      tasks: the games, in the order of the game axis.

    Returns:
      the network with its games; variables come from its ``init``.

    Raises:
      UserError: the network cannot be made, or cannot see what the games show.
    """
    tasks, sizes = _with_outputs(config, tasks)
    senses = tuple(config.observation.of(task) for task in tasks)
    tasks = [own.perceived for own in senses]
    if len({task.kind for task in tasks}) > 1:
        check_student_network(config.network, tasks)
    network: Any = make_network(
        config.network,
        sizes if len(sizes) > 1 else sizes[0],
        hidden_sizes=config.mlp_hidden,
        compute_dtype=config.compute_dtype,
        channels=config.channels,
        hidden=config.hidden,
        head_hidden=config.head_hidden,
        layer_norm=config.layer_norm,
        quantisation=config.quantisation,
        memory=config.memory,
        memory_size=config.memory_size,
    )
    normalisation, last_actions = _normalisation(config, tasks), config.observation.last_actions
    layouts = _layouts(tasks, last_actions)
    # Beside games of frames those of vectors have a torso of their own; vectors are as long as the longest.
    frames = [task for task in tasks if task.kind == "atari"]
    seen = max(_shape_of(task) for task in frames or tasks)
    check_own_torso(config.network, network.torso, seen, "uint8" if frames else "float32")
    if layouts:
        network = network.clone(torso=_joined_torso(config, network.torso, layouts, normalisation))
    elif normalisation is not None:
        network = network.clone(torso=network.torso.clone(normalisation=normalisation))
    return Student(network, tuple(tasks), () if config.observation.is_plain else senses, last_actions)


def _layouts(tasks: Sequence[Task], last_actions: int) -> tuple[Layout, ...]:
    """How what the games show lies in lines; none where a student sees one thing of one kind."""
    kinds = {task.kind for task in tasks}
    if len(kinds) == 1 and not last_actions and not any(task.also for task in tasks):
        return ()
    return tuple(
        Layout(_shape_of(task), task.also, last_actions * task.num_actions, in_bytes="atari" in kinds) for task in tasks
    )


def _shape_of(task: Task) -> tuple[int, ...]:
    """Of the frames that lines hold, or of what the game shows."""
    if not task.also:
        return task.observation_shape
    side = math.isqrt(task.frame_shape[0] - task.also)
    return side, side, task.stack


def _joined_torso(
    config: StudentConfig, torso: Any, layouts: tuple[Layout, ...], normalisation: Normalisation | None
) -> JointTorso:
    """The torsos of a student that sees several things.

    Args:
      config: the student's.
      torso: of the network that it names.
      layouts: of the games.
      normalisation: of the vector; None has none.
    """
    if config.quantisation != "none":
        raise UserError(
            f"student.quantisation: {config.quantisation!r} is for students that see one thing, and this one has "
            "several torsos"
        )
    has_frames = any(layout.is_frames for layout in layouts)
    dtype = jnp.dtype(config.compute_dtype)
    vector = None
    if not all(layout.is_frames for layout in layouts):
        # Beside frames the network is theirs, and vectors have the mlp.
        vector = MLPTorso(config.mlp_hidden, config.layer_norm, dtype=dtype) if has_frames else torso
        vector = vector if normalisation is None else vector.clone(normalisation=normalisation)
    has_extra = any(layout.extra for layout in layouts)
    return JointTorso(
        layouts,
        frames=torso if has_frames else None,
        vector=vector,
        extra=MLPTorso(config.extra_hidden, config.layer_norm, dtype=dtype) if has_extra else None,
        hidden=config.joint_hidden,
        dtype=dtype,
    )


def _with_outputs(config: StudentConfig, tasks: Sequence[Task]) -> tuple[Sequence[Task], tuple[int, ...]]:
    """The tasks as the student plays them, and how many outputs it has for each."""
    continuous = [task for task in tasks if task.is_continuous]
    if not continuous:
        if config.actions != "auto":
            raise UserError(f"student.actions: {config.actions!r} is of continuous tasks, and {tasks[0].name} is none")
        return tasks, tuple(task.num_actions for task in tasks)
    if len(tasks) > 1:
        raise UserError(f"{continuous[0].name}: a student of a continuous task plays no other beside it")
    if config.quantisation != "none":
        raise UserError(f"student.quantisation: {config.quantisation!r} is for students that choose among actions")
    (task,) = tasks
    size = task.num_actions if config.actions == "means" else 2 * task.num_actions
    # Of a student of actions this is the teacher's, whose actions it learns.
    is_squashed = {"squashed": True, "gaussian": False}.get(config.actions, task.squashed)
    return (dataclasses.replace(task, squashed=is_squashed),), (size,)


def _normalisation(config: StudentConfig, tasks: Sequence[Task]) -> Normalisation | None:
    """The statistics that the settings have; those of a teacher are among them once it is known."""
    settings = config.normalisation
    if settings.source not in ("given", "teacher", "play"):
        return None
    where = "student.normalisation"
    if settings.mean is None or settings.variance is None:
        raise UserError(f"{where}: {settings.source!r}, and there is no mean or no variance")
    if config.network not in MLPS or len(tasks) > 1 or config.quantisation != "none":
        raise UserError(f"{where}: is for an mlp in float32 of one game")
    (size,) = tasks[0].observation_shape
    for name, values in (("mean", settings.mean), ("variance", settings.variance)):
        if len(values) not in (1, size):
            raise UserError(f"{where}.{name}: {len(values)} numbers, and {tasks[0].name} shows {size}")
    if min(settings.variance) + settings.epsilon <= 0.0:
        raise UserError(f"{where}.variance: one is 0, and epsilon is 0 too")
    return Normalisation(settings.mean, settings.variance, settings.epsilon, settings.clip)
