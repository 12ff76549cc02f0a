"""A protocol by name: what it sets, what it excludes, and which of file and command line goes first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pd_jax.config.collect import CollectConfig
from pd_jax.config.commands import COMMANDS
from pd_jax.config.distill import DistillConfig
from pd_jax.config.evaluate import EvaluateConfig
from pd_jax.config.loading import from_mapping, load_config, to_mapping
from pd_jax.config.online import OnlineConfig
from pd_jax.config.sections import EmulatorConfig, EnvConfig
from pd_jax.errors import UserError

MODERN = (1, 0.25, False)
REQUIRED = {
    "train-teacher": ["--game", "pong", "--out=x"],
    "collect": ["--teacher", "pong", "--out=x"],
    "distill": ["--teacher", "pong", "--out=x"],
    "online": ["--game", "pong", "--out=x"],
    "sweep": ["--teacher", "pong", "--out=x"],
    "evaluate": ["--teacher", "pong"],
}


def starts(config: Any) -> tuple[int, float, bool]:
    env = config.env
    return env.max_noops, env.sticky_action_probability, env.fire_reset


def load(command: str, *argv: str) -> Any:
    return load_config(COMMANDS[command], [*REQUIRED[command], *argv], command)


@pytest.mark.parametrize("command", REQUIRED)
def test_every_command_that_plays_takes_one(command: str) -> None:
    usual, classic, modern = load(command), load(command, "--protocol", "classic"), load(command, "--protocol=modern")
    assert starts(usual) == starts(classic) == (30, 0.0, True)
    assert starts(modern) == MODERN
    assert [each.protocol_name for each in (usual, classic, modern)] == ["classic", "classic", "modern"]
    assert from_mapping(COMMANDS[command], to_mapping(modern)) == modern
    assert list(modern.conflicts()) == []


def test_parts_of_a_run_have_its_protocol() -> None:
    online = OnlineConfig(game="pong", out="x", protocol="modern")
    for part in (online.distillation, online.training("pong")):
        assert (part.protocol, starts(part)) == ("modern", MODERN)
    sweep = load("sweep", "--protocol", "modern")
    assert (sweep.cell(0, sweep.variants[0]).protocol, starts(sweep.template)) == ("modern", MODERN)


def test_numbers_without_a_name_are_told_by_it() -> None:
    def named(**env: Any) -> str:
        return EvaluateConfig(teacher="pong", env=EmulatorConfig(**env)).protocol_name

    assert named() == "classic"
    assert named(max_noops=1, sticky_action_probability=0.25, fire_reset=False) == "modern"
    assert named(sticky_action_probability=0.25) == "custom"
    assert load("evaluate", "--evaluation.max-episode-steps", "100").protocol_name == "custom"
    assert load("evaluate", "--protocol", "custom").protocol_name == "custom"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--env.max-noops", "30"], "--env.max-noops: 30, and protocol 'modern' has 1; "),
        (["--env.fire-reset"], "--env.fire-reset: true, and protocol 'modern' has false; "),
        (
            ["--env.sticky-action-probability", "0"],
            "--env.sticky-action-probability: 0.0, and protocol 'modern' has 0.25; ",
        ),
        (
            ["--evaluation.max-episode-steps", "100"],
            "--evaluation.max-episode-steps: 100, and protocol 'modern' has 27000; ",
        ),
        (["--env.max-episode-steps", "100"], "--env.max-episode-steps: 100, and protocol 'modern' has 27000; "),
    ],
)
def test_a_number_beside_it_that_says_otherwise_is_refused(argv: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load("distill", "--protocol", "modern", *argv)
    assert str(caught.value) == message + "leave it out, or say protocol custom"
    # So it is beside a file's.
    (tmp_path / "modern.yaml").write_text("protocol: modern\n")
    with pytest.raises(UserError) as caught:
        load("distill", "--config", str(tmp_path / "modern.yaml"), *argv)
    assert str(caught.value) == message + "leave it out, or say protocol custom"


def test_numbers_that_say_the_same_pass() -> None:
    starting = "--env.max-noops 1 --env.sticky-action-probability 0.25 --env.no-fire-reset"
    argv = f"--protocol modern {starting} --evaluation.max-episode-steps 27000".split()
    assert starts(load("distill", *argv)) == MODERN


def test_a_protocol_on_the_command_line_replaces_the_numbers_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("env: {max_noops: 30, num_lanes: 5}\nevaluation: {max_episode_steps: 100, episodes: 3}\n")
    config = load("distill", "--config", str(path), "--protocol", "modern")
    assert starts(config) == MODERN
    assert (config.env.num_lanes, config.evaluation.episodes, config.evaluation.max_episode_steps) == (5, 3, None)
    path.write_text("protocol: modern\nenv: {max_noops: 30}\n")
    with pytest.raises(UserError, match=r"settings\.yaml: env\.max_noops: 30, and protocol 'modern' has 1; "):
        load("distill", "--config", str(path))


def test_from_python_what_is_left_at_its_default_follows() -> None:
    config = CollectConfig(teacher="pong", out="x", protocol="modern")
    assert starts(config) == MODERN
    config = DistillConfig(teacher="pong", out="x", protocol="modern", env=EnvConfig(max_noops=5, num_lanes=3))
    assert [key for key, _ in config.conflicts()] == ["env.max_noops"]


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match=r"^--protocol: 'moden' is not a protocol; did you mean 'modern'\?"):
        load("evaluate", "--protocol", "moden")


@pytest.mark.parametrize(("command", "game"), [("evaluate", "cartpole"), ("collect", "cartpole")])
def test_a_game_that_is_not_ataris_has_none(command: str, game: str) -> None:
    for option in (["--protocol", "modern"], ["--env.backend", "ale"], ["--env.no-fire-reset"]):
        key = option[0].replace("no-", "")
        with pytest.raises(UserError, match=rf"^{key}: is for games of Atari, and teacher is cartpole$"):
            load_config(COMMANDS[command], ["--teacher", game, *REQUIRED[command][2:], *option], command)


def test_ale_py_is_stepped_from_the_host_by_threads_of_its_own() -> None:
    with pytest.raises(UserError, match=r"^--env\.stepping: 'jit', and env\.backend is 'ale', which is stepped from "):
        load("distill", "--env.backend", "ale", "--env.stepping", "jit")
    with pytest.raises(UserError, match=r"^--env\.num-threads: is EnvPool's; with env\.backend 'ale' each lane has "):
        load("evaluate", "--env.backend", "ale", "--env.num-threads", "2")
    assert load("online", "--env.backend", "ale").distillation.env.backend == "ale"
