"""Play outside what was taught: what the policies see of it, and what a game has."""

from __future__ import annotations

import numpy as np
import pytest

from pd_jax.config.audit import AuditConfig, OutsideConfig
from pd_jax.deploy.audit import outside
from pd_jax.deploy.audit.outside import Noise, Occlusion, has_setting, known_settings, variations
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError


def stacks_of(steps: int, lanes: int, firsts: dict[int, list[int]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Stacks as an environment shows them, and where games open."""
    generator, stacks, shown = np.random.default_rng(0), np.zeros((lanes, 84, 84, 4), np.uint8), []
    for step in range(steps):
        newest = generator.integers(60, 190, (lanes, 84, 84, 1)).astype(np.uint8)
        is_first = np.array([step == 0 or lane in firsts.get(step, []) for lane in range(lanes)])
        moved = np.concatenate([stacks[..., 1:], newest], axis=-1)
        stacks = np.where(is_first[:, None, None, None], np.repeat(newest, 4, axis=-1), moved)
        shown.append((stacks, is_first))
    return shown


def test_a_frames_noise_is_drawn_once_and_stays_with_it() -> None:
    noise, before = Noise(12.75, 0), None
    for stacks, is_first in stacks_of(8, 2, {4: [1]}):
        noisy = noise(stacks, is_first)
        assert noisy.shape == stacks.shape and noisy.dtype == np.uint8
        difference = noisy[..., -1].astype(float) - stacks[..., -1]
        assert abs(difference.std() - 12.75) < 0.5 and abs(difference.mean()) < 0.5
        for lane in range(2):
            if is_first[lane]:
                assert (noisy[lane] == noisy[lane, ..., -1:]).all()
            else:
                assert before is not None
                np.testing.assert_array_equal(noisy[lane, ..., :-1], before[lane, ..., 1:])
        before = noisy


def test_noise_of_vectors_has_each_numbers_own_size() -> None:
    noise = Noise(np.array([1.0, 0.0, 5.0]), 0)
    seen = np.concatenate([noise(np.zeros((100, 3), np.float32), np.zeros(100, bool)) for _ in range(20)])
    assert seen.dtype == np.float32
    np.testing.assert_allclose(seen.std(axis=0), [1, 0, 5], rtol=0.1)


def test_a_square_is_hidden_at_one_place_a_game() -> None:
    hide, places = Occlusion(0.05, 0), []
    for stacks, is_first in stacks_of(8, 2, {4: [1]}):
        hidden = hide(stacks, is_first)
        assert (hidden[hidden != 0] == stacks[hidden != 0]).all()
        gone = [np.argwhere(hidden[lane, ..., 0] == 0) for lane in range(2)]
        for each in gone:
            height, width = np.ptp(each, axis=0) + 1
            assert height == width == 19 and len(each) == 19 * 19
        places.append([tuple(each.min(axis=0)) for each in gone])
    assert len({place[0] for place in places}) == 1
    assert len({place[1] for place in places[:4]}) == 1 and len({place[1] for place in places[4:]}) == 1
    assert places[3][1] != places[4][1] != places[4][0]


def config(**changes: object) -> AuditConfig:
    return AuditConfig(policy="x", teacher="x", out="x", outside=OutsideConfig(**changes))  # type: ignore[arg-type]


def test_what_a_game_has_is_played() -> None:
    pong, cartpole, qbert = map(get_task, ("pong", "cartpole", "qbert"))
    found = variations(config(), pong, None)
    assert [each.options for each in found] == [
        {"sticky_action_probability": 0.25},
        {"max_noops": 120},
        {"mode": 1},
        {"difficulty": 1},
        {},
        {},
    ]
    assert [each.disturb is not None for each in found] == [False] * 4 + [True] * 2
    # Q*bert has one mode.
    assert not any("mode" in each.options for each in variations(config(), qbert, None))
    (only,) = variations(config(), cartpole, np.ones(4))
    assert only.disturb is not None and not only.options
    assert variations(config(episodes=0), pong, None) == []
    nothing = config(
        sticky_action_probability=0.0, max_noops=None, modes=(0,), difficulties=(3, 2), noise=0.0, occlusion=0.0
    )
    assert [each.name for each in variations(nothing, pong, None)] == ["mode 0", "difficulty 3", "difficulty 2"]


def test_a_mode_that_the_game_does_not_have_is_refused() -> None:
    pong = get_task("pong")
    with pytest.raises(UserError, match=r"^outside.modes: pong has no mode 7 \(0, 1\)$"):
        variations(config(modes=(1, 7)), pong, None)
    with pytest.raises(UserError, match=r"^outside.difficulties: pong has no difficulty 9 \(0, 1, 2, 3\)$"):
        variations(config(difficulties=(9,)), pong, None)


def test_without_ale_py_envpool_is_asked_and_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pong = get_task("pong")
    known = known_settings(pong)
    assert known == ([0, 1], [0, 1, 2, 3])
    # Each makes an emulator, and is asked once.
    assert has_setting(pong, "mode", 1) and not has_setting(pong, "mode", 2)
    monkeypatch.setattr(outside, "known_settings", lambda task: None)
    with pytest.raises(UserError, match=r"^outside.modes: pong has no mode 2$"):
        variations(config(modes=(2,)), pong, None)
