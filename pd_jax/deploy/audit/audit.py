"""``pd-jax audit``: what a student has inherited from its teacher, as a page, as data, and as a policy card."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pd_jax.config.audit import AuditConfig
from pd_jax.deploy.audit import findings as found
from pd_jax.deploy.audit.agreement import agreement_table, confusion
from pd_jax.deploy.audit.card import CARD_NAME, policy_card
from pd_jax.deploy.audit.kinds import Clusters, Kind, kinds_of
from pd_jax.deploy.audit.outside import Variation, chosen_settings, variations
from pd_jax.deploy.audit.page import Pictures, audit_page
from pd_jax.deploy.audit.play import Decider, Play, play, recorded
from pd_jax.deploy.audit.players import Players, describe_player, learning_of, load_players, read_thresholds
from pd_jax.deploy.audit.scores import more_lost, returns_summary, share_lacking, share_lost, tail_lacking
from pd_jax.deploy.audit.states import NEVER, later_returns, losses, steps_to_loss
from pd_jax.deploy.audit.worst import describe_states, worst_states
from pd_jax.deploy.policy import refuse_continuous, refuse_memory, refuse_senses
from pd_jax.deploy.products import check_place, settings_of
from pd_jax.environments.ale import check_backend
from pd_jax.errors import UserError
from pd_jax.evaluation.protocol import Protocol
from pd_jax.replay.recordings import Dataset
from pd_jax.resources.parts import evaluation_memory
from pd_jax.system.computing import computing
from pd_jax.system.files import left_if_whole, to_json, write_atomically
from pd_jax.system.interrupts import Interrupts, stoppable
from pd_jax.system.progress import Meter, Progress
from pd_jax.teachers import Teacher
from pd_jax.version import __version__

FORMAT_VERSION = 1
REPORT_NAME = "audit.json"
PAGE_NAME = "audit.html"
_OWN = frozenset({REPORT_NAME, PAGE_NAME, CARD_NAME})
_OUTSIDE_SEED_OFFSET = 3_000_000
_OUTSIDE_ASKS_EVERY = 4
_EXEMPLARS = 4


@stoppable
@computing()
def run_audit(
    config: AuditConfig, teacher: Teacher | None = None, *, stop: threading.Event | None = None
) -> dict[str, Any]:
    """Audits a student, and leaves a page, its data and a policy card.

    Args:
      config: whom to audit, and how much play it takes.
      teacher: with whom the student is compared, in the place of the one that the settings or the run name.
      stop: ends it as SIGTERM does once it is set, which another thread may do.

    Returns:
      what ``audit.json`` holds.

    Raises:
      UserError: there is no such student or teacher, they do not go together, or the game does not have what is asked
        for. Nothing is left.
      Interrupted: a signal came, or ``stop`` was set. Nothing is left.
    """
    out = Path(config.out)
    check_place(config, "an audit", REPORT_NAME, lambda report: _OWN)
    players = load_players(config, teacher)
    task = players.task
    check_backend(config.env.backend, task)
    thresholds = None if config.thresholds is None else read_thresholds(config.thresholds, players.student)
    chosen_settings(config, task)
    policies = players.policies
    for policy in policies.values():
        refuse_continuous(policy, "audit")
        refuse_memory(policy, "audit")
        refuse_senses(policy, "audit")
    memory = evaluation_memory(
        dataclasses.replace(config.evaluation, episodes=config.evaluation.num_lanes),
        [(policy.apply, policy.variables) for policy in policies.values()],
        [task] * len(policies),
    )
    memory.check()
    with (
        left_if_whole(out, replaces=config.resume) as directory,
        Interrupts() as interrupts,
        Progress(f"audit {task.name}") as progress,
    ):
        memory.tell()
        # The one play at a time.
        meters: list[Meter] = []

        def watching(name: str) -> Callable[[int, int], None]:
            for before in meters:
                progress.remove(before)
            meters[:] = [progress.add(name, 1)]
            (meter,) = meters

            def on_progress(done: int, wanted: int) -> None:
                meter.total = wanted
                meter.set(done)
                interrupts.check()

            return on_progress

        report, pictures = _audit(config, players, watching)
        report["thresholds"] = thresholds
        report = to_json(report)
        write_atomically(directory / PAGE_NAME, audit_page(report, pictures))
        write_atomically(directory / REPORT_NAME, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        card = to_json(policy_card(report))
        write_atomically(directory / CARD_NAME, json.dumps(card, indent=2, ensure_ascii=False) + "\n")
    return report


def _audit(
    config: AuditConfig, players: Players, watching: Callable[[str], Callable[[int, int], None]]
) -> tuple[dict[str, Any], Pictures]:
    task, reading = players.task, players.reading
    protocol, decider = Protocol.of(config, task), Decider(players.policies)
    own = {
        actor: play(
            task,
            decider,
            actor,
            protocol,
            steps=config.steps,
            keeps_frames=True,
            on_progress=watching(f"{actor}'s {'games' if config.steps is None else 'states'}"),
        )
        for actor in ("student", "teacher")
    }
    shown = own["student"]
    if config.data is not None:
        shown = recorded(config.data, task, decider, steps=config.steps, on_progress=watching("recorded states"))
    plays = {"shown": shown, "teacher": own["teacher"]}
    if not len(shown):
        raise UserError("data: the recording has no decision in it")
    kinds = _kinds(config, players, plays)
    table, choices = agreement_table(shown, "shown", kinds, reading), confusion(shown, task.action_names)
    all_findings = found.biases(choices, config.bounds)
    all_findings += found.disagreements(shown, "shown", kinds, config.bounds)
    by_return, more = _by_return(config, players, own["teacher"], kinds)
    by_reference = None
    all_findings += more
    if players.reference is not None:
        name = players.reference.name
        more, by_reference = found.wrong_by_reference(plays, kinds, name, config.bounds)
        all_findings += more
        by_reference["name"] = name
    scores = _scores(own, task.random_score or 0.0)
    all_findings += found.score_findings(scores, scores["lacking"], scores["tail_lacking"], config.bounds)
    rows = _outside(config, players, decider, own, watching)
    all_findings += found.outside_findings(rows, config.bounds)
    worst = worst_states(shown, reading, config.worst, config.apart)
    clusters = [kind for kind in kinds if kind.family == "cluster"]
    report = {
        "format_version": FORMAT_VERSION,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {"pd_jax": __version__, "jax": jax.__version__, "numpy": np.__version__},
        "settings": settings_of(config),
        "game": task.name,
        "env_id": task.env_id,
        "kind": task.kind,
        "action_names": list(task.action_names),
        "student": describe_player(players.student),
        "teacher": describe_player(players.teacher) | {"taught_the_student": players.taught_by},
        "reference": None if players.reference is None else describe_player(players.reference),
        "protocol": {"name": protocol.name if task.kind == "atari" else None} | protocol.to_json(),
        "temperature": {"teacher": reading.temperature, "student": reading.student_temperature},
        "findings": [each.to_json() for each in found.ordered(all_findings)],
        "inherited": found.inherited(rows),
        "scores": scores,
        "states": {
            "of": "its own play" if config.data is None else "a recording",
            "recording": None if config.data is None else _recording(config.data),
            "count": len(shown),
            "games": len(np.unique(shown.games)),
            "of_the_teacher": len(own["teacher"]),
        },
        "agreement": table,
        "confusion": choices,
        "worst": describe_states(shown, worst, reading),
        "outside": rows,
        "teacher_errors": {"by_return": by_return, "by_reference": by_reference},
    }
    return report, _pictures(plays, clusters, worst)


def _kinds(config: AuditConfig, players: Players, plays: Mapping[str, Play]) -> list[Kind]:
    kind = players.task.kind
    until = {name: steps_to_loss(each, losses(each, kind)) for name, each in plays.items()}
    # A recording tells of no lives and of no ends.
    known = {name: steps for name, steps in until.items() if name != "shown" or config.data is None}
    features = np.concatenate([each.features for each in plays.values()])
    clusters = Clusters.fit(features, config.clusters, config.seed)
    return kinds_of(players.task, plays, known, clusters, config.before_loss)


def _by_return(
    config: AuditConfig, players: Players, own: Play, kinds: list[Kind]
) -> tuple[dict[str, Any], list[found.Finding]]:
    """Where the teacher is wrong by its own later return, if it says what it expects."""
    if players.teacher.gives_logits:
        return {"why_not": "the teacher gives logits, which say nothing of what it expects"}, []
    learning = learning_of(players.teacher, players.task, config.discount)
    came = later_returns(
        own,
        discount=learning.discount,
        clips_rewards=learning.clips_rewards,
        ends_with_life=learning.ends_with_life,
        steps=config.later,
    )
    findings, table = found.wrong_by_return(own, kinds, came, config.later, config.bounds)
    return table | dataclasses.asdict(learning) | {"steps": config.later}, findings


def _scores(own: Mapping[str, Play], random: float) -> dict[str, Any]:
    student, teacher = own["student"].returns, own["teacher"].returns
    return {
        "student": returns_summary(student),
        "teacher": returns_summary(teacher),
        "random": random,
        "lacking": share_lacking(student, teacher, random),
        "tail_lacking": tail_lacking(student, teacher, random),
    }


def _outside(
    config: AuditConfig,
    players: Players,
    decider: Decider,
    own: Mapping[str, Play],
    watching: Callable[[str], Callable[[int, int], None]],
) -> list[dict[str, Any]]:
    task, random = players.task, players.task.random_score or 0.0
    vectors = own["student"].vectors
    spread = None if vectors is None else vectors.std(axis=0)
    rows = []
    for variation in variations(config, task, spread):
        protocol = Protocol.of(config, task, episodes=config.outside.episodes, seed_offset=_OUTSIDE_SEED_OFFSET)
        played = {
            actor: _play_outside(config, players, decider, actor, variation, protocol, watching)
            for actor in ("student", "teacher")
        }
        inside, outside = ({name: each.returns for name, each in plays.items()} for plays in (own, played))
        rows.append(
            {
                "name": variation.name,
                "states": len(played["student"]),
                "agreement": agreement_table(played["student"], "", [], players.reading)["overall"],
                "student": returns_summary(outside["student"]),
                "teacher": returns_summary(outside["teacher"]),
                "student_lost": share_lost(inside["student"], outside["student"], random),
                "teacher_lost": share_lost(inside["teacher"], outside["teacher"], random),
                "more_lost": more_lost(
                    (inside["student"], outside["student"]), (inside["teacher"], outside["teacher"]), random
                ),
            }
        )
    return rows


def _play_outside(
    config: AuditConfig,
    players: Players,
    decider: Decider,
    actor: str,
    variation: Variation,
    protocol: Protocol,
    watching: Callable[[str], Callable[[int, int], None]],
) -> Play:
    return play(
        players.task,
        decider,
        actor,
        protocol,
        steps=config.steps,
        options=variation.options,
        disturbance=None if variation.disturb is None else variation.disturb(),
        # The teacher is several times the student's size, and a part of the states tells how far they agree.
        asks_every=_OUTSIDE_ASKS_EVERY if actor == "student" else NEVER,
        on_progress=watching(f"{actor}, {variation.name}"),
    )


def _recording(path: str) -> dict[str, Any]:
    header = Dataset.open(path).header
    return {"name": os.path.basename(path.rstrip("/")), "identity": header.identity, "teacher": header.teacher}


def _pictures(plays: Mapping[str, Play], clusters: list[Kind], worst: list[int]) -> Pictures:
    """What was seen of frames: the worst states, and some of each cluster."""
    shown = plays["shown"]
    if shown.vectors is not None:
        return Pictures([], {})
    exemplars: dict[int, list[np.ndarray]] = {}
    for kind in clusters:
        assert kind.number is not None
        name = "shown" if kind.masks["shown"].any() else "teacher"
        members = np.flatnonzero(kind.masks[name])
        chosen = members[_central(plays[name].features[members])]
        exemplars[kind.number] = [plays[name].stack(int(index))[..., -1] for index in chosen]
    return Pictures([shown.stack(index) for index in worst], exemplars)


def _central(features: np.ndarray) -> list[int]:
    """Rows near the mean of all, from different parts of the play."""
    distances = ((features - features.mean(axis=0)) ** 2).sum(axis=1)
    parts = np.array_split(np.arange(len(features)), min(_EXEMPLARS, len(features)))
    return [int(part[distances[part].argmin()]) for part in parts]
