"""What a setting may be: the home directory in paths."""

from __future__ import annotations

import dataclasses
import operator
from pathlib import Path
from typing import Any

import pytest
import yaml

import pd_jax
from pd_jax.config.collect import CollectConfig
from pd_jax.config.commands import COMMANDS, MONITOR, TEACHERS
from pd_jax.config.distill import DistillConfig
from pd_jax.config.fields import fields
from pd_jax.config.loading import from_mapping, load_config, read_config
from pd_jax.config.report import ReportConfig
from pd_jax.errors import UserError
from pd_jax.teachers.catalogue import bundled_files, find

ALL = {
    **COMMANDS,
    **{f"teachers {name}": command.settings for name, command in TEACHERS.commands.items()},
    **{f"monitor {name}": command.settings for name, command in MONITOR.commands.items()},
}
TEXTS = [
    (command, key)
    for command, settings in ALL.items()
    for key, field in fields(settings).items()
    if field.kind is str and not field.choices
]
NO_PATHS = (
    *("adding.games", "cells", "game", "hosts.coordinator", "licence", "name", "to", "topology", "track_project"),
    *("guidance.reward_weight", "guidance.distillation_weight", "guidance.teacher_share"),
)
# What makes settings complete, beside the path that is tried.
COMPLETE: dict[str, dict[str, Any]] = {
    "train-teacher": {"game": "pong", "out": "x"},
    "collect": {"teacher": "pong", "out": "x"},
    "distill": {"teacher": "pong", "out": "x"},
    "online": {"game": "pong", "out": "x"},
    "sweep": {"teacher": "pong", "out": "x"},
    "evaluate": {"teacher": "pong"},
    "export": {"run": "x", "out": "x"},
    "audit": {"run": "x", "teacher": "pong", "out": "x"},
    "video": {"run": "x"},
    "renew": {"run": "x", "export": "x", "out": "x"},
    "lineage": {"directory": "x", "search": ["y"]},
    "monitor fit": {"run": "x", "out": "x"},
    "monitor watch": {"run": "x", "thresholds": "x", "data": "x"},
    "plan": {"topology": "v5e:2x2", "game": "pong"},
    "explain": {"run": "x", "language": "en"},
    "report": {"runs": ["x"]},
    "configs": {"name": "x"},
    "doctor": {"timeout": 60},
    "push": {"run": "x", "to": "hf://someone/something"},
    "teachers show": {"name_or_file": "pong"},
    "teachers import": {"file": "x", "game": "pong", "out": "x.safetensors"},
}
# What else a path needs beside it.
BESIDE: dict[tuple[str, str], dict[str, Any]] = {
    ("distill", "add_teacher"): {"init_from": "x"},
    ("distill", "add_data"): {"init_from": "x", "add_teacher": "pong", "adding": {"learn": "head"}},
}
# What is given in the place of another.
INSTEAD = {
    ("export", "teacher", "run"),
    ("audit", "policy", "run"),
    ("monitor fit", "policy", "run"),
    ("monitor watch", "policy", "run"),
    ("monitor watch", "log", "data"),
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory, and another one to work in."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


def is_path(command: str, key: str) -> bool:
    return fields(ALL[command])[key].is_path


@pytest.mark.parametrize(("command", "key"), TEXTS)
def test_every_text_is_a_path_but_those_that_are_known_to_be_none(command: str, key: str) -> None:
    assert is_path(command, key) == (key not in NO_PATHS)


# A plan takes no recording.
PATHS = [(command, key) for command, key in TEXTS if is_path(command, key) and (command, key) != ("plan", "data")]


@pytest.mark.parametrize(("command", "key"), PATHS)
def test_the_home_directory_stands_for_its_sign_in_every_path(home: Path, command: str, key: str) -> None:
    settings, field = ALL[command], fields(ALL[command])[key]
    suffix = {"plot": ".png", "figure": ".png", "out": ".mp4" if command == "video" else ".safetensors"}.get(key, "")
    written, expected = f"~/some place/x{suffix}", f"{home}/some place/x{suffix}"
    complete = {name: value for name, value in COMPLETE[command].items() if (command, key, name) not in INSTEAD}
    complete |= BESIDE.get((command, key), {})
    *sections, name = key.split(".")
    own: Any = {name: [written] if field.many else written}
    for section in reversed(sections):
        own = {section: own}
    mapping = complete | own
    file = home / "settings.yaml"
    file.write_text(yaml.safe_dump(mapping))
    found = [from_mapping(settings, mapping), read_config(settings, file)]
    # A shell expands a word that begins with the sign, and no other.
    found.append(load_config(settings, ["--config=~/settings.yaml"], command))
    argv = [written] if field.positional else [f"--{key.replace('_', '-')}={written}"]
    file.write_text(yaml.safe_dump({name: value for name, value in complete.items() if name != key} or {"seed": 0}))
    found.append(load_config(settings, ["--config", "~/settings.yaml", *argv], command))
    if not sections:
        found.append(dataclasses.replace(found[0], **{key: (written,) if field.many else written}))
    assert [operator.attrgetter(key)(config) for config in found] == [(expected,) if field.many else expected] * len(
        found
    )


def test_of_several_paths_each_is_expanded_and_names_are_left_alone(home: Path) -> None:
    config = load_config(DistillConfig, ["--teacher", "pong", "~/a.zip", "a~b", "hf://o/r/~x", "--out=~"], "distill")
    assert config.teacher == ("pong", f"{home}/a.zip", "a~b", "hf://o/r/~x")
    assert config.out == str(home)
    assert load_config(ReportConfig, ["~/a", "b/~/c"], "report").runs == (f"{home}/a", "b/~/c")
    # A lone ~ is YAML's null, where a setting may be null.
    assert load_config(DistillConfig, ["--teacher=pong", "--out=x", "--data=~"], "distill").data is None


def test_the_home_of_nobody_is_refused_and_a_file_of_that_name_is_found(home: Path) -> None:
    problem = (
        "'~no_such_user/x': there is no user 'no_such_user'; a name that begins with ~ is given as './~no_such_user/x'"
    )
    for option in ("--out", "--teacher", "--data", "--config"):
        argv = [*(["--teacher=pong", "--out=x"] if option == "--data" else []), f"{option}=~no_such_user/x"]
        with pytest.raises(UserError) as error:
            load_config(DistillConfig, argv, "distill")
        assert str(error.value) == f"{option}: {problem}"
    Path("~no_such_user").mkdir()
    Path("~no_such_user", "x").touch()
    for teacher in ("~no_such_user/x", "./~no_such_user/y"):
        assert load_config(CollectConfig, ["--teacher", teacher, "--out=x"], "collect").teacher == teacher


def test_functions_of_python_know_the_home_directory_too(home: Path) -> None:
    teacher = home / "mine.safetensors"
    teacher.write_bytes(bundled_files()["cartpole"].read_bytes())
    assert find("~/mine.safetensors").path == teacher
    assert pd_jax.load_teacher("~/mine.safetensors").source == str(teacher)
    assert pd_jax.load_teacher(Path("~/mine.safetensors")).source == str(teacher)
    with pytest.raises(UserError, match=rf"^{home}/run: is not a run directory: there is no such directory$"):
        pd_jax.load_student("~/run")
