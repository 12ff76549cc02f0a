"""``details.json``: written whole, read back, and refused in one line where it is something else."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pd_jax.errors import UserError
from pd_jax.evaluation.comparison import Comparison
from pd_jax.runs.details import Details, TaughtBy, read_details, versions
from pd_jax.runs.lineage import code
from support.made_pages import comparison


@pytest.fixture
def path(tmp_path: Path) -> Path:
    teacher = TaughtBy(game="pong", name="pong-dqn", source="pong", sha256="ab" * 32)
    Details.of([teacher], {"pong": comparison()}).write(tmp_path / "details.json")
    return tmp_path / "details.json"


def test_what_is_written_is_read_back(path: Path) -> None:
    details = read_details(path)
    assert details is not None
    assert details.teachers == (TaughtBy("pong", "pong-dqn", "pong", "ab" * 32),)
    # A checkout has a revision, and an installed package has none.
    assert dict(details.code) == {name: value for name, value in code().items() if value is not None}
    assert details.versions["python"] == platform.python_version()
    assert details.versions["numpy"] == np.__version__ and details.versions == versions()
    (found,) = details.games.values()
    assert isinstance(found, Comparison)
    np.testing.assert_array_equal(found.confusion, comparison().confusion)
    assert [name.name for name in path.parent.iterdir()] == ["details.json"]


def test_a_run_from_before_there_was_one_has_none(tmp_path: Path) -> None:
    assert read_details(tmp_path / "details.json") is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format_version": 2}, "is in format 2, and this pd_jax reads 1"),
        ({"format_version": None}, "is in format null, and this pd_jax reads 1"),
        ({"games": []}, "games: a list is not a mapping"),
        ({"games": {"pong": 1}}, "games.pong: 1 is not a mapping"),
        ({"teachers": {}}, "teachers: a mapping is not a list"),
        ({"teachers": [{"game": "pong"}]}, "teachers: a mapping is not a teacher"),
        ({"code": "here"}, "code: 'here' is not a mapping"),
    ],
)
def test_anything_else_is_one_line(path: Path, changes: dict[str, Any], says: str) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError, match=says) as caught:
        read_details(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 100_000, '{"a": NaN'])
def test_what_is_no_such_file_is_one_line(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_details(path)
    assert "\n" not in str(caught.value)
