"""``pd-jax configs``: the settings files that come with pd-jax, in a table, and one of them printed or copied."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

from pd_jax.config.configs import ConfigsConfig
from pd_jax.config.shipped import About, find_named, read_about, shipped
from pd_jax.errors import UserError
from pd_jax.system.files import write_atomically


def run(config: ConfigsConfig) -> None:
    """Prints the table, or one file; or copies one.

    Raises:
      UserError: there is none of that name, several have it, or ``out`` exists or cannot be written.
    """
    if config.name is None:
        files = {name: read_about(path) for name, path in shipped().items()}
        if config.json:
            print(json.dumps([{"name": name} | about.as_json() for name, about in files.items()], indent=2))
        else:
            _print_table(files)
        return
    name, path = find_named(config.name)
    text = path.read_text(encoding="utf-8")
    if config.out is not None:
        _copy(text, name, Path(config.out))
    elif config.json:
        print(json.dumps({"name": name} | read_about(path).as_json() | {"text": text}, indent=2))
    else:
        print(text, end="")


def _copy(text: str, name: str, out: Path) -> None:
    if os.path.lexists(out):
        raise UserError(f"--out: {out} exists; name another file")
    if not out.absolute().parent.is_dir():
        raise UserError(f"--out: {out}: there is no directory {out.absolute().parent}")
    try:
        write_atomically(out, text)
    except OSError as error:
        raise UserError(f"--out: {out}: cannot be written: {error.strerror}") from error
    command = read_about(out).command
    print(f"{out}: a copy of {name}; change it, then: pd-jax {command} --config {out}")


def _print_table(files: Mapping[str, About]) -> None:
    """Two lines for each on a terminal, and one in a pipe, where lines are looked for words."""
    # Those for the first steps are in no folder.
    names = sorted(files, key=lambda name: ("/" in name, name))
    rows = [(name, f"pd-jax {files[name].command}", files[name].takes or "–") for name in names]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    is_terminal = sys.stdout.isatty()
    width = max(40, shutil.get_terminal_size().columns)
    for row in rows:
        line = "  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True))
        does = files[row[0]].does
        if is_terminal:
            print(line.rstrip())
            print(textwrap.fill(does, width, initial_indent="    ", subsequent_indent="    "))
        else:
            print(f"{line}  {does}")
    print("\npd-jax configs NAME prints one, and --out FILE copies it. In the middle: what it takes, where measured.")
