"""A training that a teacher guides: what is found out at its start, and what is told of its teacher in the end."""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any

import jax
import jax.numpy as jnp

from pd_jax.environments.seeds import fresh_seed
from pd_jax.errors import UnsoundTeacherError, UserError
from pd_jax.evaluation.scores import Score
from pd_jax.report.guidance import errors_above, guidance_notes
from pd_jax.runs.lineage import Parent, teacher_parent
from pd_jax.runs.summary import Summary
from pd_jax.teachers import Teacher
from pd_jax.trainers.counters import TrainingCounters
from pd_jax.trainers.guidance import temperature_of_start
from pd_jax.trainers.guided_pqn import GuidedPQN, GuidedState
from pd_jax.trainers.opening import Calibration, calibrate, find_temperature, play_opening, with_outputs
from pd_jax.trainers.session import TrainingSession

_OPENING_SEED = 2**20
"""Added to the seed of play that is looked at and not learnt from."""


@dataclasses.dataclass(kw_only=True)
class GuidedCounters(TrainingCounters):
    """Where a guided training stands.

    Attributes:
      guidance: what was found out at its start, plain values; None until it is.
    """

    guidance: dict[str, Any] | None = None


class GuidedSession(TrainingSession):
    """One process's share of a guided training."""

    counters_class = GuidedCounters
    counters: GuidedCounters

    @property
    def guided(self) -> GuidedPQN:
        """The algorithm."""
        assert self.setup.guided is not None
        return self.setup.guided

    def run(self) -> Summary:
        """As of any training; the summary tells of the teacher too."""
        told = self._told
        references = {"its teacher": told["teacher_score"], "its start": told.get("start_score")}
        self.scorer.compare_with({name: score for name, score in references.items() if score is not None})
        summary = super().run()
        ((_, game),) = summary.games.items()
        teacher = Score.from_entries(told | {"episodes": told["episodes"]}, "teacher")
        assert game.teacher is not None and teacher is not None
        about = told | {"standard_errors_above_teacher": errors_above(game.teacher, teacher)}
        return dataclasses.replace(summary, about={**summary.about, "guidance": about})

    def more_parents(self) -> list[Parent]:
        """The teacher that guided."""
        source, game = self.config.guidance.teacher, self.config.game[0]
        assert source is not None
        return [teacher_parent(source, self.run_directory.path, game=game, sha256=self.guided.teacher.sha256)]

    @property
    def _told(self) -> dict[str, Any]:
        assert self.counters.guidance is not None
        return self.counters.guidance

    def _restore_or_init(self, start_from: Teacher | None) -> GuidedState:
        state: GuidedState = super()._restore_or_init(start_from)
        if self.counters.guidance is None:
            return self._open(state, start_from)
        return state

    def check_restored(self, step: int | None) -> None:
        """Raises a UserError if another teacher guided the run until now."""
        if step is None:
            return
        there, here = self._told["teacher_sha256"], self.guided.teacher.sha256
        if there != here:
            raise UserError(
                f"guidance.teacher: {self.config.guidance.teacher} is another teacher ({here[:12]}) than the one that "
                f"guided the run in {self.run_directory.path} ({there[:12]}); choose another --out"
            )

    def _open(self, state: GuidedState, start: Teacher | None) -> GuidedState:
        """Finds out what a training begins with, and tells it."""
        guided, network = self.guided, self.setup.networks[0]
        config, teacher = guided.config, guided.teacher
        temperature, calibration = temperature_of_start(config.loss, start), None
        is_policy = start is not None and start.gives_logits
        if is_policy or temperature is None:
            play = self._play_opening(state)
            if temperature is None:
                temperature = find_temperature(play, config.loss.target_entropy)
            if is_policy:
                gamma = self.learning.gamma
                calibration = calibrate(play, gamma, gives_logits=teacher.gives_logits, scale=config.scale)
                state = guided.warm_start(state, with_outputs(state.variables, calibration))
        if math.isnan(temperature):
            temperature = guided.default_temperature
        own = self._learner_temperature(temperature, calibration)
        score = self.scorer.score_policy(teacher.apply, teacher.variables, "the teacher")
        if config.fade == "return_ratio" and not score.mean > guided.random_return:
            raise UserError(
                f"guidance.fade: return_ratio is of returns above random play ({guided.random_return:g}), and the "
                f"teacher {config.teacher} scores {score.mean:.1f}; take schedule"
            )
        told: dict[str, Any] = {
            "teacher": os.path.basename(os.path.normpath(str(config.teacher))),
            "teacher_sha256": teacher.sha256,
            **score.entries("teacher"),
            "episodes": score.episodes,
            "loss": config.loss.kind,
            "fade": config.fade,
            "temperature": temperature if config.loss.has_temperature else None,
            "learner_temperature": None if config.loss.gives_q else own,
        }
        began = jnp.float32(guided.random_return)
        if start is not None:
            first = self.scorer.score_policy(network.apply, state.variables, "the start")
            began = jnp.float32(first.mean)
            told |= {"start": os.path.basename(os.path.normpath(start.source)), "start_sha256": start.sha256}
            told |= first.entries("start")
        if calibration is not None:
            told |= dataclasses.asdict(calibration)
        self.counters.guidance = told
        for note in guidance_notes(told):
            self.progress.print(note)
        return dataclasses.replace(
            state,
            temperature=jnp.float32(temperature),
            learner_temperature=jnp.float32(own),
            teacher_return=jnp.float32(score.mean),
            start_return=began,
        )

    def _learner_temperature(self, temperature: float, calibration: Calibration | None) -> float:
        """That at which a learner whose gaps are the teacher's has the teacher's policy."""
        guided = self.guided
        if guided.config.learner_temperature is not None:
            return guided.config.learner_temperature
        if not guided.teacher.gives_logits:
            return temperature
        return guided.default_learner_temperature if calibration is None else calibration.scale

    def _play_opening(self, state: GuidedState) -> Any:
        seed = fresh_seed(self.config.seed, _OPENING_SEED)
        (environment,) = self.setup.open_environments(seed)
        try:
            key, network = jax.random.key(seed), self.setup.networks[0]
            return play_opening(self.guided, network, state.variables, environment, self.config.pqn, key)
        finally:
            environment.close()

    def _write_metrics(self, values: dict[str, Any]) -> None:
        values = dict(values)
        if not values.pop("teacher_is_sound"):
            raise UnsoundTeacherError(
                f"guidance.teacher: {self.config.guidance.teacher}: its outputs became NaN or infinite by step "
                f"{self.counters.env_steps:,}; the checkpoints before it are sound"
            )
        super()._write_metrics(values)
