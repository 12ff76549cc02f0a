"""Pictures of a page, in the page: frames as PNG, bars and intervals as SVG."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from html import escape

import numpy as np


def png(image: np.ndarray) -> bytes:
    """A grey picture as a PNG file.

    Args:
      image: uint8 ``[H, W]``.
    """
    height, width = image.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), image], axis=1).tobytes()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def picture(image: np.ndarray, alt: str, css_class: str) -> str:
    """A frame as an element of the page."""
    data = base64.b64encode(png(image)).decode()
    return f'<img class="{css_class}" alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def frames(stack: np.ndarray, alt: str) -> str:
    """A stack ``[84, 84, 4]``: the newest frame large, the older ones in a row below."""
    older = "".join(
        picture(stack[..., place], f"{stack.shape[-1] - 1 - place} frames before", "older")
        for place in range(stack.shape[-1] - 1)
    )
    return f'<div class="frames">{picture(stack[..., -1], alt, "newest")}<div class="olders">{older}</div></div>'


def interval_bar(value: float, low: float | None, high: float | None, *, mark: float | None = None) -> str:
    """A share between 0 and 1 as a bar with its interval, and a mark to compare with."""
    parts = [f'<rect class="fill" width="{100 * value:.2f}" height="10"/>']
    if mark is not None:
        parts.append(f'<rect class="mark" x="{100 * mark - 0.4:.2f}" width="0.8" height="10"/>')
    if low is not None and high is not None:
        width = max(100 * (high - low), 0.6)
        parts.append(f'<rect class="interval" x="{100 * low:.2f}" y="3.5" width="{width:.2f}" height="3"/>')
    return (
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="rail" width="100" height="10"/>{"".join(parts)}</svg>'
    )


def two_bars(names: Sequence[str], teacher: Sequence[float], student: Sequence[float]) -> str:
    """The probabilities that two policies give each action, one bar above the other."""
    rows = []
    for name, taught, own in zip(names, teacher, student, strict=True):
        chosen = [" chosen" if value == max(values) else "" for value, values in ((taught, teacher), (own, student))]
        rows.append(
            f'<div class="action"><span>{escape(name)}</span><span class="pair">'
            f'<i class="taught{chosen[0]}" style="width:{100 * taught:.1f}%" title="teacher {100 * taught:.1f} %"></i>'
            f'<i class="own{chosen[1]}" style="width:{100 * own:.1f}%" title="student {100 * own:.1f} %"></i>'
            "</span></div>"
        )
    return f'<div class="actions">{"".join(rows)}</div>'


def strip(rows: Sequence[tuple[str, Sequence[float]]]) -> str:
    """Returns as dots on a line, one line for each name."""
    everything = [value for _, values in rows for value in values]
    low, high = min(everything), max(everything)
    span = (high - low) or 1.0
    lines = []
    for place, (name, values) in enumerate(rows):
        y = 16 + 26 * place
        dots = "".join(
            f'<circle class="{escape(name)}" cx="{70 + 320 * (value - low) / span:.1f}" cy="{y}" r="4"/>'
            for value in values
        )
        lines.append(f'<text x="0" y="{y + 4}">{escape(name)}</text><line x1="70" x2="390" y1="{y}" y2="{y}"/>{dots}')
    bottom = 16 + 26 * len(rows)
    ends = (
        f'<text x="70" y="{bottom + 2}">{low:g}</text><text x="390" y="{bottom + 2}" text-anchor="end">{high:g}</text>'
    )
    return (
        f'<svg class="strip" viewBox="0 0 400 {bottom + 8}" role="img" aria-label="returns of each game">'
        f"{''.join(lines)}{ends}</svg>"
    )
