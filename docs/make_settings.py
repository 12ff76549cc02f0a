"""Writes ``docs/settings.md``, all settings of all commands, and ``configs/README.md``, the settings files.

Both say what the code and the files say; run it after every change of these. A test compares::

    python docs/make_settings.py
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import make_reference
from docstrings import field_texts, parse
from make_reference import prose

from pd_jax.config.commands import TABLE, CommandGroup
from pd_jax.config.fields import Field, fields, sections
from pd_jax.config.shipped import read_about

ROOT = Path(__file__).parents[1]
SETTINGS = ROOT / "docs" / "settings.md"
CONFIGS = ROOT / "configs" / "README.md"
HEADER = "<!-- Written by docs/make_settings.py; change {} instead. -->"

_KINDS = {int: "a whole number", float: "a number", bool: "`true` or `false`", str: "text"}
_LARGEST_COUNT = 2**31 - 1
_ABOUT_SETTINGS = """
Every command of `pd-jax` takes its settings from `--config FILE`, a YAML file such as those in
[`configs/`](../configs/README.md), and from options, which come later and win. The files of `configs/` come with the
package: `--config pong` or `--config quick/multi3` finds them anywhere. The setting `learner.batch_size` is
`batch_size` in the section `learner` of a file, and `--learner.batch-size` on the command line; a switch is
`--profile` or `--no-profile`. From Python it is a field of the command's [dataclass](reference/config.md).
In the name of a file or a directory a leading `~` is the home directory.
What is wrong with a setting is one line on stderr and exit code 2, before anything is written.

**Options without effect.** A setting that nothing looks at because of what another one says, such as `loss.temperature`
with `loss.kind: mse`, is not taken in silence. As an option it is refused, with the setting that leaves it so. It is a
warning in a file, which may serve several commands, and with `--resume`, as the run may have begun with it. An option
that leaves settings of a file without effect says nothing of them, and one that gives the default says what holds
anyway.
"""
_ABOUT_CONFIGS = """
Settings files, to be run as they are or changed by options:

```bash
pd-jax configs                                                     # all of them, in the terminal
pd-jax distill --config cartpole --out runs/mine --student.mlp-hidden 8 8
pd-jax configs cartpole --out mine.yaml                            # a copy, to be changed, for --config mine.yaml
```

They come with the package: without a clone, `--config configs/cartpole.yaml`, `--config cartpole` and
`--config quick/multi3` find them too. A file that is there goes first. Times are of two CPU cores without a GPU, and
left out where they were not measured.

[All settings](../docs/settings.md) are in one place. A run's own `config.yaml` is such a file too.
"""
_PICTURES = {
    "pong.yaml": ("benchmarks/results/pong_net2.png", "Loss and agreement while net2 learns Pong, and both scores"),
    "quick/compression.yaml": (
        "benchmarks/results/compression.png",
        "What is left of the teacher by size of the student",
    ),
    "quick/online_pong.yaml": ("benchmarks/results/online_pong.png", "Both scores over the teacher's training"),
    "train/pong_dqn.yaml": ("benchmarks/results/pong_dqn.png", "The learning curve of a Pong teacher"),
    "audit.yaml": ("docs/pictures/audit.png", "The page of an audit"),
}
"""What comes out of some files, and what it shows."""
_FOLDERS = {
    "": "First steps",
    "quick": "On two CPU cores",
    "paper": "At the paper's scale, for accelerators",
    "plan": "Planning for devices that you do not have",
    "collect": "Recordings",
    "train": "Teachers on two CPU cores",
    "train/atari": "Teachers on an accelerator",
    "launch": "Launching on other machines",
}


def commands() -> dict[str, type]:
    """The settings of every command, by its name on the command line."""
    found: dict[str, type] = {}
    for name, command in TABLE.items():
        if isinstance(command, CommandGroup):
            found |= {f"{name} {own}": its.settings for own, its in command.commands.items()}
        else:
            found[name] = command.settings
    return found


def texts(config_class: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    """What every setting means, by dotted key."""
    inner = sections(config_class)
    for name, text in field_texts(config_class).items():
        if name not in inner:
            yield prefix + name, text
    for name, section in inner.items():
        yield from texts(section, f"{prefix}{name}.")


def defaults(config_class: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The default of every setting that has one, by dotted key."""
    inner = sections(config_class)
    for field in dataclasses.fields(config_class):
        if field.name in inner:
            # A command may have defaults of its own for a section.
            section = field.default_factory() if field.default_factory is not dataclasses.MISSING else None
            own = {} if section is None else {key: _at(section, key) for key in fields(inner[field.name])}
            yield from ((f"{prefix}{field.name}.{key}", value) for key, value in own.items())
        elif field.default is not dataclasses.MISSING:
            yield prefix + field.name, field.default


def _at(settings: Any, key: str) -> Any:
    for name in key.split("."):
        settings = getattr(settings, name)
    return settings


def spell_values(field: Field) -> str:
    """What a setting may be, such as ``a whole number from 1 to 64``."""
    if field.choices:
        values = ", ".join(f"`{choice}`" for choice in field.choices)
    else:
        values = _KINDS[field.kind]
        if field.bounds is not None:
            low, high = (_number(limit) for limit in (field.bounds.low, field.bounds.high))
            values += f", at least {low}" if field.bounds.high >= _LARGEST_COUNT else f" from {low} to {high}"
    values += "".join(f", or `{word}`" for word in field.words)
    if field.many:
        values = f"{values}, or a list" if field.one_or_many else f"a list, each {values}"
    return f"{values}; or `null`" if field.optional else values


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) and abs(value) < 1e15 else f"{value:g}"


def spell_default(value: Any) -> str:
    """As YAML has it."""
    if value is None:
        return "`null`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value:_}`" if isinstance(value, int) else f"`{value}`"


def settings_page() -> str:
    """``docs/settings.md``."""
    blocks = [HEADER.format("the dataclasses in pd_jax/config"), "# Settings", _ABOUT_SETTINGS.strip()]
    for name, config_class in commands().items():
        known, meant, default = fields(config_class), dict(texts(config_class)), dict(defaults(config_class))
        about = parse(config_class.__doc__ or "")
        rows = []
        for key, field in known.items():
            value = spell_default(default[key]) if key in default else "**required**"
            rows.append(f"| `{key}` | {spell_values(field)} | {value} | {_cell(meant[key])} |")
        blocks += [f"## {name}", " ".join(about.summary.split())]
        blocks.append("\n".join(["| setting | values | default | |", "|---|---|---|---|", *rows]))
    return "\n\n".join(blocks) + "\n"


def _cell(text: str) -> str:
    # Links lead from docs/, not from docs/reference/.
    return re.sub(r"\]\((?=\w+\.md)", "](reference/", prose(text)).replace("|", "\\|")


def configs_page() -> str:
    """``configs/README.md``."""
    blocks = [HEADER.format("the comments of the files"), "# Settings files", _ABOUT_CONFIGS.strip()]
    files = sorted(path for path in CONFIGS.parent.rglob("*") if path.is_file() and path.suffix != ".md")
    for folder, title in _FOLDERS.items():
        rows = [_row_of(path) for path in files if path.parent == CONFIGS.parent / folder]
        where = f"`{folder}/`: " if folder else ""
        table = ["| file | what it does | takes | command |", "|---|---|---|---|", *rows]
        blocks += [f"## {where}{title}", "\n".join(table)]
    blocks.append("## What comes out")
    for name, (picture, shows) in _PICTURES.items():
        line = read_about(CONFIGS.parent / name).line
        blocks.append(f"**[`{name}`]({name})**: {shows}, by `{line}`.\n\n![{shows}](../{picture})")
    return "\n\n".join(blocks) + "\n"


def _row_of(path: Path) -> str:
    about = read_about(path)
    command = f"`{about.line}`" if about.line else ""
    name = path.relative_to(CONFIGS.parent)
    return f"| [`{path.name}`]({name}) | {about.does} | {about.takes} | {command} |"


def pages() -> Mapping[Path, str]:
    """Both files, with their text."""
    return {SETTINGS: settings_page(), CONFIGS: configs_page()}


if __name__ == "__main__":
    make_reference.write(pages())
