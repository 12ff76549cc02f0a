"""A teacher that guides PQN: its schedules, the scale that a student's outputs get, and whole runs."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_jax import teachers
from pd_jax.actors.rollout import FinishedEpisodes
from pd_jax.cli import main
from pd_jax.config.algorithms import PQNConfig
from pd_jax.config.guidance import GuidanceConfig, value_at
from pd_jax.config.sections import LossConfig, StudentConfig
from pd_jax.config.train_teacher import TrainTeacherConfig
from pd_jax.deploy.lineage import verify_lineage
from pd_jax.environments.tasks import get_task
from pd_jax.evaluation.scores import Score
from pd_jax.networks.registry import make_network
from pd_jax.networks.student import Student, make_student
from pd_jax.report.guidance import errors_above, result_note
from pd_jax.runs.lineage import read_lineage
from pd_jax.teachers import Teacher
from pd_jax.teachers.files import read_teacher, save_teacher
from pd_jax.trainers import guidance, pqn
from pd_jax.trainers.guided_pqn import GuidedPQN, last_returns, piecewise_linear, return_ratio
from pd_jax.trainers.opening import Calibration, OpeningPlay, calibrate, find_temperature, with_outputs
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
from support.environments import CountingEnvironment
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
LEARNING = PQNConfig(total_steps=4096, num_lanes=4, rollout_length=16, minibatches=4, epochs=1)


# Schedules.


@settings(max_examples=50, deadline=None)
@given(
    values=st.lists(st.integers(0, 1000), min_size=1, max_size=6),
    places=st.lists(st.integers(0, 1000), min_size=6, max_size=6, unique=True),
    progress=st.integers(0, 1000),
)
def test_a_schedule_is_straight_between_its_points_and_flat_beyond_them(
    values: list[int], places: list[int], progress: int
) -> None:
    rising = sorted(places[: len(values)])
    texts = tuple(f"{place / 1000}:{value / 100}" for place, value in zip(rising, values, strict=True))
    points = GuidanceConfig(reward_weight=texts).points("reward_weight")
    expected = np.interp(progress / 1000, [place / 1000 for place in rising], [value / 100 for value in values])
    assert value_at(points, progress / 1000) == pytest.approx(expected, abs=1e-9)
    assert piecewise_linear(points, jnp.float32(progress / 1000)) == pytest.approx(expected, abs=2e-2, rel=1e-3)


def test_a_single_number_is_a_constant_and_what_is_not_given_follows_from_the_fade() -> None:
    assert GuidanceConfig(reward_weight="0.5").points("reward_weight") == ((0.0, 0.5),)
    fading = ((0.0, 3.0), (0.1, 0.3), (0.5, 0.1), (1.0, 0.0))
    assert GuidanceConfig().settled.points("distillation_weight") == fading
    assert GuidanceConfig(fade="return_ratio").settled.points("distillation_weight") == ((0.0, 10.0),)
    assert GuidanceConfig(distillation_weight="0:2").settled.distillation_weight == ("0:2",)


def test_the_last_returns_are_those_of_the_games_that_ended_last() -> None:
    rng = np.random.default_rng(0)
    returns, count, expected = jnp.zeros(4), jnp.int32(0), []
    for _ in range(30):
        mask, values = rng.random((3, 2)) < 0.3, rng.normal(size=(3, 2)).astype(np.float32)
        finished = FinishedEpisodes(jnp.array(mask), jnp.array(values), jnp.zeros((3, 2), jnp.int32))
        returns, count = last_returns(returns, count, finished)
        expected = [*expected, *values[mask]][-4:]
        assert int(count) == len(expected)
        np.testing.assert_array_equal(returns, [0.0] * (4 - len(expected)) + expected)


def test_the_return_ratio_is_above_random_play_and_stays_in_bounds() -> None:
    # Of Pong, where plain quotients of returns would say that -20 is four times as good as -5.
    for own, expected in ((-20.7, 0.0), (-30.0, 0.0), (-12.85, 0.5), (-5.0, 1.0), (15.0, 1.0)):
        ratio = return_ratio(jnp.float32(own), jnp.float32(-5.0), -20.7)
        assert float(ratio) == pytest.approx(expected, abs=1e-6)


# The scale of a student's outputs.


def opening(outputs: np.ndarray, teacher_q: np.ndarray, rewards: np.ndarray, **changes: Any) -> OpeningPlay:
    """Play of one lane that never ends, in which the best action of ``outputs`` ``[T, A]`` is played."""
    best = outputs.max(axis=-1)[:, None]
    play = OpeningPlay(
        outputs=outputs[:, None],
        teacher_q=teacher_q[:, None],
        chosen=best,
        next_value=np.concatenate([best[1:], best[-1:]]),
        rewards=rewards[:, None],
        terminated=np.zeros_like(best, bool),
        is_last=np.zeros_like(best, bool),
        weight=np.ones_like(best),
    )
    return dataclasses.replace(play, **changes)


@pytest.mark.parametrize("temperature", [2.0**-7, 0.01, 3.0])
def test_the_scale_is_that_of_the_teachers_gaps_whatever_the_students_states_are_worth(temperature: float) -> None:
    rng = np.random.default_rng(1)
    teacher_q = rng.normal(size=(200, 4)).astype(np.float32)
    # Of a policy's logits a constant of each state is free, here a large one.
    logits = teacher_q / temperature + rng.normal(scale=50, size=(200, 1)).astype(np.float32)
    found = calibrate(opening(logits, teacher_q, np.zeros(200, np.float32)), 0.99, gives_logits=False, scale=None)
    assert found.scale == 2.0 ** round(math.log2(temperature))
    asked = calibrate(opening(logits, teacher_q, np.zeros(200, np.float32)), 0.99, gives_logits=False, scale=0.3)
    assert asked.scale == 0.3


def test_the_offset_makes_what_is_played_worth_the_rewards_that_follow() -> None:
    # A reward of 1 at every step, for ever, is worth 1 / (1 - 0.9) = 10, whatever the logits said.
    outputs = np.tile(np.array([[3.0, 5.0]], np.float32), (64, 1))
    found = calibrate(opening(outputs, outputs, np.ones(64, np.float32)), 0.9, gives_logits=True, scale=0.01)
    assert found.scale * 5.0 + found.offset == pytest.approx(10.0, rel=1e-3)
    # Games of two steps that pay 1 each: 1.9 and 1 in turn.
    ends = np.arange(64)[:, None] % 2 == 1
    play = opening(outputs, outputs, np.ones(64, np.float32), terminated=ends, is_last=ends)
    found = calibrate(play, 0.9, gives_logits=True, scale=0.01)
    assert found.scale * 5.0 + found.offset == pytest.approx((1.9 + 1.0) / 2, rel=1e-3)


@pytest.mark.parametrize("outputs", [np.zeros((8, 3), np.float32), np.full((8, 3), 7.0, np.float32)])
def test_outputs_without_gaps_have_a_scale_all_the_same(outputs: np.ndarray) -> None:
    found = calibrate(opening(outputs, outputs, np.zeros(8, np.float32)), 0.99, gives_logits=False, scale=None)
    assert found.scale == 2.0**-7 and math.isfinite(found.offset)


@pytest.mark.parametrize("name", ["mlp", pytest.param("net3", marks=pytest.mark.slow)])
def test_outputs_of_another_scale_decide_as_before(name: str) -> None:
    task = get_task("cartpole" if name == "mlp" else "pong")
    network = make_network(name, task.num_actions)
    key, shape = jax.random.key(0), (64, *task.observation_shape)
    seen = jax.random.randint(key, shape, 0, 256).astype(task.observation_dtype)
    variables = network.init(key, seen)
    before = np.asarray(network.apply(variables, seen))
    after = np.asarray(network.apply(with_outputs(variables, Calibration(2.0**-6, 1.5)), seen))
    np.testing.assert_allclose(after, before / 64 + 1.5, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(after.argmax(axis=-1), before.argmax(axis=-1))


def test_a_temperature_is_found_at_which_the_teacher_has_the_entropy_that_is_asked_for() -> None:
    teacher_q = np.random.default_rng(2).normal(size=(500, 5))
    play = opening(teacher_q.astype(np.float32), teacher_q.astype(np.float32), np.zeros(500, np.float32))
    logits = teacher_q / find_temperature(play, 0.3)
    probs = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probs /= probs.sum(axis=-1, keepdims=True)
    entropy = -(probs * np.log(np.maximum(probs, 1e-300))).sum(axis=-1).mean()
    assert entropy / math.log(5) == pytest.approx(0.3, abs=1e-3)


# What is learnt.


def make_guided(tmp_path: Path, config: GuidanceConfig, **metadata: Any) -> tuple[GuidedPQN, Any]:
    """The algorithm on CartPole, and its network."""
    file = write_teacher(tmp_path / "teacher.safetensors", "cartpole", **metadata)
    network = make_network("mlp", 2, hidden_sizes=(6,))
    return GuidedPQN(teachers.load(file), config, Student(network, (get_task("cartpole"),))), network


def play_some(
    algorithm: Any, network: Any, iterations: int, learning: PQNConfig = LEARNING
) -> tuple[Any, list[dict[str, Any]]]:
    """The state after some iterations, and the metrics of each."""
    environment: Any = CountingEnvironment()
    key, metrics = jax.random.key(3), []
    state = algorithm.init(network, jnp.zeros((1, 4)), learning, key)
    lanes, iterate = (
        algorithm.start(environment, learning, key),
        algorithm.make_iteration(network, environment, learning),
    )
    for _ in range(iterations):
        state, lanes, values = iterate(state, lanes)
        metrics.append(jax.device_get(values))
    return state, metrics


def test_a_teacher_that_counts_for_nothing_leaves_q_learning_as_it_is(tmp_path: Path) -> None:
    guided, network = make_guided(tmp_path, GuidanceConfig(teacher="x", distillation_weight="0:0"))
    state, (*_, metrics) = play_some(guided, network, 3)
    alone, (*_, expected) = play_some(pqn, network, 3)
    jax.tree.map(np.testing.assert_array_equal, state.variables, alone.variables)
    assert float(metrics["loss"]) == float(expected["loss"])
    assert (metrics["reward_weight"], metrics["distillation_weight"], metrics["teacher_share"]) == (1, 0, 0)


def test_a_teacher_that_teaches_nothing_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    student = Student(make_network("mlp", 2, hidden_sizes=(6,)), (get_task("cartpole"),))

    def warned(**schedules: Any) -> str:
        own = GuidanceConfig(teacher="cartpole", **schedules)
        guidance.make_guided(TrainTeacherConfig(game="cartpole", network="mlp", out="x", guidance=own), student)
        return capsys.readouterr().err

    assert "guidance.distillation_weight: is 0 throughout, and guidance.teacher_share too" in warned(
        distillation_weight="0"
    )
    # One that acts shows something.
    assert warned(distillation_weight="0", teacher_share="0:0.5") == warned() == ""


def test_the_coefficients_follow_the_training(tmp_path: Path) -> None:
    schedules = {"reward_weight": ("0:0.25", "1:1"), "distillation_weight": ("0:2", "0.5:0"), "teacher_share": "0:0.5"}
    guided, network = make_guided(tmp_path, GuidanceConfig(teacher="x", **schedules))
    state = guided.init(network, jnp.zeros((1, 4)), LEARNING, jax.random.key(0))
    for steps, (reward, weight) in {0: (0.25, 2.0), 1024: (0.4375, 1.0), 2048: (0.625, 0.0), 9000: (1.0, 0.0)}.items():
        there = dataclasses.replace(state, pqn=dataclasses.replace(state.pqn, env_steps=jnp.int32(steps)))
        found = guided.coefficients(there, LEARNING)
        assert float(found["reward_weight"]) == pytest.approx(reward)
        assert float(found["distillation_weight"]) == pytest.approx(weight)
        assert float(found["teacher_share"]) == 0.5


def test_the_distillation_fades_as_returns_come_up_to_the_teachers(tmp_path: Path) -> None:
    guided, network = make_guided(tmp_path, GuidanceConfig(teacher="x", fade="return_ratio"))
    state = guided.init(network, jnp.zeros((1, 4)), LEARNING, jax.random.key(0))
    random = guided.random_return
    assert random > 0, "CartPole's is known"
    state = dataclasses.replace(state, teacher_return=jnp.float32(random + 100), start_return=jnp.float32(random + 20))
    for count, own, expected in ((0, 0.0, 0.8), (9, random + 90, 0.8), (10, random + 90, 0.1), (32, random + 150, 0.0)):
        returns = np.zeros(32, np.float32)
        returns[32 - count :] = own
        there = dataclasses.replace(state, returns=jnp.array(returns), num_returns=jnp.int32(count))
        found = guided.coefficients(there, LEARNING)
        assert float(found["distillation_weight"]) == pytest.approx(10 * expected, abs=1e-3)
        assert float(found["return_ratio"]) == pytest.approx(1 - expected, abs=1e-4)


@pytest.mark.parametrize(
    ("loss", "output"),
    [(LossConfig(), "q"), (LossConfig(temperature=0.5), "logits"), (LossConfig(kind="mse"), "q")],
    ids=["kl", "kl of logits", "mse"],
)
def test_an_update_is_down_the_gradient_of_both_losses(tmp_path: Path, loss: LossConfig, output: str) -> None:
    config = GuidanceConfig(teacher="x", loss=loss, reward_weight="0:0.7", distillation_weight="0:0.4")
    guided, network = make_guided(tmp_path, config, output=output)
    learning = dataclasses.replace(LEARNING, minibatches=1)
    rng = np.random.default_rng(4)
    shape = (learning.rollout_length, learning.num_lanes)
    transitions = pqn.Transitions(
        observations=jnp.array(rng.normal(size=(*shape, 4)), jnp.float32),
        actions=jnp.array(rng.integers(0, 2, shape), jnp.int32),
        rewards=jnp.array(rng.normal(size=shape), jnp.float32),
        next_value=jnp.array(rng.normal(size=shape), jnp.float32),
        terminated=jnp.zeros(shape, bool),
        is_last=jnp.zeros(shape, bool),
        weight=jnp.array(rng.random(shape) < 0.8, jnp.float32),
    )
    state = guided.init(network, jnp.zeros((1, 4)), learning, jax.random.key(0))
    values = guided.coefficients(state, learning)
    learn = jax.jit(lambda *arrays: guided._learn(network.apply, *arrays, learning))
    learnt, _ = learn(state, transitions, values, guided.teacher.variables)

    targets = pqn.labelled(transitions, learning).targets
    seen, weight = transitions.observations.reshape(-1, 4), transitions.weight.reshape(-1)
    teacher_q, actions = guided.teacher(seen), transitions.actions.reshape(-1)
    tau = {"q": 0.01, "logits": 0.5}[output]
    own = 0.01

    def both(variables: Any) -> Any:
        q = network.apply(variables, seen)
        regression = 0.5 * (weight * (q[jnp.arange(len(q)), actions] - targets) ** 2).sum() / weight.sum()
        if loss.kind == "mse":
            each = ((q - teacher_q) ** 2).sum(axis=-1)
        else:
            log_p, log_pi = jax.nn.log_softmax(teacher_q / tau), jax.nn.log_softmax(q / own)
            each = own * (jnp.exp(log_p) * (log_p - log_pi)).sum(axis=-1)
        return 0.7 * regression + 0.4 * (weight * each).sum() / weight.sum()

    optimizer = pqn.make_optimizer(learning)

    @jax.jit
    def updated(variables: Any) -> Any:
        updates, _ = optimizer.update(jax.grad(both)(variables), optimizer.init(variables), variables)
        return optax.apply_updates(variables, updates)

    expected = updated(state.variables)
    moved = jax.tree.map(lambda new, old: np.abs(new - old).max(), expected, state.variables)
    assert min(jax.tree.leaves(moved)) > 1e-6
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), learnt.variables, expected)


def test_a_learner_without_rewards_becomes_its_teacher(tmp_path: Path) -> None:
    config = GuidanceConfig(teacher="x", reward_weight=("0:0", "1:0.1"), distillation_weight="0:1", teacher_share="0:1")
    guided, network = make_guided(tmp_path, config)
    _, (first, *_, last) = play_some(guided, network, 60, dataclasses.replace(LEARNING, learning_rate=1e-2))
    assert float(last["distillation_loss"]) < 0.2 * float(first["distillation_loss"])
    assert float(last["agreement"]) == 1.0 and bool(last["teacher_is_sound"])


def test_a_teacher_of_nan_is_noticed(tmp_path: Path) -> None:
    guided, network = make_guided(tmp_path, GuidanceConfig(teacher="x", distillation_weight="0:0"))
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, guided.teacher.variables["params"])
    teacher = Teacher(guided.teacher.metadata, broken, "broken", "0" * 64)
    _, (metrics,) = play_some(GuidedPQN(teacher, guided.config, guided.student), network, 1)
    assert not metrics["teacher_is_sound"]


# What is told.


@pytest.mark.parametrize(
    ("mean", "text"),
    [
        (13.0, "overtakes its teacher by 6.0 standard errors"),
        (10.5, "does not overtake its teacher for sure: 1.0 standard errors above"),
        (9.5, "does not overtake its teacher for sure: 1.0 standard errors below"),
        (5.0, "is below its teacher by 10.0 standard errors"),
    ],
)
def test_only_what_is_sure_is_called_overtaking(mean: float, text: str) -> None:
    # Of a difference of two means the standard error is the root of the sum of squares: 0.3, 0.4 and 0.5.
    score, teacher = Score(mean, 0.3, None, None, 30), Score(10.0, 0.4, None, None, 30)
    told = {"teacher_score": 10.0, "standard_errors_above_teacher": errors_above(score, teacher)}
    assert result_note(told, score) == text
    assert errors_above(score, Score(10.0, None, None, None, 1)) is None


# Whole runs.


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
