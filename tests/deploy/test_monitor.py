"""The monitor: what healthy play is to it, what it tells, and what it refuses."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river.drift import PageHinkley

from pd_jax.deploy.calibration import Block, Blocks, Limits, fit_limits, page_hinkley
from pd_jax.deploy.monitor import NOT_FINITE, Alarm, Monitor
from pd_jax.deploy.signals import Decisions, Response, SignalModel, Space, pack, sight_of, unpack
from pd_jax.deploy.thresholds import (
    FORMAT_VERSION,
    Thresholds,
    check_enough,
    enough_decisions,
    fit_thresholds,
    sealed,
)
from pd_jax.errors import UserError
from pd_jax.report.monitor import describe_summary, describe_thresholds

ACTIONS = ("LEFT", "STAY", "RIGHT")
POLICY = {"name": "walker", "game": "walk", "parameters": "a" * 64}
BLOCK = 64


def walk(
    seed: int, *, steps: int = 600, lanes: int = 10, sticky: float = 0.0, shift: float = 0.0, episode: int = 90
) -> Decisions:
    """A point on a line, and a policy that keeps it in the middle with some random steps.

    What the policy sees is the place, the place before, and noise. ``sticky`` is the chance that the action before is
    done instead, which the policy is not told; ``shift`` is added to what is but noise.
    """
    random = np.random.default_rng(seed)
    outputs = np.zeros((steps, lanes, 3), np.float32)
    actions = np.zeros((steps, lanes), int)
    sights = np.zeros((steps, lanes, 3), np.float32)
    is_first = np.zeros((steps, lanes), bool)
    place, speed, before = random.normal(size=lanes), np.zeros(lanes), np.ones(lanes, int)
    for step in range(steps):
        is_first[step] = step % episode == 0
        place = np.where(is_first[step], random.normal(size=lanes), place)
        sights[step] = np.stack([place, speed, random.normal(size=lanes) + shift], axis=1)
        outputs[step] = -((place[:, None] + 0.6 * (np.arange(3) - 1)) ** 2)
        greedy = outputs[step].argmax(axis=1)
        actions[step] = np.where(random.random(lanes) < 0.3, random.integers(3, size=lanes), greedy)
        done = np.where(random.random(lanes) < sticky, before, actions[step])
        speed = 0.3 * (done - 1)
        place = place + speed + random.normal(0, 0.1, lanes)
        before = actions[step]
    features = np.tanh(sights @ np.random.default_rng(0).normal(size=(3, 5))).astype(np.float32)
    return Decisions(outputs, actions, is_first, np.ones((steps, lanes), bool), features, sights)


def fitted(play: Decisions, **more: Any) -> Thresholds:
    return fit_thresholds(
        play, action_names=ACTIONS, temperature=1.0, policy=POLICY, about={}, **({"block_size": BLOCK} | more)
    )


def shown(thresholds: Thresholds, play: Decisions) -> Monitor:
    monitor = Monitor(thresholds)
    for step in range(len(play.outputs)):
        monitor.take(play.step(step))
    return monitor


@pytest.fixture(scope="module")
def thresholds() -> Thresholds:
    """Of 12,000 healthy decisions. Not to be changed."""
    return fitted(walk(0, steps=1200))


@pytest.fixture(scope="module")
def file(thresholds: Thresholds, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, as a file. Not to be written to."""
    path = tmp_path_factory.mktemp("thresholds") / "thresholds.json"
    thresholds.save(path)
    return path


def test_healthy_play_of_other_seeds_raises_no_alarm(thresholds: Thresholds) -> None:
    for seed in (1, 2):
        monitor = shown(thresholds, walk(seed, steps=1000))
        assert monitor.alarms == [] and monitor.decisions == 10_000 and monitor.blocks == 10 * (1000 // BLOCK)


def test_a_world_that_does_not_always_obey_is_told_by_how_it_responds(thresholds: Thresholds) -> None:
    monitor = shown(thresholds, walk(3, steps=1000, sticky=0.25))
    told = {alarm.signal: alarm for alarm in monitor.alarms}
    assert told["sights_response"].direction == "above"
    # A quarter of what was asked for did not come.
    assert 0.1 < told["sights_response"].value - told["sights_response"].usual < 0.5  # type: ignore[operator]


def test_sights_of_another_kind_are_told_and_every_signal_tells_it_once(thresholds: Thresholds) -> None:
    play = walk(4, steps=1000, shift=2.0)
    monitor = shown(thresholds, play)
    signals = [alarm.signal for alarm in monitor.alarms]
    assert signals and len(signals) == len(set(signals))
    first = monitor.alarms[0]
    assert f"decision {first.decision:,}: {first.signal}" in str(first)
    assert monitor.summary()["first_alarm"] == json.loads(json.dumps(first.to_json()))
    monitor.reset()
    again = monitor.decisions
    for step in range(500):
        monitor.take(play.step(step))
    assert monitor.alarms[len(signals) :], "it tells once more after a reset"
    assert monitor.alarms[len(signals)].decision > again


def test_lanes_are_watched_each_alone(thresholds: Thresholds) -> None:
    """One lane of ten is not obeyed. It is told, and it is that lane's blocks that tell it."""
    healthy, sticky = walk(5, steps=1500), walk(5, steps=1500, sticky=0.6)
    mixed = Decisions(
        *(np.concatenate([a[:, :9], b[:, 9:]], axis=1) for a, b in zip(healthy[:6], sticky[:6], strict=True))  # type: ignore[index]
    )
    alarms = shown(thresholds, mixed).alarms
    assert alarms and {alarm.lane for alarm in alarms} == {9}


def test_outputs_that_are_none_are_an_alarm_at_once_and_all_goes_on(thresholds: Thresholds) -> None:
    monitor, play = Monitor(thresholds), walk(6, steps=300)
    for step in range(300):
        decisions = play.step(step)
        if step in (100, 101):
            outputs = decisions.outputs.copy()
            outputs[3, 1] = np.nan
            decisions = decisions._replace(outputs=outputs)
        alarms = monitor.take(decisions)
        # Of two in a row the first is told.
        assert [alarm.signal for alarm in alarms] == ([NOT_FINITE] if step == 100 else [])
    assert monitor.alarms == [Alarm(1010, 3, NOT_FINITE, "none", None, None, None, None)]
    assert "not finite" in str(monitor.alarms[0])


def test_update_takes_one_decision_or_several_and_what_there_is(thresholds: Thresholds) -> None:
    play, whole, single = walk(7, steps=200, lanes=1), Monitor(thresholds), Monitor(thresholds)
    for step in range(200):
        whole.take(play.step(step))
        one = play.step(step)
        single.update(
            one.outputs[0].tolist(),
            one.features[0],  # type: ignore[index]
            frames=one.sights[0],  # type: ignore[index]
            actions=int(one.actions[0]),
            is_first=bool(one.is_first[0]),
        )
    assert len(whole.history) == len(single.history) == 200 // BLOCK
    for (_, ours), (_, theirs) in zip(whole.history, single.history, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    bare = Monitor(thresholds)
    for step in range(40):
        assert bare.update(play.outputs[step, 0]) is None
    summary = bare.summary()
    assert set(summary["watched"]) == {"entropy", "action_gap", "action_changes", *(f"action_{a}" for a in ACTIONS)}
    assert "sights_response" in summary["not_watched"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outputs": np.zeros((2, 4))}, "outputs of 4 actions, and the thresholds are for 3"),
        ({"features": np.zeros((2, 9))}, "features of 9 numbers, and the thresholds are for 5"),
        ({"frames": np.zeros((2, 7))}, "sights of 7 numbers, and the thresholds are for 3"),
        ({"actions": np.array([0, 3])}, "an action that is not one of the 3, from 0 on"),
        ({"outputs": np.zeros((3, 3))}, "outputs of 3 lanes, and there are 2"),
        ({"actions": np.zeros(5, int)}, "a decision of 2 lanes: "),
    ],
)
def test_other_sizes_are_refused(thresholds: Thresholds, change: dict[str, Any], message: str) -> None:
    monitor = Monitor(thresholds)
    monitor.update(np.zeros((2, 3)))
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        monitor.update(**({"outputs": np.zeros((2, 3))} | change))
    assert monitor.decisions == 2


def test_a_file_of_thresholds_is_read_back_as_it_was(thresholds: Thresholds, file: Path) -> None:
    found, play = Thresholds.load(file), walk(8, steps=200)
    assert found.policy == POLICY and found.block_size == BLOCK and found.about["decisions"] == 12_000
    assert found.to_json() == json.loads(file.read_text())
    for (_, ours), (_, theirs) in zip(shown(thresholds, play).history, shown(found, play).history, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)
    np.testing.assert_allclose(found.limits.above, thresholds.limits.above, rtol=1e-6)
    assert Monitor.load(file, parameters="a" * 64).thresholds.game == "walk"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entry: entry | {"format_version": FORMAT_VERSION + 1}, "format 2, and this pd_jax reads 1: upgrade"),
        (lambda entry: {"format_version": 1}, "no thresholds of pd-jax monitor"),
        (lambda entry: [entry], "no thresholds of pd-jax monitor"),
        (lambda entry: entry | {"signals": {}}, "damaged: "),
        (lambda entry: entry | {"explained": entry["model"]["spaces"]["sights"]["mean"]}, "damaged: "),
        (lambda entry: entry | {"clip": []}, "damaged: what it says is no thresholds"),
        (lambda entry: {key: value for key, value in entry.items() if key != "policy"}, "damaged: has no policy"),
        (lambda entry: entry | {"block_size": 0}, "damaged: "),
        (lambda entry: entry | {"model": entry["model"] | {"action_names": ["ONE"]}}, "damaged: "),
    ],
)
def test_what_are_no_thresholds_is_refused(file: Path, tmp_path: Path, change: Any, message: str) -> None:
    path = tmp_path / "other.json"
    changed = change(json.loads(file.read_text()))
    path.write_text(json.dumps(sealed(changed) if isinstance(changed, dict) else changed))
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}: {re.escape(message)}"):
        Thresholds.load(path)


def without(key: str) -> Any:
    return lambda entry: {name: value for name, value in entry.items() if name != key}


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry | {"block_size": 10**12},
        lambda entry: entry | {"policy": entry["policy"] | {"name": "another"}},
        lambda entry: entry | {"signals": entry["signals"] | {"entropy": entry["signals"]["entropy"] | {"above": 1e9}}},
        lambda entry: entry | {"sha256": "0" * 64},
        lambda entry: entry | {"sha256": None},
        lambda entry: entry | {"more": 1},
        without("episodes"),
        without("model"),
        without("sha256"),
    ],
)
def test_a_file_that_was_altered_is_refused(file: Path, tmp_path: Path, change: Any) -> None:
    path = tmp_path / "other.json"
    path.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(UserError, match=r"other\.json: .*was altered after pd-jax monitor fit wrote it"):
        Thresholds.load(path)


def test_the_hash_is_of_what_is_said_and_not_of_how_it_is_laid_out(file: Path, tmp_path: Path) -> None:
    entry = json.loads(file.read_text())
    rest = json.dumps(without("sha256")(entry), sort_keys=True, separators=(",", ":"))
    assert entry["sha256"] == hashlib.sha256(rest.encode()).hexdigest()
    (tmp_path / "laid_out.json").write_text(json.dumps(dict(reversed(entry.items())), indent=4))
    assert Thresholds.load(tmp_path / "laid_out.json").to_json() == entry


def test_an_integer_file_and_its_float_policy_have_thresholds_of_their_own(thresholds: Thresholds) -> None:
    said = {"bits": 8, "by": "calibration"}
    integer = dataclasses.replace(thresholds, policy=POLICY | {"quantisation": said})
    assert thresholds.check_quantisation(None, "x.json") is None
    assert integer.check_quantisation(said, "x.json") is None
    told = thresholds.check_quantisation(said, "x.json")
    assert told is not None and "\n" not in told
    assert told.startswith("x.json: thresholds of the policy in floating point, and this is a file in 8-bit integers")
    told = integer.check_quantisation(None, "x.json")
    assert told is not None and "of a file in 8-bit integers, and this is the policy in floating point" in told


@pytest.mark.parametrize("lanes", [1, 2, 3, 5, 10, 16])
def test_the_number_of_decisions_that_is_named_is_enough(lanes: int) -> None:
    size, enough = 16, enough_decisions(16, lanes)
    check_enough(enough, size, lanes)
    with pytest.raises(UserError, match=f"and with blocks of 16 {enough:,} are enough"):
        check_enough(enough - 1, size, lanes)
    fitted(walk(0, steps=-(-enough // lanes), lanes=lanes), block_size=size)
    # And a quarter of them is not.
    with pytest.raises(UserError, match=f"^too little play: .* {enough:,} are enough"):
        fitted(walk(0, steps=enough // lanes // 4, lanes=lanes), block_size=size)


def test_lanes_that_play_unequally_need_more_and_the_number_says_how_much_more() -> None:
    play = walk(0, steps=160, lanes=4)
    # Of the lanes to calibrate on, one decides in a step of four.
    play.is_decided[:, 3] = np.arange(160) % 4 == 0
    with pytest.raises(UserError) as refused:
        fitted(play, block_size=8)
    found = re.search(r"decisions in 4 lanes, and with blocks of 8 ([\d,]+) are enough", str(refused.value))
    assert found is not None
    steps = math.ceil(int(found[1].replace(",", "")) / 3.25)
    longer = walk(0, steps=steps, lanes=4)
    longer.is_decided[:, 3] = np.arange(steps) % 4 == 0
    fitted(longer, block_size=8)


def test_a_summary_says_where_nothing_was_tested(thresholds: Thresholds) -> None:
    monitor, play = Monitor(thresholds), walk(6, steps=BLOCK, lanes=1)
    for step in range(2):
        monitor.take(play.step(step))
    summary = monitor.summary()
    assert (summary["blocks"], summary["block_size"]) == (0, BLOCK)
    nothing = f"no block of {BLOCK} decisions of a lane was full, so nothing was tested"
    assert describe_summary(summary)[0] == f"2 decisions in 0 blocks: {nothing}"
    for step in range(2, BLOCK):
        monitor.take(play.step(step))
    assert describe_summary(monitor.summary())[0] == f"{BLOCK} decisions in 1 block: no alarm"
    broken = Monitor(thresholds)
    broken.update([np.nan, 0.0, 0.0])
    told = describe_summary(broken.summary())[0]
    assert told.startswith("1 decision in 0 blocks: 1 alarm, the first at 1; no block of 64")
    assert told.endswith("so nothing else was tested")


def test_one_false_alarm_is_one(thresholds: Thresholds) -> None:
    for allowed, told in ((1.0, "1 false alarm in a million decisions is"), (0.5, "0.5 false alarms in a million")):
        lines = describe_thresholds(dataclasses.replace(thresholds, false_alarms_per_million=allowed).to_json(), "x")
        assert lines[-1].strip().startswith(told)


@pytest.mark.parametrize("text", [b"", b"\xff\xfe", b"{", b"[" * 100_000])
def test_bytes_that_are_no_json_are_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "x.json").write_bytes(text)
    with pytest.raises(UserError, match=r"x\.json: no thresholds of pd-jax monitor"):
        Thresholds.load(tmp_path / "x.json")
    with pytest.raises(UserError, match="is not a file"):
        Thresholds.load(tmp_path)
    with pytest.raises(UserError, match="No such file"):
        Thresholds.load(tmp_path / "y.json")


def test_thresholds_of_another_policy_are_refused(file: Path) -> None:
    with pytest.raises(UserError, match="thresholds of another policy, walker, and this is one with parameters bbbb"):
        Monitor.load(file, parameters="b" * 64)


def test_too_little_play_or_play_that_is_none_makes_no_thresholds() -> None:
    with pytest.raises(
        UserError, match=r"^too little play: 500 decisions in 10 lanes, .* blocks of 64 3,200 are enough"
    ):
        fitted(walk(0, steps=50))
    # One of two lanes is left to calibrate on: it needs eight pieces of four blocks, and one to spare.
    with pytest.raises(UserError, match=r"^too little play: 3,240 decisions in 2 lanes, .* 4,224 are enough"):
        fitted(walk(0, steps=1620, lanes=2), block_size=64)
    play = walk(0)
    play.outputs[3, 2, 1] = np.inf
    with pytest.raises(UserError, match=r"^outputs that are not finite"):
        fitted(play)


def test_it_watches_where_jax_cannot_be_imported_and_says_what_to_install_without_river(file: Path) -> None:
    code = f"""
import sys
for name in ("jax", "jaxlib", "flax", "optax", "orbax", "envpool", "chex", "tensorstore", "onnx", "onnxruntime"):
    sys.modules[name] = None
import numpy as np
from pd_jax.deploy.monitor import Monitor
monitor = Monitor.load({str(file)!r})
print(monitor.update(np.array([0.1, np.nan, 0.2]), is_first=True))
import pd_jax.errors
for name in [each for each in sys.modules if each.partition(".")[0] == "river"]:
    sys.modules[name] = None
sys.modules["river"] = None
try:
    Monitor.load({str(file)!r})
except pd_jax.errors.UserError as error:
    print(error)
"""
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root}
    )
    assert done.stderr == ""
    told, missing = done.stdout.splitlines()
    assert told == "decision 1: outputs or features that are not finite"
    assert missing == "monitor: needs river, which is not installed: pip install 'pd-jax[monitor]'"


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.floats(0.1, 1.0))
@settings(max_examples=20)
def test_page_hinkley_is_rivers(seed: int, seen: int, slack: float) -> None:
    deviations = np.random.default_rng(seed).normal(0.2, 1.0, 60)
    for direction, sign in enumerate((1.0, -1.0)):
        # The largest that river finds is the threshold above which it is silent.
        found = page_hinkley(deviations, seen, slack)[direction]
        for threshold, tells in ((found.max() * 1.001 + 1e-9, False), (found.max() * 0.999 - 1e-9, True)):
            test = PageHinkley(min_instances=1, delta=slack, threshold=threshold, alpha=1.0, mode="up")
            for _ in range(seen):
                test.update(0.0)
            told = []
            for value in deviations:
                test.update(sign * value)
                told.append(test.drift_detected)
            assert any(told) == tells
            if tells and threshold > 0:
                assert int(np.argmax(told)) == int(np.argmax(found > threshold))


@pytest.fixture(scope="module")
def limits() -> Limits:
    """Of blocks of two signals that are alike in neighbours, and a third that follows from the first."""
    return fit_limits(
        stationary(0, lanes=12, count=60),
        block_size=250,
        episode_length=1000,
        floors=np.zeros(3),
        contexts=np.array([[0, 0, 1], [0, 0, 0], [0, 0, 0]], bool),
        is_tested=np.array([True, True, True]),
        slack=0.5,
        clip=6.0,
        false_alarms_per_million=1.0,
        seed=0,
    )


def stationary(seed: int, *, lanes: int, count: int) -> list[Block]:
    random = np.random.default_rng(seed)
    blocks = []
    for lane in range(lanes):
        noise = random.normal(size=(count, 3))
        values = noise.copy()
        for index in range(1, count):
            values[index, :2] = 0.5 * values[index - 1, :2] + np.sqrt(0.75) * noise[index, :2]
        values[:, 2] = 3 * values[:, 0] + 0.5 * noise[:, 2]
        blocks += [(index, Block(lane, 5 + 2 * row, np.full(3, 250.0))) for index, row in enumerate(values)]
    return [block for _, block in sorted(blocks, key=lambda pair: pair[0])]


def test_limits_are_those_of_the_blocks_and_what_follows_from_another_signal_is_taken_out(limits: Limits) -> None:
    usual = limits.usual
    assert (np.abs(usual.means - 5) < 0.25 * usual.deviations).all()
    np.testing.assert_allclose(usual.deviations, [2, 2, 2 * np.sqrt(9.25)], rtol=0.15)
    # Three of the first, as a share of its own deviation; of the rest only the noise is left.
    assert usual.explained[0, 2] == pytest.approx(3 / np.sqrt(9.25), rel=0.15)
    assert usual.rests[2] == pytest.approx(0.5 / np.sqrt(9.25), rel=0.5) and usual.rests[0] == 1.0


def test_a_stationary_stream_raises_no_alarm_and_one_deviation_does_within_forty_blocks(limits: Limits) -> None:
    # These are 4,000 blocks, a million decisions: one is expected, and more than three in two of a hundred such tests.
    false = 0
    for seed in range(1, 6):
        blocks = stationary(seed, lanes=1, count=800)
        deviations = limits.usual.standardise(
            np.stack([block.values for block in blocks]), np.stack([block.weights for block in blocks]), 6.0
        )
        rises, falls = page_hinkley(deviations.T, limits.blocks, 0.5)
        false += int(((rises > limits.above[:, None]) | (falls > limits.below[:, None])).any(axis=0).any())
        moved = page_hinkley((deviations[:100] + 1.2).T, limits.blocks, 0.5)[0]
        told = np.argmax((moved > limits.above[:, None]).any(axis=0))
        assert 0 < told < 60
    assert false <= 3


def test_a_mean_of_a_block_is_by_weights_and_a_lane_is_full_by_itself() -> None:
    blocks, found = Blocks(2), []
    for step in range(3):
        values = np.array([[step, 1.0], [10.0 * step, 2.0]])
        weights = np.array([[1.0 + step, 0.0], [1.0, 1.0]])
        found += blocks.add(values, weights, np.array([True, step != 1]))
    assert [block.lane for block in found] == [0, 1]
    np.testing.assert_allclose(found[0].values, [(0 * 1 + 1 * 2) / 3, np.nan])
    np.testing.assert_allclose(found[0].weights, [3, 0])
    np.testing.assert_allclose(found[1].values, [(0 + 10 + 20) / 3, 2.0])


def test_distances_and_coordinates_are_those_of_the_covariance() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(4000, 4)) @ np.diag([3.0, 1.0, 0.5, 0.2]) + 7
    space = Space.fit(vectors, 4)
    whitened = space.whitened(vectors)
    np.testing.assert_allclose(np.cov(whitened.T), np.eye(4), atol=0.07)
    centred = vectors - vectors.mean(axis=0)
    expected = np.sqrt(np.einsum("ni,ij,nj->n", centred, np.linalg.inv(np.cov(vectors.T)), centred) / 4)
    np.testing.assert_allclose(space.distances(vectors, whitened), expected, rtol=0.07)
    # With fewer directions, the others count by their mean variance.
    fewer = Space.fit(vectors, 2)
    far = fewer.mean + fewer.basis[:, :1].T * 0 + np.array([[0, 0, 0, 5.0]])
    assert fewer.distances(far, fewer.whitened(far))[0] > 5


def test_the_share_of_the_old_action_is_found_where_it_is_at_work() -> None:
    random = np.random.default_rng(0)
    steps, lanes = 400, 8
    actions = random.integers(3, size=(steps, lanes))

    def places(at_work: float) -> np.ndarray:
        place = np.zeros((steps, lanes, 2))
        for step in range(1, steps):
            before = actions[step - 2] if step > 1 else actions[0]
            pushed = (1 - at_work) * (actions[step - 1] - 1) + at_work * (before - 1)
            place[step, :, 0] = 0.5 * place[step - 1, :, 0] + pushed
            place[step, :, 1] = random.normal(size=lanes)
        return place + random.normal(0, 0.05, place.shape)

    is_first = np.zeros((steps, lanes), bool)
    response = Response.fit(places(0.0), actions, is_first, 3)
    for at_work in (0.0, 0.4):
        place, shares, weights = places(at_work), [], []
        for step in range(steps - 2):
            share, weight, _ = response.measure(
                place[step + 2], place[step + 1], place[step], actions[step + 1], actions[step]
            )
            assert (weight[actions[step + 1] == actions[step]] == 0).all()
            shares.append(share)
            weights.append(weight)
        assert np.average(shares, weights=weights) == pytest.approx(at_work, abs=0.06)


def test_signals_of_one_step_are_those_of_their_definitions() -> None:
    model = SignalModel(ACTIONS, 0.5, {}, {}, has_teacher=True)
    first = Decisions(
        np.array([[1.0, 0.0, 0.0]]), np.array([0]), np.array([True]), np.array([True]), None, None, np.array([2])
    )
    values, weights, memory = model.measure(first, None)
    probabilities = np.exp([2.0, 0, 0]) / np.exp([2.0, 0, 0]).sum()
    told = dict(zip(model.names, values[0], strict=True))
    assert told["entropy"] == pytest.approx(-(probabilities * np.log(probabilities)).sum())
    assert (told["action_gap"], told["action_LEFT"], told["action_STAY"], told["disagreement"]) == (1, 1, 0, 1)
    assert weights[0][model.names.index("action_changes")] == 0, "there is none before"
    second = first._replace(actions=np.array([1]), is_first=np.array([False]), teacher_actions=np.array([0]))
    values, weights, memory = model.measure(second, memory)
    told = dict(zip(model.names, values[0], strict=True))
    assert (told["action_changes"], told["disagreement"]) == (1, 0)
    assert weights[0][model.names.index("action_changes")] == 1
    _, weights, _ = model.measure(first, memory)
    assert weights[0][model.names.index("action_changes")] == 0, "another episode"


def test_a_sight_is_means_of_pixels_and_vectors_are_as_they_are() -> None:
    frames = np.random.default_rng(0).integers(256, size=(2, 84, 84, 4), dtype=np.uint8)
    expected = frames[..., 3].reshape(2, 21, 4, 21, 4).mean(axis=(2, 4)).reshape(2, 441)
    np.testing.assert_allclose(sight_of(frames), expected, atol=0.5)
    vectors = np.ones((3, 5), np.float32)
    np.testing.assert_array_equal(sight_of(vectors), vectors)
    np.testing.assert_allclose(unpack(pack(expected)), expected, rtol=1e-6)
