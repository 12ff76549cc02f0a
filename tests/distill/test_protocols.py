"""Teachers, recordings and scores of one protocol, and what is refused where they are of several."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from pd_jax.config.distill import DistillConfig
from pd_jax.config.evaluate import EvaluateConfig
from pd_jax.config.sections import EnvConfig
from pd_jax.config.train_teacher import TrainTeacherConfig
from pd_jax.distill.recorded import check_recording
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.evaluation.scores import Score
from pd_jax.replay.recordings import Dataset
from pd_jax.report.results import read_results
from pd_jax.runs.directory import read_run
from pd_jax.teachers import Teacher, load
from pd_jax.teachers.tasks import check_protocol
from pd_jax.trainers.teacher_writer import TeacherWriter
from support.commands import contents, refusal, succeed

TINY = {"env.num-lanes": 2, "rollout-length": 8, "steps": 64}
SMALL = {"student.network": "net3", "replay.capacity": 64, "schedule.rollout-length": 8, "learner.batch-size": 4}


def named(protocol: str | None, **changes: Any) -> Teacher:
    """The bundled Pong teacher, with a protocol in its file."""
    teacher = load("pong")
    evaluation = teacher.metadata.evaluation | ({} if protocol is None else {"protocol": protocol})
    metadata = dataclasses.replace(teacher.metadata, evaluation=evaluation, **changes)
    return Teacher(metadata, teacher.variables["params"], teacher.source, teacher.sha256)


def test_the_files_that_there_are_name_none_and_are_classic() -> None:
    metadata = load("pong").metadata
    assert (metadata.named_protocol, metadata.protocol) == (None, "classic")
    assert load("cartpole").metadata.protocol is None
    assert named("no-op starts").metadata.named_protocol is None
    assert named("modern").metadata.protocol == "modern"
    sticky = {"env": {"sticky_action_probability": 0.25}}
    assert named(None, training_config=sticky).metadata.protocol == "custom"


@pytest.mark.parametrize("protocol", [None, "classic", "modern"])
def test_a_training_that_names_its_protocol_writes_it_into_the_teachers_file(protocol: Any, tmp_path: Path) -> None:
    config = TrainTeacherConfig(game="pong", out=str(tmp_path), protocol=protocol)
    writer = TeacherWriter(config, get_task("pong"), tmp_path)
    metadata = writer.metadata(Score.of([1.0, 2.0]), env_steps=5, curve=[])
    assert metadata.named_protocol == protocol
    assert metadata.protocol == (protocol or "classic")
    assert metadata.evaluation["max_noops"] == (1 if protocol == "modern" else 30)


def test_a_teacher_that_names_another_protocol_than_the_plays_is_refused_unless_one_is_named() -> None:
    usual = DistillConfig(teacher="pong", out="-")
    with pytest.raises(UserError) as caught:
        check_protocol(named("modern"), usual)
    assert str(caught.value) == (
        f"teacher {load('pong').source}: is of protocol 'modern', and these settings are 'classic'; say "
        "--protocol modern, or another one to mix them"
    )
    for protocol in ("classic", "modern", "custom"):
        check_protocol(named("modern"), dataclasses.replace(usual, protocol=protocol))
    for teacher in (named(None), named("classic"), named("no-op starts")):
        check_protocol(teacher, usual)
    # Files that name none go on working, whatever the numbers are.
    check_protocol(named(None), EvaluateConfig(teacher="pong", env=EnvConfig(sticky_action_probability=0.25)))


def test_a_protocol_that_a_recording_does_not_have_is_refused_with_exit_code_2(tmp_path: Path, capfd: Any) -> None:
    modern, spelt, classic = (tmp_path / name for name in ("modern", "spelt", "classic"))
    numbers = {"env.max-noops": 1, "env.sticky-action-probability": 0.25, "env.no-fire-reset": True}
    for out, own in ((modern, {"protocol": "modern"}), (spelt, numbers), (classic, {})):
        succeed("collect", TINY | {"teacher": "pong", "out": out} | own)
    headers = [Dataset.open(out).header for out in (modern, spelt, classic)]
    assert [header.protocol for header in headers] == ["modern", "modern", "classic"]
    assert [header.named_protocol for header in headers] == ["modern", None, None]
    # To the bytes of before there were names.
    assert list(json.loads((classic / "dataset.json").read_text())["environment"]) == [
        "max_noops", "max_episode_steps", "sticky_action_probability",
    ]  # fmt: skip
    assert json.loads((modern / "zarr.json").read_text())["attributes"]["protocol"]["protocol"] == "modern"
    # Begun with numbers, it is gone on with by their name, as the recording that it is.
    identity = headers[1].identity
    succeed("collect", TINY | {"teacher": "pong", "out": spelt, "protocol": "modern", "steps": 80, "resume": True})
    assert Dataset.open(spelt).header.identity == identity

    out, before = tmp_path / "run", contents(tmp_path)
    argv = ["distill", "--teacher", "pong", "--out", str(out)]
    argv += [f"--{name}={value}" for name, value in SMALL.items()]
    message = refusal(capfd, *argv, "--data", str(classic), "--protocol", "modern")
    assert message.startswith(
        f"pd-jax distill: {classic}: was recorded under protocol 'classic', and protocol is 'modern'; say --protocol "
        "classic, or --protocol custom "
    )
    message = refusal(capfd, *argv, "--data", str(modern))
    assert message == (
        f"pd-jax distill: {modern}: is of protocol 'modern', and these settings are 'classic'; say --protocol modern, "
        "or custom to score by other rules than were played"
    )
    assert contents(tmp_path) == before and not out.exists()

    def check(data: Path, **changes: Any) -> None:
        config = DistillConfig(
            teacher="pong", out="-", data=str(data), schedule=dataclasses.replace(DistillConfig(
                teacher="pong", out="-").schedule, rollout_length=8), **changes,
        )  # fmt: skip
        check_recording(Dataset.open(data), load("pong"), get_task("pong"), config)

    check(modern, protocol="modern")
    check(spelt, protocol="modern")
    check(spelt)
    check(modern, protocol="custom")
    check(classic, protocol="custom", env=EnvConfig(max_noops=1, sticky_action_probability=0.25, fire_reset=False))
    with pytest.raises(UserError, match="was recorded under protocol 'modern', and protocol is 'classic'"):
        check(modern, protocol="classic")


def test_an_evaluation_says_its_protocol_and_reports_keep_it_apart(tmp_path: Path) -> None:
    out = tmp_path / "scores"
    quick = {"evaluation.episodes": 1, "evaluation.num-lanes": 1, "env.sticky-action-probability": 0.25}
    rules = {"env.max-noops": 1, "env.no-fire-reset": True, "evaluation.max-episode-steps": 20}
    succeed("evaluate", quick | rules | {"teacher": "pong", "out": out})
    assert json.loads((out / "summary.json").read_text())["protocol"] == "custom"
    config = (out / "config.yaml").read_text().replace("max_episode_steps: 20", "max_episode_steps: 27000")
    (out / "config.yaml").write_text(config)
    (result,) = read_results(read_run(out), print) or []
    assert result.rules.describe() == "ε = 0.05, modern (sticky actions, no no-ops)"
    assert not result.rules.fire_reset
