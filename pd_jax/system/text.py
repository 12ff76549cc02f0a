"""Values and durations as messages quote them."""

from __future__ import annotations

from typing import Any


def show(value: Any) -> str:
    """A value as messages quote it: short, printable, in YAML's words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "...")
    if isinstance(value, int) and abs(value) >= 10**30:
        return "a huge number"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, dict):
        return "a mapping"
    return "a list" if isinstance(value, list | tuple) else f"a {type(value).__name__}"


def printable(text: str) -> str:
    """The text itself where it is short and can be printed, else quoted and shortened."""
    return text if text.isprintable() and 0 < len(text) <= 200 else show(text)


def format_seconds(seconds: float) -> str:
    """Hours, minutes and seconds, such as ``1:02:03``; days from the second day on."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}:{minute:02}:{second:02}"
    return f"{hours // 24} days {hours % 24} h"


def spell_bytes(num_bytes: int) -> str:
    """Such as ``3.8 GB``."""
    for unit in ("kB", "MB"):
        if num_bytes < 10**6:
            return f"{num_bytes / 1000:,.1f} {unit}"
        num_bytes //= 1000
    return f"{num_bytes / 1000:,.1f} GB"


def spell_count(number: int, noun: str) -> str:
    """Such as ``1 game`` or ``3 losses``."""
    plural = "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{plural * (number != 1)}"
