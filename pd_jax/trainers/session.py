"""``pd-jax train-teacher``: the loop around an algorithm; owns files and time."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pd_jax.config.train_teacher import TrainTeacherConfig
from pd_jax.environments.envpool import TimeStep
from pd_jax.environments.seeds import fresh_seed
from pd_jax.environments.tasks import Task
from pd_jax.learner.divergence import check_loss, check_weights
from pd_jax.networks.policy import count_params
from pd_jax.resources.pace import Pace
from pd_jax.runs.lineage import leave_lineage, teacher_parent
from pd_jax.runs.session import Session
from pd_jax.runs.summary import Summary
from pd_jax.runs.timer import SaveTimer
from pd_jax.runs.tools import Tools, open_tools
from pd_jax.system.computing import computing
from pd_jax.system.interrupts import stoppable
from pd_jax.teachers import Teacher
from pd_jax.trainers.counters import GuidedCounters, TrainingCounters
from pd_jax.trainers.guide import Guide
from pd_jax.trainers.scorer import TrainingScorer
from pd_jax.trainers.setup import TrainingSetup, load_start, make_training_setup, open_training_run
from pd_jax.trainers.summary import iteration_numbers, summarise_training


@stoppable
@computing()
def train_teacher(config: TrainTeacherConfig, *, stop: threading.Event | None = None) -> Summary:
    """Trains a teacher, or resumes its training, and leaves ``teacher.safetensors`` in the run directory.

    Args:
      config: the run's.
      stop: ends it as SIGTERM does once it is set, which another thread may do.

    Returns:
      the summary.

    Raises:
      UserError: something the user gave does not fit; nothing was written.
      Interrupted: a signal came, or ``stop`` was set; the run was saved.
    """
    setup = make_training_setup(config)
    config, memory = setup.config, setup.memory()
    memory.check()
    start_from = load_start(config, setup.tasks)
    title = f"train {', '.join(config.game)} with {config.algorithm}"
    with open_training_run(config) as run, open_tools(run, config, config.checkpoint.keep, title) as tools:
        session = TrainingSession(setup, tools, start_from)
        memory.tell()
        summary = session.run()
        run.write_summary(summary)
        session.checkpointer.wait()
        parents = []
        if config.init_from is not None:
            parents.append(teacher_parent(config.init_from, run.path, role="start"))
        if session.guide is not None:
            parents += session.guide.parents()
        about = {"games": list(config.game), "network": config.network, "env_steps": session.counters.env_steps}
        leave_lineage(run.path, "train-teacher", parents, about)
    return summary


def nonsense_shown(play: Any, tasks: Sequence[Task]) -> str:
    """What is to be mended if lanes show NaN or infinite numbers, in words; ``""`` if none does.

    Args:
      play: an algorithm's, with a time step of each task, in their order.
      tasks: that are played.
    """
    timesteps = (leaf for leaf in jax.tree.leaves(play, is_leaf=_is_timestep) if _is_timestep(leaf))
    for task, timestep in zip(tasks, timesteps, strict=False):
        if task.kind == "vector":
            sound = np.isfinite(np.asarray(timestep.observations)).reshape(len(timestep.observations), -1)
            if not sound.all():
                lane, number = np.argwhere(~sound)[0]
                where = f"number {number} of lane {lane}"
                return f"mend the environment, {task.name}, which shows NaN or infinite numbers ({where})"
    return ""


def _is_timestep(leaf: Any) -> bool:
    return isinstance(leaf, TimeStep)


class TrainingSession(Session[TrainingCounters]):
    """One process's share of a training, from its newest checkpoint (if any) to its end."""

    def __init__(self, setup: TrainingSetup, tools: Tools, start_from: Teacher | None) -> None:
        self.setup, self.config, self.learning = setup, setup.config, setup.config.learning
        kind = TrainingCounters if setup.guided is None else GuidedCounters
        super().__init__(tools, kind(network=self.config.network, parts=dict(vars(self.config.parts))))
        self.pace = Pace()
        self.speed: dict[str, Any] = {}
        """What `Pace.summarise` says once this session has trained."""
        self.remedy = f"resume with a smaller {self.config.algorithm}.learning_rate"
        if any(task.kind == "vector" for task in setup.tasks):
            # What lanes show is not looked at inside of an iteration.
            self.remedy += ", or mend the environment, if it shows NaN"
        self.scorer = TrainingScorer(setup, self.run_directory.path, self.progress, self.interrupts)
        self.guide = None if setup.guided is None else Guide(setup, setup.guided, self.scorer, self.progress.print)
        self.state = self._restore_or_init(start_from)
        checkpoint = self.config.checkpoint
        self.timer = SaveTimer(checkpoint.every_steps, checkpoint.every_seconds, self.counters.done)
        self.steps = self.progress.add("steps", self.learning.total_steps, completed=self.counters.env_steps)

    def run(self) -> Summary:
        """Trains to the end, picks between the best and the last weights, scores these on fresh starts."""
        counters = self.counters
        if self.guide is not None:
            self.guide.draw(self._guidance)
        if counters.env_steps < self.learning.total_steps:
            self._train()
        if counters.best_mean is None or counters.last_scored != counters.env_steps:
            self._evaluate_on_the_way()
        variables, scores = self.scorer.finish(self.state.variables, counters)
        summary = summarise_training(
            self.setup,
            counters,
            scores,
            self.scorer.normalised,
            path=str(self.scorer.path),
            updates=self.setup.updates_done(self.state),
            parameters=count_params(variables["params"]),
            speed=self.speed,
            wall_seconds=self.wall_seconds(),
        )
        return summary if self.guide is None else self.guide.tell(summary, self._guidance)

    @property
    def _guidance(self) -> dict[str, Any]:
        """What was found out at the start of a guided training."""
        assert isinstance(self.counters, GuidedCounters) and self.counters.guidance is not None
        return self.counters.guidance

    def check_restored(self, step: int | None) -> None:
        """Raises unless the teacher that guides is the one that did until now."""
        if self.guide is not None and step is not None:
            self.guide.check(self._guidance)

    def _restore_or_init(self, start_from: Teacher | None) -> Any:
        algorithm, fresh = self.setup.algorithm, self.setup.init()
        note = algorithm.resume_note(self.learning)
        state = self.restore(fresh, self.config.network, lambda counters: f"step {counters.env_steps:,}, {note}")
        if state is None:
            if start_from is not None:
                fresh = algorithm.warm_start(fresh, jax.tree.map(jnp.asarray, start_from.variables))
            if self.guide is not None and isinstance(self.counters, GuidedCounters):
                fresh, self.counters.guidance = self.guide.begin(fresh, start_from)
            return fresh
        if not self.scorer.path.exists():
            self.counters.best_mean = None
        return state

    def _train(self) -> None:
        counters, every = self.counters, self.config.evaluation.every_steps
        seed, steps = fresh_seed(self.config.seed, counters.env_steps), self.config.steps_per_iteration
        environments = self.setup.open_environments(seed)
        play = self.setup.start(environments, seed)
        iterate = self.setup.make_iteration(environments)
        try:
            with self.saved_when_interrupted():
                while counters.env_steps < self.learning.total_steps:
                    started = time.monotonic()
                    self.state, play, values = iterate(self.state, play)
                    values = jax.device_get(values)
                    self.pace.count(steps, time.monotonic() - started, updates=int(values["updates"]))
                    if values["updates"]:
                        self.ledger.on_stage("training")
                    counters.env_steps += steps
                    self._write_metrics(values, play)
                    self.steps.advance(steps)
                    is_end = counters.env_steps >= self.learning.total_steps
                    if is_end or (every and counters.env_steps // every > counters.last_scored // every):
                        self._evaluate_on_the_way()
                    if self.timer.is_due(counters.done):
                        self.save()
                    self.interrupts.check()
                self.save()
                players = list(zip(environments, self.setup.networks, strict=True))
                self.speed = self.pace.summarise(players, self.state.variables)
        finally:
            # EnvPool must not go while a call is stepping it. Lanes that a failed call has consumed are not waited for.
            with contextlib.suppress(RuntimeError):
                jax.block_until_ready(play)
            for environment in environments:
                environment.close()

    def _write_metrics(self, values: dict[str, Any], play: Any) -> None:
        if self.guide is not None:
            values = self.guide.check_sound(values, self.counters.env_steps)
        numbers, returns = iteration_numbers(values, self.config.game)
        status = "filling the replay"
        if "loss" in numbers:
            is_sound = math.isfinite(numbers["loss"])
            remedy = self.remedy if is_sound else nonsense_shown(play, self.setup.tasks) or self.remedy
            check_loss(numbers["loss"], f"step {self.counters.env_steps:,}", remedy)
            status = f"loss {numbers['loss']:.4f}"
        if returns:
            self.progress.status(f"return {', '.join(f'{value:.1f}' for value in returns)}, {status}")
        numbers["wall_seconds"] = self.wall_seconds()
        self.metrics.write(self.counters.env_steps, numbers)

    def _evaluate_on_the_way(self) -> None:
        check_weights(self.state.variables, f"step {self.counters.env_steps:,}", self.remedy)
        self.metrics.write(self.counters.env_steps, self.scorer.on_the_way(self.state.variables, self.counters))

    def save(self, score: float | None = None) -> None:
        """Saves the state, with the score of these very weights if they were scored."""
        counters = self.counters
        is_scored = bool(counters.curve) and counters.last_scored == counters.env_steps
        super().save(counters.curve[-1]["mean"] if is_scored else score)

    def snapshot(self) -> Any:
        """The algorithm's state."""
        check_weights(self.state.variables, f"step {self.counters.env_steps:,}", self.remedy)
        return self.state
