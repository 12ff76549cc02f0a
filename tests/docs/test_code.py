"""The code in ``docs/``, run: a page at a time, in a directory of its own, commands at small sizes.

CI runs the pages of ``IN_CI``; ``-m slow`` runs all, and the notebooks where the extra ``docs`` is installed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if path.parent != DOCS / "reference")
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
IN_CI = ("docs/tutorials/first_student.md", "docs/tutorials/your_own_loss.md")
"""Named in ``.ci/run``: the first page that anybody runs, and one that uses the library."""
BLOCK = re.compile(
    r"(?:^ *<!-- (?P<comment>[^>]*) -->\n)?^(?P<indent> *)```(?P<language>bash|python)\n(?P<code>.*?)^ *```",
    re.MULTILINE | re.DOTALL,
)
NOT_RUN = re.compile(r"not run: .{10,}")
# An export or a monitor of a policy that has hardly learnt may find that another is better: its exit code 3.
MAY_END_WITH_3 = ("renew", "monitor watch")

# What a page's Python takes from its readers.
BEFORE: dict[str, str] = {
    "docs/audit.md": """
import pd_jax
from pd_jax.config import AuditConfig
teacher = pd_jax.load_teacher("cartpole")
""",
    "docs/export.md": """
import os, sys
import numpy as np
os.chdir("exports/pong")
sys.path.insert(0, os.getcwd())
frames, is_first = np.zeros((1, 84, 84, 4), np.uint8), np.ones(1, bool)
first_screens = np.zeros((1, 1, 210, 160), np.uint8)
last_two_screens = np.zeros((1, 2, 210, 160), np.uint8)
""",
    "docs/monitor.md": """
import types
import numpy as np
import pd_jax
student = pd_jax.load_student("runs/pong")
fitted = __import__("json").load(open("thresholds.json"))["policy"]["parameters"]
policy = types.SimpleNamespace(metadata={"hashes": {"parameters": fitted}})
outputs, actions, is_first = np.zeros((1, 6), np.float32), np.zeros(1, np.int32), np.ones(1, bool)
frames = np.zeros((1, 84, 84, 4), np.uint8)
""",
    "docs/runs_and_resuming.md": """
import threading
import pd_jax
from pd_jax.config import DistillConfig, ScheduleConfig, StudentConfig
schedule = ScheduleConfig(rounds=2, steps_per_round=1024, updates_per_round=20)
config = DistillConfig(teacher="cartpole", out="runs/threaded", student=StudentConfig(network="mlp"), schedule=schedule)
""",
}

PROGRAM = """#include "exports/small/pong.h"
static uint8_t frames[84 * 84 * 4];
int main(void) { float outputs[PONG_ACTIONS]; return pong_act(frames, outputs) >= PONG_ACTIONS; }
"""


class Block(NamedTuple):
    language: str
    code: str
    comment: str

    @property
    def is_run(self) -> bool:
        return not self.comment.startswith("not run")


def blocks_of(page: Path) -> list[Block]:
    found = []
    for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
        lines = [line.removeprefix(match["indent"]) for line in match["code"].splitlines()]
        found.append(Block(match["language"], "\n".join(lines), match["comment"] or ""))
    return found


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


WITH_CODE = [page for page in PAGES if any(block.is_run for block in blocks_of(page))]


def small_commands(folder: Path) -> dict[str, str]:
    """An environment whose ``pd-jax`` is that of `support.small`."""
    program = folder / "pd-jax"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m support.small "$@"\n')
    program.chmod(0o755)
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": paths}


def run_bash(code: str, folder: Path, environment: dict[str, str]) -> None:
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    allowed = {0, 3} if any(f"pd-jax {command}" in code for command in MAY_END_WITH_3) else {0}
    assert ended.returncode in allowed, f"{code}\n{ended.stdout[-1500:]}\n{ended.stderr[-1500:]}"
    assert "Traceback" not in ended.stderr, ended.stderr


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return small_commands(tmp_path_factory.mktemp("bin"))


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory, commands: dict[str, str]) -> Path:
    """What readers of the how-to guides have already: runs of Pong and CartPole, an export, a better teacher, a log."""
    folder = tmp_path_factory.mktemp("readers")
    run_bash("pd-jax distill --config pong --out runs/pong", folder, commands)
    run_bash("pd-jax distill --config cartpole --out runs/mine", folder, commands)
    run_bash("pd-jax export --run runs/pong --out exports/pong", folder, commands)
    for name, teacher in {"better": "pong", "breakout": "breakout", "freeway": "freeway"}.items():
        shutil.copyfile(ROOT / "pd_jax" / "teachers" / "zoo" / f"{teacher}.safetensors", folder / f"{name}.safetensors")
    shutil.copytree(folder / "runs" / "mine", folder / "runs" / "quick-losses")
    (folder / "policy.c").write_text(PROGRAM)
    decisions = [{"outputs": [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]} for _ in range(300)]
    (folder / "decisions.jsonl").write_text("".join(f"{json.dumps(decision)}\n" for decision in decisions))
    return folder


def run_page(page: Path, folder: Path, commands: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Runs a page's blocks in order, its Python in one namespace; returns how many there were."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    names: dict[str, Any] = {"__name__": "__main__"}
    is_first = True
    blocks = [block for block in blocks_of(page) if block.is_run]
    for block in blocks:
        if block.language == "bash":
            run_bash(block.code, folder, commands)
        else:
            if is_first:
                exec(BEFORE.get(name_of(page), ""), names)
                is_first = False
            exec(compile(block.code, name_of(page), "exec"), names)
    return len(blocks)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_code_that_is_not_run_says_why(page: Path) -> None:
    assert all(block.is_run or NOT_RUN.fullmatch(block.comment) for block in blocks_of(page))


@pytest.mark.parametrize("page", WITH_CODE, ids=name_of)
def test_nothing_that_is_run_installs_or_sends(page: Path) -> None:
    run = "\n".join(block.code for block in blocks_of(page) if block.is_run)
    assert re.search(r"\bpip install|\bpipx\b|\buvx?\b|\bdocker\b|auth login|--send\b|\bsrun\b", run) is None


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE, ids=name_of)
def test_a_page_runs_from_its_first_block_to_its_last(
    page: Path, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if page.parent != DOCS / "tutorials":
        # Tutorials begin at nothing.
        shutil.copytree(request.getfixturevalue("readers"), tmp_path, dirs_exist_ok=True)
    assert run_page(page, tmp_path, request.getfixturevalue("commands"), monkeypatch) > 0


def test_what_ci_runs_is_there_and_is_named_there() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    for page in IN_CI:
        assert ROOT / page in WITH_CODE and page in ci


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("nbclient") is None, reason="pip install '.[docs]'")
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name_of)
def test_a_notebook_runs(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    # Set by whoever imports EnvPool without pd_jax.
    monkeypatch.delenv("MPLBACKEND", raising=False)
    cells = nbformat.read(notebook, as_version=4)
    nbformat.validate(cells)
    NotebookClient(cells, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in cells.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    printed = "".join(output.get("text", "") for output in outputs if output.get("name") == "stdout")
    assert printed.strip()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name_of)
def test_notebooks_are_kept_without_outputs(notebook: Path) -> None:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if "outputs" in cell)
