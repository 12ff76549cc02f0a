"""Settings files by name, in a clone and in a wheel."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pd_jax.config import shipped as shipped_module
from pd_jax.config.commands import COMMANDS
from pd_jax.config.loading import load_config
from pd_jax.config.shipped import find_named, find_settings, read_about, shipped
from pd_jax.errors import UserError

ROOT = Path(__file__).parents[2]
FILES = sorted(path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.yaml"))


def command_of(file: Path) -> str:
    return (ROOT / "configs" / file).read_text().splitlines()[0].partition(" --")[0].removeprefix("# pd-jax ")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory without any settings, to work in."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.mark.parametrize("file", FILES, ids=str)
def test_every_file_of_a_clone_is_found_by_its_name_and_by_its_path(file: Path) -> None:
    name = str(file.with_suffix(""))
    for given in (name, f"{name}.yaml", f"configs/{name}.yaml", f"configs/{name}"):
        assert find_settings(given, command_of(file)).read_bytes() == (ROOT / "configs" / file).read_bytes()


@pytest.mark.parametrize(
    ("given", "command", "file"),
    [
        ("pong", "distill", "pong.yaml"),
        ("pong", "collect", "collect/pong.yaml"),
        ("atari/pong", "train-teacher", "train/atari/pong.yaml"),
        ("dagger_net3", "distill", "quick/dagger_net3.yaml"),
        ("cartpole", "train-teacher", "train/cartpole.yaml"),
        # A plan takes a distillation's settings.
        ("pong", "plan", "pong.yaml"),
        ("multi57.yaml", "plan", "plan/multi57.yaml"),
    ],
)
def test_the_end_of_a_name_is_enough_where_the_command_tells_which_is_meant(
    given: str, command: str, file: str
) -> None:
    assert find_settings(given, command) == ROOT / "configs" / file


@pytest.mark.parametrize(
    ("given", "command", "message"),
    [
        (
            "pogn",
            "distill",
            r"^pogn: no such file; did you mean 'pong'\? \(by name: cartpole, collect/shuffled, .*, pong",
        ),
        ("configs/pnog.yaml", "distill", r"^configs/pnog.yaml: no such file; did you mean 'pong'\? \(by name: "),
        ("quick/mutli3", "distill", r"^quick/mutli3: no such file; did you mean 'quick/multi3'\? \(by name: "),
        ("zzz", "evaluate", r"^zzz: no such file \(by name: evaluate, evaluate_modern\)$"),
        ("multi3", "distill", r"^multi3: may be paper/multi3 or quick/multi3; give one of these names$"),
        ("pong", "train-teacher", r"^pong: may be train/atari/pong or train/pong; give one of these names$"),
        (
            "losses",
            "evaluate",
            r"^losses: holds settings of pd-jax sweep, not of pd-jax evaluate \(by name: evaluate, evaluate_modern\)$",
        ),
        ("/nowhere/pong", "distill", r"^/nowhere/pong: no such file$"),
        ("../pong", "distill", r"^../pong: no such file$"),
        ("", "distill", "is a directory"),
        ("a\0b", "distill", "is not the name of a file"),
    ],
)
def test_a_name_that_is_none_is_refused_with_those_that_are(given: str, command: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(COMMANDS[command], ["--config", given], command)


def test_a_file_that_is_there_goes_before_one_of_that_name(elsewhere: Path) -> None:
    for name in ("pong", "pong.yaml"):
        (elsewhere / name).write_text("teacher: breakout\nout: mine\n")
        assert load_config(COMMANDS["distill"], ["--config", name], "distill").out == "mine"
    with pytest.raises(UserError, match=r"^pogn.yaml: no such file; did you mean 'pong.yaml'\? "):
        load_config(COMMANDS["distill"], ["--config", "pogn.yaml"], "distill")
    # A directory is no file.
    (elsewhere / "evaluate").mkdir()
    assert load_config(COMMANDS["evaluate"], ["--config", "evaluate", "--run", "x"], "evaluate").run == "x"


def test_folders_beside_an_installed_package_are_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pd_jax" / "config").mkdir(parents=True)
    shutil.copytree(ROOT / "configs" / "quick", tmp_path / "configs")
    monkeypatch.setattr(shipped_module, "__file__", str(tmp_path / "pd_jax" / "config" / "shipped.py"))
    assert shipped() == {}


def test_what_a_file_does_is_its_first_sentence_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("# pd-jax distill --config a.yaml\n# Of Rusu et al. (2016) and\n# Ms. Pac-Man. More.\nteacher: x\n")
    about = read_about(path)
    assert about.does == "Of Rusu et al. (2016) and Ms. Pac-Man."
    assert (about.command, about.line, about.takes) == ("distill", "pd-jax distill --config a.yaml", "")
    path.write_text("# pd-jax monitor fit --config a.yaml\n# One.\n# Takes an hour on two CPU cores.\n\n# Takes 5 s.\n")
    assert (about := read_about(path)).takes == "an hour on two CPU cores" and about.command == "monitor fit"
    path.write_text("#!/bin/sh\n#SBATCH --nodes=1\n# A launch: all at once. Then more.\nexit\n")
    assert read_about(path).does == "A launch: all at once." and read_about(path).line == ""


def test_a_file_is_found_by_its_name_whatever_it_is_for() -> None:
    assert find_named("pong") == ("pong", ROOT / "configs" / "pong.yaml")
    for given in ("quick/multi3", "configs/quick/multi3.yaml"):
        assert find_named(given) == ("quick/multi3", ROOT / "configs" / "quick" / "multi3.yaml")
    assert find_named("dagger_net3")[0] == "quick/dagger_net3"
    with pytest.raises(UserError, match=r"^multi3: may be paper/multi3 or quick/multi3; give one of these names$"):
        find_named("multi3")
    with pytest.raises(UserError, match=r"^lunarlandr: no such settings; did you mean 'lunarlander'\?; pd-jax conf"):
        find_named("lunarlandr")
    with pytest.raises(UserError, match=r"^'a\\x00b': no such settings"):
        find_named("a\0b")


def assert_is_readable_elsewhere(metadata: str) -> None:
    """What a package index shows has the README's words, and no link or picture that leads into the repository."""
    _, _, text = metadata.partition("\n\n")
    readme = (ROOT / "README.md").read_text()
    assert "Description-Content-Type: text/markdown\n" in metadata
    assert text.startswith(readme.splitlines()[0]) and "```bash" in text
    targets = re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", text)
    assert targets and all(re.match("https?://", link or source) for link, source in targets)
    # The words of links stay, and so does all code.
    assert re.findall(r"^```.*?^```$", text, re.MULTILINE | re.DOTALL) == re.findall(
        r"^```.*?^```$", readme, re.MULTILINE | re.DOTALL
    )
    plain = re.sub(r"!\[.*?\]\(.*?\)|<img[^>]*>|\[|\]\([^)\s]+\)|\s", "", readme)
    assert re.sub(r"\[|\]\([^)\s]+\)|\s", "", text) == plain


@pytest.mark.skipif(
    importlib.util.find_spec("hatchling") is None, reason="hatchling, which builds the wheel, is not there"
)
def test_a_wheel_has_them_where_there_is_no_clone(tmp_path: Path, elsewhere: Path) -> None:
    code = f"from hatchling.build import build_wheel; print(build_wheel({str(tmp_path)!r}))"
    built = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    with zipfile.ZipFile(tmp_path / built.stdout.split()[-1]) as wheel:
        names = set(wheel.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        described = wheel.read(metadata).decode()
        wheel.extractall(tmp_path / "site")
    assert_is_readable_elsewhere(described)
    assert {f"pd_jax/configs/{file}" for file in FILES} == {name for name in names if "/configs/" in name}
    # All else is as it was: the package and nothing beside it, its data with it.
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"pd_jax"}
    package = {path for path in (ROOT / "pd_jax").rglob("*") if path.suffix in (".py", ".typed", ".safetensors")}
    assert {str(path.relative_to(ROOT)) for path in package} <= names
    code = (
        "import pd_jax, sys; from pd_jax.cli import main; print(pd_jax.__file__); "
        "sys.exit(main(['evaluate', '--config', 'pogn']))"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    ended = subprocess.run([sys.executable, "-c", code], cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout.strip()) == (2, str(tmp_path / "site" / "pd_jax" / "__init__.py"))
    assert re.search(
        r"evaluate: pogn: no such file; did you mean 'pong'\? \(by name: evaluate, evaluate_modern\)", ended.stderr
    )
    code = (
        "from pd_jax.config.commands import COMMANDS; from pd_jax.config.loading import load_config; "
        "print(load_config(COMMANDS['distill'], ['--config', 'configs/pong.yaml'], 'distill').out)"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert ended.stdout == "runs/pong\n", ended.stderr
