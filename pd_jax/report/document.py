"""A page that asks for nothing: its frame, and the parts that pages have in common."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Iterable, Sequence
from html import escape

from pd_jax.report.page_style import STYLE

NOTHING = "–"
MINUS = "\N{MINUS SIGN}"
SPACE = "\N{NO-BREAK SPACE}"


def document(title: str, parts: Iterable[str], *, style: str = "", script: str = "", has_video: bool = False) -> str:
    """A self-contained HTML file.

    Its policy keeps a browser from loading anything, and from running any script but this one, whatever stands in it.

    Args:
      title: plain text.
      parts: HTML, empty ones are left out.
      style: CSS beside that of all pages.
      script: run at the end of the page.
      has_video: whether one is in the page.
    """
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    if has_video:
        policy += "; media-src data:"
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n"
        + (f"<script>{script}</script>\n" if script else "")
        + "</body>\n</html>\n"
    )


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], css_class: str = "", *, left: Collection[int] = ()
) -> str:
    """A table that scrolls where it does not fit.

    Args:
      head: plain text; none for a table without.
      rows: cells of HTML.
      css_class: of the table.
      left: places of the columns that stand to the left, beside the first; others are of numbers.
    """
    kinds = [' class="left"' if place in left else "" for place in range(max(map(len, [head, *rows]), default=0))]

    def line(tag: str, cells: Sequence[str]) -> str:
        return "".join(f"<{tag}{kind}>{cell}</{tag}>" for kind, cell in zip(kinds, cells, strict=False))

    top = f"<tr>{line('th', list(map(escape, head)))}</tr>" if head else ""
    body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table class="{css_class}">{top}{body}</table></div>'


def tiles(cells: Iterable[tuple[str, str]]) -> str:
    """Numbers in large letters, each with its name.

    Args:
      cells: ``(name, value)``: plain text, and HTML.
    """
    found = "".join(f"<div><b>{value}</b><span>{escape(name)}</span></div>" for name, value in cells)
    return f'<div class="tiles">{found}</div>'


def confusion_table(names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Which of a teacher's choices a student takes for which, in per cent of the teacher's.

    Args:
      names: of the actions.
      counts: states ``[teacher's choice][student's choice]``.
    """
    total = max(sum(map(sum, counts)), 1)
    rows = []
    for place, (name, row) in enumerate(zip(names, counts, strict=True)):
        chosen = max(sum(row), 1)
        cells = "".join(
            f'<td class="heat{" same" if place == other else ""}" style="--heat:{round(100 * count / chosen)}%" '
            f'title="{count:,} states">{f"{100 * count / chosen:.0f}" if count else ""}</td>'
            for other, count in enumerate(row)
        )
        rows.append(f"<tr><th>{escape(name)}</th>{cells}<td>{percent(sum(row) / total)}</td></tr>")
    shares = "".join(f"<td>{percent(sum(row[place] for row in counts) / total)}</td>" for place in range(len(names)))
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    return (
        '<div class="scroll"><table class="confusion">'
        f"<tr><th>teacher \\ student</th>{head}<th>teacher</th></tr>{''.join(rows)}"
        f"<tr><th>student</th>{shares}<td></td></tr></table></div>"
    )


def percent(share: float) -> str:
    """Such as ``12.3 %``, held together."""
    return f"{100 * share:.1f}{SPACE}%"


def held(text: str) -> str:
    """Plain text as HTML, in which numbers stay with their signs."""
    return escape(text).replace(" %", f"{SPACE}%").replace(" ± ", f"{SPACE}±{SPACE}")
