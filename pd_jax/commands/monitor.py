"""``pd-jax monitor``: thresholds from healthy play, and alarms where play differs."""

from __future__ import annotations

import json

import numpy as np

from pd_jax.config.monitor import FitMonitorConfig, WatchMonitorConfig
from pd_jax.deploy.monitor import Alarm
from pd_jax.deploy.watching import run_monitor_fit, run_monitor_watch
from pd_jax.report.monitor import describe_summary, describe_thresholds
from pd_jax.system.progress import warn_if_unwritable

ALARMED = 3
"""Exit code after an alarm."""


def run_fit(config: FitMonitorConfig) -> None:
    """Writes thresholds, and prints what they were made from."""
    thresholds = run_monitor_fit(config)
    print("\n".join(describe_thresholds(thresholds.to_json(), config.out)))


def run_watch(config: WatchMonitorConfig) -> int:
    """Prints alarms as they come, and a summary at the end.

    Returns:
      the exit code: 3 after an alarm, else 0.
    """

    def on_alarm(alarm: Alarm) -> None:
        print(json.dumps({"alarm": alarm.to_json()}) if config.json else f"alarm: {alarm}", flush=True)

    monitor = run_monitor_watch(config, on_alarm)
    summary = monitor.summary()
    print(json.dumps({"summary": summary}) if config.json else "\n".join(describe_summary(summary)))
    if config.figure is not None:
        from pd_jax.report.monitor import plot_monitor

        thresholds = monitor.thresholds
        # The others only explain these.
        is_tested = np.isfinite(thresholds.limits.above)
        with warn_if_unwritable(config.figure):
            plot_monitor(
                [decisions for decisions, _ in monitor.history],
                [deviations[is_tested] for _, deviations in monitor.history],
                np.array(thresholds.model.names)[is_tested].tolist(),
                [alarm.to_json() for alarm in monitor.alarms],
                config.figure,
                title=f"{thresholds.policy['name']}, {thresholds.game}",
            )
    return ALARMED if monitor.alarms else 0
