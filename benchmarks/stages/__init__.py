"""The stages of ``python -m benchmarks``: each a function of a context that gives rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from benchmarks.harness.rows import Row
from benchmarks.stages import (
    devices,
    envpool,
    evaluation,
    games,
    inference,
    live,
    replay,
    rollout,
    startup,
    students,
    update,
)
from benchmarks.stages.context import Context

Stage = Callable[[Context], list[Row]]

STAGES: Mapping[str, Stage] = MappingProxyType(
    {
        "envpool": envpool.run,
        "teacher": inference.run_teacher,
        "rollout": rollout.run,
        "replay": replay.run,
        "update": update.run,
        "games": games.run,
        "students": students.run,
        "devices": devices.run,
        "live": live.run,
        "evaluation": evaluation.run,
        "inference": inference.run_bulk,
        "latency": inference.run_latency,
        "startup": startup.run,
    }
)
"""By name, in the order in which they run."""

ABOUT: Mapping[str, str] = MappingProxyType(
    {
        "envpool": "EnvPool alone, stepped from the host (at once, as lanes come) and inside jit, by lanes",
        "teacher": "the bundled teacher's decisions, by lanes",
        "rollout": "rollouts of a game's and a continuous task's teacher, against stepping and inference alone",
        "replay": "insertion, sampling, and updates that sample against updates of a given minibatch",
        "update": "the student's updates from the replay: networks, batches, dtypes, optimisers",
        "games": "updates of a student of one game to ten",
        "students": "updates of several students in one program, against one after another",
        "devices": "updates on one device to eight",
        "live": "a live run, against its play alone and its updates alone",
        "evaluation": "whole games, against stepping and inference alone, without and with the emulators' start",
        "inference": "students in bulk, by batch",
        "latency": "students' answers to a single observation, from the host and back",
        "startup": "from the command to the first updates, with an empty and a filled compilation cache",
    }
)
"""What each measures."""
