"""Builds the site into ``build/site``; a broken link, an unknown anchor or a page that nothing leads to ends it.

    pip install -c requirements.lock -e '.[docs]'
    python docs/make_site.py

Open ``build/site/index.html``; nothing of it is fetched from elsewhere. Options go to ``sphinx-build``.
"""

from __future__ import annotations

import html.parser
import os
import re
import sys
import urllib.parse
from pathlib import Path

ROOT = Path(__file__).parents[1]
SITE = ROOT / "build" / "site"
_ELSEWHERE = re.compile(r"(?:[a-z]+:)?//", re.IGNORECASE)


def build(target: Path, *options: str) -> int:
    """Builds everything anew: a warning of a page that was read before would not come again.

    Args:
      target: where the site goes.
      options: of ``sphinx-build``.

    Returns:
      the exit code.
    """
    from sphinx.cmd.build import main

    strict = ["--fail-on-warning", "--keep-going", "--fresh-env", "--jobs", "auto", "--quiet"]
    places = ["-c", str(ROOT / "docs"), "-d", str(target.with_name(f"{target.name}-doctrees")), str(ROOT), str(target)]
    return int(main([*strict, *options, *places]))


class Page(html.parser.HTMLParser):
    """What a page of the site refers to.

    Attributes:
      ids: anchors that it has.
      links: of its ``<a>``: where a reader may go.
      fetched: what a browser fetches in order to show it.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called by the parser."""
        values = {name: value for name, value in attrs if value is not None}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a":
            self.links += [values["href"]] if "href" in values else []
        elif tag == "link":
            self.fetched += [values["href"]] if values.get("rel") not in ("next", "prev", "canonical") else []
        else:
            self.fetched += [values[name] for name in ("src", "srcset", "data", "poster") if name in values]


def faults(site: Path) -> list[str]:
    """What is wrong in the pages as they are: links of the theme and of our own code, which no builder checks.

    Args:
      site: a folder of HTML.

    Returns:
      a line for each link to a file or an anchor that is not there, and for each thing that a browser would fetch from
      elsewhere.
    """
    pages = {
        path: Page(path.read_text(encoding="utf-8"))
        for path in sorted(site.rglob("*.html"))
        if "_static" not in path.parts
    }
    found = []
    for path, page in pages.items():
        where = path.relative_to(site)
        for link in [*page.links, *page.fetched]:
            if _ELSEWHERE.match(link) or link.startswith(("mailto:", "data:")):
                if link in page.fetched and not link.startswith("data:"):
                    found.append(f"{where}: fetches {link}")
                continue
            file, _, anchor = urllib.parse.unquote(link).partition("#")
            target = Path(os.path.normpath(path.parent / file.partition("?")[0])) if file else path
            if not target.is_file():
                found.append(f"{where}: {link} is not there")
            elif anchor and target in pages and anchor not in pages[target].ids:
                found.append(f"{where}: {link} has no such anchor")
    for path in sorted(site.rglob("*.css")):
        styles = path.read_text(encoding="utf-8")
        found += [
            f"{path.relative_to(site)}: fetches {address}"
            for address in re.findall(r"""(?:url\(\s*|@import\s+)["']?((?:https?:)?//[^"')\s]+)""", styles)
        ]
    return found


if __name__ == "__main__":
    code = build(SITE, *sys.argv[1:])
    wrong = faults(SITE) if code == 0 else []
    print(*wrong, sep="\n", end="\n" if wrong else "", file=sys.stderr)
    sys.exit(code or bool(wrong))
