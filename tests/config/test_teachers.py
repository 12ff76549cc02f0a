"""The settings of ``pd-jax teachers``, and arguments without a name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_jax.config.commands import TEACHERS
from pd_jax.config.fields import fields
from pd_jax.config.loading import load_config
from pd_jax.config.teachers import ImportTeacherConfig, ListTeachersConfig, ShowTeacherConfig
from pd_jax.errors import UserError

IMPORT = ["agent.zip", "--game", "pong", "--out", "x.safetensors"]


def refusal(config_class: Any, argv: list[str]) -> str:
    with pytest.raises(UserError) as refused:
        load_config(config_class, argv, "teachers")
    return str(refused.value)


@pytest.mark.parametrize(
    "argv",
    [
        ["pong", "--states", "30", "--json"],
        ["--states", "30", "pong", "--json"],
        ["--json", "pong", "--states=30"],
        ["--name-or-file", "pong", "--states", "30", "--json"],
    ],
)
def test_an_argument_without_a_name_may_stand_anywhere(argv: list[str]) -> None:
    expected = ShowTeacherConfig(name_or_file="pong", states=30, json=True)
    assert load_config(ShowTeacherConfig, argv, "teachers show") == expected


def test_an_argument_without_a_name_is_taken_as_it_is() -> None:
    for text in ("-x", "007", "null", "a=b", "-"):
        assert load_config(ShowTeacherConfig, [text], "teachers show").name_or_file == text


def test_it_can_come_from_a_file_and_the_command_line_overrides_it(tmp_path: Path) -> None:
    path = tmp_path / "show.yaml"
    path.write_text("name_or_file: pong\nstates: 5\n")
    argv = ["--config", str(path)]
    assert load_config(ShowTeacherConfig, argv, "teachers show").name_or_file == "pong"
    assert load_config(ShowTeacherConfig, [*argv, "acrobot"], "teachers show") == ShowTeacherConfig(
        name_or_file="acrobot", states=5
    )


@pytest.mark.parametrize(
    ("config_class", "argv", "message"),
    [
        (ShowTeacherConfig, [], "name_or_file: missing; set it in the configuration file or give NAME_OR_FILE"),
        (ShowTeacherConfig, ["a", "b"], "'b': unexpected argument; settings are given as --name value"),
        (ShowTeacherConfig, [""], "NAME_OR_FILE: is empty"),
        (ShowTeacherConfig, ["a", "--json", "b"], "--json: takes no value, got 'b'"),
        (ShowTeacherConfig, ["a", "--states", "-1"], "--states: -1 is out of range (at least 0)"),
        (ShowTeacherConfig, ["a", "--plot", "a.safetensors"], "--plot: 'a.safetensors' does not end in .png"),
        (ListTeachersConfig, ["pong"], "'pong': unexpected argument; settings are given as --name value"),
        (ListTeachersConfig, ["--jsn"], "--jsn: no such option; did you mean '--json'?"),
        (ImportTeacherConfig, IMPORT[1:], "file: missing; set it in the configuration file or give FILE"),
        (ImportTeacherConfig, IMPORT[:3], "out: missing; set it in the configuration file or give --out"),
        (ImportTeacherConfig, [*IMPORT, "--out", "x.zip"], "--out: 'x.zip' does not end in .safetensors"),
        (
            ImportTeacherConfig,
            [*IMPORT, "--evaluate-episodes", "1"],
            "--evaluate-episodes: 1 episode says nothing about how sure a score is; at least 2, or 0 for none",
        ),
    ],
)
def test_bad_settings_are_refused(config_class: Any, argv: list[str], message: str) -> None:
    assert refusal(config_class, argv) == message


def test_an_unknown_game_is_refused_with_the_nearest() -> None:
    message = refusal(ImportTeacherConfig, [*IMPORT, "--game", "pogn"])
    assert message.startswith("--game: 'pogn' is not a game; did you mean 'pong'? (")


@pytest.mark.parametrize("command", TEACHERS.commands)
def test_help_lists_every_setting(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        load_config(TEACHERS.commands[command].settings, ["--help"], f"teachers {command}")
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert f"usage: pd-jax teachers {command} " in out
    for key, field in fields(TEACHERS.commands[command].settings).items():
        assert (key.upper() if field.positional else "--" + key.replace("_", "-")) in out


WORDS = "--config --json --states --plot --out --game --seed=1 pong x.png x.safetensors 3 -".split()
TOKENS = st.sampled_from(WORDS) | st.text(max_size=6)


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(sorted(TEACHERS.commands)), st.lists(TOKENS, max_size=6))
def test_any_command_line_is_settings_or_a_one_line_error(command: str, tokens: list[str]) -> None:
    try:
        assert isinstance(
            load_config(TEACHERS.commands[command].settings, tokens, command), TEACHERS.commands[command].settings
        )
    except UserError as error:
        assert str(error).isprintable() and 0 < len(str(error)) < 1000  # noqa: PT017
    except SystemExit as end:
        assert end.code == 0 and {"-h", "--help"} & set(tokens)  # noqa: PT017
