"""The settings of every command: one frozen dataclass for each, made of sections. Nothing here imports JAX."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pd_jax.system.lazy import lazy_names

if TYPE_CHECKING:
    from pd_jax.config.algorithms import DQNConfig, PPOConfig, PQNConfig, QLearningConfig
    from pd_jax.config.audit import AuditConfig, AuditEvaluationConfig, BoundsConfig, OutsideConfig
    from pd_jax.config.base import CommandConfig, ProfiledConfig, Settings
    from pd_jax.config.collect import CollectConfig
    from pd_jax.config.commands import COMMANDS
    from pd_jax.config.distill import DistillConfig
    from pd_jax.config.evaluate import EvaluateConfig
    from pd_jax.config.export import ExportConfig, ExportEvaluationConfig, ProofConfig
    from pd_jax.config.loading import from_mapping, load_config, read_config, to_mapping, to_yaml
    from pd_jax.config.online import OnlineConfig
    from pd_jax.config.push import PushConfig
    from pd_jax.config.renew import RenewConfig
    from pd_jax.config.report import ReportConfig
    from pd_jax.config.sections import (
        ActorsConfig,
        BehaviourConfig,
        CheckpointConfig,
        DistillCheckpointConfig,
        EmulatorConfig,
        EnvConfig,
        EvaluationConfig,
        HostsConfig,
        LearnerConfig,
        LossConfig,
        OneGameEnvConfig,
        ReplayConfig,
        ScheduleConfig,
        StudentConfig,
        StudentEvaluationConfig,
        TeacherCheckpointConfig,
        TeacherEvaluationConfig,
    )
    from pd_jax.config.sweep import GridConfig, SweepConfig
    from pd_jax.config.train_teacher import TrainTeacherConfig
    from pd_jax.config.video import VideoConfig

__all__ = [
    "COMMANDS",
    "ActorsConfig",
    "AuditConfig",
    "AuditEvaluationConfig",
    "BehaviourConfig",
    "BoundsConfig",
    "CheckpointConfig",
    "CollectConfig",
    "CommandConfig",
    "DQNConfig",
    "DistillCheckpointConfig",
    "DistillConfig",
    "EmulatorConfig",
    "EnvConfig",
    "EvaluateConfig",
    "EvaluationConfig",
    "ExportConfig",
    "ExportEvaluationConfig",
    "GridConfig",
    "HostsConfig",
    "LearnerConfig",
    "LossConfig",
    "OneGameEnvConfig",
    "OnlineConfig",
    "OutsideConfig",
    "PPOConfig",
    "PQNConfig",
    "ProfiledConfig",
    "ProofConfig",
    "PushConfig",
    "QLearningConfig",
    "RenewConfig",
    "ReplayConfig",
    "ReportConfig",
    "ScheduleConfig",
    "Settings",
    "StudentConfig",
    "StudentEvaluationConfig",
    "SweepConfig",
    "TeacherCheckpointConfig",
    "TeacherEvaluationConfig",
    "TrainTeacherConfig",
    "VideoConfig",
    "from_mapping",
    "load_config",
    "read_config",
    "to_mapping",
    "to_yaml",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "algorithms": ["DQNConfig", "PPOConfig", "PQNConfig", "QLearningConfig"],
            "audit": ["AuditConfig", "AuditEvaluationConfig", "BoundsConfig", "OutsideConfig"],
            "base": ["CommandConfig", "ProfiledConfig", "Settings"],
            "collect": ["CollectConfig"],
            "commands": ["COMMANDS"],
            "distill": ["DistillConfig"],
            "evaluate": ["EvaluateConfig"],
            "export": ["ExportConfig", "ExportEvaluationConfig", "ProofConfig"],
            "loading": ["from_mapping", "load_config", "read_config", "to_mapping", "to_yaml"],
            "online": ["OnlineConfig"],
            "push": ["PushConfig"],
            "renew": ["RenewConfig"],
            "report": ["ReportConfig"],
            "sections": [
                "ActorsConfig",
                "BehaviourConfig",
                "CheckpointConfig",
                "DistillCheckpointConfig",
                "EmulatorConfig",
                "EnvConfig",
                "EvaluationConfig",
                "HostsConfig",
                "LearnerConfig",
                "LossConfig",
                "OneGameEnvConfig",
                "ReplayConfig",
                "ScheduleConfig",
                "StudentConfig",
                "StudentEvaluationConfig",
                "TeacherCheckpointConfig",
                "TeacherEvaluationConfig",
            ],
            "sweep": ["GridConfig", "SweepConfig"],
            "train_teacher": ["TrainTeacherConfig"],
            "video": ["VideoConfig"],
        },
    )
