"""Raw screens to frames and stacks: EnvPool's, bit for bit."""

from __future__ import annotations

import envpool
import numpy as np
import pytest

from pd_jax.deploy.runtime import FrameStack
from pd_jax.environments.ale import _Noops
from pd_jax.environments.screens import SCREEN_SHAPE, shrink
from pd_jax.environments.tasks import get_task

GAMES = ("breakout", "ms_pacman", "pong")


@pytest.mark.parametrize("game", GAMES)
def test_stacks_of_a_consoles_screens_equal_envpools(game: str) -> None:
    check_against_envpool(game, 250)


@pytest.mark.slow
@pytest.mark.parametrize("game", GAMES)
def test_stacks_of_a_consoles_screens_equal_envpools_for_long(game: str) -> None:
    check_against_envpool(game, 2000)


def check_against_envpool(game: str, steps: int) -> None:
    """Random actions in ale-py's plain interface and in EnvPool, whose games open alike."""
    ale_py = pytest.importorskip("ale_py", reason="needs ale-py: pip install '.[ale]'")
    task, seed = get_task(game), 3
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    console = ale_py.ALEInterface()
    console.setInt("random_seed", seed)
    console.setFloat("repeat_action_probability", 0.0)
    console.loadROM(ale_py.roms.get_rom_path(game))
    actions, fire = console.getMinimalActionSet(), ale_py.Action.FIRE
    noops = _Noops(seed, 30)
    pool = envpool.make(task.env_id, env_type="gymnasium", num_envs=1, seed=seed, num_threads=1)

    def begin() -> np.ndarray:
        console.reset_game()
        opening = [ale_py.Action.NOOP] * noops.draw(fire in actions) + [fire] * (fire in actions)
        for action in opening:
            console.act(action)
        return console.getScreenGrayscale()[None, None]

    stack, first = FrameStack(), np.array([True])
    shown, _ = pool.reset()
    np.testing.assert_array_equal(stack.push(begin(), first), shown.transpose(0, 2, 3, 1))
    is_over, compared = False, 0
    for step, action in enumerate(np.random.default_rng(1).integers(0, task.num_actions, steps)):
        shown = pool.step(np.array([action], np.int32))[0].transpose(0, 2, 3, 1)
        if is_over:
            stacks, is_over = stack.push(begin(), first), False
        else:
            screens = []
            for _ in range(4):
                console.act(actions[action])
                screens.append(console.getScreenGrayscale())
                is_over = is_over or console.game_over()
            stacks = stack.push(np.stack(screens[-2:])[None], ~first)
        # A game that ends within a step shows what nobody decides on.
        if not is_over:
            np.testing.assert_array_equal(stacks, shown, err_msg=str(step))
            compared += 1
    assert compared > 0.9 * steps


def test_lanes_are_stacked_each_for_itself() -> None:
    screens = np.random.default_rng(0).integers(0, 256, (5, 3, 2, *SCREEN_SHAPE)).astype(np.uint8)
    frames = shrink(screens.max(axis=2).reshape(-1, *SCREEN_SHAPE)).reshape(5, 3, 84, 84)
    stack = FrameStack(3)
    stack.push(screens[0], np.ones(3, bool))
    stack.push(screens[1], np.array([False, True, False]))
    lanes = np.array([0, 2])
    found = stack.push(screens[2, lanes], np.zeros(2, bool), lanes)
    assert found.shape == (2, 84, 84, 4) and found.dtype == np.uint8
    for row, lane in enumerate(lanes):
        wanted = [frames[0, lane], frames[0, lane], frames[1, lane], frames[2, lane]]
        np.testing.assert_array_equal(found[row], np.stack(wanted, axis=-1))
    np.testing.assert_array_equal(stack.planes[1], np.repeat(frames[1, 1][None], 4, axis=0))


@pytest.mark.parametrize(
    "screens",
    [
        np.zeros((1, 2, 210, 160), np.float32),
        np.zeros((1, 210, 160), np.uint8),
        np.zeros((1, 2, 160, 210), np.uint8),
        np.zeros((1, 0, 210, 160), np.uint8),
        np.zeros((2, 2, 210, 160), np.uint8),
    ],
)
def test_other_screens_are_refused_and_nothing_is_stacked(screens: np.ndarray) -> None:
    stack = FrameStack()
    with pytest.raises(ValueError, match="screens"):
        stack.push(screens, np.zeros(len(screens), bool))
    with pytest.raises(ValueError, match="is_first int64"):
        stack.push(np.ones((1, 2, 210, 160), np.uint8), np.array([1]))
    assert not stack.planes.any()


def test_a_lane_is_opened_before_it_goes_on() -> None:
    stack, screens = FrameStack(2), np.ones((2, 1, *SCREEN_SHAPE), np.uint8)
    with pytest.raises(ValueError, match="no game has opened yet: its first screens take is_first"):
        stack.push(screens, np.array([True, False]))
    assert not stack.planes.any()
    stack.push(screens, np.ones(2, bool))
    stack.push(screens, np.zeros(2, bool))
    with pytest.raises(ValueError, match="0 lanes; at least 1"):
        FrameStack(0)
