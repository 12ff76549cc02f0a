"""Tasks of EnvPool's families beside Atari, made of what EnvPool says about them: MuJoCo's, Box2D's, grids and boards.

An observation is one vector of float32: a box, or several in a dict, one after another in EnvPool's order. An action is
an index, or a box of floats with bounds. What is neither is refused by name, with the reason.
"""

from __future__ import annotations

import ctypes
import functools
import math
import re
import sys
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pd_jax.environments import families
from pd_jax.errors import UserError

LARGEST_VECTOR = 4096
"""Numbers in an observation, at most: pictures are no vectors."""
_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_VERSION = re.compile(r"v([0-9]+)$")
_OF_ANOTHER_LIBRARY = re.compile(r"^(?:gym|gymnasium|dm_control)[:/]")
_MUJOCO = "envpool.mujoco."


class Spaces(NamedTuple):
    """What EnvPool says about a task.

    Attributes:
      env_id: EnvPool's.
      num_actions: those to choose among, or the components of one.
      low, high: the range of each component; ``()`` where actions are chosen.
      components: names and sizes of an observation's parts, in EnvPool's order.
      max_episode_steps: after which an episode is cut.
    """

    env_id: str
    num_actions: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    components: tuple[tuple[str, int], ...]
    max_episode_steps: int


def task_name(env_id: str) -> str:
    """Our name of a task of EnvPool's, such as ``"half_cheetah_v5"`` of ``"HalfCheetah-v5"``."""
    words = _WORDS.sub("_", env_id)
    return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")


def find(name: str) -> Spaces | None:
    """The spaces of the task of EnvPool's that is called so, in any spelling; without a version the newest.

    Raises:
      UserError: there is one, and its observations or its actions do not fit.
    """
    plain = _OF_ANOTHER_LIBRARY.sub("", name.strip().lower())
    known = _ids()
    for key in (_key(plain), _key(re.sub(r"-v0$", "", plain)) if plain != name.strip().lower() else ""):
        if key in known:
            return describe(known[key])
    return None


def names() -> list[str]:
    """The ids of all tasks that :func:`find` looks among."""
    return sorted(set(_ids().values()))


def nearest_version(name: str) -> str:
    """The newest of EnvPool's ids that differ from a name in the version alone; ``""`` if there is none."""
    match = re.search(r"-?v[0-9]+$", name.strip().lower())
    return _ids().get(_key(name.strip()[: match.start()]), "") if match else ""


def register(env_id: str) -> None:
    """Has EnvPool know the task, in a process that has not asked for it by name."""
    from pd_jax.environments.loaded import envpool

    if env_id not in envpool.list_all_envs():
        families.import_others()


@functools.cache
def describe(env_id: str) -> Spaces:
    """Asks EnvPool about a task.

    Raises:
      UserError: its observations or its actions are none of those that there are networks for.
    """
    from pd_jax.environments.loaded import envpool

    register(env_id)
    try:
        with warnings.catch_warnings():
            # Gymnasium warns that it rounds bounds to float32.
            warnings.simplefilter("ignore")
            spec: Any = envpool.make_spec(env_id)
            seen, done = spec.observation_space, spec.action_space
    except (ImportError, RuntimeError, OSError) as error:
        raise UserError(f"{env_id}: EnvPool cannot make it: {str(error).splitlines()[0]}") from None
    if getattr(spec.config, "max_num_players", 1) != 1:
        raise UserError(f"{env_id}: has several players; one policy plays one of them here")
    low, high = _action_range(env_id, done)
    components = tuple(_components(env_id, seen))
    size = sum(count for _, count in components)
    if size > LARGEST_VECTOR:
        raise UserError(
            f"{env_id}: shows {size:,} numbers, which are no frames of Atari and more than the {LARGEST_VECTOR:,} of a "
            "vector"
        )
    steps = int(spec.config.max_episode_steps)
    return Spaces(env_id, len(low) if low else int(done.n), low, high, components, steps)


def simulator_of(env_id: str) -> str:
    """The simulator that a task of EnvPool's runs on, such as ``"mujoco 3.6.0"``; ``""`` where none is known."""
    from pd_jax.environments.loaded import envpool

    register(env_id)
    told = envpool.registration.registry.specs.get(env_id)
    package = told[0] if isinstance(told, tuple) else ""
    return _mujoco_version(package) if package.startswith(_MUJOCO) else ""


@functools.cache
def _mujoco_version(package: str) -> str:
    """Of the MuJoCo that is built into a family of EnvPool's; it is not that of a package ``mujoco``."""
    __import__(package)
    own = package.rsplit(".", 1)[-1]
    libraries = [name for name in sys.modules if name.startswith(_MUJOCO) and name.endswith("_envpool")]
    # The family's own first; some share that of another.
    for path in (sys.modules[name].__file__ for name in sorted(libraries, key=lambda name: own not in name)):
        try:
            version = ctypes.CDLL(str(path)).mj_versionString
        except (OSError, AttributeError):
            continue
        version.restype = ctypes.c_char_p
        return f"mujoco {version().decode()}"
    return "mujoco"


@functools.cache
def _ids() -> Mapping[str, str]:
    """EnvPool's ids by each spelling that they may be asked for in."""
    from pd_jax.environments.loaded import envpool

    families.import_others()
    specs = envpool.registration.registry.specs
    known: dict[str, str] = {}
    newest: dict[str, tuple[int, str]] = {}
    for env_id in envpool.list_all_envs():
        if specs[env_id][0] == "envpool.atari":
            continue
        short = env_id.rsplit("/", 1)[-1]
        # `MuJoCoPlayground/Go1Getup-v1` and `Go1Getup-v1` are one.
        same = short if short != env_id and specs.get(short) == specs[env_id] else env_id
        known.setdefault(_key(env_id), same)
        version = _VERSION.search(env_id)
        if version is not None:
            bare = _key(env_id[: version.start()])
            newest[bare] = max(newest.get(bare, (-1, "")), (int(version[1]), same))
    return {bare: env_id for bare, (_, env_id) in newest.items()} | known


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def leaves_of(observations: Any, name: str = "") -> list[tuple[str, Any]]:
    """The arrays or spaces of a nested dict, with their paths."""
    if not hasattr(observations, "items"):
        return [(name, observations)]
    leaves = [leaves_of(part, f"{name}.{key}" if name else str(key)) for key, part in observations.items()]
    return [leaf for part in leaves for leaf in part]


def _components(env_id: str, space: Any) -> list[tuple[str, int]]:
    parts = []
    for name, part in leaves_of(space):
        kind = type(part).__name__
        if name and kind == "Discrete":
            # Such as the direction beside MiniGrid's grid; alone it would be a name of a state, not a number.
            parts.append((name, 1))
            continue
        if kind not in ("Box", "MultiBinary") or part.shape is None:
            what = f"observations have {name}, a {kind} space" if name else f"observations are a {kind} space"
            raise UserError(f"{env_id}: its {what}; those of students are boxes of numbers")
        parts.append((name, math.prod(part.shape)))
    return parts


def _action_range(env_id: str, space: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The bounds of each component; none of a discrete space."""
    kind = type(space).__name__
    if kind == "Discrete":
        return (), ()
    if kind != "Box" or not np.issubdtype(space.dtype, np.floating):
        what = "a box of whole numbers" if kind == "Box" else f"a {kind} space"
        raise UserError(f"{env_id}: its actions are {what}; a student chooses one of several, or gives floats")
    low, high = np.ravel(space.low).astype(np.float64), np.ravel(space.high).astype(np.float64)
    if len(space.shape) != 1 or not (np.abs([low, high]) < np.finfo(np.float32).max).all() or not (low < high).all():
        raise UserError(f"{env_id}: its actions are no vector of numbers with bounds")
    return tuple(low.tolist()), tuple(high.tolist())
