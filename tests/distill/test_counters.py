"""Where a run stands, written and read back, and with what it may go on."""

from __future__ import annotations

import dataclasses
import json
import types
from pathlib import Path
from typing import Any

import pytest

from pd_jax.config.sections import PartsConfig
from pd_jax.distill.counters import DistillCounters, GameCounters
from pd_jax.errors import UserError


def setup_of(*names: str, sha256: str = "a" * 64) -> Any:
    """What a run of live play is to go on with."""
    teachers = [types.SimpleNamespace(sha256=sha256) for _ in names]
    config = types.SimpleNamespace(accept_other_teacher=False, parts=PartsConfig(most=8))
    recordings = [None] * len(names)
    about = {"network": "net2", "start": None}
    return types.SimpleNamespace(names=names, teachers=teachers, datasets=recordings, config=config, **about)


def test_counters_are_read_back_from_their_metadata() -> None:
    pong = GameCounters(name="pong", env_steps=5, teacher_sha256="b", recording="c", recorded_steps=2, stopped_at=4)
    at = DistillCounters(
        updates=7, wall_seconds=1.5, network="net2", games=[pong, GameCounters(name="qbert", env_steps=3)]
    )
    assert at.env_steps == 8
    assert DistillCounters.from_metadata(json.loads(json.dumps(dataclasses.asdict(at)))) == at


def test_checkpoints_from_before_there_were_several_games_are_understood() -> None:
    metadata = {
        "updates": 3,
        "env_steps": 64,
        "wall_seconds": 2.0,
        "teacher_sha256": "a" * 64,
        "network": "net2",
        "recording": "",
        "recorded_steps": 0,
    }
    at = DistillCounters.from_metadata(metadata)
    assert (at.updates, at.env_steps, at.wall_seconds, at.network) == (3, 64, 2.0, "net2")
    at.check_goes_on(setup_of("pong"), Path("run"))
    assert at.games == [GameCounters(name="pong", env_steps=64, teacher_sha256="a" * 64)]


@pytest.mark.parametrize("games", [["pong"], ["qbert", "pong"], ["pong", "qbert", "breakout"], ["pong", "breakout"]])
def test_games_are_known_by_name_also_where_their_heads_are_alike(games: list[str]) -> None:
    at = DistillCounters.begin(setup_of("pong", "qbert"))
    at.check_goes_on(setup_of("pong", "qbert"), Path("run"))
    with pytest.raises(UserError) as error:
        at.check_goes_on(setup_of(*games), Path("run"))
    assert str(error.value) == (
        f"run: was begun with pong, qbert, not with {', '.join(games)}; games cannot be added, dropped or reordered: "
        "choose another --out"
    )


def test_another_teacher_is_named_with_its_game_where_there_are_several() -> None:
    at = DistillCounters.begin(setup_of("pong", "qbert"))
    setup = setup_of("pong", "qbert")
    setup.teachers[1].sha256 = "b" * 64
    with pytest.raises(UserError) as error:
        at.check_goes_on(setup, Path("run"))
    assert str(error.value) == (
        "run: was begun with another teacher file for qbert (aaaaaaaaaaaa, now bbbbbbbbbbbb); "
        "--accept-other-teacher goes on with it"
    )


def test_a_game_whose_teacher_failed_plays_again_only_with_another_teacher() -> None:
    at = DistillCounters.begin(setup_of("pong", "qbert"))
    at.games[1].stopped_at = 7
    at.check_goes_on(setup_of("pong", "qbert"), Path("run"))
    assert at.games[1].stopped_at == 7
    setup = setup_of("pong", "qbert")
    setup.config.accept_other_teacher, setup.teachers[1].sha256 = True, "b" * 64
    at.check_goes_on(setup, Path("run"))
    assert (at.games[1].teacher_sha256, at.games[1].stopped_at) == ("b" * 64, None)
