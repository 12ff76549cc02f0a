"""The README as a package index shows it: away from the repository, so without links and pictures that are files of it.

Hatchling calls this while it builds; nothing else does.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

# Whichever comes first: code, of which nothing is changed; a picture; a link.
_PARTS = re.compile(
    r"(?P<code>^ *```.*?^ *```$)"
    r"|!\[[^\]]*\]\((?!https?:)[^)\s]+\)\n*|<img\b[^>]*\bsrc=\"(?!https?:)[^>]*>\n*"
    r"|\[(?P<words>[^\]]+)\]\((?!https?:|mailto:)[^)\s]+\)"
    r"|(?P<span>`[^`\n]+`)",
    re.MULTILINE | re.DOTALL,
)


def as_shown_elsewhere(text: str) -> str:
    """Markdown whose links into the repository are their words alone, and whose pictures from it are left out."""
    return _PARTS.sub(lambda match: match["code"] or match["span"] or match["words"] or "", text)


class CustomMetadataHook(MetadataHookInterface):
    """Sets ``readme``."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Called by Hatchling."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": as_shown_elsewhere(text)}
