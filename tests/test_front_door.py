"""``import pd_jax``: what it offers, and what it does not import."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
import types
from typing import Any

import pytest

import pd_jax
import pd_jax.distill.session
import pd_jax.evaluation.evaluator
import pd_jax.online.session
import pd_jax.teachers.teacher

MODULES = sorted(name for name in pd_jax.__all__ if isinstance(getattr(pd_jax, name), types.ModuleType))


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_the_import_takes_neither_jax_nor_emulators() -> None:
    code = """
import sys
before = set(sys.modules)
import pd_jax
pd_jax.__version__, dir(pd_jax), pd_jax.distill, pd_jax.online, pd_jax.teachers, pd_jax.config, pd_jax.report
print(sorted({name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))
"""
    assert python(code) == "['pd_jax']"


def test_settings_and_reports_take_no_jax() -> None:
    code = """
import sys, pd_jax
pd_jax.DistillConfig(teacher="pong", out="runs/pong"), pd_jax.SweepConfig, pd_jax.run_report
print(sorted({"jax", "flax", "envpool", "orbax"} & set(sys.modules)))
"""
    assert python(code) == "[]"


def test_packages_are_there_right_after_the_import() -> None:
    code = """
import pd_jax
teacher = pd_jax.teachers.load("cartpole")
print(teacher.task.name, pd_jax.evaluate.__name__, pd_jax.distill.__name__, pd_jax.run_distill.__name__)
"""
    assert python(code) == "cartpole evaluate pd_jax.distill distill"


def test_every_public_name_is_there_and_is_listed() -> None:
    assert set(pd_jax.__all__) == {*dir(pd_jax), "__version__"}
    for name in pd_jax.__all__:
        assert getattr(pd_jax, name) is getattr(pd_jax, name)
    assert pd_jax.load_teacher is pd_jax.runs.load_teacher is pd_jax.runs.students.load_teacher
    assert pd_jax.teachers.load is pd_jax.teachers.loading.load
    assert pd_jax.load_student is pd_jax.deploy.load_student
    assert pd_jax.run_distill is pd_jax.distill.distill is pd_jax.distill.session.distill
    assert pd_jax.run_online is pd_jax.online.online is pd_jax.online.session.online
    assert pd_jax.evaluate is pd_jax.evaluation.evaluate
    assert pd_jax.kl_loss is pd_jax.losses.kl_loss and pd_jax.make_network is pd_jax.networks.make_network
    assert isinstance(pd_jax.distill, types.ModuleType) and isinstance(pd_jax.online, types.ModuleType)


@pytest.mark.parametrize("name", MODULES)
def test_what_a_package_offers_is_what_it_has(name: str) -> None:
    package = importlib.import_module(f"pd_jax.{name}")
    public = package.__all__
    assert list(public) == sorted(public, key=_ruffs_order)
    assert [public_name for public_name in public if not hasattr(package, public_name)] == []
    if hasattr(package, "__path__"):
        modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
        assert not modules & set(public), "the import of a module of that name would hide what is public"
        assert set(dir(package)) == set(public), "tab completion shows what is public"


def _ruffs_order(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


@pytest.mark.parametrize(
    ("holder", "name", "message"),
    [
        (pd_jax, "load_techer", "module 'pd_jax' has no attribute 'load_techer'; did you mean 'load_teacher'?"),
        (pd_jax, "Distillconfig", "module 'pd_jax' has no attribute 'Distillconfig'; did you mean 'DistillConfig'?"),
        (pd_jax, "zzz", "module 'pd_jax' has no attribute 'zzz'"),
        (pd_jax.teachers, "lod", "module 'pd_jax.teachers' has no attribute 'lod'; did you mean 'load'?"),
    ],
)
def test_an_unknown_name_is_an_error_that_names_the_nearest(holder: Any, name: str, message: str) -> None:
    with pytest.raises(AttributeError) as refused:
        getattr(holder, name)
    assert str(refused.value) == message
    assert not hasattr(pd_jax, "__path_to_nowhere__")


def test_type_checkers_see_the_real_types(tmp_path: Any) -> None:
    """What a reader of types is told of names that are imported late, and of names that are not there."""
    program = tmp_path / "program.py"
    program.write_text(
        "import pd_jax\n"
        "reveal_type(pd_jax.load_teacher)\n"
        "reveal_type(pd_jax.load_student('runs/pong').act)\n"
        "reveal_type(pd_jax.teachers.load('pong'))\n"
        "pd_jax.load_techer\n"
        "pd_jax.teachers.lod\n"
    )
    root = pd_jax.__path__[0] + "/.."
    ended = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", f"{root}/pyproject.toml", str(program)],
        capture_output=True,
        text=True,
        cwd=root,
    )
    told = ended.stdout.splitlines()
    assert "Teacher" in told[0] and "Any" not in told[0]
    assert "ndarray" in told[1] and "Teacher" in told[2]
    assert 'has no attribute "load_techer"' in told[3] and 'has no attribute "lod"' in told[4]
