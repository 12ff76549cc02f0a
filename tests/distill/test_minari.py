"""Play of others, as Minari keeps it, through the real command."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from pd_jax.actors.minari import MinariPlay, read_minari
from pd_jax.environments.tasks import get_task
from pd_jax.replay.recordings import Dataset
from pd_jax.teachers import load
from support.commands import contents, options, refusal, succeed

minari = pytest.importorskip("minari")

LENGTHS = (5, 30, 12, 9, 40, 3)
PLAY: dict[str, Any] = {"teacher": "cartpole", "rollout-length": 8, "env.num-lanes": 2}
SIGHT = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float32)


def episodes_of(lengths: tuple[int, ...] = LENGTHS) -> list[Any]:
    """Observations that say which episode and which step they are of; the last one is terminal or cut off."""
    made = []
    for number, length in enumerate(lengths):
        steps = np.arange(length + 1, dtype=np.float32)
        ended = np.arange(length) == length - 1
        made.append(
            minari.data_collector.EpisodeBuffer(
                observations=np.stack([steps * 0 + number, steps, -steps, steps * 0.1], axis=1),
                actions=np.arange(length) % 2,
                rewards=np.full(length, number + 1.0),
                terminations=ended & (number % 2 == 0),
                truncations=ended & (number % 2 == 1),
            )
        )
    return made


def write_dataset(
    monkeypatch: pytest.MonkeyPatch, root: Path, episodes: list[Any] | None = None, **spaces: Any
) -> Path:
    """A dataset in a directory of its own."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    with pytest.warns(UserWarning):
        minari.create_dataset_from_buffers(
            "cartpole/others-v0",
            episodes_of() if episodes is None else episodes,
            observation_space=spaces.get("observation_space", SIGHT),
            action_space=spaces.get("action_space", gymnasium.spaces.Discrete(2)),
        )
    return root / "cartpole" / "others-v0"


@pytest.fixture
def dataset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    return write_dataset(monkeypatch, tmp_path / "minari")


def test_others_play_is_recorded_with_the_teachers_outputs(
    dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "recording"
    succeed("collect", PLAY | {"minari": dataset, "out": out})
    told = capfd.readouterr()
    recorded = Dataset.open(out)
    # By hand: 0, 2, 3 and 4 are 6 + 13 + 10 + 41, 1 and 5 are 31 + 4: the shorter lane has 35, four rollouts of 8.
    assert (recorded.header.steps, recorded.header.num_lanes) == (32, 2) and recorded.header.complete
    assert recorded.header.environment == {"minari": "cartpole/others-v0"} and recorded.header.epsilon == 0.0
    play = recorded.read(0, 32)
    numbers, steps = play.observations[..., 0], play.observations[..., 1]
    wanted_lanes = ((0, 2, 3, 4), (1, 5))
    for lane, episodes in enumerate(wanted_lanes):
        wanted = [(number, step) for number in episodes for step in range(LENGTHS[number] + 1)][:32]
        assert list(zip(numbers[:, lane], steps[:, lane], strict=True)) == wanted
    lengths = np.array(LENGTHS)[numbers.astype(int)]
    np.testing.assert_array_equal(play.is_first, steps == 0)
    np.testing.assert_array_equal(play.is_decision, steps < lengths)
    np.testing.assert_array_equal(play.rewards, np.where(steps < lengths, numbers + 1, 0))
    np.testing.assert_array_equal(play.actions, np.where(steps < lengths, steps % 2, 0))
    teacher = load("cartpole")
    np.testing.assert_allclose(play.teacher_q.reshape(-1, 2), teacher(play.observations.reshape(-1, 4)), atol=1e-5)
    left_out = sum(LENGTHS) - int(play.is_decision.sum())
    assert f"{left_out} of {sum(LENGTHS)} steps do not fill a rollout" in told.out + told.err


def test_a_recording_of_it_goes_on_where_it_ended(dataset: Path, tmp_path: Path) -> None:
    part, whole = tmp_path / "part", tmp_path / "whole"
    succeed("collect", PLAY | {"minari": dataset, "out": whole})
    succeed("collect", PLAY | {"minari": dataset, "out": part, "steps": 16})
    assert Dataset.open(part).num_steps == 8
    succeed("collect", PLAY | {"minari": dataset, "out": part, "steps": 1_000, "resume": True})
    for field in ("observations", "teacher_q", "rewards", "is_first"):
        np.testing.assert_array_equal(
            *(getattr(Dataset.open(path).read(0, 32), field) for path in (part, whole)), err_msg=field
        )


def test_a_student_learns_from_it(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "recording"
    succeed("collect", PLAY | {"minari": dataset, "out": out})
    settings: dict[str, Any] = {
        "teacher": "cartpole",
        "data": out,
        "out": tmp_path / "run",
        "student.network": "mlp",
        "schedule.rounds": 1,
        "schedule.steps-per-round": 64,
        "schedule.updates-per-round": 5,
        "replay.capacity": 64,
        "learner.batch-size": 8,
        "evaluation.episodes": 2,
        "evaluation.max-episode-steps": 20,
    }
    succeed("distill", settings | {"evaluation.num-lanes": 2, "schedule.rollout-length": 8})
    assert (tmp_path / "run" / "summary.json").exists()


def test_returns_are_those_of_whole_episodes(dataset: Path) -> None:
    task = get_task("cartpole")
    play = MinariPlay(read_minari(str(dataset), task), load("cartpole"), task, num_lanes=2, rollout_length=8)
    assert len(list(play.rollouts(100))) == play.num_rollouts == 4
    # Of the first lane 0 and 2 and 3 have ended within 32 steps, of the second 1.
    assert sorted(play.finished_returns) == sorted(LENGTHS[number] * (number + 1.0) for number in (0, 1, 2, 3))
    rest = MinariPlay(read_minari(str(dataset), task), load("cartpole"), task, num_lanes=2, rollout_length=8, begin=2)
    assert len(list(rest.rollouts(100))) == 2


def test_what_is_no_dataset_of_the_task_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"

    def refused(path: Path | str, **changes: Any) -> str:
        text = refusal(capfd, "collect", *options(PLAY | {"minari": path, "out": out} | changes))
        assert not out.exists()
        return text

    assert "is no directory" in refused(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    assert "is no dataset that can be read" in refused(tmp_path / "empty")
    wide = gymnasium.spaces.Discrete(3)
    assert "has the actions Discrete(3), and cartpole 2" in refused(
        write_dataset(monkeypatch, tmp_path / "actions", action_space=wide)
    )
    good = write_dataset(monkeypatch, tmp_path / "good")
    assert "fewer than a rollout_length of 64" in refused(good, **{"rollout-length": 64})
    assert "shows frames as EnvPool makes them" in refused(good, teacher="pong")
    assert "is a setting of live play" in refused(good, epsilon=0.1)
    unsound = episodes_of()
    unsound[2] = dataclasses.replace(unsound[2], observations=unsound[2].observations * np.nan)
    assert "episode 2 of" in refused(write_dataset(monkeypatch, tmp_path / "nan", unsound))
    short = [dataclasses.replace(each, observations=each.observations[:, :3]) for each in episodes_of()]
    narrow = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    assert "has observations of shape [3], and cartpole [4]" in refused(
        write_dataset(monkeypatch, tmp_path / "narrow", short, observation_space=narrow)
    )
    data = good / "data" / "main_data.hdf5"
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    before = contents(good)
    assert "is no dataset that can be read" in refused(good)
    assert contents(good) == before
