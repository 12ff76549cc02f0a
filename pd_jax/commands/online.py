"""``pd-jax online``: distils a teacher into a student while the teacher is still learning."""

from __future__ import annotations

from pathlib import Path

from pd_jax.config.online import OnlineConfig
from pd_jax.evaluation.scores import Score
from pd_jax.online.session import online
from pd_jax.report.terminal import describe_score, print_summary


def run(config: OnlineConfig) -> None:
    """Distils, and prints the scores of the student, its target and the teacher as it is in the end."""
    summary = online(config)
    print_summary(summary)
    (game,) = summary.games.values()
    latest = Score.from_entries({"episodes": game.episodes, **game.about}, "latest_teacher")
    assert latest is not None
    print(f"  {describe_score('the teacher as it is now', latest)}")
    files = "summary.json, report.html, progress.png, teacher.safetensors, metrics.jsonl, checkpoints/"
    print(f"{Path(config.out)}: {files}")
