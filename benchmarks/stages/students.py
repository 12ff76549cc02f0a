"""Several students in one program, as a sweep trains them on an accelerator, against one after another."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax

from benchmarks.harness.floors import training_flops
from benchmarks.harness.material import TEMPERATURE, make_learner
from benchmarks.harness.measure import Work, rates, take_turns
from benchmarks.harness.rows import Measured, Row, make_row
from benchmarks.stages.context import Context
from benchmarks.stages.update import updates
from pd_jax.config.sections import LearnerConfig
from pd_jax.learner.ensemble import EnsembleLearner
from pd_jax.learner.learner import LearnerState
from pd_jax.losses import kl_loss
from pd_jax.networks.registry import make_network
from pd_jax.networks.student import Student

_ALONE = 0


def run(context: Context) -> list[Row]:
    """By the number of students, each with minibatches of its own from one replay."""
    size, material = context.size, context.material
    network, batch = size.growing_networks[-1], size.per_device_batch * material.devices.size
    module = make_network(network, material.task.num_actions)
    flops = training_flops(module, material.task.observation_shape)
    count = context.batches_per_call(flops, batch * max(size.students))
    one = make_learner(network, [material.task], material.devices, batch)
    states = [one.init_single(jax.random.key(seed)) for seed in range(max(size.students))]
    student = Student(module, (material.task,))
    works: dict[int, Work] = {
        number: _updates(context, student, states[:number], batch, count) for number in size.students
    }
    # As a sweep trains them one after another.
    seconds = take_turns(works | {_ALONE: updates(one, (material.stored,), count)}, context.turns)
    one_by_one = Measured("students one after another", tuple(rates(batch * count, seconds.pop(_ALONE))))
    return [
        make_row(
            "students",
            {"network": network, "students": number, "batch": batch, "devices": material.devices.size},
            "samples/s",
            rates(number * batch * count, values),
            limit=one_by_one,
            cost=material.frames_cost(flops),
            ceilings=context.ceilings,
            note="of all students together",
        )
        for number, values in seconds.items()
    ]


def _updates(context: Context, student: Student, begin: Sequence[LearnerState], batch: int, count: int) -> Work:
    """``count`` updates of every student in one call, going on from what the call before has left."""
    material, number = context.material, len(begin)
    learner = EnsembleLearner(
        student,
        lambda temperature: functools.partial(kl_loss, temperature=temperature),
        LearnerConfig(batch_size=batch),
        material.devices,
        total_updates=1_000_000,
        temperatures=[TEMPERATURE] * number,
        learning_rates=[LearnerConfig().learning_rate] * number,
    )
    states = learner.stack(begin)

    def work() -> object:
        nonlocal states
        states, metrics = learner.update_from_replay(states, (material.stored,), count)
        return states, metrics

    return work
