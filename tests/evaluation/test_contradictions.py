"""Contradictions among policies, counted by hand; and their picture."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from pd_jax.evaluation.comparison import Place
from pd_jax.evaluation.contradictions import Contradictions, divergences, find_contradictions
from pd_jax.report.committees import committee_section, plot_committee

NAMES, ACTIONS = ("one", "two", "three"), ("LEFT", "RIGHT")
# Of three members in four states, the probability of LEFT; the third has none in the last.
LEFT = np.array([[0.9, 0.8, 0.1, 0.7], [0.9, 0.7, 0.2, 0.2], [0.6, 0.1, 0.9, 0.5]])
WEIGHTS = np.array([[0.4, 0.5, 0.5, 0.7], [0.4, 0.4, 0.4, 0.3], [0.2, 0.1, 0.1, 0.0]])
HAS = np.array([[True] * 4, [True] * 4, [True, True, True, False]])


def found(**options: object) -> Contradictions:
    policies = np.stack([LEFT, 1 - LEFT], axis=-1)
    mixed = np.log((policies * WEIGHTS[..., None]).sum(axis=0))
    asked = find_contradictions(NAMES, ACTIONS, np.log(policies), HAS, WEIGHTS, mixed, **options)  # type: ignore[arg-type]
    assert asked is not None
    return asked


def test_rates_agreement_and_weights_are_those_counted_by_hand() -> None:
    asked = found()
    assert (asked.states, asked.rate) == (4, 0.75)
    np.testing.assert_allclose(asked.agreement, [[1, 3 / 4, 1 / 3], [3 / 4, 1, 1 / 3], [1 / 3, 1 / 3, 1]])
    np.testing.assert_allclose(asked.weights, [0.525, 0.375, 0.1])
    # Together they want LEFT, LEFT, RIGHT and LEFT.
    np.testing.assert_allclose(asked.followed, [1, 3 / 4, 1 / 3])
    np.testing.assert_allclose(asked.weights_outvoted, [np.nan, 0.3, 0.1])
    assert asked.worst == ()


def test_who_counts_nothing_contradicts_nobody() -> None:
    policies = np.stack([LEFT, 1 - LEFT], axis=-1)
    weights = np.array([*WEIGHTS[:2] / WEIGHTS[:2].sum(axis=0), np.zeros(4)])
    mixed = np.log((policies * weights[..., None]).sum(axis=0))
    asked = find_contradictions(NAMES, ACTIONS, np.log(policies), np.ones((3, 4), bool), weights, mixed)
    pair = find_contradictions(NAMES[:2], ACTIONS, np.log(policies[:2]), np.ones((2, 4), bool), weights[:2], mixed)
    assert asked is not None and pair is not None
    # The two agree but in the last state.
    assert asked.rate == pair.rate == 0.25
    np.testing.assert_array_equal(asked.agreement[:2, :2], pair.agreement)
    assert np.isnan(asked.agreement[2]).all() and np.isnan(asked.followed[2]) and asked.weights[2] == 0.0


def test_metrics_name_the_rate_each_weight_and_each_pair() -> None:
    values = found().values("pong/")
    assert values["pong/contradiction_rate"] == 0.75 and values["pong/credibility/three"] == pytest.approx(0.1)
    assert values["pong/agreement_of/one, three"] == pytest.approx(1 / 3)
    assert len(values) == 1 + 3 + 3


def test_divergence_is_jensen_shannons() -> None:
    policies = np.stack([LEFT, 1 - LEFT], axis=-1)
    wanted = []
    for state in range(4):
        own = policies[HAS[:, state], state]
        mean = own.mean(axis=0)
        wanted.append(float(np.mean([(row * np.log(row / mean)).sum() for row in own])))
    np.testing.assert_allclose(divergences(policies, HAS), wanted, atol=1e-12)
    # Two that are sure of different actions are as far apart as can be.
    sure = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    np.testing.assert_allclose(divergences(sure, np.ones((2, 1), bool)), math.log(2))


def test_the_worst_states_are_shown_and_none_twice_or_beside_another() -> None:
    places = [Place(0, 0, 0), Place(0, 0, 10), Place(0, 0, 100), Place(1, 0, 3)]
    asked = found(places=places, observation=lambda index: np.full(2, index, np.float32))
    # The second is 10 steps from the first, which is no contradiction.
    assert [state.place for state in asked.worst] == [places[2], places[1], places[3]]
    told = asked.to_json()["worst"][2]
    assert (told["lane"], told["step"], told["choices"], told["chosen"]) == (1, 3, ["LEFT", "RIGHT", None], "LEFT")
    json.dumps(told)
    assert len(found(places=places, observation=lambda index: np.zeros(2)).worst) == 1
    near = [Place(0, 0, step) for step in (0, 10, 20, 30)]
    assert len(found(places=near, observation=lambda index: np.full(2, index)).worst) == 1


def test_where_nobody_has_a_policy_nothing_is_found() -> None:
    nobody = np.zeros((3, 4), bool)
    assert find_contradictions(NAMES, ACTIONS, np.zeros((3, 4, 2)), nobody, WEIGHTS, np.zeros((4, 2))) is None


@pytest.mark.parametrize("shape", [(84, 84, 4), (3,)])
def test_the_picture_is_drawn_and_stands_in_the_page(tmp_path: Path, shape: tuple[int, ...]) -> None:
    dtype = np.uint8 if len(shape) == 3 else np.float32
    asked = found(
        places=[Place(lane, 0, 0) for lane in range(4)], observation=lambda index: np.full(shape, index, dtype)
    )
    metrics = tmp_path / "metrics.jsonl"
    lines = [{"step": step, **found().values()} for step in (10, 20)]
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert committee_section(tmp_path) == ""
    plot_committee(metrics, asked, tmp_path / "committee_pong.png", game="pong")
    section = committee_section(tmp_path)
    assert "teachers of pong" in section and len(section) > 10_000
