"""What is shown is what the evaluation plays: its actions, its chances, its scores, its screens."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import pd_jax
from pd_jax.environments.envpool import Environment
from pd_jax.environments.tasks import Task, get_task
from pd_jax.errors import UserError
from pd_jax.evaluation import evaluator as evaluator_module
from pd_jax.evaluation.protocol import Protocol
from pd_jax.networks.greedy import GreedyPolicy
from pd_jax.video.play import Film, Track, play_tracks

PROTOCOL = Protocol(
    episodes=5,
    num_lanes=5,
    epsilon=0.2,
    seed=1_000_000,
    max_episode_steps=60,
    max_noops=30,
    sticky_action_probability=0.25,
)


class Scripted(GreedyPolicy):
    """Outputs by a function of what is seen."""

    gives_logits = False
    name = "scripted"
    variables: Any = {}  # noqa: RUF012
    apply: Any = None

    def __init__(self, task: Task, apply: Any) -> None:
        self._task, self.apply = task, apply

    @property
    def task(self) -> Task:  # type: ignore[override]
        return self._task


def brightness(variables: Any, observations: Any) -> Any:
    """Of Pong: where the frame is bright decides."""
    rows = observations.astype(jnp.float32).mean(axis=(2, 3))[:, 16:76]
    return rows.reshape(len(rows), 6, 10).sum(axis=2)


def darkness(variables: Any, observations: Any) -> Any:
    return -brightness(variables, observations)


def played_actions(
    monkeypatch: pytest.MonkeyPatch, task: Task, policy: GreedyPolicy, protocol: Protocol
) -> tuple[dict[int, list[int]], np.ndarray]:
    """What a whole evaluation steps its emulators by, lane by lane up to the first end, and the games' returns."""
    actions: dict[int, list[int]] = {lane: [] for lane in range(protocol.num_lanes)}
    step_host = Environment.step_host

    def note(self: Environment, given: np.ndarray, is_first: np.ndarray, lanes: Any = None) -> Any:
        for lane, action in zip(range(protocol.num_lanes) if lanes is None else lanes, given, strict=True):
            actions[int(lane)].append(int(action))
        return step_host(self, given, is_first, lanes)

    with monkeypatch.context() as patch:
        patch.setattr(Environment, "step_host", note)
        scores = pd_jax.evaluate(
            policy,
            episodes=protocol.episodes,
            num_lanes=protocol.num_lanes,
            epsilon=protocol.epsilon,
            seed=protocol.seed,
            environment_options=protocol.environment_options,
        )
    return actions, scores.returns


@pytest.mark.parametrize("game", ["pong", "cartpole"])
def test_actions_and_scores_are_those_of_the_evaluation(monkeypatch: pytest.MonkeyPatch, game: str) -> None:
    task = get_task(game)
    if game == "pong":
        policies: dict[str, GreedyPolicy] = {"teacher": Scripted(task, brightness), "student": Scripted(task, darkness)}
    else:
        policies = {"teacher": pd_jax.load_teacher(game), "student": Scripted(task, lambda _, seen: seen[:, :2])}
    for actor, policy in list(policies.items())[game == "pong" :]:
        actions, returns = played_actions(monkeypatch, task, policy, PROTOCOL)
        tracks = play_tracks(task, policies, actor, PROTOCOL, [3, 0])
        assert [track.lane for track in tracks] == [3, 0]
        for track in tracks:
            assert track.has_ended
            np.testing.assert_array_equal(track.actions, actions[track.lane])
            assert track.scores[-1] == returns[track.lane]
            assert len(track.film) == len(track.actions) + 1 == len(track.scores)
    if game == "pong":
        # Neither all alike nor all random, so that wrong ones would show.
        assert len(set(tracks[0].actions.tolist())) > 2


def test_some_decisions_are_the_beginning_of_the_game(monkeypatch: pytest.MonkeyPatch) -> None:
    task = get_task("cartpole")
    policies: dict[str, GreedyPolicy] = {name: pd_jax.load_teacher("cartpole") for name in ("teacher", "student")}
    (whole,) = play_tracks(task, policies, "student", PROTOCOL, [2])
    (some,) = play_tracks(task, policies, "student", PROTOCOL, [2], decisions=7)
    np.testing.assert_array_equal(some.actions, whole.actions[:7])
    np.testing.assert_array_equal(some.scores, whole.scores[:8])
    assert (len(some.film), some.has_ended) == (7, False)
    np.testing.assert_array_equal(some.film[6], whole.film[6])
    # Balanced for all of 60 steps: cut, and not fallen.
    assert whole.has_ended and whole.was_cut and len(whole.actions) == 60
    # A policy beside itself agrees with itself.
    assert not whole.differs.any()


def test_chances_are_told_from_choices() -> None:
    task = get_task("cartpole")

    def always_left(variables: Any, observations: Any) -> Any:
        return jnp.tile(jnp.array([1.0, 0.0]), (len(observations), 1))

    policies: dict[str, GreedyPolicy] = {name: Scripted(task, always_left) for name in ("teacher", "student")}
    protocol = dataclasses.replace(PROTOCOL, epsilon=0.5)
    tracks = play_tracks(task, policies, "teacher", protocol, [0, 1, 2, 3, 4])
    actions, is_chance = (
        np.concatenate([getattr(track, name) for track in tracks]) for name in ("actions", "is_chance")
    )
    # RIGHT is never chosen; half of the chances are RIGHT.
    assert not actions[~is_chance].any()
    assert 0.3 < is_chance.mean() < 0.7 and actions[is_chance].any() and not actions[is_chance].all()
    # Without chance it would be LEFT there, too.
    assert not np.concatenate([track.wishes("teacher") for track in tracks]).any()


def test_screens_of_another_game_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    task = get_task("pong")
    policies: dict[str, GreedyPolicy] = {name: Scripted(task, brightness) for name in ("teacher", "student")}

    def with_another_seed(task: Task, num_lanes: int, seed: int, **options: Any) -> Environment:
        return Environment(task, num_lanes, seed + 1, **options)

    monkeypatch.setattr("pd_jax.video.play.Environment", with_another_seed)
    with pytest.raises(UserError, match="screens are of another game"):
        play_tracks(task, policies, "teacher", PROTOCOL, [0], decisions=40)


def test_lanes_that_are_not_asked_for_stand_still(monkeypatch: pytest.MonkeyPatch) -> None:
    task = get_task("cartpole")
    stepped: list[Any] = []
    step = evaluator_module._step

    def note(environment: Any, timestep: Any, actions: Any, is_last: Any, playing: np.ndarray) -> Any:
        stepped.append(np.flatnonzero(playing).tolist())
        return step(environment, timestep, actions, is_last, playing)

    monkeypatch.setattr(evaluator_module, "_step", note)
    policies: dict[str, GreedyPolicy] = {name: pd_jax.load_teacher("cartpole") for name in ("teacher", "student")}
    play_tracks(task, policies, "teacher", PROTOCOL, [1, 4], decisions=5)
    assert stepped == [[1, 4]] * 5


def test_films_give_back_what_they_took() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 3)).astype(np.uint8)
    film = Film()
    for picture in pictures:
        film.append(picture)
    assert len(film) == 3
    np.testing.assert_array_equal([film[index] for index in (2, 0, 1)], pictures[[2, 0, 1]])


def test_who_plays_wishes_what_it_did_where_rounding_decides_between_equals() -> None:
    outputs = {"teacher": np.array([[0.5, 0.5], [0.0, 1.0]], np.float32), "student": np.zeros((2, 2), np.float32)}
    chance = np.array([False, True])
    track = Track("teacher", 0, Film(), outputs, np.array([1, 0], np.int32), chance, np.zeros(3), False, False)
    assert track.wishes("teacher").tolist() == [1, 1] and track.wishes("student").tolist() == [0, 0]
    assert track.differs.tolist() == [True, True]
