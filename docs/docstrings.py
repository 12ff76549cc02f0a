"""Public names and their docstrings, taken apart: what the reference is made of, and what its tests look at."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import inspect
import re
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pd_jax

_SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|Example):$")


@dataclasses.dataclass
class Docstring:
    """A docstring in parts.

    Attributes:
      summary: its first paragraph.
      text: the paragraphs after it.
      items: of ``Args``, ``Attributes`` and ``Raises``, by section and name, in order.
      sections: of ``Returns``, ``Yields`` and ``Example``, as they are.
    """

    summary: str = ""
    text: str = ""
    items: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    sections: dict[str, str] = dataclasses.field(default_factory=dict)


def parse(docstring: str) -> Docstring:
    """Takes a docstring apart: paragraphs, then sections whose contents are indented by two spaces."""
    parsed = Docstring()
    blocks: dict[str, list[str]] = {"": []}
    name = ""
    for line in inspect.cleandoc(docstring).splitlines():
        if match := _SECTION.match(line):
            name = match[1]
            blocks[name] = []
        else:
            blocks[name].append(line)
    parsed.summary, _, text = "\n".join(blocks.pop("")).strip().partition("\n\n")
    parsed.text = text.strip()
    for name, lines in blocks.items():
        content = inspect.cleandoc("\n" + "\n".join(lines)).strip()
        if name in ("Args", "Attributes", "Raises"):
            parsed.items[name] = dict(_items(content))
        else:
            parsed.sections[name] = content
    return parsed


def _items(content: str) -> Iterator[tuple[str, str]]:
    """``name: text`` and ``name, other: text``, with further lines indented."""
    for item in re.split(r"\n(?=\S)", content):
        names, _, text = item.partition(":")
        for name in names.split(","):
            yield name.strip().lstrip("*"), " ".join(text.split())


@functools.cache
def texts_of_names(module: str) -> Mapping[str, str]:
    """The strings that stand below assignments of a module (``NAME``) and of its classes (``Class.name``)."""
    source = inspect.getsource(importlib.import_module(module))

    def visit(body: Iterable[ast.stmt], prefix: str) -> Iterator[tuple[str, str]]:
        statements = list(body)
        for statement, below in zip(statements, [*statements[1:], None], strict=True):
            if isinstance(statement, ast.ClassDef):
                yield from visit(statement.body, f"{statement.name}.")
            target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
            is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            if isinstance(target, ast.Name) and is_text:
                yield prefix + target.id, " ".join(str(below.value.value).split())  # type: ignore[union-attr]

    return dict(visit(ast.parse(source).body, ""))


def field_texts(config_class: type) -> dict[str, str]:
    """What stands below the fields of a dataclass and of those that it inherits from."""
    texts: dict[str, str] = {}
    for base in reversed(config_class.__mro__):
        if base.__module__.startswith("pd_jax."):
            known = texts_of_names(base.__module__)
            texts |= {
                name: known[f"{base.__name__}.{name}"]
                for name in vars(base).get("__annotations__", ())
                if f"{base.__name__}.{name}" in known
            }
    return texts


@dataclasses.dataclass(frozen=True)
class Public:
    """A public name.

    Attributes:
      package: where it is public: ``"pd_jax"`` or ``"pd_jax.teachers"``.
      name: there.
      value: what it stands for.
    """

    package: str
    name: str
    value: Any

    @property
    def defined(self) -> tuple[str, str]:
        """Module and name of its definition."""
        value = inspect.unwrap(self.value) if callable(self.value) else self.value
        if inspect.isfunction(value) or inspect.isclass(value):
            return value.__module__, value.__qualname__
        for module in self._modules():
            if self.name in vars(module) and self.name in texts_of_names(module.__name__):
                return module.__name__, self.name
        return self.package, self.name

    def _modules(self) -> list[types.ModuleType]:
        package = importlib.import_module(self.package)
        names = [name for name in sys.modules if name.startswith(f"{self.package}.")]
        return [package, *(sys.modules[name] for name in sorted(names))]

    @property
    def docstring(self) -> str:
        """Its own, or the text below a constant; empty if there is none."""
        if inspect.isclass(self.value):
            return vars(self.value).get("__doc__") or ""
        if callable(self.value) and not is_alias(self.value):
            return inspect.getdoc(self.value) or ""
        module, name = self.defined
        return texts_of_names(module).get(name, "")


def is_alias(value: Any) -> bool:
    """Whether it is a type with a name, such as ``Callable[..., Any]``."""
    return hasattr(value, "__origin__") or isinstance(value, types.UnionType)


def packages() -> list[str]:
    """The packages and modules that are public."""
    return [f"pd_jax.{name}" for name in pd_jax.__all__ if isinstance(getattr(pd_jax, name), types.ModuleType)]


def public_names(package: str) -> list[Public]:
    """What a package offers, in its own order; other packages and the version left out."""
    module = importlib.import_module(package)
    values = [Public(package, name, getattr(module, name)) for name in module.__all__ if not name.startswith("__")]
    return [public for public in values if not isinstance(public.value, types.ModuleType)]


@dataclasses.dataclass(frozen=True)
class Member:
    """A method or property of a public class.

    Attributes:
      name: its name.
      function: what is behind it.
      kind: ``"method"``, ``"class method"`` or ``"property"``.
    """

    name: str
    function: Callable[..., Any]
    kind: str

    @property
    def docstring(self) -> str:
        """Empty if there is none."""
        return inspect.getdoc(self.function) or ""


def members(owner: type) -> list[Member]:
    """The public methods and properties that a class itself defines, in the order of its source."""
    found = []
    for name, value in vars(owner).items():
        if name.startswith("_") and name != "__call__":
            continue
        kind = "method"
        if isinstance(value, property | functools.cached_property):
            function, kind = (value.fget if isinstance(value, property) else value.func), "property"
        elif isinstance(value, classmethod | staticmethod):
            function, kind = value.__func__, "class method"
        else:
            function = value
        function = inspect.unwrap(function) if callable(function) else None
        if inspect.isfunction(function) and function.__module__.startswith("pd_jax"):
            found.append(Member(name, function, kind))
    return found


def is_settings(value: Any) -> bool:
    """Whether it is a dataclass of settings, whose fields have their texts below them."""
    return inspect.isclass(value) and dataclasses.is_dataclass(value) and value.__module__.startswith("pd_jax.config.")


def constructed(value: type) -> Any:
    """What a class is made with, for its signature; None where nobody makes one by hand."""
    if dataclasses.is_dataclass(value) or inspect.isabstract(value) or getattr(value, "_is_protocol", False):
        return None
    return vars(value).get("__init__")
