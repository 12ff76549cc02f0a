"""Any possible settings are the same from a file, from the command line, and by tyro alone."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tyro
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_jax.config.commands import COMMANDS
from pd_jax.config.fields import Field, fields
from pd_jax.config.loading import from_mapping, load_config, read_config, to_mapping, to_yaml
from pd_jax.errors import UserError

# Of spaces, only the plain one can be printed.
NAMES = st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" "), min_size=1, max_size=12)


def possible(field: Field) -> st.SearchStrategy[Any]:
    if field.positional:
        # A name that begins with a dash is an option to tyro.
        names = NAMES.filter(lambda name: not name.startswith(("-", "~")))
        return st.lists(names, min_size=1, max_size=5).map(tuple) if field.many else names
    if field.many:
        items = possible(dataclasses.replace(field, many=False, optional=False))
        # As above.
        items = items.filter(lambda item: not str(item).startswith("-"))
        return st.lists(items, min_size=1, max_size=5).map(tuple)
    if field.choices:
        values: st.SearchStrategy[Any] = st.sampled_from(field.choices)
    elif field.kind is bool:
        values = st.booleans()
    elif field.kind is str:
        # That ~ stands for the home directory is for test_fields.py.
        values = NAMES.filter(lambda name: name not in ("None", "null", "Null", "NULL") and not name.startswith("~"))
    elif field.kind is int:
        assert field.bounds is not None
        values = st.integers(int(field.bounds.low), int(field.bounds.high))
    else:
        assert field.bounds is not None
        values = st.floats(field.bounds.low, field.bounds.high)
    return values | st.none() if field.optional else values


@st.composite
def changes(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A command and possible values of some of its settings by dotted key, all required ones among them."""
    command = draw(st.sampled_from(sorted(COMMANDS)))
    known = fields(COMMANDS[command])
    required = [key for key, field in known.items() if field.required]
    keys = draw(st.lists(st.sampled_from(sorted(known)), max_size=8, unique=True))
    values = {key: draw(possible(known[key])) for key in dict.fromkeys(required + keys)}
    if command == "train-teacher":
        # Options of the other algorithm are refused.
        other = "dqn." if values.get("algorithm", "pqn") == "pqn" else "pqn."
        values = {key: value for key, value in values.items() if not key.startswith(other)}
    return command, values


def default_of(config_class: type, key: str) -> Any:
    """What a setting is where it is not given."""
    section, *names = key.split(".")
    field = next(field for field in dataclasses.fields(config_class) if field.name == section)
    value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    return functools.reduce(getattr, names, value)


def nested(values: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = key.split(".")
        functools.reduce(lambda branch, section: branch.setdefault(section, {}), sections, tree)[name] = value
    return tree


def as_argv(command: str, values: dict[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        field = fields(COMMANDS[command])[key]
        if field.positional:
            # Left out, it is null.
            yield from value if field.many else () if value is None else (value,)
            continue
        option = "--" + key.replace("_", "-")
        section, dot, name = option[2:].rpartition(".")
        # Of a switch that may be null, tyro makes an option with a value.
        if isinstance(value, bool) and not field.optional:
            yield option if value else f"--{section}{dot}no-{name}"
        elif isinstance(value, tuple):
            yield option
            yield from map(str, value)
        else:
            yield f"{option}={value}"


@settings(deadline=None, max_examples=15)
@given(changes())
def test_file_and_command_line_and_tyro_alone_give_the_same_settings(change: tuple[str, dict[str, Any]]) -> None:
    command, values = change
    config_class, argv = COMMANDS[command], list(as_argv(command, values))
    try:
        config = from_mapping(config_class, nested(values))
    except UserError as error:  # Possible alone, impossible together: the same is said of the options.
        with pytest.raises(UserError) as other:
            load_config(config_class, argv, command)
        # Options are spelt with dashes, and what needs no name in capitals.
        said = str(other.value).lstrip("-").replace("-", "_").lower()
        assert said == str(error).replace("-", "_").lower()  # noqa: PT017
        return
    # What holds anyway may be said.
    idle = [
        key
        for key, value in values.items()
        if value is not None
        and value != default_of(config_class, key)
        and any(one.covers(key) for one in config.idle())
    ]
    if idle and not values.get("resume"):  # What was typed is not left without effect.
        with pytest.raises(UserError) as other:
            load_config(config_class, argv, command)
        assert str(other.value).partition(": ")[0] == "--" + idle[0].replace("_", "-")
        return
    assert config == load_config(config_class, argv, command)
    assert config == tyro.cli(config_class, args=argv)
    for key, value in values.items():
        assert functools.reduce(getattr, key.split("."), config) == value


@settings(deadline=None, max_examples=60)
@given(changes())
def test_what_is_written_is_read_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, change: tuple[str, dict[str, Any]]
) -> None:
    command, values = change
    try:
        config = from_mapping(COMMANDS[command], nested(values))
    except UserError:
        return
    path = tmp_path_factory.getbasetemp() / "config.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert read_config(COMMANDS[command], path) == config
    assert load_config(COMMANDS[command], ["--config", str(path)], command) == config
    assert from_mapping(COMMANDS[command], to_mapping(config)) == config
    assert repr(read_config(COMMANDS[command], path)) == repr(config)


KEYS = sorted({part for config_class in COMMANDS.values() for key in fields(config_class) for part in key.split(".")})
WORDS = st.sampled_from(["net2", "kl", "pong", "cartpole", "64", "0", "-1", "1e-3", "None", "null", ".nan", "true"])
JUNK = WORDS | NAMES | st.none() | st.booleans() | st.integers() | st.floats() | st.integers(1, 9)
TREES = st.recursive(
    JUNK,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | NAMES | st.integers() | st.none(), inner, max_size=4)
    ),
    max_leaves=12,
)
TOKENS = st.one_of(
    WORDS,
    st.text(max_size=8),
    st.sampled_from(["--config", "--config=configs", "--help", "-h", "--", "-", "--no-resume", "--resume=1", "="]),
    st.sampled_from(sorted({key for config_class in COMMANDS.values() for key in fields(config_class)})).flatmap(
        lambda key: st.sampled_from([f"--{key}", f"--{key.replace('_', '-')}", f"--{key}=1", f"--{key}=", f"--{key}x"])
    ),
)


def assert_one_line(error: UserError) -> None:
    assert str(error).isprintable()
    assert 0 < len(str(error)) < 1000


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(sorted(COMMANDS)), TREES)
def test_any_yaml_is_settings_or_a_one_line_error(
    tmp_path_factory: pytest.TempPathFactory, command: str, tree: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "junk.yaml"
    path.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    try:
        assert isinstance(read_config(COMMANDS[command], path), COMMANDS[command])
    except UserError as error:
        assert_one_line(error)


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(sorted(COMMANDS)), st.booleans(), st.lists(TOKENS, max_size=6))
def test_any_command_line_is_settings_or_a_one_line_error_or_help(
    command: str, complete: bool, tokens: list[str]
) -> None:
    required = [
        token for key, field in fields(COMMANDS[command]).items() if field.required for token in (f"--{key}", "x")
    ]
    try:
        config = load_config(COMMANDS[command], required * complete + tokens, command)
        assert isinstance(config, COMMANDS[command])
    except UserError as error:
        assert_one_line(error)
    except SystemExit as stop:
        assert stop.code == 0  # noqa: PT017
        assert {"-h", "--help"} & set(tokens)


@pytest.mark.parametrize("spelling", [["--resume"], ["--resume", "auto"], ["--resume=auto"], ["--config", "auto.yaml"]])
def test_resume_auto_says_what_resume_says(
    spelling: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "auto.yaml").write_text("resume: auto\n")
    for command in ("distill", "sweep", "collect", "train-teacher"):
        required = ["--game", "pong"] if command == "train-teacher" else ["--teacher", "pong"]
        config = load_config(COMMANDS[command], [*required, *spelling, "--out", "run", "--seed", "3"], command)
        assert (config.resume, config.out, config.seed) == (True, "run", 3)
    with pytest.raises(UserError, match=r"--resume: takes no value, got 'never'"):
        load_config(COMMANDS["distill"], ["--resume", "never"], "distill")
