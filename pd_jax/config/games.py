"""What games, networks and teachers that are possible alone make impossible together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pd_jax.config.observation import ObservationConfig
from pd_jax.config.own_networks import own_networks
from pd_jax.environments.tasks import Task, get_task
from pd_jax.errors import UserError
from pd_jax.system.text import spell_count

_NOUNS: Mapping[str, str] = MappingProxyType({"game": "game", "data": "data set", "add_data": "data set"})


MLPS = ("mlp", "mlp_bits")
"""Networks of dense layers, which see vectors."""


def check_games(tasks: Sequence[Task], *, one_student: bool = True, mixes: bool = False) -> None:
    """Checks that these games go together.

    Args:
      tasks: the games.
      one_student: whether one student is to play them all, and its torso to see what they show.
      mixes: whether it may have a torso for frames and one for vectors.

    Raises:
      UserError: a game is there twice; or one student is to play them, and some show frames and some vectors.
    """
    problem = _games_problem(tasks, one_student and not mixes)
    if problem:
        raise UserError(problem)


def check_network(network: str, task: Task, where: str = "network") -> None:
    """Checks that a network can see what the task shows, once the game is known.

    Raises:
      UserError: a convolutional network for vectors, or an mlp for frames.
    """
    problem = _network_problem(network, task)
    if problem:
        raise UserError(f"{where}: {problem}")


def check_student_network(network: str, tasks: Sequence[Task], where: str = "student.network") -> None:
    """Checks that a student's network can see what its games show; beside games of frames, vectors have an mlp.

    Args:
      network: by name.
      tasks: the games as the student sees them.
      where: the setting, for messages.

    Raises:
      UserError: a convolutional network for vectors alone, or an mlp for frames.
    """
    check_network(network, _that_decides(tasks), where)


def _that_decides(tasks: Sequence[Task]) -> Task:
    """The game whose kind a student's network has to be of: one that shows frames, if any does."""
    return next((task for task in tasks if task.kind == "atari"), tasks[0])


def _network_problem(network: str, task: Task) -> str | None:
    if network == "mlp_bits" and task.kind == "vector" and not task.ram:
        return f"'mlp_bits' sees the bits of a console's memory, and {task.name} shows numbers; use 'mlp'"
    # What a network of the user's own sees, it finds out itself.
    if (network in MLPS) == (task.kind == "vector") or network in own_networks():
        return None
    if task.kind == "vector":
        return f"{network!r} sees frames, and {task.name} has none; use 'mlp'"
    return f"{network!r} sees vectors, and {task.name} shows frames; use one of dqn, net1, net2, net3"


def game_conflicts(game: str | None, network_key: str = "", network: str = "") -> Iterator[tuple[str, str]]:
    """Yields what is wrong with a game, and with the network that is to see it."""
    if game is None:
        return
    try:
        task = get_task(game)
    except UserError as error:
        yield "game", str(error)
        return
    problem = _network_problem(network, task) if network else None
    if problem:
        yield network_key, problem


def games_conflicts(
    games: Sequence[str], network: str = "", observation: ObservationConfig | None = None
) -> Iterator[tuple[str, str]]:
    """Yields what is wrong with several games, and with the network that is to see them all, if there is one; with an
    ``observation`` it sees that of them."""
    problems = [problem for game in games for problem in game_conflicts(game)]
    if not problems:
        tasks = [get_task(game) for game in games]
        if observation is not None:
            try:
                tasks = [observation.of(task).perceived for task in tasks]
            except UserError as error:
                where, _, what = str(error).partition(": ")
                yield where, what
                return
        if games_problem := _games_problem(tasks, one_kind=False):
            problems.append(("game", games_problem))
        elif network and tasks and (problem := _network_problem(network, _that_decides(tasks))):
            problems.append(("student.network", problem))
    yield from problems


def _games_problem(tasks: Sequence[Task], one_kind: bool) -> str | None:
    names = [task.name for task in tasks]
    for name in names:
        if names.count(name) > 1:
            return f"{name} is there {names.count(name)} times; a game has one teacher, and a student one head for it"
    if not one_kind:
        return None
    frames = [task.name for task in tasks if task.kind == "atari"]
    vectors = [task.name for task in tasks if task.kind == "vector"]
    if frames and vectors:
        return f"{frames[0]} shows frames and {vectors[0]} vectors; the games of one student share what sees them"
    return None


def not_one_each(key: str, values: Sequence[Any], teachers: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yields what is wrong with a list of which there is to be one for each teacher."""
    if len(values) == len(teachers):
        return
    numbers = f"{spell_count(len(values), _NOUNS.get(key, 'number'))} for {spell_count(len(teachers), 'teacher')}"
    lacking = ""
    if key == "game" and len(values) > len(teachers):
        lacking = f": {values[len(teachers)]} has no teacher"
    elif key in _NOUNS and len(values) < len(teachers):
        lacking = f": {teachers[len(values)]} has none"
    yield key, f"{numbers}{lacking}; give one for each teacher, in the same order"
