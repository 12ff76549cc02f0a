"""The reference of settings and the index of settings files say what the code and the files say."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))

import make_settings  # noqa: E402

from pd_jax.config.fields import Field, fields  # noqa: E402
from pd_jax.config.loading import from_mapping  # noqa: E402
from pd_jax.config.yaml import parse_scalar  # noqa: E402

COMMANDS = make_settings.commands()
REQUIRED: dict[str, Any] = {
    "teacher": "pong",
    "out": "somewhere",
    "game": "pong",
    "topology": "here",
    "thresholds": "thresholds.json",
    "runs": ["somewhere"],
    "name_or_file": "pong",
    "file": "agent.zip",
    "directory": "somewhere",
    "run": "somewhere",
    "shell": "bash",
    "export": "somewhere",
    "to": "hf://someone/something",
}
# What a command cannot do without, though it has a default.
ALSO_NEEDED: dict[str, dict[str, Any]] = {
    "evaluate": {"teacher": "pong"},
    "export": {"teacher": "pong"},
    "audit": {"policy": "pong", "teacher": "pong"},
    "monitor fit": {"policy": "pong"},
    "monitor watch": {"policy": "pong", "play": True},
    "online": {"game": "pong"},
    "plan": {"game": "pong"},
    "teachers import": {"out": "teacher.safetensors"},
}


def rows(command: str) -> dict[str, list[str]]:
    """The cells of a command's table, by setting."""
    section = make_settings.settings_page().partition(f"\n## {command}\n")[2].partition("\n## ")[0]
    cells = [re.split(r" (?<!\\)\| ", line.strip("| ")) for line in section.splitlines() if line.startswith("| `")]
    return {setting.strip("`"): rest for setting, *rest in cells}


def nested(values: dict[str, Any]) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key, value in values.items():
        *path, name = key.split(".")
        section = mapping
        for part in path:
            section = section.setdefault(part, {})
        section[name] = value
    return mapping


def as_written(text: str) -> Any:
    """What a settings file means by it."""
    if text.startswith("["):
        return [parse_scalar(item) for item in text.strip("[]").split(", ")]
    return parse_scalar(text)


def test_the_pages_are_of_this_code() -> None:
    for path, text in make_settings.pages().items():
        assert path.read_text(encoding="utf-8") == text, "python docs/make_settings.py writes it anew"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_setting_has_a_row_and_the_defaults_are_those_of_the_program(command: str) -> None:
    config_class, table = COMMANDS[command], rows(command)
    assert list(table) == list(fields(config_class))
    required = {key for key, (_, default, _) in table.items() if default == "**required**"}
    given = {key: REQUIRED[key] for key in required}
    given |= ALSO_NEEDED.get(command, {})
    shown = {key: as_written(table[key][1].strip("`")) for key in table.keys() - required}
    assert from_mapping(config_class, nested(shown | given)) == from_mapping(config_class, nested(given))
    assert all(text for _, _, text in table.values())


def test_what_a_setting_may_be_is_spelled_out() -> None:
    assert rows("distill")["learner.batch_size"][0] == "a whole number, at least 1"
    assert rows("distill")["loss.weights"][0] == "`none`, `action_gap`, `entropy`"
    assert rows("distill")["epsilon"][0] == "a number from 0 to 1"
    spell = make_settings.spell_values
    assert spell(Field(str, many=True, one_or_many=True, optional=True)) == "text, or a list; or `null`"
    assert spell(Field(bool, many=True)) == "a list, each `true` or `false`"


def test_every_settings_file_is_in_the_gallery_with_its_command_and_what_it_takes() -> None:
    text = make_settings.configs_page()
    files = [path for path in (ROOT / "configs").rglob("*") if path.is_file() and path.suffix != ".md"]
    assert len(files) > 40
    for path in files:
        (row,) = re.findall(rf"^\| \[`[^`]+`\]\({path.relative_to(ROOT / 'configs')}\) \|(.+)$", text, re.MULTILINE)
        does, takes, command = (cell.strip() for cell in row.rstrip("|").split(" | "))
        assert len(does) > 20 and does.endswith("."), path
        lines = path.read_text().splitlines()
        assert [f"# Takes {takes}."] * bool(takes) == [line for line in lines if line.startswith("# Takes ")]
        assert command == (f"`{lines[0].removeprefix('# ')}`" if path.suffix == ".yaml" else "")


def test_the_galleries_pictures_are_of_files_that_there_are() -> None:
    pictures = re.findall(
        r"^\*\*\[`(.+)`\]\((.+)\)\*\*: .+\n\n!\[.+\]\((.+)\)$", make_settings.configs_page(), re.MULTILINE
    )
    assert len(pictures) == len(make_settings._PICTURES) >= 5
    for name, link, picture in pictures:
        assert name == link and (ROOT / "configs" / name).is_file() and (ROOT / "configs" / picture).is_file()
