"""Runs a command: prepares the process, imports the command's module and calls its function."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pd_jax.config.commands import Command
from pd_jax.config.distill import DistillConfig
from pd_jax.config.plan import PlanConfig
from pd_jax.environments.families import import_few
from pd_jax.errors import UserError
from pd_jax.system import accelerators, compilation_cache, hosts, own_modules


def run_command(words: Sequence[str], command: Command, config: Any) -> int:
    """Runs a command.

    Args:
      words: its name, and before it that of its group.
      command: the command.
      config: its settings.

    Returns:
      the exit code: 0, or what the command says of what it found.

    Raises:
      UserError: something the user gave does not fit.
      Interrupted: a signal came.
    """
    # Gymnasium warns of EnvPool's float64 bounds at every start; EnvPool gives what its users cannot change.
    warnings.filterwarnings("ignore", message=".*precision lowered by casting.*")
    with _nothing_collected():
        if command.computes:
            _prepare(" ".join(words), command, config)
            if not isinstance(config, PlanConfig):
                # A plan has something to say to JAX before it is imported.
                _check_variables()
        function = find_function(words)
    return function(config) or 0


def import_own_modules(command: Command) -> None:
    """Imports what the user has registered by name, if there is any; before the settings, which may name it.

    Raises:
      UserError: there is no such module, or it fails.
    """
    if not os.environ.get(own_modules.VARIABLE):
        return
    if command.settings is PlanConfig:
        # It has something to say to JAX before that is imported, and the modules import it.
        raise UserError(f"{own_modules.OPTION}: pd-jax plan compiles what comes with pd_jax")
    if command.computes:
        import_few()
        accelerators.spare_the_search()
        compilation_cache.turn_on()
        _check_variables()
    own_modules.import_all()


@contextlib.contextmanager
def _nothing_collected() -> Iterator[None]:
    """No garbage is looked for among what is imported in this context, nor later: modules stay.

    Python would go through all of it again and again, which is a fifth of the time that imports take.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def find_function(words: Sequence[str]) -> Callable[[Any], int | None]:
    """``pd_jax.commands.train_teacher.run`` for ``train-teacher``, ``pd_jax.commands.teachers.run_list`` for ``teachers
    list``; imported only now."""
    module, *own = (word.replace("-", "_") for word in words)
    function: Callable[[Any], int | None] = getattr(
        importlib.import_module(f"pd_jax.commands.{module}"), "_".join(["run", *own])
    )
    return function


def _check_variables() -> None:
    """Raises a UserError if JAX cannot read one of its own variables, which it does as it is imported."""
    if "jax" in sys.modules:
        return
    try:
        importlib.import_module("jax")
    except ValueError as error:
        raise UserError(f"JAX reads its variables (JAX_...): {error}") from None


def _prepare(name: str, command: Command, config: Any) -> None:
    """To be called before JAX is imported."""
    import_few()
    accelerators.spare_the_search()
    compilation_cache.turn_on()
    if isinstance(config, DistillConfig):
        # Before anything of JAX's is touched.
        hosts.join(config.hosts)
    if not command.resumes:
        return
    if config.resume and config.out is not None and not os.path.exists(os.path.join(config.out, "config.yaml")):
        # No error: a job that is restarted from outside needs one command.
        print(f"pd-jax {name}: {config.out}: nothing to resume; begins afresh", file=sys.stderr)
