"""The scores of an online run: of the learning teacher, of the target that plays, and of the student."""

from __future__ import annotations

from typing import Any

from pd_jax.evaluation.comparison import Comparison
from pd_jax.evaluation.evaluator import OnStep
from pd_jax.evaluation.games import heeding, play_games
from pd_jax.evaluation.protocol import Protocol
from pd_jax.evaluation.sampled_states import SampledStates
from pd_jax.evaluation.scores import Score
from pd_jax.learner.objective import student_temperature
from pd_jax.networks.lane_policy import LanePolicy
from pd_jax.online.setup import OnlineSetup
from pd_jax.resources.ledger import SCORING, Ledger
from pd_jax.system.interrupts import Interrupts
from pd_jax.system.progress import Progress
from pd_jax.trainers.teacher_writer import FINAL_SEED_OFFSET

COMPARISON_SEED_OFFSET = FINAL_SEED_OFFSET // 2
"""Where the target's and the student's games on the way start. The best snapshot was the luckiest, too, in the games
that chose it; in others it owes nothing to luck, and neither do the final games."""


class OnlineScorer:
    """Plays whole games; whoever is compared meets the same seeds.

    Args:
      setup: of the run.
      progress: gets a meter of the games.
      interrupts: heeded every few steps.
      ledger: is told that games on the way are no training.
    """

    def __init__(self, setup: OnlineSetup, progress: Progress, interrupts: Interrupts, ledger: Ledger) -> None:
        self._setup, self._progress, self._interrupts, self._ledger = setup, progress, interrupts, ledger
        self._meter = progress.add("games", setup.config.evaluation.episodes)
        self._sampled = SampledStates(setup.task, seen=setup.student_setup.student.tasks[0])
        """States of the student's final games."""

    def on_the_way(self, who: str, variables: Any, seed_offset: int = 0) -> Score:
        """The score over the few games that training waits for.

        Args:
          who: ``teacher``, ``target`` or ``student``.
          variables: of who plays.
          seed_offset: moves the starts on from those of other scores of the run.
        """
        with self._ledger.during(SCORING):
            return self._play(who, variables, self._setup.config.evaluation.progress_episodes, seed_offset)

    def final(self, who: str, variables: Any) -> Score:
        """The score over the games that the run ends with, from starts that chose nothing."""
        looks_on = None
        if who == "student":
            student = self._setup.student_setup.student
            policy = student.policy(0)
            beside = (policy, variables) if isinstance(policy, LanePolicy) else None
            looks_on = self._sampled = SampledStates(self._setup.task, student=beside, seen=student.tasks[0])
        return self._play(who, variables, self._setup.config.evaluation.episodes, FINAL_SEED_OFFSET, looks_on)

    def compare(self, target: Any, student: Any) -> Comparison:
        """What the student chooses in its final games where the target would choose.

        Args:
          target: its variables.
          student: its variables, of which :meth:`final` gave the score.
        """
        setup, gives_logits = self._setup, self._setup.target.gives_logits
        self._progress.status("asking the target about the student's games")
        self._interrupts.check()
        return self._sampled.compare(
            (setup.network.apply, target),
            (setup.student_setup.student.policy(0), student),
            student_temperature=student_temperature(setup.config.loss, 0, gives_logits=gives_logits),
            gives_logits=gives_logits,
        )

    def _play(self, who: str, variables: Any, episodes: int, seed_offset: int, on_step: OnStep | None = None) -> Score:
        setup = self._setup
        self._progress.status(f"evaluating the {who}")
        self._meter.reset(episodes)
        student = setup.student_setup.student
        apply = student.player(0) if who == "student" else setup.network.apply
        protocol = Protocol.of(setup.config, setup.task, episodes=episodes, seed_offset=seed_offset)
        on_progress = heeding(self._interrupts, self._meter)
        games = play_games(apply, variables, setup.task, protocol, on_progress=on_progress, on_step=on_step)
        return Score.of(games.returns)
