"""Writes ``docs/llms.txt``: what the pages are and where they lie, for language models, after llmstxt.org.

Links are those of the site, which has each page's Markdown beside it. The file follows the index pages; run this after
every change of these or of a title. A test compares::

    python docs/make_llms.py
"""

from __future__ import annotations

import os
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
LLMS = ROOT / "docs" / "llms.txt"
INDEXES = {
    "Tutorials": "docs/tutorials/README.md",
    "How-to guides": "docs/how_tos.md",
    "Explanations": "docs/explanations.md",
    "Reference": "docs/reference.md",
    "Python, package by package": "docs/reference/README.md",
}
_ABOUT = """
Notes for whoever writes code or commands with it:

- A run is a command with settings: `pd-jax distill --config cartpole --out runs/first`. `pd-jax COMMAND --help` and
  docs/settings.md list every setting. The same from Python: `pd_jax.run_distill(pd_jax.DistillConfig(...))`.
- `pd_jax.load_teacher`, `pd_jax.load_student`, `pd_jax.evaluate` and `policy.act(observations)` are the way in.
- A mistake of the user is a `pd_jax.UserError`, one line, exit code 2.
- Observations are uint8 [N, 84, 84, 4], oldest frame first (Atari), or float32 [N, D].
"""


def llms_text() -> str:
    """The file: a title, what the project is, and a section of links for each index page."""
    front = (ROOT / "README.md").read_text(encoding="utf-8")
    about = re.findall(r"\*\*(.+?)\*\*\n\n(.+?)\n\n", front, re.DOTALL)[0]
    blocks = ["# pd_jax", f"> {_plain(about[0])}", _plain(about[1]), _ABOUT.strip()]
    seen: set[str] = set(INDEXES.values())
    for title, index in INDEXES.items():
        rows = []
        for row in (ROOT / index).read_text(encoding="utf-8").splitlines():
            for name, link in re.findall(r"\[([^\]]+)\]\(([^()\s#]+\.md)\)", row if row.startswith("|") else ""):
                page = os.path.normpath(f"{os.path.dirname(index)}/{link}")
                if page not in seen:
                    seen.add(page)
                    rows.append(f"- [{_plain(name)}]({page}): {_about(row, name)}")
        blocks += [f"## {title}", "\n".join(rows)]
    optional = {"Messages, and what to do": "docs/troubleshooting.md", "Questions": "docs/faq.md"}
    blocks += ["## Optional", "\n".join(f"- [{name}]({page})" for name, page in optional.items())]
    return "\n\n".join(blocks) + "\n"


def _about(row: str, name: str) -> str:
    """The cells of a row that do not name the page."""
    cells = [cell.strip() for cell in row.strip("|").split(" | ")]
    return "; ".join(_plain(cell) for cell in cells if f"[{name}]" not in cell and cell).strip(" |")


def _plain(text: str) -> str:
    return " ".join(re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", text).replace("`", "").replace("**", "").split())


if __name__ == "__main__":
    LLMS.write_text(llms_text(), encoding="utf-8")
