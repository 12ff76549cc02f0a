"""The lists of commands that ``pd-jax --help`` and ``pd-jax teachers --help`` print."""

from __future__ import annotations

from collections.abc import Mapping

from pd_jax.config.commands import TABLE, Command, CommandGroup
from pd_jax.system import compilation_cache, own_modules


def program_usage() -> str:
    """The text of ``pd-jax --help``."""
    return "\n".join(
        [
            "usage: pd-jax COMMAND [--config FILE] [OPTIONS]",
            "",
            "Policy distillation (Rusu et al., 2016) for accelerators.",
            "",
            *_lines(TABLE),
            "",
            "pd-jax COMMAND --help lists a command's options; pd-jax --version prints the version.",
            f"{own_modules.OPTION} FILE.py (or MODULE) imports what registers environments and networks of your own.",
            f"{compilation_cache.VARIABLE}=DIR (or off) says where compiled programs are kept for the next run.",
        ]
    )


def group_usage(name: str, group: CommandGroup) -> str:
    """The text of ``pd-jax NAME --help`` for a command that has commands of its own."""
    return "\n".join(
        [
            f"usage: pd-jax {name} [COMMAND] [OPTIONS]",
            "",
            *_lines(group.commands),
            "",
            f"pd-jax {name} COMMAND --help lists a command's options.",
        ]
    )


def _lines(commands: Mapping[str, Command] | Mapping[str, Command | CommandGroup]) -> list[str]:
    width = max(map(len, commands))
    return [f"  {name:<{width}}  {command.about}" for name, command in commands.items()]
