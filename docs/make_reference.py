"""Writes the reference of the Python interface, ``docs/reference/``, from the docstrings of the public names.

Public is what stands in the ``__all__`` of ``pd_jax`` and of its packages. Run it after every change of a public
docstring or signature; a test compares what it would write with what is there::

    python docs/make_reference.py
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import json
import re
import textwrap
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from docstrings import (
    Public,
    constructed,
    field_texts,
    is_alias,
    is_settings,
    members,
    packages,
    parse,
    public_names,
)

import pd_jax

REFERENCE = Path(__file__).parent / "reference"
HEADER = "<!-- Written by docs/make_reference.py from the docstrings; change these instead. -->"

_ROLE = re.compile(r":(?:class|func|meth|attr|mod):`~?([^`]+)`")
_WIDTH = 100


@functools.cache
def _links() -> Mapping[tuple[str, str], str]:
    """The page and heading of every public name, by where it is defined."""
    return {
        public.defined: f"{package.removeprefix('pd_jax.')}.md#{public.name.lower()}"
        for package in packages()
        for public in public_names(package)
    }


def prose(text: str) -> str:
    """Markdown of a docstring's text: literals become code, and names that are public become links."""
    text = re.sub(r"``(.+?)``|`([^`]+)`", _code_or_link, _ROLE.sub(r"`\1`", text), flags=re.DOTALL)
    return "\n\n".join(_paragraph(paragraph) for paragraph in text.split("\n\n"))


def _code_or_link(match: re.Match[str]) -> str:
    if match[1]:
        return f"`{match[1]}`"
    return linked(match[2])


def linked(name: str) -> str:
    """A name as code, and as a link if it is public: ``Teacher`` or ``pd_jax.teachers.teacher.Teacher``."""
    module, _, last = name.rpartition(".")
    pages = {page for (holder, defined), page in _links().items() if defined == last and module in ("", holder)}
    return f"[`{last}`]({pages.pop()})" if len(pages) == 1 else f"`{name}`"


def _paragraph(text: str) -> str:
    """One line, unless it is a list or a literal block."""
    if re.match(r"\s|[-*] ", text):
        return text
    return " ".join(text.split())


def example(text: str) -> str:
    """A sentence and a literal block after ``::``, or code in a line."""
    sentence, mark, code = text.partition("::\n")
    if not mark:
        return prose(text)
    return f"{prose(sentence)}:\n\n```python\n{textwrap.dedent(code).strip()}\n```"


def signature(function: Any, name: str) -> str:
    """``def name(...) -> ...: ...`` in one line, or with a line for each parameter."""
    found = inspect.signature(function)
    parts: list[str] = []
    previous: Any = None
    for parameter in found.parameters.values():
        keyword_only = parameter.KEYWORD_ONLY
        if parameter.kind is keyword_only and previous not in (keyword_only, parameter.VAR_POSITIONAL):
            parts.append("*")
        parts.append(_parameter(parameter))
        previous = parameter.kind
    result = "" if found.return_annotation is found.empty else f" -> {found.return_annotation}"
    line = f"def {name}({', '.join(parts)}){result}: ..."
    if len(line) <= _WIDTH:
        return line
    return f"def {name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){result}: ..."


def _parameter(parameter: inspect.Parameter) -> str:
    stars = (
        "*" if parameter.kind is parameter.VAR_POSITIONAL else "**" if parameter.kind is parameter.VAR_KEYWORD else ""
    )
    # As the source has them: there are no annotations but postponed ones.
    annotation = "" if parameter.annotation is parameter.empty else f": {parameter.annotation}".replace("'", '"')
    if parameter.default is parameter.empty:
        return f"{stars}{parameter.name}{annotation}"
    equals = " = " if annotation else "="
    return f"{stars}{parameter.name}{annotation}{equals}{_default(parameter.default)}"


def _default(value: Any) -> str:
    """A default value as its source may have it."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:_}"
    if callable(value):
        return "..." if value.__name__ == "<lambda>" else str(value.__name__)
    return repr(value)


def _code(text: str) -> str:
    return f"```python\n{text}\n```"


def _list_of(title: str, items: Mapping[str, str], spell: Callable[[str], str] = "`{}`".format) -> str:
    lines = [f"- {spell(name)}: {prose(text)}" for name, text in items.items()]
    return f"**{title}**\n\n" + "\n".join(lines)


def described(docstring: str, annotations: Mapping[str, Any] = types.MappingProxyType({})) -> Iterator[str]:
    """The parts of a docstring, as Markdown; ``annotations`` are the types of attributes, where there are any."""

    def spell(name: str) -> str:
        return f"`{name}` (`{annotations[name]}`)" if isinstance(annotations.get(name), str) else f"`{name}`"

    parsed = parse(docstring)
    yield prose(parsed.summary)
    if parsed.text:
        yield prose(parsed.text)
    for section, title in (("Args", "Arguments"), ("Attributes", "Attributes")):
        if section in parsed.items:
            yield _list_of(title, parsed.items[section], spell)
    for section in ("Returns", "Yields"):
        if section in parsed.sections:
            yield f"**{section}** {prose(parsed.sections[section])}"
    if "Raises" in parsed.items:
        yield _list_of("Raises", parsed.items["Raises"], spell=linked)
    if "Example" in parsed.sections:
        yield f"**Example** {example(parsed.sections['Example'])}"


def _settings_table(value: Any) -> str:
    texts = field_texts(value)
    lines = ["| field | default | |", "|---|---|---|"]
    for field in dataclasses.fields(value):
        section: Any = field.default_factory
        if section is not dataclasses.MISSING:
            default, text = f"`{section.__name__}()`", f"see `{section.__module__}.{section.__name__}`"
        else:
            default = "" if field.default is dataclasses.MISSING else f"`{field.default!r}`"
            text = texts[field.name]
        lines.append(f"| `{field.name}` | {default} | {prose(text)} |".replace("  ", " "))
    return "\n".join(lines)


def entry(public: Public) -> Iterator[str]:
    """One public name, as Markdown blocks."""
    yield f"## {public.name}"
    value = public.value
    if inspect.isclass(value):
        yield from _class_entry(public, value)
    elif callable(value) and not is_alias(value):
        yield _code(signature(value, public.name))
        yield from described(public.docstring)
    else:
        yield prose(public.docstring)
        if isinstance(value, tuple):
            yield ", ".join(f"`{item}`" for item in value)


def _class_entry(public: Public, value: type) -> Iterator[str]:
    init = constructed(value)
    if init is not None:
        yield _code(f"class {public.name}:\n" + _indented(signature(init, "__init__")))
    yield from described(public.docstring, inspect.get_annotations(value) if dataclasses.is_dataclass(value) else {})
    if is_settings(value):
        yield _settings_table(value)
    yield from _inherited(value)
    own = [member for member in members(value) if member.docstring]
    properties = {member.name: _first_paragraph(member.docstring) for member in own if member.kind == "property"}
    if properties:
        yield _list_of("Properties", properties)
    for member in own:
        if member.kind != "property":
            yield f"### {public.name}.{member.name}"
            prefix = "@classmethod\n" if member.kind == "class method" else ""
            yield _code(prefix + signature(member.function, member.name))
            yield from described(member.docstring)


def _inherited(value: type) -> Iterator[str]:
    for base in value.__bases__:
        page = _links().get((base.__module__, base.__qualname__))
        names = [f"`{member.name}`" for member in members(base) if member.name not in vars(value)]
        if page and names:
            yield f"From [`{base.__name__}`]({page}): {', '.join(names)}."


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def _first_paragraph(docstring: str) -> str:
    return " ".join(parse(docstring).summary.split())


def _table(names: Iterable[tuple[str, str, str]]) -> str:
    """Rows of a name, its link and a text."""
    rows = [f"| [`{name}`]({link}) | {prose(text)} |" for name, link, text in names]
    return "\n".join(["| | |", "|---|---|", *rows])


def package_page(package: str) -> str:
    """The page of one package."""
    module = importlib.import_module(package)
    names = public_names(package)
    blocks = [HEADER, f"# {package}", *described(module.__doc__ or "")]
    blocks.append(_table((name.name, f"#{name.name.lower()}", _first_paragraph(name.docstring)) for name in names))
    for name in names:
        blocks += entry(name)
    return "\n\n".join(blocks) + "\n"


def front_page() -> str:
    """``pd_jax`` itself, and the way to its packages."""
    rows = []
    for public in public_names("pd_jax"):
        rows.append((f"pd_jax.{public.name}", _links()[public.defined], _first_paragraph(public.docstring)))
    pages = [
        (
            package,
            f"{package.removeprefix('pd_jax.')}.md",
            _first_paragraph(importlib.import_module(package).__doc__ or ""),
        )
        for package in packages()
    ]
    blocks = [
        HEADER,
        "# pd_jax",
        *described(pd_jax.__doc__ or ""),
        "## Names",
        _table(rows),
        "## Packages",
        _table(pages),
    ]
    return "\n\n".join(blocks) + "\n"


def pages() -> dict[Path, str]:
    """Every file of the reference, with its text."""
    written = {REFERENCE / f"{package.removeprefix('pd_jax.')}.md": package_page(package) for package in packages()}
    return {REFERENCE / "README.md": front_page()} | written


def write(wanted: Mapping[Path, str], folder: Path | None = None) -> None:
    """Writes files, and removes what else there is in a folder of theirs."""
    for path, text in wanted.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for path in folder.glob("*.md") if folder is not None else ():
        if path not in wanted:
            path.unlink()


if __name__ == "__main__":
    write(pages(), REFERENCE)
