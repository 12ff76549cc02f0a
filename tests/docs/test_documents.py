"""The documents say what is true: links, names, commands, options and figures in all Markdown files."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import re
import shlex
import string
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

import pd_jax
from pd_jax.config.commands import TABLE, Command, CommandGroup
from pd_jax.config.fields import fields
from pd_jax.config.loading import load_config
from pd_jax.system import own_modules

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PACKAGES = sorted(path.parent for path in (ROOT / "pd_jax").glob("*/__init__.py"))
MODULES = ("benchmarks", "pd_jax")
# Not settings: of our program itself, and of TensorBoard.
OTHERS_OPTIONS = {"--help", "--version", "--logdir"}
FIRST_OF_A_FENCE = re.compile(r"^ *```(\w*)$")


def documents() -> list[Path]:
    """All of the repository's, and none of an environment, a run or a cache that lies beside them."""
    found = list(ROOT.glob("*.md"))
    for folder in ("benchmarks", "configs", "docs", "notebooks", "pd_jax", "tests"):
        found += (ROOT / folder).rglob("*.md")
    return sorted(found)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


every_document = pytest.mark.parametrize("document", documents(), ids=name_of)


def split(document: Path) -> tuple[str, list[tuple[str, str]]]:
    """The text outside of fences, and ``(language, code)`` of every fence."""
    prose: list[str] = []
    fences: list[tuple[str, str]] = []
    inside: list[str] | None = None
    language = ""
    for line in document.read_text().splitlines():
        match = FIRST_OF_A_FENCE.match(line)
        if match and inside is None:
            language, inside = match.group(1), []
        elif match:
            fences.append((language, "\n".join(inside or ())))
            inside = None
        elif inside is None:
            prose.append(line)
        else:
            inside.append(line)
    assert inside is None, f"{name_of(document)}: a fence has no end"
    return "\n".join(prose), fences


def blocks(document: Path, language: str) -> list[str]:
    return [code for kind, code in split(document)[1] if kind == language]


def in_backticks(document: Path) -> list[str]:
    """What stands as code in the text; a line break in it is a space."""
    return [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", split(document)[0])]


def anchors(document: Path) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", split(document)[0], re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def find(dotted: str) -> Any:
    """A module, or what is in one."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        module = ".".join(parts[:length])
        try:
            found: Any = importlib.import_module(module)
        except ModuleNotFoundError as error:
            # Only if it is this very module that is not there.
            if error.name is None or not module.startswith(error.name):
                raise
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(dotted)


OF_A_CLUSTER = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}
"""Variables that command lines have from it."""


def command_lines(document: Path) -> Iterator[list[str]]:
    """The arguments of every ``pd-jax`` in a bash block."""
    for code in blocks(document, "bash"):
        for line in code.replace("\\\n", " ").replace("&&\n", "&& ").splitlines():
            words = shlex.split(string.Template(line).safe_substitute(OF_A_CLUSTER), comments=True)
            for place, word in enumerate(words):
                if word == "pd-jax" or word.endswith("/pd-jax"):
                    rest = words[place + 1 :]
                    ends = [end for end, other in enumerate(rest) if other in ("&&", ";", "|", "||", "&")]
                    yield rest[: ends[0]] if ends else rest


def settings_of(argv: list[str]) -> Any:
    name, *options = argv
    command = TABLE[name]
    if isinstance(command, CommandGroup):
        own, *options = options or [command.default]
        name, command = f"{name} {own}", command.commands[own]
    return load_config(command.settings, options, name)


def commands() -> Iterator[Command]:
    for command in TABLE.values():
        yield from command.commands.values() if isinstance(command, CommandGroup) else [command]


def options() -> set[str]:
    """Every option of every command, and the negatives of flags."""
    keys = {key for command in commands() for key in fields(command.settings)}
    spelled = {key.replace("_", "-") for key in keys}
    negatives = {".".join([*key.split(".")[:-1], f"no-{key.split('.')[-1]}"]) for key in spelled}
    return {"--config", own_modules.OPTION} | {f"--{key}" for key in spelled | negatives}


def test_the_front_page_is_short() -> None:
    assert len(README.read_bytes()) <= 14_000


def test_the_front_page_begins_with_the_main_job_and_the_tests() -> None:
    main_job, tests, *_ = blocks(README, "bash")
    assert main_job.endswith(".venv/bin/pd-jax distill --config configs/pong.yaml --out runs/pong")
    assert "ruff check" in tests and "ruff format --check" in tests and "mypy" in tests and "-m pytest" in tests


def test_the_front_page_has_one_python_block_of_at_most_twelve_lines() -> None:
    (block,) = blocks(README, "python")
    assert len([line for line in block.splitlines() if line.strip()]) <= 12


@every_document
def test_links_lead_somewhere(document: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^()\s]+)\)", split(document)[0]):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        is_there = target.exists() and target.is_relative_to(ROOT)
        if not is_there or (anchor and (target.suffix != ".md" or anchor not in anchors(target))):
            broken.append(link)
    assert broken == []


@every_document
def test_names_of_the_package_can_be_imported(document: Path) -> None:
    for code in in_backticks(document):
        if match := re.fullmatch(r"(pd_jax(?:\.\w+)+)(\(.*\))?", code):
            find(match.group(1))


@every_document
def test_modules_that_are_to_be_run_exist(document: Path) -> None:
    for name in re.findall(r"python -m\s+([\w.]+)", document.read_text()):
        if name.partition(".")[0] in MODULES:
            assert importlib.util.find_spec(name) is not None, name


@every_document
def test_command_lines_are_settings(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for words in command_lines(document):
        named, argv = own_modules.take_from(words)
        if named:
            # The settings name what these register.
            assert argv[0] in TABLE and {word for word in argv if word.startswith("--")} <= options()
        else:
            assert argv == ["--version"] or settings_of(argv) is not None


@every_document
def test_commands_and_options_exist(document: Path) -> None:
    known = options()
    for code in in_backticks(document):
        if match := re.match(r"pd-jax ([a-z-]+)", code):
            assert match.group(1) in (*TABLE, "--help", "--version"), code
        if "python -m" not in code and not code.startswith(("pip", "uvx", "tensorboard", "trackio", "XLA_FLAGS")):
            unknown = {option for option in re.findall(r"(?<![\w-])--[a-z][a-z.-]*", code)} - known - OTHERS_OPTIONS
            assert not unknown, code


@every_document
def test_tests_that_are_named_exist(document: Path) -> None:
    for code in in_backticks(document):
        if match := re.fullmatch(r"(tests/[\w/]+\.py)(?:::(\w+))?", code):
            text = (ROOT / match.group(1)).read_text()
            assert match.group(2) is None or f"def {match.group(2)}(" in text, code


@every_document
def test_python_is_python_and_names_what_there_is(document: Path) -> None:
    for block in blocks(document, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "pd_jax":
                find(f"pd_jax.{node.attr}")
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "pd_jax":
                for alias in node.names:
                    find(f"{node.module}.{alias.name}")


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_a_package_says_what_lives_in_it(package: Path) -> None:
    text = (package / "README.md").read_text()
    assert 10 <= len(text.splitlines()) <= 40
    modules = [path.name for path in package.glob("*.py") if path.name != "__init__.py"]
    folders = [path.name for path in package.iterdir() if path.is_dir() and path.name != "__pycache__"]
    linked = re.findall(r"\]\(([^()\s/]+)/?\)", text)
    assert sorted({*modules, *folders} - set(linked)) == []


def test_the_map_names_every_package() -> None:
    text = (ROOT / "pd_jax" / "README.md").read_text()
    named = re.findall(r"^\| \[`(\w+)/`\]", text, re.MULTILINE)
    assert sorted(named) == [package.name for package in PACKAGES]


def make_pictures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_pictures", ROOT / "docs" / "make_pictures.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules["make_pictures"] = module
    spec.loader.exec_module(module)
    return module


def test_the_picture_and_the_front_page_tell_the_same_way_of_a_frame() -> None:
    way = [stop.module for stop in make_pictures().WAY]
    assert len(way) <= 8
    paths = [f"pd_jax/{module.replace('.', '/')}.py" for module in way]
    for module in way:
        importlib.import_module(f"pd_jax.{module}")
    section = README.read_text().partition("## How it is built")[2].partition("\n## ")[0]
    assert re.findall(r"^\| \[[^\]]+\]\(([^)]+)\)", section, re.MULTILINE) == paths
    # The file says which way it shows.
    assert " > ".join(way) in (ROOT / "docs" / "pictures" / "frame_to_gradient.svg").read_text().replace("&gt;", ">")


def row_of(name: str, game: str = "") -> str:
    rows = [line for line in README.read_text().splitlines() if f"benchmarks/results/{name}.json" in line]
    (row,) = [line for line in rows if game.capitalize() in line][:1]
    return row


def results(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def test_the_front_pages_scores_are_those_of_the_results() -> None:
    pong = results("pong_net2")["results"]["games"]["pong"]
    for who in ("student", "teacher"):
        assert f"{who} {pong[f'{who}_score']:.1f} ± {pong[f'{who}_standard_error']:.1f}" in row_of("pong_net2")
    assert f"{pong['percent_of_teacher']:.1f} %" in row_of("pong_net2")
    for row in results("losses")["results"]["rows"]:
        assert f"{row['loss'].upper()} {row['percent_of_teacher']:.1f} %" in row_of("losses")
    percents: dict[tuple[str, str], list[float]] = {}
    for row in results("compression")["results"]["rows"]:
        percents.setdefault((row["game"], row["network"]), []).append(row["percent_of_teacher"])
    for game in ("pong", "freeway"):
        one, two, three = (f"{np.mean(percents[game, network]):.1f}" for network in ("net1", "net2", "net3"))
        assert f"| {one}, {two} and {three} % of the teacher (three seeds each" in row_of("compression", game)


def test_the_citation_and_the_changes_are_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == pd_jax.__version__ and citation["license"] == "Apache-2.0"
    assert "1511.06295" in citation["references"][0]["url"]
    assert re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == pd_jax.__version__
