"""The site: what its check of the pages finds, the list for language models, and the messages that are explained."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))

import make_llms  # noqa: E402
import make_site  # noqa: E402

GOOD = """<link rel="stylesheet" href="style.css"><link rel="next" href="missing.html"><h1 id="top">x</h1>
<a href="#top">up</a><a href="other/page.html#there">over</a><a href="https://example.org/">away</a>
<img src="data:image/png;base64,AAAA"><a name="old"></a><a href="#old">old</a>"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "other").mkdir()
    (tmp_path / "index.html").write_text(GOOD)
    (tmp_path / "other" / "page.html").write_text('<p id="there"><a href="../index.html?x=1#top">back</a>')
    (tmp_path / "style.css").write_text("@import 'more.css'; body { background: url(data:image/png;base64,AAAA) }")
    return tmp_path


def test_a_whole_site_has_no_faults(site: Path) -> None:
    assert make_site.faults(site) == []


@pytest.mark.parametrize(
    ("added", "fault"),
    [
        ('<a href="missing.html">', "index.html: missing.html is not there"),
        ('<a href="other/page.html#here">', "index.html: other/page.html#here has no such anchor"),
        ('<a href="#nowhere">', "index.html: #nowhere has no such anchor"),
        ('<script src="https://cdn.example/x.js">', "index.html: fetches https://cdn.example/x.js"),
        ('<script src="//cdn.example/x.js">', "index.html: fetches //cdn.example/x.js"),
        ('<img src="missing.png">', "index.html: missing.png is not there"),
        ('<link rel="preload" href="https://fonts.example/a">', "index.html: fetches https://fonts.example/a"),
    ],
)
def test_what_is_wrong_in_a_page_is_found(site: Path, added: str, fault: str) -> None:
    (site / "index.html").write_text(GOOD + added)
    assert make_site.faults(site) == [fault]


@pytest.mark.parametrize(
    "style", ["@import url('//fonts.example/a.css');", "@font-face{src:url(https://fonts.example/a)}"]
)
def test_styles_that_fetch_from_elsewhere_are_found(site: Path, style: str) -> None:
    (site / "style.css").write_text(style)
    (fault,) = make_site.faults(site)
    assert fault.startswith("style.css: fetches ") and "fonts.example" in fault


def test_the_list_for_language_models_is_of_today() -> None:
    assert make_llms.LLMS.read_text(encoding="utf-8") == make_llms.llms_text(), "python docs/make_llms.py"


def test_the_list_for_language_models_has_its_form_and_its_pages() -> None:
    title, *rest = make_llms.llms_text().splitlines()
    assert title == "# pd_jax" and rest[1].startswith("> ")
    links = re.findall(r"^- \[[^\]]+\]\(([^)]+)\)", "\n".join(rest), re.MULTILINE)
    assert len(links) == len(set(links)) and all((ROOT / link).is_file() for link in links)
    tutorials = {f"docs/tutorials/{path.name}" for path in (ROOT / "docs" / "tutorials").glob("*.md")}
    assert tutorials - set(links) == {"docs/tutorials/README.md"}


def literals() -> str:
    """All text that stands in the package's code, with ``{}`` where something is put in."""
    found = []
    for path in (ROOT / "pd_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
                found.append("".join(str(part) for part in parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_messages_that_are_explained_are_those_of_the_program() -> None:
    """Of each message in the first column every piece between dots of omission stands in the code."""
    text = literals()
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`.*?) \| ", page, re.MULTILINE)
    assert len(cells) > 30
    pieces = [
        piece.strip(" ,:;")
        for cell in cells
        for message in re.findall(r"`([^`]+)`", cell)
        for piece in re.split(r"\.\.\.|;|'pd-jax\[\w+\]'|[\d.]{8,}", message)
    ]
    missing = [piece for piece in pieces if len(piece) > 3 and piece not in text]
    assert missing == []
