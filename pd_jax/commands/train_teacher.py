"""``pd-jax train-teacher``: trains a teacher."""

from __future__ import annotations

from pd_jax.config.train_teacher import TrainTeacherConfig
from pd_jax.report.terminal import print_teacher
from pd_jax.trainers.session import train_teacher


def run(config: TrainTeacherConfig) -> None:
    """Trains, and prints the teacher's scores."""
    print_teacher(train_teacher(config))
