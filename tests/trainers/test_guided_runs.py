"""Whole trainings that a teacher guides: what they tell, resume and refuse."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from pd_jax.cli import main
from pd_jax.config.guidance import GuidanceConfig
from pd_jax.config.sections import StudentConfig
from pd_jax.config.train_teacher import TrainTeacherConfig
from pd_jax.deploy.lineage import verify_lineage
from pd_jax.networks.student import make_student
from pd_jax.runs.lineage import read_lineage
from pd_jax.teachers.files import read_teacher, save_teacher
from pd_jax.trainers.setup import load_start, make_training_setup
from support.commands import (
    checkpoint_steps,
    contents,
    options,
    read_lines,
    refusal,
    state_digests,
    succeed,
    without_time,
    write_teacher,
)
from support.made_runs import write_student_run

SHORT = {
    "game": "cartpole",
    "network": "mlp",
    "mlp-hidden": 8,
    "pqn.total-steps": 1024,
    "pqn.num-lanes": 8,
    "pqn.rollout-length": 32,
    "pqn.minibatches": 4,
    "checkpoint.every-steps": 512,
    "evaluation.episodes": 4,
    "evaluation.num-lanes": 4,
    "evaluation.every-steps": 0,
}


@pytest.fixture(scope="module")
def student_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A distill run whose student has learnt the bundled teacher by KL. Not to be written to."""
    path = tmp_path_factory.mktemp("guided") / "student"
    few = {"schedule.rounds": 1, "schedule.steps-per-round": 1024, "schedule.updates-per-round": 300}
    learner = {"learner.optimizer": "adam", "learner.learning-rate": 3e-3, "loss.temperature": 0.25}
    common = {"teacher": "cartpole", "student.network": "mlp", "student.mlp-hidden": 8, "env.num-lanes": 8}
    succeed("distill", common | few | learner | {"evaluation.episodes": 4, "out": path})
    return path


@pytest.fixture(scope="module")
def guided_run(student_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that goes on from that student. Not to be written to."""
    path = tmp_path_factory.mktemp("guided") / "run"
    succeed("train-teacher", of_student(student_run) | {"out": path})
    return path


def of_student(student_run: Path) -> dict[str, Any]:
    """The settings of the run."""
    return SHORT | {
        "init-from": student_run,
        "guidance.teacher": "cartpole",
        "guidance.teacher-share": ["0:0.5", "0.5:0"],
        "pqn.epsilon-start": 0.05,
        "pqn.learning-rate": 1e-5,
    }


def test_a_run_tells_of_its_teacher_its_start_and_itself(
    guided_run: Path, student_run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    summary = json.loads((guided_run / "summary.json").read_text())
    told = summary["guidance"]
    assert (told["teacher"], told["teacher_score"], told["start"]) == ("cartpole", 500.0, "student")
    assert told["temperature"] == 0.25, "the student's own"
    assert told["learner_temperature"] == 0.25 and math.log2(told["scale"]).is_integer()
    assert told["standard_errors_above_teacher"] is None or summary["teacher_standard_error"] > 0
    # The rate is too small to unlearn anything: as good in the end as at the start.
    assert told["start_score"] > 100 and summary["teacher_score"] > 100
    lines = [line for line in read_lines(guided_run) if "loss" in line]
    assert [line["distillation_weight"] for line in lines] == pytest.approx([3.0, 0.225, 0.1, 0.05])
    assert [line["teacher_share"] for line in lines] == pytest.approx([0.5, 0.25, 0.0, 0.0])
    names = {"reward_weight", "return_ratio", "distillation_loss", "agreement"}
    assert all(names <= line.keys() and "teacher_is_sound" not in line for line in lines)
    assert all(0.3 < line["agreement"] <= 1.0 for line in lines)


def test_the_first_targets_are_of_the_size_of_returns(guided_run: Path) -> None:
    # CartPole pays 1 a step: at a discount of 0.99 up to 100, which the student's logits knew nothing of.
    first = next(line for line in read_lines(guided_run) if "loss" in line)
    assert 20 < first["mean_q"] < 120


def test_a_run_from_before_goes_on_with_the_fading_of_its_time(
    guided_run: Path, student_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(guided_run, out)
    shutil.rmtree(out / "checkpoints" / str(checkpoint_steps(out)[-1]))
    told = (out / "config.yaml").read_text()
    kept = re.search(r"  distillation_weight:.*?(?=\n  \w)", told, re.DOTALL)
    assert kept is not None and "0.1:0.3" in kept[0], "a run that begins now says what it is"
    (out / "config.yaml").write_text(told.replace(kept[0], "  distillation_weight: null"))
    succeed("train-teacher", of_student(student_run) | {"out": out, "resume": True})
    lines = [line for line in read_lines(out) if "loss" in line]
    assert [line["distillation_weight"] for line in lines] == pytest.approx([3.0, 0.225, 0.0, 0.0])


def test_a_student_whose_layers_are_normalised_goes_on_with_them(tmp_path: Path) -> None:
    student = StudentConfig(network="mlp", mlp_hidden=(8,), layer_norm=True)
    source = write_student_run(tmp_path / "normed", ("cartpole",), student)
    guidance = GuidanceConfig(teacher="cartpole")
    config = TrainTeacherConfig(
        game="cartpole",
        network="mlp",
        mlp_hidden=(8,),
        init_from=str(source),
        out=str(tmp_path / "out"),
        guidance=guidance,
    )
    setup = make_training_setup(config)
    start = load_start(setup.config, setup.tasks)
    assert setup.config.layer_norm is True and start is not None
    assert start.metadata.layer_norm and "norm1" in start.variables["params"]["torso"]
    observations = np.random.default_rng(0).standard_normal((16, 4)).astype(np.float32)
    found = start.network.apply(start.variables, observations)
    np.testing.assert_array_equal(found, make_student(student, setup.tasks).policy(0)(start.variables, observations))


def test_the_file_and_the_lineage_say_what_it_came_from(guided_run: Path, student_run: Path) -> None:
    _, metadata = read_teacher(guided_run / "teacher.safetensors")
    assert (metadata.layer_norm, metadata.output, metadata.algorithm) == (False, "q", "pqn")
    assert metadata.how_made.endswith(f"from {str(student_run)!r}, guided by 'cartpole'")
    assert metadata.training_config["guidance"]["teacher_share"] == ["0:0.5", "0.5:0"]
    lineage = read_lineage(guided_run)
    assert lineage is not None and verify_lineage(guided_run).all_faults == ()
    assert [(parent.role, parent.name) for parent in lineage.parents] == [("start", "student"), ("teacher", "cartpole")]
    assert lineage.parents[0].lineage is not None, "the student's own"


def test_a_guided_run_that_is_resumed_goes_on_where_it_was(
    guided_run: Path, student_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, again = tmp_path / "run", tmp_path / "again"
    for run in (again, out):
        shutil.copytree(guided_run, run)
        for step in checkpoint_steps(run)[1:]:
            shutil.rmtree(run / "checkpoints" / str(step))
        capfd.readouterr()
        succeed("train-teacher", of_student(student_run) | {"out": run, "resume": True})
    assert state_digests(out) == state_digests(again)
    told = capfd.readouterr()
    assert "resumed at step 512, with fresh episodes" in told.err
    # The student is not looked at again, and its outputs are not turned into Q-values twice.
    assert "became Q-values" not in told.err and "became Q-values" in told.out
    before, after = without_time(read_lines(guided_run)), without_time(read_lines(out))
    assert [line for line in after if line["step"] <= 512] == [line for line in before if line["step"] <= 512]
    names = ("reward_weight", "distillation_weight", "teacher_share", "epsilon")
    for line, expected in zip(after, before, strict=True):
        assert [line.get(name) for name in names] == [expected.get(name) for name in names]
    first, second = (json.loads((run / "summary.json").read_text())["guidance"] for run in (guided_run, out))
    # But for how the end compares: its episodes are others.
    assert {**first, "standard_errors_above_teacher": 0} == {**second, "standard_errors_above_teacher": 0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"guidance.distillation-weight": "0:1"}, "holds a different run: guidance.distillation_weight is ["),
        ({"guidance.fade": "return_ratio"}, "holds a different run: guidance.fade is 'schedule' there and "),
        ({"guidance.loss.temperature": 0.1}, "holds a different run: guidance.loss.temperature is "),
    ],
)
def test_a_guided_run_goes_on_under_the_same_guidance_only(
    change: dict[str, Any],
    message: str,
    guided_run: Path,
    student_run: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    shutil.copytree(guided_run, out)
    before = contents(out)
    values = of_student(student_run) | change | {"out": out, "resume": True}
    assert message in refusal(capfd, "train-teacher", *options(values))
    assert contents(out) == before


@pytest.fixture(scope="module")
def begun_from_nothing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A training from nothing beside a teacher of Q-values, and its settings. Not to be written to."""
    path = tmp_path_factory.mktemp("nothing")
    file = write_teacher(path / "t.safetensors", "cartpole")
    auto = {"guidance.teacher": file, "guidance.loss.temperature": "auto", "pqn.total-steps": 256}
    succeed("train-teacher", SHORT | auto | {"out": path / "run"})
    return path / "run", SHORT | auto


def test_a_learner_may_begin_from_nothing(begun_from_nothing: tuple[Path, dict[str, Any]]) -> None:
    out, _ = begun_from_nothing
    told = json.loads((out / "summary.json").read_text())["guidance"]
    assert "start" not in told and "scale" not in told
    assert 0 < told["temperature"] == told["learner_temperature"] < 1
    assert read_teacher(out / "teacher.safetensors")[1].layer_norm is True, "from nothing, PQN has what it relies on"


@pytest.mark.slow
def test_a_teacher_may_give_logits(tmp_path: Path) -> None:
    file, out = write_teacher(tmp_path / "t.safetensors", "cartpole", output="logits"), tmp_path / "run"
    succeed("train-teacher", SHORT | {"guidance.teacher": file, "pqn.total-steps": 256, "out": out})
    told = json.loads((out / "summary.json").read_text())["guidance"]
    assert (told["temperature"], told["learner_temperature"]) == (1.0, 0.01)


def test_another_teacher_of_the_same_name_does_not_guide_on(
    begun_from_nothing: tuple[Path, dict[str, Any]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source, values = begun_from_nothing
    out, file = tmp_path / "run", values["guidance.teacher"]
    shutil.copytree(source, out)
    original = file.read_bytes()
    try:
        params, metadata = read_teacher(file)
        save_teacher(file, jax.tree.map(lambda leaf: leaf * 2, params), metadata)
        before = state_digests(out)
        longer = values | {"resume": True, "pqn.total-steps": 512, "out": out}
        message = refusal(capfd, "train-teacher", *options(longer))
        assert f"guidance.teacher: {file} is another teacher" in message
        assert state_digests(out) == before
    finally:
        file.write_bytes(original)


GUIDED = {"guidance.teacher": "cartpole"}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"guidance.distillation-weight": ["0.5:1", "0.2:0"]}, "'0.2:0' comes after 0.5: a schedule that runs backwards"),
    ({"guidance.distillation-weight": ["0:1", "0:0"]}, "'0:0' comes after 0: a schedule that runs backwards"),
    ({"guidance.reward-weight": ["0:1", "1.5:0"]}, "'1.5:0': a progress of 1.5 is not between 0 and 1"),
    ({"guidance.reward-weight": "0:-1"}, "'0:-1': -1 is negative"),
    ({"guidance.teacher-share": "0:1.5"}, "'0:1.5': 1.5 is more than 1"),
    ({"guidance.teacher-share": "half"}, "'half' is not PROGRESS:VALUE, such as 0.5:0"),
    ({"guidance.teacher-share": "0:nan"}, "'0:nan' is not PROGRESS:VALUE, such as 0.5:0"),
    (
        {"guidance.reward-weight": ["0:0", "0.5:1"], "guidance.distillation-weight": "0:0"},
        "is 0 at progress 0, where guidance.distillation_weight is 0 too: nothing is learnt",
    ),
    (
        {"guidance.reward-weight": ["0:1", "1:0"], "guidance.fade": "return_ratio"},
        "is 0 at progress 1, where fade return_ratio may leave 0 too: nothing is learnt",
    ),
    ({"guidance.fade": "shedule"}, "'shedule' is not a way to fade; did you mean 'schedule'?"),
    ({"guidance.loss.kind": "kll"}, "'kll' is not a loss; did you mean 'kl'?"),
    ({"guidance.loss.temperature": [0.1, 0.2]}, "2 temperatures, and one game is learnt"),
    ({"guidance.teacher": "cartpol"}, "'cartpol' is neither a bundled teacher nor a file; did you mean 'cartpole'?"),
    ({"guidance.teacher": "acrobot"}, "plays acrobot with 3 actions; cartpole has 2"),
    ({"game": ["cartpole", "acrobot"]}, "guides the learner of one game, and there are 2"),
    ({"guidance.loss.beta": 0.3}, "is a setting of jsd, and loss.kind is kl"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_impossible_guidance_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    refused = refusal(capfd, "train-teacher", *options(SHORT | GUIDED | change | {"out": tmp_path / "run"}))
    assert message in refused and refused.count("\n") == 0
    assert list(tmp_path.iterdir()) == []


def test_guidance_is_of_pqn_and_its_settings_are_of_a_teacher_that_guides(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    common = {name: value for name, value in SHORT.items() if not name.startswith("pqn.")} | {"out": tmp_path / "run"}
    message = refusal(capfd, "train-teacher", *options(common | GUIDED | {"algorithm": "dqn"}))
    assert message.endswith("--guidance.teacher: guides pqn, and algorithm is 'dqn'")
    message = refusal(capfd, "train-teacher", *options(common | {"guidance.fade": "return_ratio"}))
    assert message.endswith("--guidance.fade: is for a teacher that guides; add --guidance.teacher")
    assert list(tmp_path.iterdir()) == []


def test_logits_are_no_q_values(student_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    plain = SHORT | {"init-from": student_run, "no-layer-norm": True, "out": out}
    message = refusal(capfd, "train-teacher", *options(plain))
    assert "gives logits; pqn learns Q-values: --guidance.teacher has a student's outputs turned into these" in message
    matched = SHORT | {"guidance.teacher": student_run, "guidance.loss.kind": "mse", "out": out}
    message = refusal(capfd, "train-teacher", *options(matched))
    assert message.endswith(f"guidance.loss.kind: mse matches Q-values, and {student_run} gives logits; take kl")
    assert not out.exists()


def test_a_teacher_that_is_no_better_than_chance_has_no_returns_to_come_up_to(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # It always does the same, which ends a game of CartPole at once: worse than random play.
    file = write_teacher(tmp_path / "t.safetensors", "cartpole")
    params, metadata = read_teacher(file)
    params["head"]["output"]["bias"] = np.array([1e3, 0.0], np.float32)
    save_teacher(file, params, metadata)
    values = SHORT | {"guidance.teacher": file, "guidance.fade": "return_ratio", "out": tmp_path / "run"}
    assert main(["train-teacher", *options(values)]) == 2
    *_, last = capfd.readouterr().err.splitlines()
    assert "guidance.fade: return_ratio is of returns above random play" in last and last.endswith("take schedule")
