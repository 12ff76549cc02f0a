"""What settings that are possible alone make impossible together, or with the games and the devices that are there.

Nothing here imports JAX, so that a bad setting fails at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pd_jax.config_algorithms import DQNConfig, PQNConfig
from pd_jax.errors import UserError
from pd_jax.tasks import Task, get_task

if TYPE_CHECKING:
    from pd_jax.config import DistillConfig, TrainTeacherConfig

_NOUNS: Mapping[str, str] = MappingProxyType({"game": "game", "data": "data set"})


def check_devices(config: DistillConfig, num_devices: int) -> None:
    """Checks that lanes and minibatches split evenly over the devices that were found.

    Raises:
      UserError: they do not; the message names the key and the nearest numbers that would.
    """
    for key, problem in device_conflicts(config, num_devices):
        raise UserError(f"{key}: {problem}")


def device_conflicts(config: DistillConfig, num_devices: int) -> Iterator[tuple[str, str]]:
    """Yields what does not split evenly over ``num_devices``, as `CommandConfig.conflicts` does."""
    lanes = ((config.lanes_key, number) for number in dict.fromkeys(config.lanes))
    for key, number in (*lanes, ("learner.batch_size", config.learner.batch_size)):
        if number % num_devices:
            yield key, f"{number} does not split evenly over {num_devices} devices; {_fitting(number, num_devices)}"
    batch_size, accumulate = config.learner.batch_size, config.learner.accumulate
    parts = num_devices * accumulate
    if batch_size % num_devices == 0 and batch_size % parts:
        yield (
            "learner.batch_size",
            f"{batch_size} does not split evenly into learner.accumulate {accumulate} parts on each of {num_devices} "
            f"devices; {_fitting(batch_size, parts)}",
        )


def _fitting(number: int, parts: int) -> str:
    below = number // parts * parts
    return f"{below} and {below + parts} do" if below else f"{parts} does"


def actor_conflicts(config: DistillConfig) -> Iterator[tuple[str, str]]:
    """Yields what is impossible in where and when the play takes place."""
    actors, games = config.actors, config.num_games
    if actors.overlap and config.behaviour.student_acts:
        yield (
            "actors.overlap",
            f"true, and behaviour.policy is {config.behaviour.policy!r}: the student that acts in a round is the one "
            "that the round before has made; leave it out",
        )
    if actors.num_devices > games:
        yield "actors.num_devices", f"{actors.num_devices} for {_count(games, 'game')}; each game plays on one device"
    if actors.num_devices and config.data is not None:
        yield "actors.num_devices", f"{actors.num_devices}, and data is a recording, which needs none; leave one out"


def check_games(tasks: Sequence[Task], *, one_student: bool = True) -> None:
    """Checks that these games go together.

    Args:
      tasks: the games.
      one_student: whether one student is to play them all, and its torso to see what they show.

    Raises:
      UserError: a game is there twice; or one student is to play them, and some show frames and some vectors.
    """
    problem = _games_problem(tasks, one_student)
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


def pqn_conflicts(pqn: PQNConfig) -> Iterator[tuple[str, str]]:
    """Yields what is impossible together in PQN's settings."""
    if pqn.steps_per_rollout % pqn.minibatches:
        yield (
            "pqn.minibatches",
            f"{pqn.minibatches} do not divide a rollout of {pqn.steps_per_rollout} steps "
            f"(pqn.num_lanes {pqn.num_lanes} x pqn.rollout_length {pqn.rollout_length})",
        )


def dqn_conflicts(dqn: DQNConfig, num_games: int = 1) -> Iterator[tuple[str, str]]:
    """Yields what is impossible together in DQN's settings, for so many games."""
    steps = num_games * dqn.steps_per_rollout
    if steps % dqn.steps_per_update:
        games = f" x {num_games} games" if num_games > 1 else ""
        yield (
            "dqn.steps_per_update",
            f"{dqn.steps_per_update} does not divide a rollout of {steps} steps "
            f"(dqn.num_lanes {dqn.num_lanes} x dqn.rollout_length {dqn.rollout_length}{games})",
        )
    # Of 6 slots the 3 oldest may lack a part of their stack and the newest what follows it; of two neighbours among the
    # others at most one is a terminal observation.
    least = max(dqn.rollout_length, 6)
    if dqn.capacity_per_lane < least:
        yield (
            "dqn.replay_capacity",
            f"{dqn.replay_capacity} leaves {dqn.capacity_per_lane} steps to each of {dqn.num_lanes} lanes; "
            f"it takes {least}",
        )
    kept = dqn.capacity_per_lane * dqn.num_lanes
    if dqn.learning_starts > kept:
        yield "dqn.learning_starts", f"{dqn.learning_starts} is more than the replay holds ({kept})"


def _network_problem(network: str, task: Task) -> str | None:
    if (network == "mlp") == (task.kind == "vector"):
        return None
    if task.kind == "vector":
        return f"{network!r} sees frames, and {task.name} has none; use 'mlp'"
    return f"'mlp' sees vectors, and {task.name} shows frames; use one of dqn, net1, net2, net3"


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


def learnt_games_conflicts(config: TrainTeacherConfig) -> Iterator[tuple[str, str]]:
    """Yields what is wrong with the games that a network is to learn from rewards, or with the network for them."""
    problems = [problem for game in config.game for problem in game_conflicts(game, "network", config.network)]
    if not any(key == "game" for key, _ in problems):
        names = [get_task(game).name for game in config.game]
        kinds = {get_task(game).kind: get_task(game).name for game in config.game}
        if twice := next((name for name in names if names.count(name) > 1), None):
            problems = [("game", f"{twice} is there {names.count(twice)} times; a network has one head for a game")]
        elif len(kinds) > 1:
            what = f"{kinds['atari']} shows frames and {kinds['vector']} vectors"
            problems = [("game", f"{what}; the games of one network share what sees them")]
    yield from problems
    if len(config.game) == 1:
        if config.network in ("multi3", "multi10"):
            choices = "dqn, net1, net2, net3, mlp"
            yield "network", f"{config.network!r} is a network for several games, and there is one ({choices})"
        for key in ("channels", "hidden", "head_hidden"):
            if getattr(config, key) is not None:
                yield key, "is for networks of several games, and there is one"


def games_conflicts(games: Sequence[str], network: str = "") -> Iterator[tuple[str, str]]:
    """Yields what is wrong with several games, and with the network that is to see them all, if there is one."""
    problems = [problem for game in games for problem in game_conflicts(game)]
    if not problems:
        tasks = [get_task(game) for game in games]
        if games_problem := _games_problem(tasks, bool(network)):
            problems.append(("game", games_problem))
        elif network and tasks and (problem := _network_problem(network, tasks[0])):
            problems.append(("student.network", problem))
    yield from problems


def _games_problem(tasks: Sequence[Task], one_student: bool) -> str | None:
    names = [task.name for task in tasks]
    for name in names:
        if names.count(name) > 1:
            return f"{name} is there {names.count(name)} times; a game has one teacher, and a student one head for it"
    if not one_student:
        return None
    frames = [task.name for task in tasks if task.kind == "atari"]
    vectors = [task.name for task in tasks if task.kind == "vector"]
    if frames and vectors:
        return f"{frames[0]} shows frames and {vectors[0]} vectors; the games of one student share what sees them"
    return None


def uneven(config: DistillConfig) -> Iterator[tuple[str, str]]:
    """Settings of which there is to be one for each teacher."""
    for key, values in (("game", config.game), ("data", config.data), ("env.lanes", config.env.lanes)):
        if isinstance(values, tuple):
            yield from not_one_each(key, values, config.teacher)
    temperature = config.loss.temperature
    if isinstance(temperature, tuple) and len(temperature) > 1:
        yield from not_one_each("loss.temperature", temperature, config.teacher)


def not_one_each(key: str, values: Sequence[Any], teachers: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yields what is wrong with a list of which there is to be one for each teacher."""
    if len(values) == len(teachers):
        return
    numbers = f"{_count(len(values), _NOUNS.get(key, 'number'))} for {_count(len(teachers), 'teacher')}"
    lacking = ""
    if key == "game" and len(values) > len(teachers):
        lacking = f": {values[len(teachers)]} has no teacher"
    elif key in _NOUNS and len(values) < len(teachers):
        lacking = f": {teachers[len(values)]} has none"
    yield key, f"{numbers}{lacking}; give one for each teacher, in the same order"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number > 1)}"
