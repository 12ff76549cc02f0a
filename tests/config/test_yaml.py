"""YAML as settings use it: YAML 1.2 scalars, and no way to hang, blow up or silently lose a key."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pd_jax.config.yaml import MAX_FILE_BYTES, parse_scalar, read_yaml, write_yaml
from pd_jax.errors import UserError
from support.commands import ordinary_user, public_directory


def written(directory: Path, content: str | bytes) -> Path:
    path = directory / "x.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# YAML 1.2.2, section 10.3.2 (core schema); PyYAML's YAML 1.1 reads those marked differently.
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("null", None),
        ("~", None),
        ("true", True),
        ("FALSE", False),
        ("yes", "yes"),  # 1.1: True
        ("no", "no"),  # 1.1: False
        ("on", "on"),  # 1.1: True
        ("0", 0),
        ("-19", -19),
        ("010", 10.0),  # 1.1: 8
        ("1e-4", 1e-4),  # 1.1: text
        ("2.5E+3", 2500.0),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("12:30", "12:30"),  # 1.1: 750
        ("2024-01-02", "2024-01-02"),  # 1.1: a date
        ("1.2.3", "1.2.3"),
        ("0x10", "0x10"),
        ("<<", "<<"),  # 1.1: a merge key
    ],
)
def test_scalars_are_yaml_1_2(tmp_path: Path, text: str, value: Any) -> None:
    read = read_yaml(written(tmp_path, f"key: {text}\n"))["key"]
    assert (type(read), read) == (type(value), value)
    assert (type(parse_scalar(text)), parse_scalar(text)) == (type(value), value)


def test_python_names_and_digit_groups_are_understood_too() -> None:
    assert parse_scalar("None") is None
    assert parse_scalar("54_000") == 54_000
    assert parse_scalar("1_0.5e1") == 105.0
    assert [parse_scalar(text) for text in ("_1", "1_", "1__0")] == ["_1", "1_", "1__0"]
    assert math.isnan(parse_scalar(".nan"))


@given(st.floats() | st.integers(-(10**24), 10**24))
def test_numbers_are_read_as_python_prints_them(number: float) -> None:
    text = repr(number).replace("inf", ".inf").replace("nan", ".nan")
    read = parse_scalar(text)
    assert type(read) is type(number)
    assert read == number or math.isnan(number)


@given(st.text(max_size=40))
@example("1" * 5000)
def test_any_text_parses_to_a_scalar(text: str) -> None:
    assert parse_scalar(text) is None or isinstance(parse_scalar(text), bool | int | float | str)


PRINTABLE = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=30)
SCALARS = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False) | PRINTABLE


@given(st.dictionaries(PRINTABLE, SCALARS | st.dictionaries(PRINTABLE, SCALARS) | st.lists(SCALARS), min_size=1))
@example({"out": "1e5", "data": "None", "yes": "no", "x": "=", "y": "null", "z": "010", "<<": "!a &b *c"})
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, mapping: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "written.yaml"
    path.write_text(write_yaml(mapping), encoding="utf-8")
    assert read_yaml(path) == mapping
    assert list(read_yaml(path)) == list(mapping)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("a: 1\nb: 2\na: 3\n", " line 3: key 'a' is given twice"),
        ("a: {b: 1, b: 2}\n", " line 1: key 'b' is given twice"),
        ("a: 1\na\n", " line 3: while scanning a simple key, could not find expected ':'"),
        ("a: [1, 2\n", " line 2: while parsing a flow sequence, expected ',' or ']', but got '<stream end>'"),
        ("a: b: c\n", " line 1: mapping values are not allowed here"),
        ("a: &x 1\nb: *x\n", " line 2: alias *x is not allowed"),
        ("a: !!python/name:os.abort\n", " line 1: tag tag:yaml.org,2002:python/name:os.abort is not allowed"),
        ("a: !!int x\n", " line 1: tag tag:yaml.org,2002:int is not allowed"),
        ("[1]: 2\n", " line 1: a key must be a word"),
        ("? {a: 1}\n: 2\n", " line 1: a key must be a word"),
        ("a: 1\n---\nb: 2\n", " line 2: expected a single document in the stream, but found another document"),
        ("", " holds no settings"),
        ("# nothing\n", " holds no settings"),
        ("- a\n- b\n", " holds a list, not a mapping of settings (`key: value` lines)"),
        ("pong\n", " holds 'pong', not a mapping of settings (`key: value` lines)"),
        (b"\xff\xfe\x00", " is not UTF-8 text (byte 0)"),
        (b"a: \x07\n", " is not YAML (unacceptable character #x0007: special characters are not allowed)"),
        ("[" * 3000, " is nested too deeply"),
        ("a: 1\n" + "#" * MAX_FILE_BYTES, " is larger than 64 KiB, too large for settings"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path: Path, content: str | bytes, problem: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(UserError) as error:
        read_yaml(path)
    assert str(error.value) == f"{path}:{problem}"


def test_aliases_of_aliases_are_refused_before_they_are_expanded(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 3)]
    path = written(tmp_path, "\n".join(lines))
    with pytest.raises(UserError, match=r"line 2: alias \*a0 is not allowed$"):
        read_yaml(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pong.yaml").write_text("a: 1\n")
    os.mkfifo(tmp_path / "pipe")
    cases = {
        tmp_path: "is a directory, not a YAML file",
        tmp_path / "pipe": "is not a regular file, not a YAML file",
        tmp_path / "pogn.yaml": "no such file; did you mean 'pong.yaml'?",
        tmp_path / "nowhere" / "x.yaml": "no such file",
        tmp_path / "pong.yaml" / "x": "no such file",
        tmp_path / ("x" * 100): "no such file",
    }
    for path, problem in cases.items():
        with pytest.raises(UserError) as error:
            read_yaml(path)
        assert str(error.value) == f"{path}: {problem}"
    for name, message in {
        "a\0b": "'a\\x00b': is not the name of a file",
        "a\nb": "'a\\nb': no such file",
        "\ud800": "'\\ud800': is not the name of a file",
        "": "'': is a directory, not a YAML file",
        "x" * 300: f"'{'x' * 57}...': cannot be read (File name too long)",
    }.items():
        with pytest.raises(UserError) as error:
            read_yaml(name)
        assert str(error.value) == message


def test_an_unreadable_file_is_refused() -> None:
    with public_directory() as directory:
        path = written(directory, "a: 1\n")
        path.chmod(0)
        with ordinary_user(), pytest.raises(UserError, match=r"x\.yaml: cannot be read \(Permission denied\)$"):
            read_yaml(path)


def test_a_byte_order_mark_and_a_link_are_fine(tmp_path: Path) -> None:
    path = written(tmp_path, b"\xef\xbb\xbfa: 1\n")
    (tmp_path / "link.yaml").symlink_to(path)
    assert read_yaml(tmp_path / "link.yaml") == {"a": 1}


YAML_BITS = st.sampled_from(
    ["a", ": ", "\n", "- ", "  ", "[", "]", "{", "}", "&a ", "*a", "!!int ", "|", ">", "'", '"']
)


@given(st.binary(max_size=60) | st.lists(YAML_BITS | st.text(max_size=3), max_size=20).map("".join))
def test_any_bytes_are_a_mapping_or_a_one_line_error(
    tmp_path_factory: pytest.TempPathFactory, content: str | bytes
) -> None:
    data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    path = written(tmp_path_factory.getbasetemp(), data)
    try:
        assert isinstance(read_yaml(path), dict)
    except UserError as error:
        assert str(error).isprintable()  # noqa: PT017
