"""What a guided training begins with, and what is told of its teacher in the end."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pd_jax.config.credibility import JOIN
from pd_jax.environments.seeds import fresh_seed
from pd_jax.errors import UnsoundTeacherError, UserError
from pd_jax.evaluation.scores import Score
from pd_jax.report.guidance import errors_above, guidance_notes
from pd_jax.runs.lineage import Parent, teacher_parents
from pd_jax.runs.summary import Summary
from pd_jax.teachers import Teacher
from pd_jax.teachers.joined import split
from pd_jax.trainers.guidance import temperature_of_start
from pd_jax.trainers.guided_pqn import GuidedPQN, GuidedState
from pd_jax.trainers.opening import Calibration, OpeningPlay, calibrate, find_temperature, play_opening, with_outputs
from pd_jax.trainers.scorer import TrainingScorer
from pd_jax.trainers.setup import TrainingSetup

_OPENING_SEED = 2**20
"""Added to the seed of play that is looked at and not learnt from."""


class Guide:
    """The teacher's part in a training.

    Args:
      setup: of the training.
      guided: its algorithm.
      scorer: of its policies.
      say: is told what was found out, a line each.
    """

    def __init__(
        self, setup: TrainingSetup, guided: GuidedPQN, scorer: TrainingScorer, say: Callable[[str], None]
    ) -> None:
        self._setup, self._guided, self._scorer, self._say = setup, guided, scorer, say

    def check(self, told: dict[str, Any]) -> None:
        """Raises a UserError if another teacher than this one guided the run until now.

        Args:
          told: what :meth:`begin` found out.
        """
        there, here = told["teacher_sha256"], self._guided.teacher.sha256
        if there != here:
            raise UserError(
                f"guidance.teacher: {self._guided.config.teacher} is another teacher ({here[:12]}) than the one that "
                f"guided the run in {self._setup.config.out} ({there[:12]}); choose another --out"
            )

    def begin(self, state: GuidedState, start: Teacher | None) -> tuple[GuidedState, dict[str, Any]]:
        """Finds out what a training begins with.

        Args:
          state: fresh, with the weights of ``start``.
          start: None is from nothing.

        Returns:
          the state to train from, and what was found out: plain values.

        Raises:
          UserError: the teacher's outputs are not finite, or it has no returns that one could come up to.
        """
        guided, network = self._guided, self._setup.networks[0]
        config, teacher = guided.config, guided.teacher
        temperature, calibration = temperature_of_start(config.loss, start), None
        is_policy = start is not None and start.gives_logits
        if is_policy or temperature is None:
            play = self._play_opening(state)
            if temperature is None:
                temperature = find_temperature(play, config.loss.target_entropy)
            if is_policy:
                gamma = self._setup.config.pqn.gamma
                calibration = calibrate(play, gamma, gives_logits=teacher.gives_logits, scale=config.scale)
                state = guided.warm_start(state, with_outputs(state.variables, calibration))
        if math.isnan(temperature):
            temperature = guided.default_temperature
        own = self._learner_temperature(temperature, calibration)
        score = self._scorer.score_policy(teacher.apply, teacher.variables, "the teacher")
        if config.fade == "return_ratio" and not score.mean > guided.random_return:
            raise UserError(
                f"guidance.fade: return_ratio is of returns above random play ({guided.random_return:g}), and the "
                f"teacher {config.teacher} scores {score.mean:.1f}; take schedule"
            )
        told: dict[str, Any] = {
            "teacher": _name(str(config.teacher)),
            "teacher_sha256": teacher.sha256,
            **score.entries("teacher"),
            "episodes": score.episodes,
            "loss": config.loss.kind,
            "fade": config.fade,
            "temperature": temperature if config.loss.has_temperature else None,
            "learner_temperature": None if config.loss.gives_q else own,
        }
        began = guided.random_return
        if start is not None:
            first = self._scorer.score_policy(network.apply, state.variables, "the start")
            began = first.mean
            told |= {"start": _name(start.source), "start_sha256": start.sha256, **first.entries("start")}
        if calibration is not None:
            told |= dataclasses.asdict(calibration)
        for note in guidance_notes(told):
            self._say(note)
        state = dataclasses.replace(
            state,
            temperature=jnp.float32(temperature),
            learner_temperature=jnp.float32(own),
            teacher_return=jnp.float32(score.mean),
            start_return=jnp.float32(began),
        )
        return state, told

    def draw(self, told: dict[str, Any]) -> None:
        """Has the learning curve show the teacher's score and the start's."""
        references = {"its teacher": told["teacher_score"], "its start": told.get("start_score")}
        self._scorer.compare_with({name: score for name, score in references.items() if score is not None})

    def check_sound(self, values: dict[str, Any], env_steps: int) -> dict[str, Any]:
        """The metrics of an iteration without the word on the teacher's outputs.

        Raises:
          UnsoundTeacherError: they were NaN or infinite.
        """
        if not values["teacher_is_sound"]:
            raise UnsoundTeacherError(
                f"guidance.teacher: {self._guided.config.teacher}: its outputs became NaN or infinite by step "
                f"{env_steps:,}; the checkpoints before it are sound"
            )
        return {name: value for name, value in values.items() if name != "teacher_is_sound"}

    def tell(self, summary: Summary, told: dict[str, Any]) -> Summary:
        """The summary with what is to be told of the guidance."""
        (game,) = summary.games.values()
        teacher = Score.from_entries(told, "teacher")
        assert game.teacher is not None and teacher is not None
        about = told | {"standard_errors_above_teacher": errors_above(game.teacher, teacher)}
        return dataclasses.replace(summary, about={**summary.about, "guidance": about})

    def parents(self) -> list[Parent]:
        """The teacher, or each of several that are one, as what the training came from."""
        config = self._setup.config
        return teacher_parents(self._guided.teacher, config.out, game=config.game[0])

    def _learner_temperature(self, temperature: float, calibration: Calibration | None) -> float:
        """That at which a learner whose gaps are the teacher's has the teacher's policy."""
        guided = self._guided
        if guided.config.learner_temperature is not None:
            return guided.config.learner_temperature
        if not guided.teacher.gives_logits:
            return temperature
        return guided.default_learner_temperature if calibration is None else calibration.scale

    def _play_opening(self, state: GuidedState) -> OpeningPlay:
        config = self._setup.config
        seed = fresh_seed(config.seed, _OPENING_SEED)
        (environment,) = self._setup.open_environments(seed)
        try:
            key, network = jax.random.key(seed), self._setup.networks[0]
            return play_opening(self._guided, network, state.variables, environment, config.pqn, key)
        finally:
            environment.close()


def _name(path: str) -> str:
    """Without the way there, which is no part of what is told."""
    return JOIN.join(os.path.basename(os.path.normpath(part)) for part in split(path))
