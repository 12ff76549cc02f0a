"""What a file has to stand: differences, actions and games, worked out by hand."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pd_jax.config.export import ProofConfig
from pd_jax.deploy import proof
from pd_jax.deploy.proof import Agreement, compare, games_fault, other_observations, recorded_play
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.evaluation.scores import Score
from support.policies import random_observations, random_teacher

BOUNDS = ProofConfig(max_difference=1e-2, min_equal_actions=0.5)


def test_differences_are_relative_to_outputs_above_one() -> None:
    agreement = Agreement()
    agreement.add(
        np.array([[0.1, 0.2], [-200.0, 100.0]], np.float32),
        np.array([[0.1, 0.203], [-200.0, 101.0]], np.float32),
        np.array([1, 0]),
    )
    assert agreement.frames == 2 and agreement.equal_actions == 1 and agreement.share_of_equal_actions == 0.5
    assert agreement.largest_difference == pytest.approx(1.0)
    assert agreement.largest_relative_difference == pytest.approx(1 / 200)
    assert agreement.fault(BOUNDS) == ""
    assert agreement.fault(ProofConfig(max_difference=1e-3)).startswith("outputs differ by up to 0.005 on 2 frames")
    assert agreement.fault(ProofConfig(max_difference=1e-2)).startswith("50.000 % of the actions are equal on 2 frames")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_no_numbers_are_a_fault(value: float) -> None:
    agreement = Agreement()
    agreement.add(np.zeros((1, 2), np.float32), np.array([[0.0, value]], np.float32), np.array([0]))
    assert agreement.fault(ProofConfig(max_difference=1e6)) != ""


@pytest.mark.parametrize(
    ("file", "policy", "is_fault"),
    [
        (Score(9.0, 1.0, 8.0, 10.0, 30), Score(10.0, 1.0, 9.0, 11.0, 30), False),
        (Score(8.9, 1.0, 8.0, 10.0, 30), Score(10.0, 1.0, 9.0, 11.0, 30), True),
        (Score(495.0, 1.0, 490.0, 500.0, 30), Score(500.0, 0.0, 500.0, 500.0, 30), False),
        (Score(489.0, 1.0, 480.0, 500.0, 30), Score(500.0, 0.0, 500.0, 500.0, 30), True),
        (Score(-20.4, 0.1, -21.0, -20.0, 30), Score(-20.0, 0.1, -20.1, -19.9, 30), False),
        (Score(-21.0, 0.1, -21.0, -21.0, 30), Score(-20.0, 0.1, -20.1, -19.9, 30), True),
        # One game has no interval.
        (Score(0.0, None, None, None, 1), Score(500.0, None, None, None, 1), False),
    ],
)
def test_games_may_fall_to_the_interval_or_by_the_loss_that_is_allowed(
    file: Score, policy: Score, is_fault: bool
) -> None:
    assert bool(games_fault(file, policy, 0.02)) == is_fault


def batches(*shown: tuple[int, list[bool]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for count, decided in shown:
        yield random_observations(get_task("cartpole"), count), np.array(decided)


class AsJax:
    """A file that answers as its policy does, but for what is added where it is shown one observation alone."""

    def __init__(self, policy: Any, alone: float = 0.0) -> None:
        self.policy, self.alone = policy, alone

    def decide(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        outputs = np.asarray(self.policy.outputs(frames)) + (self.alone if len(frames) == 1 else 0.0)
        return outputs, outputs.argmax(axis=1)

    def act(self, frames: np.ndarray, state: None = None) -> tuple[np.ndarray, None]:
        return self.decide(frames)[1], state


def test_as_many_decisions_are_compared_as_are_wanted_and_no_more() -> None:
    policy, counted = random_teacher("cartpole"), []
    shown = batches((3, [True, False, True]), (3, [True, True, True]), (3, [True, True, True]))
    found = compare(policy, {"same": AsJax(policy)}, shown, 4, counted.append)
    assert counted == [2, 4] and found["same"].frames == found["same"].equal_actions == 4
    assert found["same"].largest_difference == 0.0
    # All of a recording that is shorter.
    assert compare(policy, {"same": AsJax(policy)}, batches((3, [True] * 3)), 99, counted.append)["same"].frames == 3


def test_observations_of_calibration_are_those_behind_the_compared_ones() -> None:
    def play() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for begin, decided in ((0, [True, False, True]), (3, [True, True, True]), (6, [False, True, True])):
            yield np.arange(begin, begin + 3, dtype=np.float32)[:, None], np.array(decided)

    assert other_observations(play(), 3).ravel().tolist() == [0, 2, 3]
    assert other_observations(play(), 2, skip=3).ravel().tolist() == [4, 5]
    assert other_observations(play(), 9, skip=5).ravel().tolist() == [7, 8], "all that there are"
    assert len(other_observations(iter(()), 9)) == 0


def test_a_recording_without_a_decision_and_a_file_of_one_batch_alone_are_refused() -> None:
    policy = random_teacher("cartpole")
    with pytest.raises(UserError, match="has no decision in it"):
        compare(policy, {}, batches((3, [False] * 3)), 4, lambda _: None)
    with pytest.raises(UserError, match=r"^odd: answers one observation otherwise"):
        compare(policy, {"odd": AsJax(policy, alone=0.5)}, batches((3, [True] * 3)), 4, lambda _: None)


def test_stacks_of_a_recording_are_the_last_four_frames_of_a_game(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (40, 2, 84, 84)).astype(np.uint8)
    is_first = generator.random((40, 2)) < 0.2
    is_first[0] = True
    is_decision = generator.random((40, 2)) < 0.8

    def trajectories(length: int) -> Iterator[Any]:
        for start in range(0, 40, 15):
            part = slice(start, start + 15)
            yield types.SimpleNamespace(
                observations=frames[part], is_first=is_first[part], is_decision=is_decision[part]
            )

    checked: list[Any] = []
    recording = types.SimpleNamespace(check_matches=lambda *what: checked.append(what), trajectories=trajectories)
    monkeypatch.setattr(proof.Dataset, "open", lambda path: recording)
    found = list(recorded_play("recording", get_task("pong")))
    assert checked == [("pong", 6, (), ())] and len(found) == 40
    for step, (stacks, decided) in enumerate(found):
        np.testing.assert_array_equal(decided, is_decision[step])
        for lane in range(2):
            begin = max(at for at in range(step + 1) if is_first[at, lane])
            wanted = [frames[max(begin, at), lane] for at in range(step - 3, step + 1)]
            np.testing.assert_array_equal(stacks[lane], np.stack(wanted, axis=-1))


def test_games_of_a_file_are_refused_where_they_would_never_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread would wait in the callback for what it has itself to make."""
    monkeypatch.setattr(proof, "xla_threads", lambda: 1)
    with pytest.raises(UserError, match="two threads of XLA"):
        proof.check_can_play()
    monkeypatch.setattr(proof, "xla_threads", lambda: 2)
    proof.check_can_play()
