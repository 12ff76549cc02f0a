"""What a distillation takes, from the shapes of what it allocates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pd_jax.config.distill import DistillConfig
from pd_jax.environments.tasks import Task
from pd_jax.learner.gradients import gradient_parts
from pd_jax.learner.learner import learner_template
from pd_jax.networks.policy import count_params
from pd_jax.networks.student import Student
from pd_jax.resources.liveness import tree_bytes
from pd_jax.resources.memory import Part, largest
from pd_jax.resources.parts import (
    Policy,
    checkpoint_part,
    emulators_part,
    evaluation_part,
    forward_bytes,
    minibatch_bytes,
    observations_of,
    programs_part,
    replay_part,
    rollout_part,
    spell_games,
    times,
    trajectory_of,
    weights_part,
)
from pd_jax.system.devices import DeviceGroup, tracing_for


def distillation_parts(
    config: DistillConfig, student: Student, teachers: Sequence[Policy], devices: DeviceGroup, *, students: int = 1
) -> tuple[Part, ...]:
    """What a distillation takes, on the platform of its devices.

    Args:
      config: resolved.
      student: the network.
      teachers: who play and label, game by game.
      devices: that it runs on.
      students: that train together.
    """
    tasks, lanes = student.tasks, config.lanes
    state = learner_template(student, config.learner, config.loss, config.adding)
    is_live = config.data is None
    with tracing_for(devices.platform):
        replay = replay_part(config, tasks)
        activations = [
            minibatch_part(config, student, devices, students),
            evaluation_part(config.evaluation, [(student.policy(0), state.variables)], tasks[:1]),
        ]
        if is_live:
            activations.append(play_part(config, student, teachers, state.variables))
    environments = [(task, own) for task, own in zip(student.shown, lanes, strict=True) if is_live]
    # The sum of an update's gradients, besides those of the part in hand.
    sums = 2 + (gradient_parts(student, config.learner, devices) > 1)
    if (config.learner.is_by_game and student.num_games > 1) or config.learner.gradient_cosines_every:
        # Those of every game stand side by side.
        sums += student.num_games
    num_params = count_params(state.variables)
    training = f"training {config.student.network}'s {num_params:,} parameters{times(students)} takes"
    return (
        replay,
        # Every device has a whole student: with the state come the gradients and what they change.
        Part(
            "student",
            (tree_bytes(state) + sums * tree_bytes(state.variables)) * devices.size * students,
            f"student.network: {training}",
        ),
        largest(activations),
        weights_part("teachers", [variables for _, variables in teachers]),
        rollout_part(config.lanes_key, list(zip(tasks, lanes, strict=True)), config.stored_length),
        *([ahead_part(config, tasks)] if config.plays_ahead(devices.platform) else []),
        emulators_part(config.lanes_key, environments, config.evaluation, student.shown),
        checkpoint_part("student.network", state, num_params, students),
        programs_part(),
    )


def minibatch_part(config: DistillConfig, student: Student, devices: DeviceGroup, students: int) -> Part:
    """The student's layers, forwards and backwards, for a minibatch on every device, and the minibatch itself."""
    batch, learner = config.learner.batch_size, config.learner
    is_one_game = student.num_games > 1 and (learner.games == "alternating" or learner.is_by_game)
    parts = gradient_parts(student, config.learner, devices)
    total = minibatch_bytes(student, batch // devices.size // parts, is_one_game) * devices.size * students
    if is_one_game and (parts > 1 or learner.is_by_game):
        # Drawn whole, and then learnt from part by part, or game by game.
        drawn = student.num_games if learner.is_by_game else 1
        total += 2 * drawn * batch * students * tree_bytes(observations_of(student.tasks[0], 1))
    if student.memory is not None:
        # The steps before the sequences, as they were stored and as stacks.
        before = batch * learner.burn_in // learner.sequence_length * (1 if is_one_game else student.num_games)
        total += 2 * before * students * tree_bytes(observations_of(student.tasks[0], 1))
    of_each = "" if is_one_game or student.num_games == 1 else f" of each of {student.num_games} games"
    return Part("activations", total, f"learner.batch_size: {batch} samples{of_each} take")


def play_part(config: DistillConfig, student: Student, teachers: Sequence[Policy], variables: Any) -> Part:
    """The layers of the teachers, which play side by side, and of a student that acts beside them."""
    total = 0
    for game, (apply, own) in enumerate(teachers):
        lanes = config.lanes[game]
        total += forward_bytes(apply, own, student.shown[game], lanes)
        if config.behaviour.student_acts:
            total += forward_bytes(student.policy(game), variables, student.tasks[game], lanes)
    return Part("activations", total, f"{config.lanes_key}: {sum(config.lanes)} lanes at once take")


def rollouts_ahead(config: DistillConfig, task: Task, game: int) -> int:
    """Rollouts of a game that may be played before the round that they are for: a round of them, if there is room."""
    room = config.actors.queue_mib * 2**20 // config.num_games
    size = tree_bytes(trajectory_of(task, config.lanes[game], config.stored_length))
    return max(1, min(config.rollouts_per_round(game), room // size))


def ahead_part(config: DistillConfig, tasks: Sequence[Task]) -> Part:
    """Play of all games that waits for the round that it is for."""
    total = 0
    for game, task in enumerate(tasks):
        size = tree_bytes(trajectory_of(task, config.lanes[game], config.stored_length))
        total += size * rollouts_ahead(config, task, game)
    return Part("play ahead", total, f"actors.queue_mib: play of {spell_games(tasks)} ahead of the updates takes")
