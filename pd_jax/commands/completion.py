"""``pd-jax completion``: prints a shell's script that completes commands, options and names."""

from __future__ import annotations

from pd_jax.commands.shells import script
from pd_jax.config.completion import CompletionConfig


def run(config: CompletionConfig) -> None:
    """Prints it."""
    print(script(config.shell), end="")
