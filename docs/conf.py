"""The site: Sphinx reads the repository's Markdown where it lies, so that every page is written once.

``python docs/make_site.py`` builds it. Three things are of this project's own: the table of contents is the lists of
the index pages, links to files that are no pages lead to copies of them in the site, and notebooks are pages.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from myst_parser.parsers.sphinx_ import MystParser
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx import addnodes

ROOT = Path(__file__).parents[1]

project = "pd_jax"
copyright = "the authors of pd_jax; licence Apache-2.0"
release = re.findall(r'"(.+)"', (ROOT / "pd_jax" / "version.py").read_text(encoding="utf-8"))[0]
extensions = ["myst_parser"]
source_suffix = {".md": "markdown", ".ipynb": "notebook"}
root_doc = "README"
include_patterns = [
  "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/**.md", "configs/README.md", "docs/**.md",
  "docs/notebooks/*.ipynb", "pd_jax/**.md", "tests/**.md",
]  # fmt: skip
# What a checkout may hold beside its own files is not even looked through.
exclude_patterns = ["**/.*", "**/__pycache__", "build", "dist", "exports", "runs", "recordings"]
myst_heading_anchors = 6
highlight_language = "none"
nitpicky = True

html_theme = "pydata_sphinx_theme"
html_title = "pd_jax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_last_updated_fmt = None
# Written by docs/make_llms.py.
html_extra_path = ["llms.txt"]
html_theme_options = {
    "logo": {"text": "pd_jax"},
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "show_nav_level": 1,
    "navigation_depth": 3,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "search_bar_text": "Search",
}
html_sidebars: dict[str, list[str]] = {"README": [], "files/**": []}

SECTIONS = ("docs/tutorials/README", "docs/how_tos", "docs/explanations", "docs/reference", "docs/faq", "docs/README")
"""The front page's: what stands at the top of every page."""
INDEXES = (
    *SECTIONS,
    *("docs/reference/README", "docs/notebooks/README", "benchmarks/README", "tests/README", "pd_jax/README"),
    *("pd_jax/deploy/README", "pd_jax/resources/README"),
)
"""Pages whose links are their part of the table of contents. A page belongs to the first that links to it."""
FILES = "files"
"""Where the site keeps its copies of linked files."""
_LARGEST_SHOWN = 100_000
_ENTRANCE = """<!doctype html><meta charset="utf-8"><title>pd_jax</title>
<meta http-equiv="refresh" content="0; url=README.html"><a href="README.html">pd_jax</a>
"""


def children(environment: Any) -> dict[str, list[str]]:
    """The table of contents: of every index page, the pages below it."""
    found = environment.found_docs
    claimed = {root_doc, *SECTIONS}
    table = {root_doc: list(SECTIONS)}
    for index in INDEXES:
        text = (ROOT / f"{index}.md").read_text(encoding="utf-8")
        table[index] = []
        for link in re.findall(r"\]\(([^()\s#:]+)\)", text):
            page = page_at((ROOT / index).parent / link)
            if page in found and page not in claimed:
                claimed.add(page)
                table[index].append(page)
    return table


def page_at(path: Path) -> str:
    """The name of the page that a file is; a folder is its README."""
    relative = os.path.relpath(os.path.normpath(path), ROOT)
    return f"{relative}/README" if path.is_dir() else os.path.splitext(relative)[0]


def add_contents(app: Any, page: str, source: list[str]) -> None:
    """Appends an index page's table of contents, which a forge has no use for, to its text."""
    below = children(app.env).get(page)
    if below:
        source[0] += "\n\n".join(["", "```{toctree}\n:hidden:\n", *[f"/{name}" for name in below], "```\n"])


class NotebookParser(MystParser):
    """A notebook as Markdown: its text, its code, and what its code has printed if that was kept."""

    supported = ("notebook",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        """Parses the text of an ``.ipynb`` file."""
        super().parse("\n\n".join(notebook_blocks(json.loads(inputstring))), document)


def notebook_blocks(notebook: Any) -> Iterator[str]:
    """A block of Markdown for each cell."""
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield text
        elif cell["cell_type"] == "code":
            yield f"```python\n{text}\n```"
            printed = "".join("".join(output.get("text", ())) for output in cell["outputs"])
            if printed:
                yield f"```none\n{printed}\n```"


def link_to_files(app: Any, doctree: nodes.document) -> None:
    """Has links to files and folders of the repository lead to the site's copies; what is not there stays an error."""
    page = app.env.docname
    for node in [*doctree.findall(addnodes.download_reference), *doctree.findall(addnodes.pending_xref)]:
        # The domain "doc" is a link to a page.
        if node.get("refdomain") is None and node.get("reftype") == "myst":
            target = (ROOT / page).parent.joinpath(node["reftarget"]).resolve()
            if not target.exists() or not target.is_relative_to(ROOT) or target == ROOT:
                continue
            uri = target.relative_to(ROOT).as_posix()
            if target.is_dir() and page_at(target) in app.env.found_docs:
                uri = f"{page_at(target)}.html"
            else:
                if not hasattr(app.env, "linked_files"):
                    app.env.linked_files = {}
                app.env.linked_files.setdefault(page, set()).add(uri)
                uri = f"{FILES}/{uri}{_ending(target)}"
            up = "../" * page.count("/")
            node.replace_self(nodes.reference("", "", *node.children, internal=True, refuri=f"{up}{uri}"))


@functools.cache
def _text(target: Path) -> str | None:
    """What is shown as a page; None of a file that is large, or no text, which is copied as it is."""
    if target.is_dir() or target.stat().st_size > _LARGEST_SHOWN:
        return None
    try:
        return target.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def _ending(target: Path) -> str:
    return "" if target.is_file() and _text(target) is None else ".html"


def forget_files(app: Any, environment: Any, page: str) -> None:
    """A page is read anew, or is gone."""
    getattr(environment, "linked_files", {}).pop(page, None)


def merge_files(app: Any, environment: Any, pages: set[str], other: Any) -> None:
    """Pages are read in several processes; what one has found goes to the first."""
    environment.linked_files = {**getattr(environment, "linked_files", {}), **getattr(other, "linked_files", {})}


def file_pages(app: Any) -> Iterator[tuple[str, dict[str, Any], str]]:
    """A page for every linked file, and for every linked folder with its files; folders leave out what is no text."""
    linked: set[str] = set().union(*getattr(app.env, "linked_files", {}).values())
    for path in sorted(linked):
        if (ROOT / path).is_dir():
            inside = sorted(child for child in (ROOT / path).iterdir() if child.is_file() and _text(child) is not None)
            linked |= {child.relative_to(ROOT).as_posix() for child in inside}
            name = os.path.basename(path)
            rows = [f'<li><a href="{name}/{child.name}.html">{child.name}</a></li>' for child in inside]
            yield _file_page(path, f"<ul>{''.join(rows)}</ul>")
    for path in sorted(linked):
        target = ROOT / path
        if target.is_file() and _text(target) is not None:
            yield _file_page(path, _highlighted(target))
        elif target.is_file():
            copy = Path(app.outdir) / FILES / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(target, copy)


def _file_page(path: str, body: str) -> tuple[str, dict[str, Any], str]:
    return f"{FILES}/{path}", {"title": path, "body": f"<h1>{path}</h1>{body}"}, "page.html"


def _highlighted(target: Path) -> str:
    text = _text(target)
    try:
        lexer = get_lexer_for_filename(target.name, text)
    except ClassNotFound:
        lexer = get_lexer_for_filename("file.txt")
    return f'<div class="highlight">{highlight(text, lexer, HtmlFormatter(nowrap=False))}</div>'


def finish(app: Any, error: Exception | None) -> None:
    """Adds what is beside the pages: ways in, each page's Markdown, and all of it in one file for language models."""
    if error is not None:
        return
    out = Path(app.outdir)
    # A folder's README is what a server shows of the folder, and the front page is what is opened first.
    for page in out.rglob("README.html"):
        page.with_name("index.html").write_text(_ENTRANCE, encoding="utf-8")
    sources = {page: app.env.doc2path(page) for page in sorted(app.env.found_docs, key=lambda page: page != root_doc)}
    whole = []
    for page, source in sources.items():
        shutil.copyfile(source, out / Path(source).relative_to(ROOT))
        if source.suffix == ".md":
            whole.append(f"<!-- {page}.md -->\n\n{source.read_text(encoding='utf-8')}")
    (out / "llms-full.txt").write_text("\n".join(whole), encoding="utf-8")


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_source_parser(NotebookParser)
    app.connect("source-read", add_contents)
    app.connect("env-purge-doc", forget_files)
    app.connect("env-merge-info", merge_files)
    # Before Sphinx gathers what is to be downloaded.
    app.connect("doctree-read", link_to_files, priority=100)
    app.connect("html-collect-pages", file_pages)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
