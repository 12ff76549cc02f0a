"""What a student senses against a model in plain Python, lane by lane and step by step."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_jax.environments import screens, sensors
from pd_jax.environments.senses import Senses, make_senses
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.types import LaneRange

PONG, CARTPOLE, MEMORY = get_task("pong"), get_task("cartpole"), get_task("pong_ram")
LANES, STEPS = 3, 40
sense = jax.jit(sensors.sense, static_argnums=0, static_argnames="lanes")


def stream(senses: Senses, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """What lanes show, ``[T, L, ...]``, and where episodes begin."""
    generator = np.random.default_rng(seed)
    is_first = generator.random((STEPS, LANES)) < 0.15
    is_first[0] = True
    shape = (STEPS, LANES, *senses.task.observation_shape)
    shown: np.ndarray = (
        generator.integers(256, size=shape).astype(np.uint8)
        if senses.task.kind == "atari"
        else generator.normal(size=shape).astype(np.float32)
    )
    return shown, is_first


def sensed(senses: Senses, shown: np.ndarray, is_first: np.ndarray, seed: int = 0) -> np.ndarray:
    """The observations of all steps, ``[T, L, ...]``."""
    state = sensors.start(senses, LANES)
    seen = []
    for step in range(len(shown)):
        state = sense(senses, state, shown[step], is_first[step], jax.random.key(seed * 1000 + step))
        seen.append(np.asarray(sensors.observation(senses, state)))
    assert seen[0].shape == (LANES, *senses.observation_shape)
    assert seen[0].dtype == senses.dtype
    np.testing.assert_array_equal(
        np.asarray(sensors.newest(state)),
        seen[-1][..., -1] if senses.sees_frames else seen[-1][:, -senses.sample_shape[0] :],
    )
    return np.stack(seen)


@given(
    window=st.integers(1, 5),
    delay=st.integers(0, 4),
    components=st.none() | st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=15)
def test_windows_are_of_late_samples_and_reach_back_to_the_start_of_the_episode(
    window: int, delay: int, components: list[int] | None, seed: int
) -> None:
    senses = make_senses(CARTPOLE, window=window, delay=delay, components=components and tuple(components))
    shown, is_first = stream(senses, seed)
    found = sensed(senses, shown, is_first)
    places = list(range(4)) if components is None else components
    for lane in range(LANES):
        begin = 0
        for step in range(STEPS):
            begin = step if is_first[step, lane] else begin
            times = [max(step - back - delay, begin) for back in range(window - 1, -1, -1)]
            # Before the episode's first sample was there, the stack repeats what arrived at its start.
            expected = np.concatenate([shown[time, lane, places] for time in times])
            np.testing.assert_array_equal(found[step, lane], expected)


@pytest.mark.parametrize("frames", [1, 2, 4])
@pytest.mark.parametrize("size", [84, 64, 42])
def test_frames_are_the_newest_ones_made_smaller(frames: int, size: int) -> None:
    senses = make_senses(PONG, frames=frames, size=size)
    shown, is_first = stream(senses, 1)
    shown, is_first = shown[:7], is_first[:7]
    is_first[4] = [True, False, True]
    found = sensed(senses, shown, is_first)
    for lane in range(LANES):
        begin = 0
        for step in range(len(shown)):
            begin = step if is_first[step, lane] else begin
            for frame in range(frames):
                newest = shown[max(step - (frames - 1 - frame), begin), lane, :, :, -1]
                np.testing.assert_array_equal(found[step, lane, :, :, frame], area_means(newest, size))


def area_means(frame: np.ndarray, size: int) -> np.ndarray:
    """Exact means over areas by integrating over a grid that both sizes divide, halves up."""
    fine = np.lcm(84, size)
    large = frame.astype(np.int64).repeat(fine // 84, axis=0).repeat(fine // 84, axis=1)
    blocks = large.reshape(size, fine // size, size, fine // size).sum(axis=(1, 3))
    return np.floor(blocks / (fine // size) ** 2 + 0.5).astype(np.uint8)


@pytest.mark.parametrize("size", [64, 42])
def test_smaller_frames_are_exact_means_in_numpy_too(size: int) -> None:
    frames = np.random.default_rng(0).integers(256, size=(2, 3, 84, 84)).astype(np.uint8)
    frames[0, 0] = np.where(np.indices((84, 84)).sum(axis=0) % 2, 255, 0)
    expected = np.stack([area_means(frame, size) for frame in frames.reshape(-1, 84, 84)]).reshape(2, 3, size, size)
    np.testing.assert_array_equal(screens.smaller(frames, size), expected)
    np.testing.assert_array_equal(sensors.smaller(frames, size), expected)


@pytest.mark.parametrize("task", [CARTPOLE, PONG], ids=["vectors", "frames"])
def test_a_lost_sample_is_the_one_before_again_and_none_is_lost_at_a_start(task: Any) -> None:
    senses = make_senses(task, missing=0.4, frames=1 if task is PONG else None)
    shown, is_first = stream(senses, 2)
    found = sensed(senses, shown, is_first, seed=3)
    arrived = shown[..., -1:] if task is PONG else shown
    lost = 0
    for lane in range(LANES):
        for step in range(STEPS):
            is_new = np.array_equal(found[step, lane], arrived[step, lane])
            is_held = step > 0 and np.array_equal(found[step, lane], found[step - 1, lane])
            assert is_new or (is_held and not is_first[step, lane])
            lost += not is_new
    # 120 steps, some of which open an episode: 0.4 of the others, give or take four standard deviations.
    may = (~is_first).sum()
    assert abs(lost - 0.4 * may) < 4 * np.sqrt(0.24 * may)


def test_noise_has_its_own_deviation_for_every_number_and_comes_before_the_delay() -> None:
    deviations = (0.5, 0.0, 2.0, 0.1)
    quiet, late = (make_senses(CARTPOLE, noise=deviations, delay=delay) for delay in (0, 2))
    shown = np.zeros((400, LANES, 4), np.float32)
    is_first = np.zeros((400, LANES), bool)
    is_first[0] = True
    found = sensed(quiet, shown, is_first)
    np.testing.assert_allclose(found.reshape(-1, 4).std(axis=0), deviations, rtol=0.12)
    assert not found[..., 1].any()
    assert abs(np.corrcoef(found[:-1, 0, 0], found[1:, 0, 0])[0, 1]) < 0.2
    np.testing.assert_array_equal(sensed(late, shown, is_first)[2:], found[:-2])


def test_noise_on_frames_stays_grey_levels() -> None:
    senses = make_senses(PONG, noise=(20.0,), frames=1, size=42)
    shown = np.zeros((2, LANES, 84, 84, 4), np.uint8)
    shown[..., 42:, :, -1] = 128
    found = sensed(senses, shown, np.array([[True] * LANES, [False] * LANES])).astype(float)
    assert abs(found[:, :, 21:].mean() - 128) < 1
    assert abs(found[:, :, 21:].std() - 20) < 1
    # Half of the noise around black is cut off.
    assert abs(found[:, :, :21].mean() - 20 / np.sqrt(2 * np.pi)) < 0.5


def test_what_lanes_sense_does_not_depend_on_the_groups_that_they_are_in() -> None:
    senses = make_senses(CARTPOLE, noise=(1.0,), missing=0.3, window=2, delay=1)
    shown, is_first = stream(senses, 5)
    whole = sensors.start(senses, LANES)
    parts = [LaneRange(0, 1, LANES), LaneRange(1, LANES, LANES)]
    states = [sensors.start(senses, lanes.stop - lanes.start) for lanes in parts]
    for step in range(STEPS):
        key = jax.random.key(step)
        whole = sense(senses, whole, shown[step], is_first[step], key)
        states = [
            sense(
                senses,
                state,
                shown[step, lanes.start : lanes.stop],
                is_first[step, lanes.start : lanes.stop],
                key,
                lanes=lanes,
            )
            for state, lanes in zip(states, parts, strict=True)
        ]
        joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *states)
        jax.tree.map(np.testing.assert_array_equal, joined, jax.tree.map(np.asarray, whole))


def test_plain_senses_are_what_the_task_shows() -> None:
    for task in (PONG, CARTPOLE, MEMORY):
        senses = make_senses(task)
        assert senses.is_plain
        assert senses.perceived is task
        assert (senses.sample_shape, senses.stack) == (task.frame_shape, task.stack)
        assert senses.observation_shape == task.observation_shape
    assert make_senses(PONG, source="frames", size=84, frames=4).is_plain
    assert make_senses(MEMORY, source="ram").is_plain


@pytest.mark.parametrize(
    ("task", "options", "shape", "frame", "stack", "beside"),
    [
        (PONG, {"source": "ram"}, (128,), (128,), 1, "ram"),
        (PONG, {"source": "ram", "window": 3, "components": (49, 54)}, (6,), (2,), 3, "ram"),
        (MEMORY, {"source": "frames", "size": 42, "frames": 2}, (42, 42, 2), (42, 42), 2, "frames"),
        (CARTPOLE, {"components": (0, 2), "window": 4}, (8,), (2,), 4, None),
    ],
)
def test_a_perceived_task_has_the_shapes_of_what_is_sensed(
    task: Any, options: dict[str, Any], shape: Any, frame: Any, stack: int, beside: str | None
) -> None:
    senses = make_senses(task, **options)
    seen = senses.perceived
    assert (seen.observation_shape, seen.frame_shape, seen.stack) == (shape, frame, stack)
    assert (seen.name, seen.num_actions) == (task.name, task.num_actions)
    assert senses.beside == beside


refused = functools.partial(pytest.raises, UserError)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        (CARTPOLE, {"source": "ram"}, "'ram' is of games of Atari, and cartpole shows 4 numbers"),
        (CARTPOLE, {"frames": 1}, "observation.frames: is of frames, and what is seen of cartpole is a vector"),
        (PONG, {"source": "ram", "size": 42}, "observation.size: is of frames, and what is seen of pong is a vector"),
        (PONG, {"window": 3}, "observation.window: is of vectors, and what is seen of pong is frames"),
        (PONG, {"components": (1,)}, "observation.components: is of vectors"),
        (CARTPOLE, {"components": (1, 4)}, "4 is none of cartpole's 4 numbers, 0 to 3"),
        (CARTPOLE, {"components": (1, 1)}, "a number is there twice"),
        (CARTPOLE, {"components": ()}, "names none"),
        (CARTPOLE, {"noise": (1.0, 2.0)}, "has 2 numbers; it is one number, or one for each of 4"),
        (PONG, {"noise": (1.0, 2.0)}, "has 2 numbers; it is one number for all pixels"),
        (PONG, {"size": 50}, "observation.size: 50 is none of 84, 64, 42 pixels"),
    ],
)
def test_senses_that_a_task_does_not_have_are_refused(task: Any, options: dict[str, Any], message: str) -> None:
    with refused(match=message.replace("'", ".")):
        make_senses(task, **options)


def test_senses_are_described_in_a_line() -> None:
    assert make_senses(PONG, frames=1, size=42).describe() == "1 frame of 42x42"
    full = make_senses(CARTPOLE, components=(0, 2), window=8, noise=(0.1,), missing=0.2, delay=2)
    assert full.describe() == "numbers 0, 2 of 4, a window of 8, noise 0.1, 2 steps late, 20 % missing"
    assert make_senses(PONG, source="ram").describe() == "128 bytes of the memory"
