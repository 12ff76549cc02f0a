"""Tasks against EnvPool's own specs and the action sets of the Arcade Learning Environment."""

from __future__ import annotations

from typing import Any

import envpool
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_jax.environments import families
from pd_jax.environments.tasks import PAPER_GAMES, TASKS, Task, get_task
from pd_jax.errors import UserError

KNOWN = (
    "beam_rider, breakout, enduro, freeway, ms_pacman, pong, qbert, riverraid, seaquest, space_invaders, cartpole, "
    "acrobot, lunarlander, half_cheetah_v5, cartpole_swingup_v1, or another game or task by its EnvPool id"
)

# ale_py 0.11.2's `ALEInterface.getMinimalActionSet()` for the ROMs that EnvPool 1.2.5 ships, as action numbers.
ALE_MINIMAL_SETS = {
    "beam_rider": [0, 1, 2, 3, 4, 6, 7, 11, 12],
    "breakout": [0, 1, 3, 4],
    "enduro": [0, 1, 3, 4, 5, 8, 9, 11, 12],
    "freeway": [0, 2, 5],
    "ms_pacman": [0, 2, 3, 4, 5, 6, 7, 8, 9],
    "pong": [0, 1, 3, 4, 11, 12],
    "qbert": [0, 1, 2, 3, 4, 5],
    "riverraid": list(range(18)),
    "seaquest": list(range(18)),
    "space_invaders": [0, 1, 3, 4, 11, 12],
}

# Named after ALE's `Action` enumeration: PLAYER_A_NOOP = 0 up to PLAYER_A_DOWNLEFTFIRE = 17.
ALE_ACTION_NAMES = [
    "NOOP",
    *["FIRE", "UP", "RIGHT", "LEFT", "DOWN"],
    *["UPRIGHT", "UPLEFT", "DOWNRIGHT", "DOWNLEFT"],
    *["UPFIRE", "RIGHTFIRE", "LEFTFIRE", "DOWNFIRE"],
    *["UPRIGHTFIRE", "UPLEFTFIRE", "DOWNRIGHTFIRE", "DOWNLEFTFIRE"],
]


def assert_agrees_with_envpool(task: Task) -> None:
    if task.is_continuous:
        families.import_others()
        spec: Any = envpool.make_spec(task.env_id)
        assert spec.action_space.low.tolist() == list(task.action_low)
        assert spec.action_space.high.tolist() == list(task.action_high)
        seen = spec.observation_space
        parts = tuple((name, part.shape[0]) for name, part in seen.items()) if hasattr(seen, "items") else ()
        assert parts == task.components
        assert task.observation_shape == ((sum(size for _, size in parts),) if parts else seen.shape)
        assert spec.config.max_episode_steps == task.max_episode_steps
        return
    spec = envpool.make_spec(task.env_id)
    assert spec.action_space.n == task.num_actions == len(task.action_names)
    channels_first = spec.observation_space.shape
    shape = (*channels_first[1:], channels_first[0]) if task.kind == "atari" else channels_first
    assert shape == task.observation_shape
    assert spec.observation_space.dtype == np.dtype(task.observation_dtype)
    assert spec.config.max_episode_steps == task.max_episode_steps
    assert task.frame_shape == (shape[:2] if task.kind == "atari" else shape)


@pytest.mark.parametrize("name", TASKS)
def test_known_tasks_agree_with_envpool(name: str) -> None:
    assert get_task(name).name == name
    assert_agrees_with_envpool(get_task(name))


@pytest.mark.parametrize("name", ["Alien-v5", "up_n_down", "TicTacToe3d-v5"])
def test_other_atari_games_agree_with_envpool(name: str) -> None:
    task = get_task(name)
    assert_agrees_with_envpool(task)
    assert get_task(task.name) == get_task(task.env_id) == task
    assert (task.random_score, task.human_score) == (None, None)


def test_atari_games_are_found_by_name_and_by_id() -> None:
    from envpool.atari.registration import atari_game_list

    registered = set(envpool.list_all_envs())
    for name in atari_game_list[::8]:  # A spec takes 0.1 s to make.
        task = get_task(name)
        assert task.env_id in registered
        assert get_task(task.env_id).name == name


@pytest.mark.parametrize("name", PAPER_GAMES)
def test_action_names_are_those_of_the_minimal_action_set(name: str) -> None:
    assert list(get_task(name).action_names) == [ALE_ACTION_NAMES[number] for number in ALE_MINIMAL_SETS[name]]


def test_the_papers_games_are_ten_with_88_actions_and_a_human_above_random() -> None:
    tasks = [get_task(name) for name in PAPER_GAMES]
    assert len(tasks) == 10
    assert sum(task.num_actions for task in tasks) == 88
    for task in tasks:
        assert task.human_score is not None and task.random_score is not None
        assert task.human_score > task.random_score


@given(st.sampled_from(sorted(TASKS)), st.randoms())
def test_case_and_underscores_do_not_matter(name: str, random: Any) -> None:
    spelling = random.choice([name, get_task(name).env_id, name.replace("_", "")])
    mixed = "".join(random.choice([letter.lower(), letter.upper()]) for letter in spelling)
    assert get_task(mixed).name == name


@pytest.mark.parametrize("name", ["cartpole", "acrobot", "lunarlander"])
def test_random_scores_of_vector_tasks_hold_when_measured(name: str) -> None:
    task = get_task(name)
    assert task.random_score is not None
    lanes, episodes = 64, 2
    env: Any = envpool.make_gymnasium(task.env_id, num_envs=lanes, seed=7)
    env.reset()
    rng = np.random.default_rng(7)
    returns, finished = np.zeros((episodes, lanes)), np.zeros(lanes, int)
    resetting = np.zeros(lanes, bool)
    while finished.min() < episodes:
        _, reward, terminated, truncated, _ = env.step(rng.integers(0, task.num_actions, lanes))
        counted = ~resetting & (finished < episodes)  # The first episodes of each lane: no bias towards short ones.
        returns[finished[counted], np.flatnonzero(counted)] += reward[counted]
        resetting = terminated | truncated
        finished += resetting
    error = returns.std() / np.sqrt(returns.size)
    # Few of Acrobot's random episodes end before its limit, so that their spread is often measured as 0.
    assert abs(returns.mean() - task.random_score) < 4 * error + 0.01 * abs(task.random_score)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("pongg", "; did you mean 'pong'?"),
        ("Pong-v3", "; did you mean 'Pong-v5'?"),
        ("ALE/Pong-v4", "; did you mean 'Pong-v5'?"),
        ("PnogNoFrameskip-v4", "; did you mean 'pong'?"),
        ("BreakoutNoFrameskip", "; did you mean 'breakout'?"),
        ("cartpole-v5", "; did you mean 'CartPole-v1'?"),
        ("alein", "; did you mean 'alien'?"),
        ("Zzz", ""),
        ("", ""),
    ],
)
def test_an_unknown_game_is_refused_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(UserError) as error:
        get_task(name)
    assert str(error.value) == f"{name!r} is not a game{hint} ({KNOWN})"


def test_mujocos_v5_ids_are_no_atari_games() -> None:
    task = get_task("Ant-v5")
    assert (task.kind, task.num_actions, task.name) == ("vector", 8, "ant_v5")


@given(st.text(max_size=200))
def test_any_text_is_a_task_or_a_one_line_error(name: str) -> None:
    try:
        assert isinstance(get_task(name), Task)
    except UserError as error:
        assert str(error).isprintable() and len(str(error)) < 1000  # noqa: PT017
