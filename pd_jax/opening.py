"""The directory of a distillation: what a run that is resumed may set anew, and what not."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

from pd_jax import hosts
from pd_jax.config import DistillConfig
from pd_jax.config_loading import to_mapping
from pd_jax.errors import UserError
from pd_jax.preparation import Setting
from pd_jax.run_directory import OF_ONE_START, RunDirectory, differences, quote, to_plain

_MAY_CHANGE = frozenset({"schedule.rounds", "evaluation", "learner.num_devices", "actors", "teacher", "data"})
"""What a resumed run may set anew: how long it goes on, how it is scored, on which devices and how far ahead it plays,
and where its teachers and recordings lie. That they are the same ones is checked by their fingerprints."""
_OF_A_HOST = ("teacher", "data", "env.num_threads", "env.stepping")
"""What processes of one run need not have alike; that teachers and recordings are is seen from their fingerprints."""
_PROTOCOL = ("epsilon", "seed_offset", "max_episode_steps")


def open_run(setting: Setting) -> RunDirectory:
    """The run's directory, made or taken up.

    Raises:
      UserError: something else is there, or other processes of this run were given other settings.
    """
    config = setting.config
    hosts.for_all(lambda among: _check_alike(among, setting))
    return RunDirectory.create(
        config.out,
        "distill",
        to_mapping(config),
        resume=config.resume,
        may_change=_MAY_CHANGE,
        check=functools.partial(check_resumed, config),
        is_primary=hosts.is_primary(),
    )


def _check_alike(among: hosts.Hosts, setting: Setting) -> None:
    """Returns once all processes have found that they were given the same run."""
    own = {key: value for key, value in to_plain(to_mapping(setting.config)).items() if key not in OF_ONE_START}
    for name, teacher, dataset in zip(setting.names, setting.teachers, setting.datasets, strict=True):
        own[f"the fingerprint of {name}'s teacher"] = teacher.sha256
        own[f"the identity of {name}'s recording"] = dataset and [dataset.header.identity, dataset.num_steps]
    own = json.loads(json.dumps(own))
    for key, first, here in differences(json.loads(among.from_primary("settings", json.dumps(own))), own):
        if key not in _OF_A_HOST:
            raise UserError(
                f"{key}: is {quote(first)} in process 0 and {quote(here)} in process {among.process_id}; "
                "all processes of a run need the same"
            )
    among.wait_for_all("settings")


def check_resumed(config: DistillConfig, there: Mapping[str, Any]) -> None:
    """Raises a UserError for changes to a resumed run that would spoil what it has done so far.

    Args:
      config: with which it is to go on.
      there: the configuration with which it was begun, nested mappings of plain values.
    """
    evaluation = there["evaluation"]
    for name in _PROTOCOL if evaluation["every_rounds"] and config.evaluation.every_rounds else ():
        if getattr(config.evaluation, name) != evaluation[name]:
            raise UserError(
                f"evaluation.{name}: is {evaluation[name]} in {config.out}, whose scores on the way are to be "
                "compared; keep it, or choose another --out"
            )
    before, now = there["schedule"]["rounds"], config.schedule.rounds
    if now < before:
        raise UserError(f"schedule.rounds: {now} is less than {config.out} has ({before})")
    if now > before and config.learner.learning_rate_decay:
        raise UserError(
            f"schedule.rounds: {now} is more than {config.out} has ({before}), and its learning rate falls to 0 over "
            "these; choose another --out"
        )
    if now > before and config.behaviour.student_share_changes:
        raise UserError(
            f"schedule.rounds: {now} is more than {config.out} has ({before}), and the student's share of the actions "
            "changes over these; choose another --out"
        )
