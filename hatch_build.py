"""The README as a package index shows it: away from the repository, so without links and pictures that are files of it.

Hatchling calls this while it builds; nothing else does.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

# Fences and code in backticks stay as they are.
_CODE = re.compile(r"(^ *```.*?^ *```$|`[^`\n]+`(?!\]\())", re.MULTILINE | re.DOTALL)
_PICTURE = re.compile(r"^!\[[^\]]*\]\((?!https?:)[^)\s]+\)\n+", re.MULTILINE)
_LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|mailto:|#)[^)\s]+\)")


def as_shown_elsewhere(text: str) -> str:
    """Markdown whose links into the repository are their words alone, and whose pictures from it are left out."""
    parts = _CODE.split(text)
    parts[::2] = [_LINK.sub(r"\1", _PICTURE.sub("", part)) for part in parts[::2]]
    return "".join(parts)


class CustomMetadataHook(MetadataHookInterface):
    """Sets ``readme``."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Called by Hatchling."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": as_shown_elsewhere(text)}
