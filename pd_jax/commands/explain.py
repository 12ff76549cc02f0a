"""``pd-jax explain``: prints what a run has done, how good it is, what limits it and what to try next."""

from __future__ import annotations

import shutil
import sys
import textwrap

from pd_jax.config.explain import ExplainConfig
from pd_jax.report.explanation.explain import explain

_WIDEST = 100


def run(config: ExplainConfig) -> None:
    """Prints it; sentences in English are broken into lines on a terminal."""
    lines = explain(config.run, config.language)
    if config.language == "en" and sys.stdout.isatty():
        width = min(_WIDEST, max(40, shutil.get_terminal_size().columns))
        lines = [
            # A command stays whole, to be copied.
            textwrap.fill(line, width, subsequent_indent="  ") if line.startswith("- ") else line
            for line in lines
        ]
    print("\n".join(lines))
