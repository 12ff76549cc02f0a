"""``student.quantisation``: a student goes on learning as 8-bit integers compute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import pd_jax
from pd_jax.config.sections import StudentConfig
from pd_jax.environments.envpool import Environment
from pd_jax.environments.tasks import get_task
from pd_jax.networks.quantisation import INPUT_RANGE, is_quantised, without_ranges
from pd_jax.networks.student import make_student
from support.commands import QUICK_EVALUATION, options, refusal, state_digests, succeed


@pytest.fixture(scope="module")
def int8_run(
    finished_run: Path, recorded_run_options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A student with quantisation, after two rounds."""
    out = tmp_path_factory.mktemp("int8") / "run"
    values = recorded_run_options | QUICK_EVALUATION | {"out": out, "init-from": finished_run}
    values |= {"student.quantisation": "int8", "schedule.rounds": 2}
    succeed("distill", values)
    return out, values


def test_ranges_are_those_of_the_students_own_play(finished_run: Path, int8_run: tuple[Path, dict[str, Any]]) -> None:
    before, after = (pd_jax.load_student(path).variables["params"] for path in (finished_run, int8_run[0]))
    assert is_quantised(after) and not is_quantised(before)
    features = np.asarray(after["torso"]["fc1"][INPUT_RANGE])
    # CartPole ends where the cart is at 2.4 or the pole at 0.2095; none of its play is near 0 in anything.
    assert (features > 0.0).all() and features[0] <= 2.5 and features[2] <= 0.3
    # Of what the second layer is given by the student that it started from, in other play, little is beyond.
    task, student, seen = get_task("cartpole"), pd_jax.load_student(finished_run), []
    environment = Environment(task, 8, 99, stepping="host")
    step = environment.reset()[1]
    for _ in range(60):
        seen.append(np.asarray(step.observations))
        actions, _ = student.act(seen[-1], None)
        step = environment.step_host(actions, np.asarray(step.is_last))
    environment.close()
    layer = before["torso"]["fc1"]
    hidden = np.maximum(np.concatenate(seen) @ layer["kernel"] + layer["bias"], 0)
    assert 0.5 * hidden.max() < after["head"]["output"][INPUT_RANGE] < 20 * hidden.max()


def test_a_run_says_over_what_it_was_calibrated_and_integers_act_as_its_parameters_do(
    int8_run: tuple[Path, dict[str, Any]],
) -> None:
    out, _ = int8_run
    summary = json.loads((out / "summary.json").read_text())
    assert summary["init_from"]["calibration"]["observations"] == 4096
    student = pd_jax.load_student(out)
    params = student.variables["params"]
    limit = np.asarray(params["torso"]["fc1"][INPUT_RANGE])
    observations = np.random.default_rng(0).uniform(-limit, limit, (500, 4)).astype(np.float32)
    plain = make_student(StudentConfig(network="mlp", mlp_hidden=(16,)), student.trained.student.tasks)
    exact = np.asarray(plain.policy(0)({"params": without_ranges(params)}, observations))
    rounded = np.asarray(student.outputs(observations))
    assert (exact.argmax(axis=1) == rounded.argmax(axis=1)).mean() > 0.97
    # Where all features are large at once, which no play showed, the second layer's inputs are cut off.
    assert 0 < np.median(np.abs(exact - rounded)) < 0.01 * np.abs(exact).max()


def test_a_run_that_is_resumed_ends_with_the_same_bits(int8_run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    whole, values = int8_run
    halves = values | {"out": tmp_path / "halves", "schedule.rounds": 1}
    succeed("distill", halves)
    succeed("distill", halves | {"schedule.rounds": 2, "resume": True})
    assert state_digests(tmp_path / "halves") == state_digests(whole)


def test_a_student_with_quantisation_starts_another_with_the_same_ranges(
    int8_run: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    first, values = int8_run
    succeed("distill", values | {"out": tmp_path / "next", "init-from": first, "schedule.rounds": 1})
    ranges = [pd_jax.load_student(path).variables["params"] for path in (first, tmp_path / "next")]
    for layer in ("torso", "head"):
        found = [jax.tree_util.tree_leaves_with_path(params[layer]) for params in ranges]
        for (path, old), (_, new) in zip(*found, strict=True):
            assert path[-1].key != INPUT_RANGE or np.array_equal(old, new)
    assert "calibration" not in json.loads((tmp_path / "next" / "summary.json").read_text())["init_from"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"student.quantisation": "int8"}, "student.quantisation: 'int8' goes on from a student that has learnt"),
        ({"student.quantisation": "int8", "student.compute-dtype": "bfloat16"}, "learns in float32"),
        ({"student.quantisation": "int4"}, "int4"),
    ],
)
def test_what_cannot_be_quantised_is_refused(
    changed: dict[str, Any],
    said: str,
    finished_run: Path,
    recorded_run_options: dict[str, Any],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    start = {"init-from": finished_run} if "student.compute-dtype" in changed else {}
    values = recorded_run_options | changed | start | {"out": tmp_path / "run"}
    message = refusal(capfd, "distill", *options(values))
    assert said in message and not (tmp_path / "run").exists()


def test_it_is_no_teacher_and_starts_no_student_without_quantisation(
    int8_run: tuple[Path, dict[str, Any]],
    recorded_run_options: dict[str, Any],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    plain = recorded_run_options | {"out": tmp_path / "run", "init-from": int8_run[0]}
    assert "give --student.quantisation int8" in refusal(capfd, "distill", *options(plain))
    argv = ["import", str(int8_run[0]), "--game", "cartpole", "--out", str(tmp_path / "x.safetensors")]
    message = refusal(capfd, "teachers", *argv)
    assert "pd-jax export writes it" in message
