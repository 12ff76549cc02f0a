"""The settings of each command."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pd_jax.config.base import CommandConfig
from pd_jax.config.collect import CollectConfig
from pd_jax.config.distill import DistillConfig
from pd_jax.config.evaluate import EvaluateConfig
from pd_jax.config.online import OnlineConfig
from pd_jax.config.report import ReportConfig
from pd_jax.config.sweep import SweepConfig
from pd_jax.config.train_teacher import TrainTeacherConfig

COMMANDS: Mapping[str, type[CommandConfig]] = MappingProxyType(
    {
        "train-teacher": TrainTeacherConfig,
        "collect": CollectConfig,
        "distill": DistillConfig,
        "online": OnlineConfig,
        "sweep": SweepConfig,
        "evaluate": EvaluateConfig,
        "report": ReportConfig,
    }
)
"""The settings of each command, by its name on the command line."""
