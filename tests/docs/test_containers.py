"""The container files: what they copy exists and is enough, and who builds and runs them gets what the project says."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OLDEST = PROJECT["requires-python"].removeprefix(">=")


def instructions() -> list[tuple[str, str]]:
    """``(word, rest)`` of each, a continued one in one line."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines]


def of(word: str) -> list[str]:
    return [rest for name, rest in instructions() if name == word]


def copied() -> dict[str, str]:
    """What is copied out of the repository, and whereto; a folder's contents go into the folder that is named."""
    words = [shlex.split(rest) for rest in of("COPY") if "--from" not in rest]
    return {
        source: target if (ROOT / source).is_dir() else f"{target}{Path(source).name}"
        for *sources, target in words
        for source in sources
    }


def is_ignored(path: str) -> bool:
    """Whether .dockerignore keeps it out: the last line that fits says so."""
    ignored = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.lstrip("!")
        if line and not line.startswith("#") and (fnmatch.fnmatch(path, pattern) or path.startswith(f"{pattern}/")):
            ignored = not line.startswith("!")
    return ignored


def test_what_is_copied_is_there_and_nothing_else_is_sent() -> None:
    assert all((ROOT / source).exists() and not is_ignored(source) for source in copied())
    there = {path.relative_to(ROOT).as_posix() for folder in (ROOT, ROOT / "docs") for path in folder.iterdir()}
    assert {name for name in there if not is_ignored(name)} == set(copied())
    assert is_ignored("runs/pong/summary.json") and is_ignored(".git") and is_ignored("pd_jax/config/__pycache__")


def test_what_is_copied_is_enough_to_build_from(tmp_path: Path) -> None:
    for source, target in copied().items():
        (tmp_path / target).parent.mkdir(exist_ok=True)
        copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
        copy(ROOT / source, tmp_path / target)  # type: ignore[operator]
    code = f"from hatchling.build import build_wheel; print(build_wheel({str(tmp_path)!r}))"
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    with zipfile.ZipFile(tmp_path / ended.stdout.split()[-1]) as wheel:
        assert "pd_jax/configs/pong.yaml" in wheel.namelist()


def test_pythons_and_extras_are_those_of_the_project() -> None:
    python, extra = of("ARG")
    assert python == f"PYTHON={OLDEST}"
    assert extra == 'EXTRA=""'
    # Both stages, or what is built for one Python is run by another.
    images = [image.split()[0] for image in of("FROM")]
    assert len(images) == 2 and set(images) == {"python:${PYTHON}-slim-bookworm"}
    text = (ROOT / "Dockerfile").read_text()
    assert "-c requirements.lock" in text
    for named in re.findall(r"EXTRA=(\w+)", text):
        assert named in PROJECT["optional-dependencies"]


def test_it_runs_the_program_as_somebody_who_is_not_root() -> None:
    (command,), (user,) = of("ENTRYPOINT"), of("USER")
    assert json.loads(command) == list(PROJECT["scripts"])
    # A number: whoever runs it need not know a name.
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    order = [word for word, _ in instructions()]
    # Nothing is installed by it, and what it runs is run by it.
    assert "RUN" not in order[order.index("USER") :] and order.index("USER") < order.index("ENTRYPOINT")
    assert not re.search(r"curl|wget|sudo|chmod 777|:latest", (ROOT / "Dockerfile").read_text())


def test_the_development_container_is_set_up_as_contributing_says() -> None:
    settings = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert settings["image"].rpartition(":")[2].partition("-")[0] == OLDEST
    (set_up, *_) = re.findall(r"```bash\n(.*?)\n```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    assert settings["postCreateCommand"].startswith(set_up)
