"""``pd-jax monitor``: thresholds from healthy play, and play that is compared with them."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np

from pd_jax.config.monitor import DisturbanceConfig, FitMonitorConfig, MonitorConfig, WatchMonitorConfig
from pd_jax.deploy.decision_log import CutShort, logged_decisions
from pd_jax.deploy.decisions import Watched, own_decisions, recorded_decisions, watched_file, watched_policy
from pd_jax.deploy.monitor import Alarm, Monitor
from pd_jax.deploy.policy import StudentPolicy
from pd_jax.deploy.proof import check_recording
from pd_jax.deploy.signals import Decisions
from pd_jax.deploy.student import load_trained
from pd_jax.deploy.thresholds import Thresholds, check_enough, fit_thresholds
from pd_jax.environments.ale import check_backend
from pd_jax.environments.tasks import Task, get_task
from pd_jax.errors import UserError
from pd_jax.networks.greedy import GreedyPolicy
from pd_jax.replay.recordings import Dataset
from pd_jax.runs.students import load_teacher
from pd_jax.system.computing import computing
from pd_jax.system.interrupts import Interrupts, stoppable
from pd_jax.system.progress import Progress, print_warning
from pd_jax.teachers.tasks import check_teacher_plays
from pd_jax.version import __version__

# Healthy play to calibrate on is no play that a score was taken of, nor of what is measured afterwards.
_FIT_SEED_OFFSET, _WATCH_SEED_OFFSET = 3_000_000, 4_000_000


@stoppable
@computing()
def run_monitor_fit(config: FitMonitorConfig, *, stop: threading.Event | None = None) -> Thresholds:
    """Works out thresholds and writes them.

    Args:
      config: whose, from which play.
      stop: ends it as SIGTERM does once it is set, which another thread may do.

    Returns:
      the thresholds.

    Raises:
      UserError: there is no such policy or recording, too little play, or the file exists. Nothing was written.
      Interrupted: a signal came, or ``stop`` was set. Nothing was written.
    """
    _check_new("out", config.out)
    if config.data is None:
        check_enough(config.decisions, config.block, config.env.num_lanes)
    watched, task, teacher = _load(config)
    if config.data is not None:
        header = Dataset.open(config.data).header
        # Its lanes are as long as each other: whether they decide as often is seen in the end.
        at_most = min(config.decisions, header.steps * header.num_lanes)
        check_enough(at_most, config.block, header.num_lanes, spare=0)
    with Interrupts() as interrupts, Progress(f"monitor {task.name}") as progress:
        meter = progress.add("decisions", config.decisions)
        steps, total = [], 0
        with contextlib.closing(_source(config, watched, task, teacher, _FIT_SEED_OFFSET)) as source:
            for decisions in source:
                steps.append(decisions)
                total += int(decisions.is_decided.sum())
                meter.set(total)
                interrupts.check()
                if total >= config.decisions:
                    break
        play = Decisions(*(None if each[0] is None else np.stack(each) for each in zip(*steps, strict=True)))  # type: ignore[arg-type]
        thresholds = fit_thresholds(
            play,
            action_names=watched.action_names,
            temperature=watched.temperature,
            policy={
                "name": watched.name,
                "game": watched.game,
                "parameters": watched.parameters,
                "quantisation": watched.quantisation,
            },
            about=_about(config),
            block_size=config.block,
            false_alarms_per_million=config.false_alarms,
            seed=config.seed,
        )
        interrupts.check()
    _check_new("out", config.out)
    thresholds.save(config.out)
    return thresholds


@stoppable
@computing()
def run_monitor_watch(
    config: WatchMonitorConfig,
    on_alarm: Callable[[Alarm], None] | None = None,
    *,
    stop: threading.Event | None = None,
) -> Monitor:
    """Compares play with thresholds.

    Args:
      config: which thresholds, whose play.
      on_alarm: is told of alarms as they come.
      stop: ends it as SIGTERM does once it is set, which another thread may do.

    Returns:
      the monitor, with its alarms.

    Raises:
      UserError: thresholds, policy and play do not fit together, or a line of the log is none.
      Interrupted: a signal came, or ``stop`` was set.
    """
    if config.figure is not None:
        _check_new("figure", config.figure)
    thresholds = Thresholds.load(config.thresholds)
    monitor = Monitor(thresholds)
    watched: Watched | None = None
    task: Task | None = None
    teacher: GreedyPolicy | None = None
    if config.run is not None or config.policy is not None:
        watched, task, teacher = _load(config)
        thresholds.check_policy(watched.parameters, watched.name, config.thresholds)
        if watched.game != thresholds.game:
            raise UserError(
                f"{config.thresholds}: thresholds of {thresholds.game}, and the policy plays {watched.game}"
            )
        if (warning := thresholds.check_quantisation(watched.quantisation, config.thresholds)) is not None:
            print_warning(warning)
    with contextlib.ExitStack() as stack:
        limit, interrupts = None, None
        if config.log is not None:
            # Without `Interrupts`: a signal ends at once what waits for the next line.
            source: Iterator[Decisions] = stack.enter_context(_log(config.log, thresholds))
        else:
            assert watched is not None and task is not None
            interrupts = stack.enter_context(Interrupts())
            source = stack.enter_context(
                contextlib.closing(_source(config, watched, task, teacher, _WATCH_SEED_OFFSET))
            )
            limit = config.decisions if config.play else None
        try:
            for decisions in source:
                for alarm in monitor.take(decisions):
                    if on_alarm is not None:
                        on_alarm(alarm)
                if interrupts is not None:
                    interrupts.check()
                if limit is not None and monitor.decisions >= limit:
                    break
        except CutShort as error:
            print_warning(str(error))
    if not monitor.decisions:
        raise UserError(f"{config.log or config.data or 'play'}: no decision in it")
    if not monitor.blocks:
        print_warning(
            f"{config.log or config.data or 'play'}: no block of {thresholds.block_size:,} decisions of a lane was "
            "full, so nothing was tested"
        )
    return monitor


@contextlib.contextmanager
def _log(path: str, thresholds: Thresholds) -> Iterator[Iterator[Decisions]]:
    if path == "-":
        yield logged_decisions(sys.stdin, "standard input", thresholds)
        return
    try:
        file = open(path, encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    with file:
        yield logged_decisions(file, path, thresholds)


def _load(config: MonitorConfig) -> tuple[Watched, Task, GreedyPolicy | None]:
    """The policy, its game, and the teacher that it is compared with, if any; all fits together."""
    if config.run is not None:
        student = StudentPolicy(load_trained(config.run, checkpoint=config.checkpoint), config.run)
        policy: GreedyPolicy = student if config.game is None else student.for_game(config.game)
        if isinstance(policy, StudentPolicy):
            # Says which games there are, if none was chosen.
            _ = policy.task
        watched = watched_policy(policy)
    elif str(config.policy).endswith(".onnx"):
        watched = watched_file(str(config.policy))
    else:
        watched = watched_policy(load_teacher(str(config.policy), config.game))
    task = get_task(watched.game)
    if config.game is not None and get_task(config.game).name != task.name:
        raise UserError(f"game: {config.game}, and {watched.name} plays {task.name}")
    check_backend(config.env.backend, task)
    if config.data is not None:
        check_recording(config.data, task)
    teacher = None
    if config.teacher is not None:
        teacher = load_teacher(config.teacher, task.name)
        check_teacher_plays(teacher, task)
    return watched, task, teacher


def _source(
    config: FitMonitorConfig | WatchMonitorConfig,
    watched: Watched,
    task: Task,
    teacher: GreedyPolicy | None,
    seed_offset: int,
) -> Generator[Decisions, None, None]:
    if config.data is not None:
        return recorded_decisions(watched, config.data, task, teacher)
    options = config.env.environment_options() | {"mode": config.env.mode, "difficulty": config.env.difficulty}
    return own_decisions(
        watched,
        task,
        num_lanes=config.env.num_lanes,
        epsilon=config.epsilon,
        seed=config.seed + seed_offset,
        options=options,
        disturbance=config.disturbance if isinstance(config, WatchMonitorConfig) else DisturbanceConfig(),
        teacher=teacher,
    )


def _about(config: FitMonitorConfig) -> dict[str, Any]:
    """What the thresholds were made from."""
    about: dict[str, Any] = {"created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
    about["versions"] = {"pd_jax": __version__, "numpy": np.__version__, "river": _version("river")}
    if config.data is not None:
        header = Dataset.open(config.data).header
        about["play"] = {"recording": os.path.basename(config.data.rstrip("/")), "identity": header.identity}
        about["protocol"] = {"epsilon": header.epsilon, **header.environment}
        return about
    about["play"] = {"own": True, "seed": config.seed + _FIT_SEED_OFFSET, "num_lanes": config.env.num_lanes}
    env = config.env
    rules = ("max_noops", "sticky_action_probability", "fire_reset", "mode", "difficulty")
    about["protocol"] = {"epsilon": config.epsilon, **{name: getattr(env, name) for name in rules}}
    return about


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _check_new(key: str, path: str) -> None:
    if os.path.lexists(path):
        raise UserError(f"{key}: {path} exists; name another file")
    parent = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(parent):
        raise UserError(f"{key}: {path}: there is no directory {parent}")
