"""The house: which module may know which. ``lint-imports`` checks the order of the packages; this, what it cannot."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import pd_jax

PACKAGE = Path(pd_jax.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
LOOPS = ("distill", "online", "trainers", "sweep")


def imports_of(module: str) -> set[str]:
    """The modules of ours that one imports anywhere in it: at its top, late, or for the type checker alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in MODULES else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    # A package's face names what is in the package, and a name of a face stands for a module below it.
    return {name for name in found if name in MODULES and not module.startswith(f"{name}.") and name != module}


IMPORTS = {module: imports_of(module) for module in MODULES}


def circle_through(module: str) -> list[str] | None:
    """A way along imports from a module back to itself."""
    ways, seen = [[module]], {module}
    while ways:
        way = ways.pop()
        for name in sorted(IMPORTS[way[-1]]):
            if name == module:
                return [*way, name]
            if name not in seen:
                seen.add(name)
                ways.append([*way, name])
    return None


def test_no_modules_import_one_another_in_a_circle() -> None:
    circles = [circle for module in MODULES if (circle := circle_through(module)) is not None]
    assert not circles, min(circles, key=len)


def test_there_are_at_most_twenty_packages() -> None:
    packages = [path.parent.name for path in PACKAGE.glob("*/__init__.py")]
    assert 1 < len(packages) <= 20


@pytest.mark.parametrize("loop", LOOPS)
def test_all_loops_have_the_same_files(loop: str) -> None:
    names = {path.stem for path in (PACKAGE / loop).glob("*.py")}
    assert {"session", "setup", "memory", "summary"} <= names


def test_the_platform_follows_the_devices() -> None:
    """Whoever asks JAX for its default backend decides wrongly for a program that is compiled for other devices."""
    asking = []
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute | ast.Name) and "default_backend" in (
                node.attr if isinstance(node, ast.Attribute) else node.id
            ):
                asking.append(module)
    assert set(asking) <= {"pd_jax.system.devices"}


def test_every_package_says_what_lives_in_it() -> None:
    for face in PACKAGE.glob("*/__init__.py"):
        assert ast.get_docstring(ast.parse(face.read_text(encoding="utf-8"))), face
