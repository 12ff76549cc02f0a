"""YAML without surprises, for settings: mappings, lists and scalars.

Scalars follow YAML 1.2's core schema: ``1e-4`` is a number, ``no`` is a word and ``010`` is not eight, all of which
PyYAML's YAML 1.1 reads otherwise. Aliases (which can blow up), tags and duplicate keys are refused.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pd_jax.errors import UserError, nearest
from pd_jax.system.text import printable, show

# A configuration takes 2 KB; nobody is to wait while a film that was named by mistake is read as one.
MAX_FILE_BYTES = 64 * 1024


def read_yaml(path: str | Path) -> dict[Any, Any]:
    """Reads a YAML file whose top level is a mapping.

    Raises:
      UserError: the file is missing, unreadable, not a regular file, larger than `MAX_FILE_BYTES`, not UTF-8, not
        YAML, not a mapping, or uses an alias, a tag, or a key twice.
    """
    where = printable(str(path))
    text = _read_text(path, where)
    try:
        content = yaml.load(text, Loader=_Loader)  # A subclass of SafeLoader, without its tags.
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f" line {mark.line + 1}:" if mark else ""
        problem = ", ".join(filter(None, (error.context, error.problem)))
        raise UserError(f"{where}:{line} {printable(problem)}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{where}: is not YAML ({printable(str(error).splitlines()[0])})") from None
    except RecursionError:
        raise UserError(f"{where}: is nested too deeply") from None
    if content is None:
        raise UserError(f"{where}: holds no settings")
    if not isinstance(content, dict):
        raise UserError(f"{where}: holds {show(content)}, not a mapping of settings (`key: value` lines)")
    return content


def write_yaml(mapping: Mapping[str, Any]) -> str:
    """YAML text that `read_yaml` reads back as the same mapping, in the same order."""
    text: str = yaml.dump(mapping, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


def parse_scalar(text: str) -> Any:
    """None, a bool, an int, a float or the text itself: what a plain YAML scalar of this spelling means."""
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        # YAML spells infinity ".inf", Python "inf".
        return float(re.sub(r"\.(?=inf|nan)", "", text))
    return text


def _read_text(path: str | Path, where: str) -> str:
    try:
        file = Path(path)
        # Anything else may block for ever (a pipe) or never end (a device).
        if not stat.S_ISREG(file.stat().st_mode):
            raise UserError(f"{where}: is {'a directory' if file.is_dir() else 'not a regular file'}, not a YAML file")
        with file.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise UserError(f"{where}: is larger than {MAX_FILE_BYTES // 1024} KiB, too large for settings")
        return data.decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{where}: no such file{_nearest_file(Path(path))}") from None
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: is not UTF-8 text (byte {error.start})") from None
    except ValueError:  # A null byte or a lone surrogate in the name.
        raise UserError(f"{where}: is not the name of a file") from None


def _nearest_file(path: Path) -> str:
    try:
        return nearest(path.name, [file.name for file in path.parent.glob("*.y*ml")])
    except OSError:
        return ""


class _Loader(yaml.SafeLoader):
    """Reads scalars as `parse_scalar` does."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        mark: Any = event.start_mark if event is not None else None
        if isinstance(event, yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, f"alias *{event.anchor} is not allowed", mark)
        if getattr(event, "tag", None) is not None:
            raise yaml.composer.ComposerError(None, None, f"tag {event.tag} is not allowed", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, list | dict):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key_node.start_mark)
            if key in seen:
                problem = f"key {show(key)} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes text that `_Loader` would otherwise read as something else."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012


# At most 25 digits, more than any setting needs: Python refuses to convert thousands.
_DIGITS = "[0-9]{1,25}"
_NULL = re.compile(r"~|null|Null|NULL|None|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?(0|[1-9](_?[0-9]){0,24})")
_FLOAT = re.compile(
    rf"[-+]?(\.{_DIGITS}|[0-9](_?[0-9]){{0,24}}(\.({_DIGITS})?)?)([eE][-+]?[0-9]{{1,5}})?|[-+]?\.inf|\.nan"
)

for _class in (_Loader, _Dumper):
    for _name, _pattern, _first in (
        ("null", _NULL, ["~", "n", "N", ""]),
        ("bool", _BOOL, list("tTfF")),
        ("int", _INT, list("-+0123456789")),
        ("float", _FLOAT, list("-+.0123456789")),
    ):
        _tag = f"tag:yaml.org,2002:{_name}"
        _class.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern.pattern})$"), _first)
for _name in ("null", "bool", "int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_name}", lambda loader, node: parse_scalar(node.value))
