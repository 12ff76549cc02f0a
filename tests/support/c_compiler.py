"""What tests of C files share: a compiler, flags that take little time, and programs that are run."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

QUICK = ("-std=c99", "-O1", "-Wall", "-Wextra", "-Werror")
needs_compiler = pytest.mark.skipif(
    shutil.which(shlex.split(os.environ.get("CC") or "cc")[0]) is None, reason="there is no C compiler"
)


def compile_program(source: Path, flags: Sequence[str] = QUICK, command: str | None = None) -> Path:
    """Compiles a C program beside its source; its path."""
    program = source.with_suffix("")
    words = shlex.split(command or os.environ.get("CC") or "cc")
    ended = subprocess.run([*words, *flags, source.name, "-o", program.name, "-lm"], cwd=source.parent, text=True,
                           capture_output=True)  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return program


def text_and_constants(source: Path, flags: Sequence[str] = ("-std=c99", "-O2")) -> int:
    """Bytes of code and read-only data of a compiled source, as ``size`` counts them."""
    words = shlex.split(os.environ.get("CC") or "cc")
    subprocess.run([*words, *flags, "-c", source.name, "-o", "sized.o"], cwd=source.parent, check=True)
    told = subprocess.run(["size", "sized.o"], cwd=source.parent, check=True, text=True, capture_output=True)
    return int(told.stdout.splitlines()[1].split()[0])
