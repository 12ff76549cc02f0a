"""EnvPool against ale-py: its plain interface frame by frame, and its vector environment in EnvPool's place."""

from __future__ import annotations

import importlib.util
from typing import Any

import envpool
import jax
import numpy as np
import pytest

from pd_jax.config.collect import CollectConfig
from pd_jax.config.sections import OneGameEnvConfig
from pd_jax.distill.collect import collect
from pd_jax.environments import ale
from pd_jax.environments.envpool import Environment, TimeStep
from pd_jax.environments.tasks import get_task
from pd_jax.errors import UserError
from pd_jax.evaluation.evaluator import evaluate
from pd_jax.replay.recordings import Dataset
from pd_jax.teachers import load

ale_py = pytest.importorskip("ale_py", reason="needs ale-py: pip install '.[ale]'")

# One with FIRE in its actions and lives, one without FIRE, one whose rewards are negative.
GAMES = ("breakout", "ms_pacman", "pong")
MORE_GAMES = tuple(
    "asterix assault beam_rider boxing bowling enduro freeway qbert riverraid seaquest space_invaders tennis "
    "time_pilot".split()
)


class Console:
    """One lane by ale-py's plain interface, in plain words: what EnvPool's is said to do.

    The numbers of no-ops are ours: EnvPool's memory at the start of a game says whether they are right. (To try them
    out by cloning the console would not do: ale-py 0.12.1 does not restore Q*bert.)
    """

    def __init__(self, game: str, seed: int, sticky: float) -> None:
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self.console = ale_py.ALEInterface()
        self.console.setInt("random_seed", seed)
        self.console.setFloat("repeat_action_probability", sticky)
        self.console.loadROM(ale_py.roms.get_rom_path(game))
        self.actions = self.console.getMinimalActionSet()
        self.has_fire = ale_py.Action.FIRE in self.actions
        self.noops = ale._Noops(seed, 30)
        self.screens: list[Any] = []

    def begin(self) -> int:
        """A new game, after a number of no-ops, which is returned, and FIRE where there is one."""
        self.console.reset_game()
        noops = self.noops.draw(self.has_fire)
        for action in [ale_py.Action.NOOP] * noops + [ale_py.Action.FIRE] * self.has_fire:
            self.console.act(action)
        self.screens = [self.console.getScreenGrayscale()] * 2
        return noops

    def step(self, action: int) -> tuple[int, np.ndarray]:
        """The reward of four frames, or of those until the game's end, and what EnvPool shows after them."""
        reward, newest = 0, self.screens[0]
        for frame in range(4):
            reward += self.console.act(self.actions[action])
            if frame >= 2:
                self.screens[frame - 2] = self.console.getScreenGrayscale()
                newest = self.screens[0] if frame == 2 else np.maximum(*self.screens)
            if self.console.game_over():
                break
        self.screens[0] = newest
        return reward, newest


def check_against_console(game: str, steps: int, sticky: float) -> int:
    """Plays random actions in both, compares each step, and returns how many games have ended."""
    task, seed, ends = get_task(game), 5, 0
    pool = envpool.make(
        task.env_id, env_type="gymnasium", num_envs=1, seed=seed, repeat_action_probability=sticky,
        img_height=210, img_width=160, num_threads=1,
    )  # fmt: skip
    console = Console(game, seed, sticky)
    _, info = pool.reset()
    starts, is_over = [console.begin()], False
    np.testing.assert_array_equal(info["ram"][0], console.console.getRAM())
    for step, action in enumerate(np.random.default_rng(1).integers(0, task.num_actions, steps)):
        seen, reward, terminated, _, info = pool.step(np.array([action], np.int32))
        if is_over:
            starts.append(console.begin())
            wanted_reward, frame = 0, console.screens[0]
        else:
            wanted_reward, frame = console.step(action)
        is_over = console.console.game_over()
        ends += is_over
        assert (reward[0], terminated[0], info["lives"][0]) == (wanted_reward, is_over, console.console.lives()), step
        np.testing.assert_array_equal(info["ram"][0], console.console.getRAM(), err_msg=str(step))
        np.testing.assert_array_equal(seen[0, -1], frame, err_msg=str(step))
    assert len(starts) < 3 or len(set(starts)) > 1
    return ends


@pytest.mark.parametrize(("game", "sticky"), [(GAMES[0], 0.0), *((game, 0.25) for game in GAMES)])
def test_memory_rewards_ends_and_frames_are_ale_pys_step_by_step(game, sticky):
    ends = check_against_console(game, 300, sticky)
    assert game != "breakout" or ends > 0


@pytest.mark.slow
@pytest.mark.parametrize("game", MORE_GAMES)
def test_memory_rewards_ends_and_frames_are_ale_pys_in_further_games(game):
    check_against_console(game, 1500, 0.25)


def play_both(game: str, steps: int, lanes: int, **options: Any) -> tuple[list[TimeStep], list[TimeStep]]:
    """The same random actions under EnvPool and under ale-py, from the host."""
    task = get_task(game)
    actions = np.random.default_rng(2).integers(0, task.num_actions, (steps, lanes)).astype(np.int32)
    played = []
    for backend in ("envpool", "ale"):
        environment = Environment(task, lanes, 11, stepping="host", backend=backend, **options)
        timesteps = [jax.device_get(environment.reset()[1])]
        for row in actions:
            timesteps.append(environment.step_host(row, timesteps[-1].is_last))
        environment.close()
        played.append(timesteps)
    return played[0], played[1]


def check_same_play(ours: list[TimeStep], theirs: list[TimeStep]) -> None:
    """All fields are equal, but for the one frame that ale-py's vector environment does not show."""
    for step, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        for name in ("rewards", "is_first", "terminated", "truncated", "game_over"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=f"{name} at {step}")
            assert np.asarray(getattr(one, name)).dtype == np.asarray(getattr(other, name)).dtype
        shown = np.array(one.observations) == other.observations
        over = np.asarray(one.game_over & ~one.truncated)
        assert shown[~over].all() and shown[over][..., :3].all(), step


@pytest.mark.parametrize(
    ("game", "options"),
    [
        ("breakout", {}),
        ("breakout", {"episodic_life": True, "max_episode_steps": 130}),
        ("breakout", {"sticky_action_probability": 0.25, "max_noops": 1, "fire_reset": False}),
        ("ms_pacman", {"sticky_action_probability": 0.25, "max_noops": 7, "max_episode_steps": 90}),
        ("pong", {"max_episode_steps": 70}),
    ],
)
def test_the_vector_environment_in_envpools_place_gives_the_same_play(game, options):
    ours, theirs = play_both(game, 300 if game == "breakout" else 150, 2, **options)
    check_same_play(ours, theirs)
    assert sum(np.asarray(each.is_last).sum() for each in ours) > 1


def test_lanes_of_ale_py_that_are_stepped_alone_go_the_way_they_go_among_all():
    task, lanes = get_task("breakout"), 3
    actions = np.random.default_rng(0).integers(0, 4, (40, lanes))
    together, some = (
        Environment(task, lanes, 3, max_episode_steps=15, stepping="host", backend="ale") for _ in range(2)
    )
    shown, is_first = jax.device_get(together.reset()[1]), np.zeros(2, bool)
    some.reset()
    for row in actions:
        shown = together.step_host(row, shown.is_last)
        found = some.step_host(row[1:], is_first, np.array([1, 2]))
        is_first = found.is_last
        for own, others in zip(jax.tree.leaves(found), jax.tree.leaves(shown), strict=True):
            np.testing.assert_array_equal(own, np.asarray(others)[1:])


def test_a_bundled_teacher_scores_the_same_game_by_game():
    teacher = load("breakout")
    options = {"max_episode_steps": 150}
    ours, theirs = (
        evaluate(teacher, episodes=2, num_lanes=2, seed=3, environment_options=options | {"backend": backend})
        for backend in ("envpool", "ale")
    )
    np.testing.assert_array_equal(ours.returns, theirs.returns)
    np.testing.assert_array_equal(ours.lengths, theirs.lengths)
    assert ours.returns.sum() > 0


@pytest.mark.slow
def test_a_recording_by_ale_py_is_envpools(tmp_path):
    teacher, trajectories = load("pong"), []
    for backend in ("envpool", "ale"):
        env = OneGameEnvConfig(num_lanes=2, backend=backend, max_episode_steps=40)
        out = str(tmp_path / backend)
        collect(CollectConfig(teacher="pong", out=out, steps=128, env=env), teacher, tells_memory=False)
        trajectories.append(Dataset.open(out).read(0, 64))
    jax.tree.map(np.testing.assert_array_equal, *trajectories)
    headers = [Dataset.open(tmp_path / backend).header for backend in ("envpool", "ale")]
    assert headers[0].environment == headers[1].environment


def test_games_that_ale_py_does_not_have_are_refused(monkeypatch):
    with pytest.raises(UserError, match=r"^env\.backend: ale-py's games are those of Atari, and cartpole is none"):
        ale.check_backend("ale", get_task("cartpole"))
    ale.check_backend("envpool", get_task("cartpole"))
    monkeypatch.setattr(ale_py.roms, "get_all_rom_ids", lambda: ["breakout"])
    with pytest.raises(UserError, match=r"^env\.backend: ale-py has no game 'pong'; envpool has it$"):
        ale.check_backend("ale", get_task("pong"))


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ale_py" else real(name))
    with pytest.raises(UserError, match=r"^env\.backend: 'ale' needs ale-py, which is not installed: pip install "):
        Environment(get_task("pong"), 1, 0, stepping="host", backend="ale")


@pytest.mark.parametrize("setting", [{"backend": "ale"}, {"backend": "gym", "stepping": "host"}])
def test_a_backend_that_there_is_not_is_refused(setting):
    with pytest.raises(ValueError, match="backend must be 'envpool', or 'ale' from the host"):
        Environment(get_task("pong"), 1, 0, **setting)
