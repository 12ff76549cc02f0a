"""The Python on the front page, run as a reader would: as it stands, in a directory of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """What the first block of Python prints, and the directory that it ran in."""
    match = re.search(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert match is not None
    directory = tmp_path_factory.mktemp("quickstart")
    ended = subprocess.run(
        [sys.executable, "-c", match[1] + "\nprint(actions.shape, actions.dtype)\n"],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr and "Warning" not in ended.stderr
    return ended.stdout.splitlines(), directory


def test_it_prints_two_scores_and_the_student_is_small_and_good(printed: tuple[list[str], Path]) -> None:
    *scores, actions = printed[0]
    found = [re.fullmatch(r"([\d,]+) parameters score ([\d.]+)", line) for line in scores]
    (teacher_size, teacher), (size, student) = [(int(m[1].replace(",", "")), float(m[2])) for m in found if m]
    assert teacher_size == 5 * 128 + 129 * 128 + 129 * 2 + 4 * 128 and size < teacher_size / 50
    # Random play scores 22; the student of one seed has 490 or so, and arithmetic differs between machines.
    assert teacher == 500.0 and student > 300.0
    assert actions == "(8,) int32"


def test_it_leaves_a_run(printed: tuple[list[str], Path]) -> None:
    run = printed[1] / "runs" / "quickstart"
    assert {"config.yaml", "summary.json", "report.html", "progress.png", "checkpoints"} <= {
        path.name for path in run.iterdir()
    }
    summary = json.loads((run / "summary.json").read_text())
    assert list(summary["games"]) == ["cartpole"] and summary["student_parameters"] == 226
