"""Tasks: what there is to play, what it looks like and what can be done in it."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from pd_jax.environments.names import translate, without_suffix
from pd_jax.errors import UserError, nearest

ATARI_ACTIONS: tuple[str, ...] = tuple(
    "NOOP FIRE UP RIGHT LEFT DOWN UPRIGHT UPLEFT DOWNRIGHT DOWNLEFT UPFIRE RIGHTFIRE LEFTFIRE DOWNFIRE "
    "UPRIGHTFIRE UPLEFTFIRE DOWNRIGHTFIRE DOWNLEFTFIRE".split()
)
"""The joystick's 18 positions in the Arcade Learning Environment's order. Minimal sets keep this order."""

ATARI_FRAME_SHAPE = (84, 84)
ATARI_OBSERVATION_SHAPE = (84, 84, 4)
ATARI_MAX_EPISODE_STEPS = 27_000
RAM_SIZE = 128
"""Bytes of a game console's memory."""
RAM_SUFFIX, RAM_ID = "_ram", "-ram"
"""What the name and the id of a game have where its memory is what is seen: ``pong_ram``, ``Pong-ram-v5``."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """One environment, with its action set and observation spec.

    Attributes:
      name: our name, such as ``"ms_pacman"``.
      env_id: EnvPool's id, such as ``"MsPacman-v5"``.
      kind: ``"atari"`` (stacked frames) or ``"vector"`` (a flat float observation).
      num_actions: size of the action set (Atari: the game's minimal set); of a continuous task, the components of an
        action.
      observation_shape: what a network sees at one step: ``(84, 84, 4)``, oldest frame first, or ``(D,)``.
      observation_dtype: ``"uint8"`` (Atari) or ``"float32"``.
      action_names: ``num_actions`` names, in the order of the action indices, or of the components.
      random_score: mean undiscounted return of uniformly random play, None where it was not measured.
      human_score: mean return of a human tester (Mnih et al. 2015), None where there is none.
      max_episode_steps: control steps (Atari: of 4 frames) after which an episode is cut; 27,000 is 30 minutes.
      action_low, action_high: of a continuous task, the range of each component of an action; ``()`` of a discrete one.
      squashed: of a continuous task, whether the range is applied to the tanh of a Gaussian policy's samples, as of a
        teacher that was trained so; otherwise they are clipped to it.
      components: of a vector that EnvPool gives in parts, their names and sizes in EnvPool's order; ``()`` of others.
      ram: the vector is the 128 bytes of a game console's memory, times 1/255.
      window: of a vector, the steps that follow one another in it, oldest first.
      also: bytes of the console's memory that follow each frame. Observations are lines then, ``window`` frames with
        what follows each, oldest first.
    """

    name: str
    env_id: str
    kind: Literal["atari", "vector"]
    num_actions: int
    observation_shape: tuple[int, ...]
    observation_dtype: Literal["uint8", "float32"]
    action_names: tuple[str, ...]
    random_score: float | None
    human_score: float | None
    max_episode_steps: int
    action_low: tuple[float, ...] = ()
    action_high: tuple[float, ...] = ()
    squashed: bool = False
    components: tuple[tuple[str, int], ...] = ()
    ram: bool = False
    window: int = 1
    also: int = 0

    @property
    def is_continuous(self) -> bool:
        """Whether an action is a vector of floats, float32 ``[num_actions]``, instead of an index."""
        return bool(self.action_low)

    @property
    def action_shape(self) -> tuple[int, ...]:
        """Of one action: ``()``, or ``(num_actions,)`` of a continuous task."""
        return (self.num_actions,) if self.is_continuous else ()

    @property
    def action_dtype(self) -> Literal["int32", "float32"]:
        """Of actions: ``"int32"``, or ``"float32"`` of a continuous task."""
        return "float32" if self.is_continuous else "int32"

    @property
    def most_outputs(self) -> int:
        """O at most: of a continuous task, a Gaussian policy gives means and deviations."""
        return (2 if self.is_continuous else 1) * self.num_actions

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of what is stored per step: the newest frame ``(84, 84)``, or the vector ``(D,)`` of one step."""
        if self.kind == "atari" and not self.also:
            return self.observation_shape[:2]
        (size,) = self.observation_shape
        return (size // self.window,)

    @property
    def stack(self) -> int:
        """Steps in an observation: frames of a stack, or vectors of a window."""
        return self.observation_shape[-1] if self.kind == "atari" and not self.also else self.window

    @property
    def is_console(self) -> bool:
        """Whether it is a game of Atari, whatever is seen of it."""
        return self.kind == "atari" or self.ram

    @property
    def pool_id(self) -> str:
        """EnvPool's id: that of the game also where its memory is seen."""
        return self.env_id.replace(RAM_ID, "") if self.ram else self.env_id


def _atari(
    name: str, env_id: str, actions: tuple[str, ...], *, random_score: float | None, human_score: float | None
) -> Task:
    return Task(
        name=name,
        env_id=env_id,
        kind="atari",
        num_actions=len(actions),
        observation_shape=ATARI_OBSERVATION_SHAPE,
        observation_dtype="uint8",
        action_names=actions,
        random_score=random_score,
        human_score=human_score,
        max_episode_steps=ATARI_MAX_EPISODE_STEPS,
    )


def _vector(name: str, env_id: str, actions: str, *, size: int, random_score: float, max_episode_steps: int) -> Task:
    action_names = tuple(actions.split())
    return Task(
        name=name,
        env_id=env_id,
        kind="vector",
        num_actions=len(action_names),
        observation_shape=(size,),
        observation_dtype="float32",
        action_names=action_names,
        random_score=random_score,
        human_score=None,
        max_episode_steps=max_episode_steps,
    )


def _continuous(
    name: str, env_id: str, *, size: int, num_actions: int, random_score: float, components: tuple[tuple[str, int], ...]
) -> Task:
    """A task whose actions are between -1 and 1, and whose episodes have 1,000 steps."""
    return Task(
        name=name,
        env_id=env_id,
        kind="vector",
        num_actions=num_actions,
        observation_shape=(size,),
        observation_dtype="float32",
        action_names=tuple(f"ACTION{index}" for index in range(num_actions)),
        random_score=random_score,
        human_score=None,
        max_episode_steps=1000,
        action_low=(-1.0,) * num_actions,
        action_high=(1.0,) * num_actions,
        components=components,
    )


# Name, id, random and human score (Mnih et al. 2015, extended data table 2; no-op starts), minimal action set.
_PAPER_GAMES: tuple[tuple[str, str, float, float, str], ...] = (
    ("beam_rider", "BeamRider-v5", 363.9, 16_926.5, "NOOP FIRE UP RIGHT LEFT UPRIGHT UPLEFT RIGHTFIRE LEFTFIRE"),
    ("breakout", "Breakout-v5", 1.7, 30.5, "NOOP FIRE RIGHT LEFT"),
    ("enduro", "Enduro-v5", 0.0, 860.5, "NOOP FIRE RIGHT LEFT DOWN DOWNRIGHT DOWNLEFT RIGHTFIRE LEFTFIRE"),
    ("freeway", "Freeway-v5", 0.0, 29.6, "NOOP UP DOWN"),
    ("ms_pacman", "MsPacman-v5", 307.3, 6_951.6, "NOOP UP RIGHT LEFT DOWN UPRIGHT UPLEFT DOWNRIGHT DOWNLEFT"),
    ("pong", "Pong-v5", -20.7, 14.6, "NOOP FIRE RIGHT LEFT RIGHTFIRE LEFTFIRE"),
    ("qbert", "Qbert-v5", 163.9, 13_455.0, "NOOP FIRE UP RIGHT LEFT DOWN"),
    ("riverraid", "Riverraid-v5", 1_338.5, 17_118.0, " ".join(ATARI_ACTIONS)),
    ("seaquest", "Seaquest-v5", 68.4, 42_054.7, " ".join(ATARI_ACTIONS)),
    ("space_invaders", "SpaceInvaders-v5", 148.0, 1_668.7, "NOOP FIRE RIGHT LEFT RIGHTFIRE LEFTFIRE"),
)

PAPER_GAMES: tuple[str, ...] = tuple(row[0] for row in _PAPER_GAMES)
"""Names of the ten games of Rusu et al. (2016)."""

ATARI_57: tuple[str, ...] = tuple(
    "alien amidar assault asterix asteroids atlantis bank_heist battle_zone beam_rider berzerk bowling boxing "
    "breakout centipede chopper_command crazy_climber defender demon_attack double_dunk enduro fishing_derby "
    "freeway frostbite gopher gravitar hero ice_hockey jamesbond kangaroo krull kung_fu_master montezuma_revenge "
    "ms_pacman name_this_game phoenix pitfall pong private_eye qbert riverraid road_runner robotank seaquest skiing "
    "solaris space_invaders star_gunner surround tennis time_pilot tutankham up_n_down venture video_pinball "
    "wizard_of_wor yars_revenge zaxxon".split()
)
"""Names of the 57 games that agents are usually compared on (Bellemare et al. 2013, Wang et al. 2016)."""

TASKS: Mapping[str, Task] = MappingProxyType(
    {
        name: _atari(name, env_id, tuple(actions.split()), random_score=random_score, human_score=human_score)
        for name, env_id, random_score, human_score, actions in _PAPER_GAMES
    }
    | {
        # Random scores measured on EnvPool 1.2.5: 107,008 episodes (22.22 +- 0.04), 2,496 episodes (-499.05 +- 0.23)
        # and 5,120 episodes (-182.4 +- 1.5).
        "cartpole": _vector("cartpole", "CartPole-v1", "LEFT RIGHT", size=4, random_score=22.2, max_episode_steps=500),
        "acrobot": _vector(
            "acrobot", "Acrobot-v1", "TORQUE-1 TORQUE0 TORQUE+1", size=6, random_score=-499.1, max_episode_steps=500
        ),
        # EnvPool's v2 is the same emulator: equal seeds gave equal returns. Gymnasium's versions differ in bugs mended.
        "lunarlander": _vector(
            "lunarlander", "LunarLander-v3", "NOOP LEFT MAIN RIGHT", size=8, random_score=-182.4, max_episode_steps=1000
        ),
        # Those of the bundled teachers; random scores of 256 episodes each, +- 5.0 and +- 1.1.
        "half_cheetah_v5": _continuous(
            "half_cheetah_v5", "HalfCheetah-v5", size=17, num_actions=6, random_score=-273.9, components=()
        ),
        "cartpole_swingup_v1": _continuous(
            *("cartpole_swingup_v1", "CartpoleSwingup-v1"),
            size=5,
            num_actions=1,
            random_score=25.2,
            components=(("position", 3), ("velocity", 2)),
        ),
    }
)
"""The tasks known without asking EnvPool, by name."""


_own: dict[str, Task] = {}


def get_task(name: str) -> Task:
    """Finds a task by our name, by EnvPool's id or by that of Gym, Gymnasium or ALE, ignoring case and underscores.

    ``"ms_pacman"``, ``"MsPacman-v5"``, ``"mspacman"``, ``"ALE/MsPacman-v5"`` and ``"MsPacmanNoFrameskip-v4"`` are the
    same game. Every Atari game that EnvPool registers can be had, the paper's ten without importing EnvPool (which
    takes seconds); and every task of its other families whose spaces fit, see `pd_jax.environments.spaces`:
    ``"HalfCheetah-v5"`` and ``"half_cheetah_v5"`` are one, and so is ``"half_cheetah"``, the newest of its versions.

    Args:
      name: any spelling.

    Returns:
      the task.

    Raises:
      UserError: there is no such task; the message names the nearest one, or says what is different in the task of
        that name, or which of its spaces is none of ours.
    """
    key, shown = _spelling(name), _short(name.strip())
    if (seen := _game_of_ram(name)) is not None:
        try:
            return ram_task(get_task(seen))
        except UserError as error:
            raise UserError(f"{shown!r}: {error}") from None
    if (task := _known_task(key)) is not None:
        return task
    paper_games = {_spelling(game) for game in PAPER_GAMES}
    if (task := _known_task(translate(shown, key, paper_games))) is not None:
        return task
    atari = _atari_games()
    key = translate(shown, key, atari)
    if key in atari:
        return _ask_envpool(atari[key])
    # Imported late, as EnvPool is.
    from pd_jax.environments import spaces

    if (found := spaces.find(shown)) is not None:
        if (task := _known_task(_spelling(found.env_id))) is not None:
            return task
        return Task(
            name=spaces.task_name(found.env_id),
            env_id=found.env_id,
            kind="vector",
            num_actions=found.num_actions,
            observation_shape=(sum(size for _, size in found.components),),
            observation_dtype="float32",
            action_names=tuple(f"ACTION{index}" for index in range(found.num_actions)),
            random_score=None,
            human_score=None,
            max_episode_steps=found.max_episode_steps,
            action_low=found.low,
            action_high=found.high,
            components=found.components if len(found.components) > 1 else (),
        )
    choices = [*TASKS, *(task.env_id for task in TASKS.values()), *atari.values()]
    other_version = spaces.nearest_version(shown)
    hint = (
        f"; did you mean {other_version!r}?"
        if other_version
        else nearest(name[:60], choices)
        or nearest(without_suffix(name[:60]), choices)
        or nearest(name[:60], spaces.names())
    )
    raise UserError(
        f"{_short(name)!r} is not a game{hint} ({', '.join(TASKS)}, or another game or task by its EnvPool id)"
    )


def add_task(task: Task) -> None:
    """Has :func:`get_task` know a task of the user's own; of the same name given again, the later one.

    Raises:
      UserError: the name is empty, or that of a task that is there.
    """
    key = _spelling(task.name)
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", key):
        raise UserError(f"{_short(task.name)!r} is no name of an environment: letters, digits, '_', '-' and '.'")
    own = _own.get(key)
    if own is None and _is_taken(task.name):
        raise UserError(f"{_short(task.name)!r} is the name of a task that is there; choose another")
    _own[key] = task


def _is_taken(name: str) -> bool:
    try:
        get_task(name)
    except UserError:
        return False
    return True


def known_task(name: str) -> Task | None:
    """The task of our name or of EnvPool's id, if it is one of those that are known without EnvPool."""
    if (seen := _game_of_ram(name)) is not None:
        game = _known_task(_spelling(seen))
        return ram_task(game) if game is not None and game.kind == "atari" else None
    return _known_task(_spelling(name))


def ram_task(game: Task) -> Task:
    """A game of Atari of which the console's memory is seen: float32 ``[128]``, each byte times 1/255.

    Raises:
      UserError: the task is no game of Atari.
    """
    if game.kind != "atari":
        raise UserError(f"{game.name} is no game of Atari, and has no console whose memory could be seen")
    return dataclasses.replace(
        game,
        name=game.name + RAM_SUFFIX,
        env_id=game.env_id.replace("-v", f"{RAM_ID}-v"),
        kind="vector",
        observation_shape=(RAM_SIZE,),
        observation_dtype="float32",
        ram=True,
    )


def _game_of_ram(name: str) -> str | None:
    """The game whose memory a name means, such as ``pong`` of ``pong_ram`` and ``Pong-v5`` of ``Pong-ram-v5``."""
    match = re.fullmatch(r"(\w+)_ram|(\w+)-ram(-v5)", name.strip(), re.IGNORECASE)
    return match and (match[1] or match[2] + match[3])


def _known_task(key: str) -> Task | None:
    if key in _own:
        return _own[key]
    return next((task for task in TASKS.values() if key in (_spelling(task.name), _spelling(task.env_id))), None)


def _spelling(name: str) -> str:
    """What is left of a name when case and underscores do not count."""
    return name.strip().lower().replace("_", "")


def _env_id(name: str) -> str:
    """EnvPool's own rule for Atari: ``"up_n_down"`` -> ``"UpNDown-v5"``."""
    return "".join(word.capitalize() for word in name.split("_")) + "-v5"


def _short(name: str) -> str:
    return name if len(name) <= 60 else name[:57] + "..."


@functools.cache
def _atari_games() -> dict[str, str]:
    """The name of every Atari game of EnvPool's, by each spelling it may be asked for."""
    # Imported late: EnvPool takes seconds to import, which a misspelt option should not cost.
    from pd_jax.environments.loaded import envpool

    registration: Any = importlib.import_module(f"{envpool.__name__}.atari.registration")
    games: list[str] = registration.atari_game_list
    return {_spelling(spelling): name for name in games for spelling in (name, _env_id(name))}


@functools.cache
def _ask_envpool(name: str) -> Task:
    """Makes the task of an Atari game outside the paper's ten from what EnvPool says about it."""
    from pd_jax.environments.loaded import envpool

    spec: Any = envpool.make_spec(_env_id(name))
    num_actions = int(spec.action_space.n)
    # EnvPool tells how many actions a minimal set has, not which; only the full set is known by its size.
    full = num_actions == len(ATARI_ACTIONS)
    actions = ATARI_ACTIONS if full else tuple(f"ACTION{index}" for index in range(num_actions))
    task = _atari(name, _env_id(name), actions, random_score=None, human_score=None)
    return dataclasses.replace(task, max_episode_steps=int(spec.config.max_episode_steps))
