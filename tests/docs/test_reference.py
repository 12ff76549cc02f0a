"""The reference: every public name is documented, as a whole, and what is written down is what the code says."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"
sys.path.insert(0, str(DOCS))

import docstrings  # noqa: E402
import make_reference  # noqa: E402
from docstrings import Member, Public, members, packages, parse, public_names  # noqa: E402

PUBLIC = [public for package in packages() for public in public_names(package)]


def name_of(public: Public) -> str:
    return f"{public.package}.{public.name}"


every_name = pytest.mark.parametrize("public", PUBLIC, ids=name_of)


def of_class(public: Public) -> list[Member]:
    return members(public.value) if inspect.isclass(public.value) else []


def documented_by_a_base(owner: type, name: str) -> bool:
    return any(inspect.getdoc(vars(base).get(name)) for base in owner.__mro__[1:])


def parameters(function: Any) -> Iterator[str]:
    found = list(inspect.signature(function).parameters)
    yield from found[1:] if found[:1] in (["self"], ["cls"]) else found


def gives_something(function: Any) -> bool:
    return inspect.signature(function).return_annotation not in ("None", "NoReturn", inspect.Signature.empty)


def test_what_the_front_door_offers_has_a_page() -> None:
    assert {public.defined for public in public_names("pd_jax")} <= {public.defined for public in PUBLIC}


@every_name
def test_a_public_name_says_what_it_is(public: Public) -> None:
    assert parse(public.docstring).summary, "has no docstring"
    for member in of_class(public):
        assert member.docstring or documented_by_a_base(public.value, member.name), member.name


@every_name
def test_arguments_and_results_are_all_explained(public: Public) -> None:
    value = public.value
    documented = parse(public.docstring)
    if inspect.isclass(value):
        init = docstrings.constructed(value)
        if init is not None:
            # Some say it below __init__ itself.
            arguments = documented.items.get("Args") or parse(inspect.getdoc(init) or "").items.get("Args", {})
            assert list(arguments) == list(parameters(init))
        elif dataclasses.is_dataclass(value) and not docstrings.is_settings(value):
            fields = [name for name in inspect.get_annotations(value) if name not in ("parent", "name")]
            explained = {*documented.items.get("Attributes", {}), *re.findall(r"``(\w+)``", documented.summary)}
            assert [field for field in fields if field not in explained] == []
    elif callable(value) and not docstrings.is_alias(value):
        assert list(documented.items.get("Args", {})) == list(parameters(value))
        assert bool(documented.sections.keys() & {"Returns", "Yields"}) == gives_something(value)


@every_name
def test_what_is_explained_of_a_method_is_all_of_its_arguments(public: Public) -> None:
    for member in of_class(public):
        documented = parse(member.docstring)
        if "Args" in documented.items:
            assert list(documented.items["Args"]) == list(parameters(member.function)), member.name


@every_name
def test_settings_say_what_every_field_means(public: Public) -> None:
    if docstrings.is_settings(public.value):
        texts = docstrings.field_texts(public.value)
        sections = {f.name for f in dataclasses.fields(public.value) if f.default_factory is not dataclasses.MISSING}
        assert {field.name for field in dataclasses.fields(public.value)} - sections <= texts.keys()


def test_the_reference_is_of_this_code() -> None:
    wanted = make_reference.pages()
    there = {path: path.read_text(encoding="utf-8") for path in make_reference.REFERENCE.glob("*.md")}
    assert sorted(there) == sorted(wanted)
    outdated = [path.name for path, text in wanted.items() if there[path] != text]
    assert outdated == [], "python docs/make_reference.py writes them anew"


def test_the_headings_of_a_page_are_unlike(public: None = None) -> None:
    for path, text in make_reference.pages().items():
        headings = [line.lower() for line in text.splitlines() if line.startswith("#")]
        assert len(set(headings)) == len(headings), path


def test_a_docstring_is_taken_apart() -> None:
    parsed = parse(
        """First line.

        More ``text``, of
        two lines.

        Args:
          one, two: numbers, in
            two lines.
          three: ``a: b``.

        Returns:
          something.

        Raises:
          ValueError: not so.

        Example:
          Like this::

            f(1)
        """
    )
    assert parsed.summary == "First line." and parsed.text == "More ``text``, of\ntwo lines."
    assert parsed.items["Args"] == {
        "one": "numbers, in two lines.",
        "two": "numbers, in two lines.",
        "three": "``a: b``.",
    }
    assert parsed.items["Raises"] == {"ValueError": "not so."}
    assert parsed.sections == {"Returns": "something.", "Example": "Like this::\n\n  f(1)"}


def test_text_becomes_markdown() -> None:
    text = "A ``x`` of :class:`pd_jax.environments.tasks.Task`, `load_student`\nand `nothing_public`."
    assert make_reference.prose(text) == (
        "A `x` of [`Task`](environments.md#task), [`load_student`](deploy.md#load_student) and `nothing_public`."
    )
    assert make_reference.example("Like::\n\n  a\n    b\n") == "Like:\n\n```python\na\n  b\n```"


def test_a_signature_is_spelled_as_its_source_has_it() -> None:
    def short(a: int, *rest: str, b: float = 1_000_000, c: str = "x", **more: Any) -> None: ...

    assert make_reference.signature(short, "short") == (
        'def short(a: int, *rest: str, b: float = 1_000_000, c: str = "x", **more: Any) -> None: ...'
    )

    def long(first_argument: dict[str, list[int]], *, second_argument: dict[str, list[int]], third: int = 1) -> int: ...

    assert make_reference.signature(long, "long").splitlines() == [
        "def long(",
        "    first_argument: dict[str, list[int]],",
        "    *,",
        "    second_argument: dict[str, list[int]],",
        "    third: int = 1,",
        ") -> int: ...",
    ]
