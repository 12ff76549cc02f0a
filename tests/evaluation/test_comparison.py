"""Student and teacher asked about the same states: against loops in plain Python, and files of strangers."""

from __future__ import annotations

import base64
import copy
import json
import zlib
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.evaluation.comparison import MOMENTS, Comparison, Place, compare
from pd_jax.evaluation.evaluator import Evaluator
from pd_jax.evaluation.sampled_states import SampledStates

NAMES = ("LEFT", "STAY", "RIGHT")


def made(seed: int = 0, states: int = 60, **changes: Any) -> tuple[Comparison, np.ndarray, np.ndarray, list[Place]]:
    """A comparison of random outputs, of states 40 steps apart, and what it was made of."""
    generator = np.random.default_rng(seed)
    teacher, student = generator.normal(size=(2, states, 3)).astype(np.float32)
    places = [Place(lane=index % 2, game=0, step=40 * (index // 2)) for index in range(states)]
    seen = generator.normal(size=(states, 4)).astype(np.float32)
    options = {"actions": NAMES, "every": 40, "student_temperature": 0.5, "gives_logits": False} | changes
    return compare(teacher, student, places, list(seen), **options), teacher, student, places


def test_it_counts_what_a_loop_counts_and_orders_moments_by_what_the_teacher_says_they_cost() -> None:
    found, teacher, student, places = made()
    counts, costs = [[0] * 3 for _ in NAMES], []
    for taught, own in zip(teacher.tolist(), student.tolist(), strict=True):
        counts[taught.index(max(taught))][own.index(max(own))] += 1
        costs.append(max(taught) - taught[own.index(max(own))])
    assert found.confusion.tolist() == counts
    assert found.agreement == pytest.approx(sum(counts[place][place] for place in range(3)) / 60)
    assert found.mean_cost == pytest.approx(sum(costs) / 60)
    worst = sorted(range(60), key=lambda index: -costs[index])[:MOMENTS]
    assert [(moment.game, moment.step) for moment in found.moments] == [
        ((places[index].lane, 0), places[index].step) for index in worst
    ]
    for index, moment in zip(worst, found.moments, strict=True):
        assert moment.cost == pytest.approx(costs[index]) and moment.cost > 0
        likely = [np.exp(value / 0.5) for value in student[index].tolist()]
        np.testing.assert_allclose(moment.student_probabilities, np.array(likely) / sum(likely), rtol=1e-5)


def test_two_moments_of_one_game_are_apart_and_the_same_picture_is_shown_once() -> None:
    teacher = np.tile([1.0, 0.0, 0.0], (6, 1)) * np.array([[6], [5], [4], [3], [2], [1]])
    student = np.tile([0.0, 1.0, 0.0], (6, 1))
    steps = [100, 110, 135, 100, 100, 500]
    places = [Place(lane=int(index == 3), game=int(index == 4), step=step) for index, step in enumerate(steps)]
    seen = [np.full(4, float(value)) for value in (0, 1, 2, 3, 4, 0)]
    found = compare(teacher, student, places, seen, actions=NAMES, every=1, student_temperature=1.0, gives_logits=False)
    # 110 is too near 100 of the same game; the last shows what the first shows.
    assert [moment.cost for moment in found.moments] == [6.0, 4.0, 3.0, 2.0]


def test_a_student_that_agrees_has_no_moments_and_nothing_is_said_of_what_is_not_finite() -> None:
    teacher = np.array([[1.0, 2.0, 3.0], [np.nan, 0.0, 0.0], [0.0, 0.0, np.inf], [5.0, 4.0, 3.0]])
    places = [Place(0, 0, step) for step in range(4)]
    options: dict[str, Any] = {"actions": NAMES, "every": 1, "student_temperature": 1.0, "gives_logits": True}
    found = compare(teacher, teacher, places, list(np.zeros((4, 4))), **options)
    assert (found.states, found.agreement, found.moments, found.mean_cost) == (2, 1.0, (), 0.0)
    nothing = compare(teacher[1:3], teacher[1:3], places[1:3], list(np.zeros((2, 4))), **options)
    assert (nothing.states, nothing.agreement, nothing.moments) == (0, None, ())


@pytest.mark.parametrize("frames", [False, True])
def test_what_is_written_is_read_back(frames: bool) -> None:
    generator = np.random.default_rng(1)
    teacher, student = generator.normal(size=(2, 8, 3))
    places = [Place(0, index, 7) for index in range(8)]
    seen = generator.integers(0, 256, (8, 84, 84, 4)).astype(np.uint8) if frames else generator.normal(size=(8, 4))
    options: dict[str, Any] = {"actions": NAMES, "every": 2, "student_temperature": 1.0, "gives_logits": True}
    found = compare(teacher, student, places, list(seen), **options)
    again = Comparison.from_json(json.loads(json.dumps(found.to_json())), "here: ")
    assert (again.actions, again.every, again.mean_cost, again.gives_logits) == (NAMES, 2, found.mean_cost, True)
    np.testing.assert_array_equal(again.confusion, found.confusion)
    assert len(again.moments) == len(found.moments) > 0
    for one, other in zip(again.moments, found.moments, strict=True):
        np.testing.assert_array_equal(one.observation, other.observation)
        assert one.observation.dtype == (np.uint8 if frames else np.float64)
        assert (one.game, one.step, one.cost) == (other.game, other.step, other.cost)
        np.testing.assert_array_equal(one.teacher_outputs, other.teacher_outputs)


BOMB = base64.b64encode(zlib.compress(bytes(100_000_000), 9)).decode()


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("actions",), "LEFT", "here: actions: 'LEFT' is not a list of names"),
        (("actions",), ["LEFT", 1, "RIGHT"], "here: actions: a list is not a list of names"),
        (("actions",), [], "here: moments: a list is not a list of moments"),
        (("moments",), None, "here: moments: null is not a list of moments"),
        (("confusion",), [[1, 2, 3]], "here: confusion: a list is not a table of 3 x 3 counts"),
        (("confusion", 0, 0), -1, "here: confusion: -1 is not a whole number from 0 on"),
        (("confusion", 0, 0), 2**60, "here: confusion: a list is not a table of 3 x 3 counts"),
        (("every",), 1.5, "here: every: 1.5 is not a whole number from 0 on"),
        (("mean_cost",), "much", "here: mean_cost: 'much' is not a finite number"),
        (("moments", 0), [], "here: moments.0: a list is not a mapping"),
        (("moments", 0, "cost"), -1.0, "here: moments.0.cost: -1.0 is not a number from 0 on"),
        (("moments", 0, "step"), None, "here: moments.0.step: is missing"),
        (("moments", 0, "teacher_choice"), 3, "here: moments.0.choice: there are 3 actions"),
        (
            ("moments", 0, "teacher_outputs"),
            [1.0],
            "here: moments.0.teacher_outputs: a list is not a list of 3 numbers",
        ),
        (("moments", 0, "observation"), "x", "here: moments.0.observation: 'x' is not a list of numbers"),
        (("moments", 0, "frames"), "not base64", "here: moments.0.frames: are not zlib's bytes in base64"),
        (("moments", 0, "frames"), 7, "here: moments.0.frames: are not zlib's bytes in base64"),
        (("moments", 0, "frames"), base64.b64encode(zlib.compress(b"few")).decode(), "84 x 84 x 4"),
        (("moments", 0, "frames"), BOMB, "here: moments.0.frames: are not of shape 84 x 84 x 4"),
    ],
)
def test_anything_else_is_one_line(path: tuple[Any, ...], value: Any, says: str) -> None:
    entry = copy.deepcopy(made()[0].to_json())
    place: Any = entry
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(UserError) as caught:
        Comparison.from_json(entry, "here: ")
    assert says in str(caught.value) and "\n" not in str(caught.value)


@given(lanes=st.integers(1, 7), steps=st.integers(1, 400), most=st.integers(4, 40), seed=st.integers(0, 9))
def test_what_is_kept_is_bounded_spread_over_all_of_the_play_and_tells_where_it_was(
    lanes: int, steps: int, most: int, seed: int
) -> None:
    """Each observation holds its lane, its game and its step, worked out here by a loop."""
    generator = np.random.default_rng(seed)
    sampled, task = SampledStates(get_task("cartpole"), most), get_task("cartpole")
    games, ages = [0] * lanes, [0] * lanes
    shown = np.zeros((lanes, *task.observation_shape), np.float32)
    decisions = []
    for step in range(steps):
        is_last = generator.random(lanes) < 0.05
        for lane in range(lanes):
            # The same buffer again and again, as emulators have it.
            shown[lane] = lane, games[lane], ages[lane], step
            if is_last[lane]:
                games[lane], ages[lane] = games[lane] + 1, 0
            else:
                decisions.append((lane, step))
                ages[lane] += 1
        sampled(shown, np.ones(lanes, bool), is_last)
    assert min(len(decisions), most // 4) <= len(sampled) <= most or steps < 30
    kept = []
    for index in range(len(sampled)):
        lane, game, age, step = sampled[index].astype(int).tolist()
        place = sampled._kept[index][1]
        assert (place.lane, place.game, place.step) == (lane, game, age)
        kept.append((lane, step))
    assert set(kept) <= set(decisions) and len(set(kept)) == len(kept)
    # Of each lane at an even distance, but for steps on which nothing was decided.
    every = sampled._every
    assert set(kept) == {(lane, step) for lane, step in decisions if (step + 37 * lane) % every == 0}


def test_looking_on_changes_no_game_and_shows_what_the_policy_saw(random_policy: Any) -> None:
    network, variables = random_policy("cartpole", "mlp")
    task = get_task("cartpole")
    evaluator = Evaluator(task, network.apply, episodes=6, num_lanes=3, epsilon=0.0, seed=5)
    sampled = SampledStates(task)
    scores, alone = evaluator.run(variables, on_step=sampled), evaluator.run(variables)
    np.testing.assert_array_equal(scores.returns, alone.returns)
    # CartPole rewards every decision with 1, and all of so few are kept.
    assert len(sampled) == int(alone.returns.sum())
    # The very games: greedy actions and the equations of CartPole lead from one state of a game to the next.
    by_game: dict[tuple[int, int], list[tuple[int, np.ndarray]]] = {}
    for index, (_, place, _) in enumerate(sampled._kept):
        by_game.setdefault((place.lane, place.game), []).append((place.step, sampled[index]))
    assert sorted(by_game) == [(lane, game) for lane in range(3) for game in range(2)]
    for states in by_game.values():
        assert [step for step, _ in states] == list(range(len(states)))
        for (_, state), (_, following) in zip(states, states[1:], strict=False):
            # Position moves on by velocity times 0.02 s.
            assert following[0] == pytest.approx(state[0] + 0.02 * state[1], abs=1e-5)
    itself = (network.apply, variables)
    found = sampled.compare(itself, itself, student_temperature=1.0, gives_logits=False)
    assert (found.states, found.agreement, found.moments) == (len(sampled), 1.0, ())
    opposite = (lambda variables, seen: -network.apply(variables, seen), variables)
    found = sampled.compare(itself, opposite, student_temperature=1.0, gives_logits=False)
    values = np.asarray(jax.jit(network.apply)(variables, np.stack([sampled[index] for index in range(len(sampled))])))
    assert (found.states, found.agreement) == (len(sampled), 0.0)
    assert found.moments[0].cost == pytest.approx(float(np.ptp(values, axis=1).max()), rel=1e-4)
