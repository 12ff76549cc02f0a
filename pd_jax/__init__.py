"""Policy distillation (Rusu et al., 2016) for accelerators, in JAX and Flax.

The front door: load a teacher, distil it, load the student, let either act and score it. Everything here is imported
only once somebody asks for it: ``import pd_jax`` takes neither JAX nor EnvPool.

Example:
  The student of a run plays one batch of observations::

    student = pd_jax.load_student("runs/cartpole")
    actions, state = student.act(observations, student.initial_state(len(observations)))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pd_jax.system.lazy import lazy_names

if TYPE_CHECKING:
    from pd_jax import (
        actors,
        config,
        deploy,
        distill,
        environments,
        errors,
        evaluation,
        learner,
        losses,
        networks,
        online,
        replay,
        report,
        resources,
        runs,
        sweep,
        teachers,
        trainers,
        types,
        video,
    )
    from pd_jax.config.audit import AuditConfig
    from pd_jax.config.collect import CollectConfig
    from pd_jax.config.distill import DistillConfig
    from pd_jax.config.evaluate import EvaluateConfig
    from pd_jax.config.export import ExportConfig
    from pd_jax.config.online import OnlineConfig
    from pd_jax.config.push import PushConfig
    from pd_jax.config.renew import RenewConfig
    from pd_jax.config.report import ReportConfig
    from pd_jax.config.sweep import SweepConfig
    from pd_jax.config.train_teacher import TrainTeacherConfig
    from pd_jax.config.video import VideoConfig
    from pd_jax.deploy.audit.audit import run_audit
    from pd_jax.deploy.export import run_export
    from pd_jax.deploy.policy import load_student
    from pd_jax.deploy.push import run_push
    from pd_jax.deploy.renewal import run_renew
    from pd_jax.deploy.scoring import run_evaluate
    from pd_jax.distill.collect import collect as run_collect
    from pd_jax.distill.session import distill as run_distill
    from pd_jax.errors import UserError
    from pd_jax.evaluation.evaluator import evaluate
    from pd_jax.losses import kl_loss, mse_loss, nll_loss
    from pd_jax.networks.policy import count_params
    from pd_jax.networks.registry import make_network
    from pd_jax.online.session import online as run_online
    from pd_jax.report.report import run_report
    from pd_jax.runs.students import load_teacher
    from pd_jax.sweep.session import sweep as run_sweep
    from pd_jax.trainers.session import train_teacher as run_train_teacher
    from pd_jax.video.video import run_video

from pd_jax.version import __version__

__all__ = [
    "AuditConfig",
    "CollectConfig",
    "DistillConfig",
    "EvaluateConfig",
    "ExportConfig",
    "OnlineConfig",
    "PushConfig",
    "RenewConfig",
    "ReportConfig",
    "SweepConfig",
    "TrainTeacherConfig",
    "UserError",
    "VideoConfig",
    "__version__",
    "actors",
    "config",
    "count_params",
    "deploy",
    "distill",
    "environments",
    "errors",
    "evaluate",
    "evaluation",
    "kl_loss",
    "learner",
    "load_student",
    "load_teacher",
    "losses",
    "make_network",
    "mse_loss",
    "networks",
    "nll_loss",
    "online",
    "replay",
    "report",
    "resources",
    "run_audit",
    "run_collect",
    "run_distill",
    "run_evaluate",
    "run_export",
    "run_online",
    "run_push",
    "run_renew",
    "run_report",
    "run_sweep",
    "run_train_teacher",
    "run_video",
    "runs",
    "sweep",
    "teachers",
    "trainers",
    "types",
    "video",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "config.audit": ["AuditConfig"],
            "config.collect": ["CollectConfig"],
            "config.distill": ["DistillConfig"],
            "config.evaluate": ["EvaluateConfig"],
            "config.export": ["ExportConfig"],
            "config.push": ["PushConfig"],
            "config.online": ["OnlineConfig"],
            "config.renew": ["RenewConfig"],
            "config.report": ["ReportConfig"],
            "config.sweep": ["SweepConfig"],
            "config.train_teacher": ["TrainTeacherConfig"],
            "config.video": ["VideoConfig"],
            "deploy.audit.audit": ["run_audit"],
            "deploy.export": ["run_export"],
            "deploy.push": ["run_push"],
            "deploy.policy": ["load_student"],
            "deploy.renewal": ["run_renew"],
            "deploy.scoring": ["run_evaluate"],
            "distill.collect": ["collect as run_collect"],
            "distill.session": ["distill as run_distill"],
            "errors": ["UserError"],
            "evaluation.evaluator": ["evaluate"],
            "losses": ["kl_loss", "mse_loss", "nll_loss"],
            "networks.policy": ["count_params"],
            "networks.registry": ["make_network"],
            "online.session": ["online as run_online"],
            "report.report": ["run_report"],
            "runs.students": ["load_teacher"],
            "sweep.session": ["sweep as run_sweep"],
            "trainers.session": ["train_teacher as run_train_teacher"],
            "video.video": ["run_video"],
        },
        submodules=(
            "actors",
            "config",
            "deploy",
            "distill",
            "environments",
            "errors",
            "evaluation",
            "learner",
            "losses",
            "networks",
            "online",
            "replay",
            "report",
            "resources",
            "runs",
            "sweep",
            "teachers",
            "trainers",
            "types",
            "video",
        ),
    )
