"""The target of an online run: the snapshot of the learning teacher that plays for the student."""

from __future__ import annotations

from typing import Any

from pd_jax.distill.experience import Experience
from pd_jax.errors import UserError
from pd_jax.evaluation.scores import Score
from pd_jax.online.labels import Labels
from pd_jax.online.scorer import COMPARISON_SEED_OFFSET, OnlineScorer
from pd_jax.online.setup import OnlineSetup
from pd_jax.online.snapshots import SnapshotTeacher
from pd_jax.online.state import OnlineCounters
from pd_jax.runs.tools import Tools
from pd_jax.system.progress import print_warning
from pd_jax.trainers.learning_teacher import LearningTeacher, snapshot
from pd_jax.trainers.teacher_writer import FINAL_SEED_OFFSET


class Target:
    """The best snapshot of the teacher so far, as in the paper, or the teacher as it is.

    Args:
      setup: of the run.
      counters: where the run stands; what concerns the target is kept up to date.
      teacher: that learns, or its snapshots.
      experience: what the target plays for, and whose labels follow it.
      scorer: says which snapshot is best.
      tools: of the run.
      variables: of the target as the run begins or goes on.

    Attributes:
      variables: of the target as it is now.
    """

    def __init__(
        self,
        setup: OnlineSetup,
        counters: OnlineCounters,
        teacher: LearningTeacher | SnapshotTeacher,
        experience: Experience,
        scorer: OnlineScorer,
        tools: Tools,
        variables: Any,
    ) -> None:
        self._config, self._writer, self._counters = setup.config, setup.writer, counters
        self._has_snapshots = setup.snapshots is not None
        self._teacher, self._experience, self._scorer = teacher, experience, scorer
        self._progress, self._interrupts = tools.progress, tools.interrupts
        self._labels = Labels(setup.config, setup.network.apply, setup.student_setup.devices, counters.relabelling)
        self._play_with(variables)

    def is_due(self, rounds: int) -> bool:
        """Whether scores on the way are taken after so many rounds; always after the last."""
        return rounds % self._config.evaluation.every_rounds == 0 or rounds == self._config.schedule.rounds

    def choose(self, rounds: int) -> None:
        """The teacher has learnt as much as it is to have learnt after so many rounds: who plays now?"""
        counters = self._counters
        # A teacher of files stays the same for several rounds, and then is another: that is when it is scored.
        is_known = self._has_snapshots and any(
            point["env_steps"] == counters.teacher_env_steps for point in counters.curve
        )
        is_new = self._has_snapshots and not is_known and self._config.target == "best"
        if (is_new or (self.is_due(rounds) and not is_known)) and counters.teacher_scored < rounds:
            self.score_teacher(rounds)
        elif self._config.target == "latest":
            self._follow()

    def score_teacher(self, rounds: int) -> None:
        """Adds a point to the teacher's curve, and makes it the target if it is to be."""
        self._teacher.check()
        counters = self._counters
        score = self._scorer.on_the_way("teacher", self._teacher.variables)
        # A run that was stopped before it could note that it had scored the teacher scores it again.
        counters.curve = [point for point in counters.curve if point["env_steps"] != counters.teacher_env_steps]
        counters.curve.append({"env_steps": counters.teacher_env_steps} | score.point())
        counters.scores["teacher"] = score
        is_best = counters.best_mean is None or score.mean > counters.best_mean
        if is_best:
            counters.best_mean = score.mean
        if self._config.target == "latest":
            self._follow()
            counters.scores["target"] = score
        elif is_best:
            self._follow()
        if "target" not in counters.scores:
            counters.scores["target"] = self._scorer.on_the_way("target", self.variables, COMPARISON_SEED_OFFSET)
        counters.teacher_scored = rounds

    def note_play(self) -> None:
        """The target has played a round, and labelled it."""
        length = self._config.distillation.rollouts_per_round() * self._config.schedule.rollout_length
        self._labels.played(self._experience.replay, length)

    def stale_share(self) -> float:
        """Share of the stored steps whose labels are an older target's."""
        return self._labels.stale_share(self._experience.replay)

    def take_values(self) -> dict[str, float]:
        """Metrics of the relabelling since they were last taken."""
        return self._labels.take_values()

    def final_scores(self, student: Any) -> dict[str, Score]:
        """Scores of ``student``, ``target`` and ``teacher`` in games that chose nothing."""
        scores = {"student": self._scorer.final("student", student)}
        scores["teacher"] = scores["target"] = self._scorer.final("target", self.variables)
        if self._counters.target_env_steps != self._counters.teacher_env_steps:
            scores["teacher"] = self._scorer.final("teacher", self._teacher.variables)
        return scores

    def write(self, score: Score) -> None:
        """Writes its teacher file; a full disk costs a warning, for the checkpoint has the target too.

        Args:
          score: of its final games.
        """
        steps, curve = self._counters.target_env_steps, self._counters.curve
        try:
            self._writer.write(
                self.variables["params"], score, env_steps=steps, curve=curve, seed_offset=FINAL_SEED_OFFSET
            )
        except UserError as error:
            print_warning(str(error))

    def _follow(self) -> None:
        """The teacher as it is now plays for the student from now on."""
        counters = self._counters
        self._teacher.check()
        if counters.target_env_steps == counters.teacher_env_steps:
            return
        self._play_with(snapshot(self._teacher.variables))
        counters.target_env_steps = counters.teacher_env_steps
        counters.target_changes += 1
        # They were the one's before.
        counters.scores.pop("target", None)
        self._progress.status("labelling what is stored anew")
        self._labels.renew(self._experience.replay, self.variables, self._interrupts.check)

    def _play_with(self, variables: Any) -> None:
        self.variables = variables
        self._experience.let_teach(0, variables)
