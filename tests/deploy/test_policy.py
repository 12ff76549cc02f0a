"""A run's student as a policy: what it answers, what it plays, and what it refuses."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import envpool
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pd_jax
from pd_jax.config.distill import DistillConfig
from pd_jax.config.sections import LossConfig, StudentConfig
from pd_jax.deploy import StudentPolicy, TrainedStudent, load_trained
from pd_jax.distill.counters import DistillCounters
from pd_jax.environments.tasks import get_task
from pd_jax.errors import ObservationsError, UserError
from pd_jax.networks.student import make_student
from pd_jax.runs.checkpoints import Checkpointer
from support.commands import QUICK_EVALUATION, contents, no_compilation, succeed, write_teacher
from support.two_games import one_games_values

VECTORS = np.random.default_rng(0).standard_normal((7, 4)).astype(np.float32)
FRAMES = np.random.default_rng(0).integers(0, 256, (3, 84, 84, 4)).astype(np.uint8)


@pytest.fixture(scope="module")
def joint_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A train-teacher run of two games. Not to be written to."""
    path = tmp_path_factory.mktemp("joint") / "run"
    succeed(
        "train-teacher",
        QUICK_EVALUATION
        | {
            "game": ["cartpole", "acrobot"],
            "network": "mlp",
            "mlp-hidden": 8,
            "head-hidden": 4,
            "pqn.total-steps": 512,
            "pqn.num-lanes": 4,
            "pqn.rollout-length": 16,
            "pqn.minibatches": 2,
            "out": path,
        },
    )
    return path


@pytest.fixture(scope="module")
def two_game_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A distillation of two games of unlike observations and actions. Not to be written to."""
    path = tmp_path_factory.mktemp("two") / "run"
    succeed(
        "distill",
        QUICK_EVALUATION
        | {
            "teacher": ["cartpole", "acrobot"],
            "student.network": "mlp",
            "student.mlp-hidden": 16,
            "student.head-hidden": 8,
            "env.num-lanes": 4,
            "learner.updates-per-call": 10,
            "replay.capacity": 512,
            "schedule.rounds": 1,
            "schedule.rollout-length": 16,
            "schedule.steps-per-round": 128,
            "schedule.updates-per-round": 20,
            "out": path,
        },
    )
    return path


@pytest.fixture(scope="module")
def online_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An online distillation. Not to be written to."""
    path = tmp_path_factory.mktemp("online") / "run"
    succeed(
        "online",
        QUICK_EVALUATION
        | {
            "game": "cartpole",
            "mlp-hidden": 8,
            "pqn.total-steps": 512,
            "pqn.num-lanes": 4,
            "pqn.rollout-length": 16,
            "pqn.minibatches": 2,
            "pqn.epochs": 1,
            "env.num-lanes": 4,
            "student.network": "mlp",
            "student.mlp-hidden": 8,
            "learner.updates-per-call": 10,
            "replay.capacity": 512,
            "schedule.rounds": 2,
            "schedule.steps-per-round": 128,
            "schedule.updates-per-round": 20,
            "schedule.rollout-length": 16,
            "out": path,
        },
    )
    return path


def one_layer_values(variables: Any, observations: np.ndarray) -> np.ndarray:
    """Outputs of an mlp of one hidden layer, by the layers' definitions."""
    torso, output = variables["params"]["torso"]["fc1"], variables["params"]["head"]["output"]
    hidden = np.maximum(observations @ torso["kernel"] + torso["bias"], 0.0)
    values: np.ndarray = hidden @ output["kernel"] + output["bias"]
    return values


def pong_student(**settings: Any) -> StudentPolicy:
    """A student of Pong that has learnt nothing."""
    student = make_student(StudentConfig(network="net3"), [get_task("pong")])
    config = DistillConfig(teacher="pong", out="runs/p", student=StudentConfig(network="net3"), **settings)
    return StudentPolicy(TrainedStudent(student, student.init(jax.random.key(0)), config, DistillCounters()), "runs/p")


def test_the_student_answers_as_its_network_does_by_hand(finished_run: Path) -> None:
    student = pd_jax.load_student(finished_run)
    outputs = student.outputs(VECTORS)
    assert outputs.shape == (7, 2) and outputs.dtype == jnp.float32
    np.testing.assert_allclose(outputs, one_layer_values(load_trained(str(finished_run)).variables, VECTORS), rtol=1e-4)
    np.testing.assert_array_equal(student.outputs(jnp.asarray(VECTORS)), outputs)
    assert student.task == get_task("cartpole") and student.games == ("cartpole",) and student.gives_logits
    assert student.num_params == 4 * 16 + 16 + 16 * 2 + 2


def test_it_plays_the_best_action_and_keeps_no_state(finished_run: Path) -> None:
    student = pd_jax.load_student(str(finished_run))
    state = student.initial_state(7)
    actions, next_state = student.act(VECTORS, state)
    assert isinstance(actions, np.ndarray) and actions.dtype == np.int32
    np.testing.assert_array_equal(actions, np.argmax(student.outputs(VECTORS), axis=-1))
    assert set(actions) == {0, 1}, "some observations call for either action"
    assert jax.tree.leaves((state, next_state)) == []
    np.testing.assert_array_equal(student.act(VECTORS)[0], actions)


def test_random_actions_are_as_frequent_as_epsilon_says_and_their_key_repeats_them(finished_run: Path) -> None:
    student = pd_jax.load_student(finished_run)
    many = np.repeat(VECTORS[:1], 10_000, axis=0)
    greedy = student.act(many)[0]
    actions = student.act(many, epsilon=0.3, key=jax.random.key(1))[0]
    # Half of the random actions are the greedy one. The share has a standard deviation of 0.0036.
    assert np.mean(actions != greedy) == pytest.approx(0.15, abs=0.02)
    np.testing.assert_array_equal(student.act(many, epsilon=0.3, key=jax.random.key(1))[0], actions)
    assert (student.act(many, epsilon=0.3, key=jax.random.key(2))[0] != actions).any()
    with pytest.raises(UserError, match="random actions need a key"):
        student.act(many, epsilon=0.3)
    with pytest.raises(UserError, match=r"epsilon: 1\.5 is not between 0 and 1"):
        student.act(many, epsilon=1.5, key=jax.random.key(1))


@pytest.mark.parametrize("who", ["student", "teacher", "untrained teacher"])
def test_games_that_it_plays_by_hand_have_the_score_that_evaluate_gives(
    who: str, finished_run: Path, tmp_path: Path
) -> None:
    policy: Any = pd_jax.load_teacher("cartpole") if who == "teacher" else pd_jax.load_student(finished_run)
    if who == "untrained teacher":
        # Its games are of unlike lengths, which those of a good one need not be.
        policy = pd_jax.load_teacher(write_teacher(tmp_path / "untrained.safetensors", "cartpole"))
    scores = pd_jax.evaluate(policy, episodes=3, num_lanes=3, epsilon=0.0, seed=11)
    environment = envpool.make("CartPole-v1", env_type="gymnasium", num_envs=3, seed=11, max_episode_steps=500)
    observations, _ = environment.reset()
    state = policy.initial_state(3)
    returns, playing = np.zeros(3), np.ones(3, bool)
    while playing.any():
        actions, state = policy.act(observations.astype(np.float32), state)
        observations, rewards, terminated, truncated, _ = environment.step(actions)
        returns += rewards * playing
        playing &= ~(terminated | truncated)
    np.testing.assert_array_equal(scores.returns, returns)
    assert who != "untrained teacher" or len(set(returns)) > 1


@pytest.mark.parametrize(
    ("observations", "problem"),
    [
        (VECTORS.astype(np.float64), r"observations are float64 \[7, 4\]; the student of .* takes float32 \[N, 4\]"),
        (VECTORS[0], r"observations are float32 \[4\]; .*; one observation is a batch of one: observations\[None\]"),
        (VECTORS[:, :3], r"observations are float32 \[7, 3\]"),
        (VECTORS[None], r"observations are float32 \[1, 7, 4\]"),
        (jnp.asarray(VECTORS, jnp.bfloat16), r"observations are bfloat16 \[7, 4\]"),
        (VECTORS.tolist(), r"observations are float64 \[7, 4\]"),
        ([[0.0], [0.0, 1.0]], "observations are no array"),
        (None, r"observations are object \[\]"),
    ],
)
def test_other_observations_are_refused_in_one_line(observations: Any, problem: str, finished_run: Path) -> None:
    student = pd_jax.load_student(finished_run)
    for ask in (student.outputs, student.act):
        with pytest.raises(ObservationsError, match=problem) as refused:
            ask(observations)
        assert "\n" not in str(refused.value)
    with pytest.raises(ObservationsError, match=problem.replace("the student of .*", "cartpole-mlp")):
        pd_jax.load_teacher("cartpole").act(observations)
    assert issubclass(ObservationsError, UserError) and issubclass(ObservationsError, ValueError)


def test_a_student_of_frames_takes_frames() -> None:
    student = pong_student()
    expected = student.trained.student.network.apply(student.variables, FRAMES)
    np.testing.assert_allclose(student.outputs(FRAMES), expected, rtol=1e-4, atol=1e-5)
    assert student.act(FRAMES)[0].shape == (3,)
    for observations in (FRAMES.astype(np.float32), FRAMES.transpose(0, 3, 1, 2), FRAMES[..., :3], VECTORS):
        with pytest.raises(ObservationsError, match=r"the student of runs/p takes uint8 \[N, 84, 84, 4\]"):
            student.outputs(observations)


def test_outputs_are_logits_unless_q_values_were_learnt() -> None:
    assert pong_student().gives_logits
    assert not pong_student(loss=LossConfig(kind="mse")).gives_logits


def test_everything_is_compiled_once_for_each_number_of_observations(finished_run: Path) -> None:
    student = pd_jax.load_student(finished_run)
    for number in (5, 7):
        student.act(VECTORS[:number])
        student.act(VECTORS[:number], epsilon=0.1, key=jax.random.key(0))
    keys = [jax.random.key(seed) for seed in range(3)]
    with no_compilation():
        for number in (5, 7):
            for key in keys:
                student.act(VECTORS[:number] + 1)
                student.act(VECTORS[:number], epsilon=0.2, key=key)
        student.for_game("cartpole").act(VECTORS)


def test_nothing_is_printed_and_the_run_is_only_read(finished_run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = contents(finished_run)
    student = pd_jax.load_student(finished_run)
    student.act(VECTORS)
    assert capfd.readouterr() == ("", "")
    assert contents(finished_run) == before
    assert student.summary is not None
    assert dict(student.summary) == json.loads((finished_run / "summary.json").read_text())


def test_the_student_of_a_run_that_goes_on_has_no_summary(finished_run: Path, tmp_path: Path) -> None:
    going = shutil.copytree(finished_run, tmp_path / "going")
    (going / "summary.json").unlink()
    assert pd_jax.load_student(going).summary is None


def test_a_damaged_checkpoint_is_passed_over_with_a_warning_of_pythons(
    finished_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    damaged = shutil.copytree(finished_run, tmp_path / "damaged")
    with Checkpointer(damaged / "checkpoints", read_only=True) as checkpointer:
        before, newest = checkpointer.steps()[-2:]
    for path in (damaged / "checkpoints" / str(newest)).rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.warns(UserWarning, match=f"checkpoint {newest}: .*; passed over for checkpoint {before}"):
        student = pd_jax.load_student(damaged)
    assert student.trained.counters.updates == before
    assert capfd.readouterr() == ("", "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pd_jax.load_student(finished_run).trained.counters.updates == newest


def test_a_student_of_two_games_plays_the_one_it_is_told(two_game_run: Path) -> None:
    student = pd_jax.load_student(two_game_run)
    assert student.games == ("cartpole", "acrobot")
    variables = load_trained(str(two_game_run)).variables
    rng = np.random.default_rng(0)
    for place, (name, env_id) in enumerate((("cartpole", "CartPole-v1"), ("acrobot", "Acrobot-v1"))):
        task = get_task(name)
        observations = rng.standard_normal((5, *task.observation_shape)).astype(np.float32)
        expected = one_games_values(variables, place, observations)
        for one in (student.for_game(name), pd_jax.load_student(two_game_run, game=env_id)):
            assert one.task == task and one.games == student.games
            np.testing.assert_allclose(one.outputs(observations), expected, rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(one.act(observations)[0], np.argmax(expected, axis=-1))
    assert student.for_game("cartpole").for_game("acrobot").task == get_task("acrobot")
    assert all(
        a is b
        for a, b in zip(
            jax.tree.leaves(student.variables), jax.tree.leaves(student.for_game("acrobot").variables), strict=True
        )
    ), "the weights are there once"


def test_a_student_of_two_games_asks_which_one(two_game_run: Path) -> None:
    student = pd_jax.load_student(two_game_run)
    for ask in (lambda: student.task, lambda: student.apply, lambda: student.act(VECTORS)):
        with pytest.raises(UserError) as refused:
            ask()
        assert str(refused.value) == (
            f"{two_game_run}: its student plays cartpole, acrobot; choose one: "
            ".for_game('cartpole'), or load_student(..., game=...)"
        )
    with pytest.raises(UserError, match=r"its student plays cartpole, acrobot, not pong$"):
        student.for_game("pong")
    with pytest.raises(UserError, match=r"not 'cartpol'; did you mean 'cartpole'\?"):
        pd_jax.load_student(two_game_run, game="cartpol")


def test_the_student_of_an_online_run_is_the_one_it_taught(online_run: Path) -> None:
    student = pd_jax.load_student(online_run)
    expected = one_layer_values(load_trained(str(online_run)).variables, VECTORS)
    np.testing.assert_allclose(student.outputs(VECTORS), expected, rtol=1e-4, atol=1e-5)
    assert student.summary is not None
    assert student.num_params == student.summary["student_parameters"]


def test_a_network_that_learnt_several_games_from_rewards_is_a_student_too(joint_run: Path) -> None:
    student = pd_jax.load_student(joint_run, game="acrobot")
    observations = np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)
    teacher = pd_jax.load_teacher(joint_run / "teacher.safetensors", "acrobot")
    np.testing.assert_allclose(student.outputs(observations), teacher(observations), rtol=1e-5, atol=1e-6)
    assert not student.gives_logits and student.games == ("cartpole", "acrobot")


def test_what_is_no_students_run_is_refused(finished_run: Path, recording: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run directory: there is no such directory"):
        pd_jax.load_student(tmp_path / "absent")
    with pytest.raises(UserError, match="is a run of pd-jax collect, which has no student"):
        pd_jax.load_student(recording)
    with pytest.raises(UserError, match="checkpoint: 'latest' is not a checkpoint"):
        pd_jax.load_student(finished_run, checkpoint="latest")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no checkpoint has a score"):
        pd_jax.load_student(finished_run, checkpoint="best")
    with pytest.raises(UserError, match="its student plays cartpole, not acrobot"):
        pd_jax.load_student(finished_run, game="acrobot")
