import os
import subprocess
import sys
from pathlib import Path

import pytest

from pd_jax.errors import UserError
from pd_jax.system import compilation_cache
from support import commands

COMMAND = ["-m", "pd_jax", "evaluate", "--teacher", "cartpole", "--evaluation.episodes", "2"]
COMMAND += ["--evaluation.num-lanes", "2", "--evaluation.max-episode-steps", "20"]


def evaluate(cache: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Evaluates a teacher in a process of its own, without the cache that the tests share."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    inherited |= {compilation_cache.VARIABLE: cache, **environment}
    command = [sys.executable, *COMMAND]
    return subprocess.run(command, env=inherited, capture_output=True, text=True, timeout=200, check=False)


def turned_on(monkeypatch: pytest.MonkeyPatch, **environment: str) -> tuple[Path | None, dict[str, str]]:
    monkeypatch.delitem(sys.modules, "jax", raising=False)
    directory = compilation_cache.turn_on(environment)
    return directory, environment


def test_programs_are_kept_read_back_and_compiled_anew_when_damaged(tmp_path):
    cache = tmp_path / "cache"
    first = evaluate(str(cache))
    assert first.returncode == 0, first.stderr
    entries = [path for path in cache.iterdir() if path.name.endswith("-cache")]
    assert entries
    written = {path: path.stat().st_mtime_ns for path in entries}
    again = evaluate(str(cache), JAX_EXPLAIN_CACHE_MISSES="1")
    assert again.returncode == 0 and again.stdout == first.stdout
    assert {path: path.stat().st_mtime_ns for path in entries} == written, "compiled and written again"
    for path in entries:
        path.write_bytes(path.read_bytes()[:50])
    damaged = evaluate(str(cache))
    assert damaged.returncode == 0 and damaged.stdout == first.stdout
    assert "Traceback" not in damaged.stderr


@pytest.mark.parametrize("word", ["off", "none", "No", "0"])
def test_off_keeps_nothing(tmp_path, monkeypatch, word):
    monkeypatch.chdir(tmp_path)
    assert turned_on(monkeypatch, PD_JAX_COMPILATION_CACHE=word, XDG_CACHE_HOME=str(tmp_path))[0] is None
    assert commands.contents(tmp_path) == {}


def test_the_default_is_in_the_users_cache_directory_and_is_this_machines(tmp_path, monkeypatch):
    directory, environment = turned_on(monkeypatch, XDG_CACHE_HOME=str(tmp_path))
    assert directory is not None and directory.parent == tmp_path / "pd_jax" / "compiled"
    assert environment["JAX_COMPILATION_CACHE_DIR"] == str(directory)
    other = tmp_path / "cpuinfo"
    other.write_text("flags : fpu\n")
    monkeypatch.setattr(compilation_cache, "Path", lambda path: other if path == "/proc/cpuinfo" else Path(path))
    elsewhere, _ = turned_on(monkeypatch, XDG_CACHE_HOME=str(tmp_path))
    assert elsewhere is not None and elsewhere != directory


def test_what_the_user_told_jax_wins(tmp_path, monkeypatch):
    directory, environment = turned_on(monkeypatch, JAX_COMPILATION_CACHE_DIR="mine", XDG_CACHE_HOME=str(tmp_path))
    assert directory is None and environment["JAX_COMPILATION_CACHE_DIR"] == "mine"
    _, environment = turned_on(monkeypatch, JAX_COMPILATION_CACHE_MAX_SIZE="5", XDG_CACHE_HOME=str(tmp_path))
    assert environment["JAX_COMPILATION_CACHE_MAX_SIZE"] == "5"


def test_a_default_directory_that_cannot_be_written_is_done_without_and_one_that_is_wanted_refused(
    tmp_path, monkeypatch
):
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    directory, environment = turned_on(monkeypatch, XDG_CACHE_HOME=str(in_the_way))
    assert directory is None and "JAX_COMPILATION_CACHE_DIR" not in environment
    with pytest.raises(UserError, match=r"PD_JAX_COMPILATION_CACHE: .*/file/cache is no directory"):
        turned_on(monkeypatch, PD_JAX_COMPILATION_CACHE=str(in_the_way / "cache"))


def test_a_program_that_has_imported_jax_keeps_its_own_settings(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", sys.modules[__name__])
    assert compilation_cache.turn_on({"XDG_CACHE_HOME": str(tmp_path)}) is None
