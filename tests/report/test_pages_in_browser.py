"""Pages in a real browser: three widths, light and dark, what they ask for, and whether their filters work."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from report.test_page import HOSTILE, write_run
from report.test_runs_page import write_runs

from pd_jax.cli import main
from pd_jax.report.page import run_page, write_run_page
from pd_jax.runs.directory import read_run
from support.browser import Browser, find_browser
from support.made_pages import write_details, write_metrics, write_whole_run
from support.summaries import summary_of

WIDTHS = (390, 800, 1400)
PAGES = ("whole", "several", "unfinished", "report")
MANY = ("pong", "breakout", "qbert", "freeway", "seaquest", "enduro", "beam_rider")

# Of all text that is seen: the least ratio of contrast with what is behind it (WCAG 2.1), and where.
CONTRAST = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = color => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data; };
  const light = color => { const [r, g, b] = [0, 1, 2].map(i => { const v = color[i] / 255;
    return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  let worst = [99, ""];
  for (const element of document.querySelectorAll("body *")) {
    if (element.closest("svg, option") || !element.checkVisibility()) continue;
    if (![...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())) continue;
    let behind = element, ground = [0, 0, 0, 0];
    while (behind && ground[3] < 255) { ground = rgb(getComputedStyle(behind).backgroundColor);
      behind = ground[3] === 0 || ground[3] === 255 ? behind.parentElement : null; }
    if (ground[3] < 255) continue;
    const [a, b] = [light(rgb(getComputedStyle(element).color)), light(ground)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < worst[0]) worst = [ratio, element.outerHTML.slice(0, 200)];
  }
  return worst;
})()"""

# Elements that reach beyond the window, but for what is inside of something that scrolls, or is drawn in a figure.
BEYOND = """[...document.querySelectorAll("body *")].filter(e => !e.closest(".scroll, pre, svg") &&
  e.checkVisibility() && e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML.slice(0, 200))"""

VISIBLE = """[...document.querySelectorAll("#runs tbody tr")].filter(row => row.checkVisibility())
  .map(row => row.cells[0].textContent)"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = find_browser()
    if path is None:
        pytest.skip("there is no Chromium on this machine, in which pages are looked at")
    with Browser(path) as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By name, a page of each kind. Not to be written to."""
    root = tmp_path_factory.mktemp("pages")
    whole = write_whole_run(root / "whole")
    whole.video_path.write_bytes(b"no film")
    scores = {game: [10.0 + index, 14.0, 12.5] for index, game in enumerate(MANY)}
    summary = summary_of(
        scores, {game: [8.0, 10.0] for game in MANY}, random_scores={"pong": 2.0}, student_parameters=123_456,
        teacher_parameters=11_853_534, time_shares={"updates": 0.5, "stepping": 0.5},
    )  # fmt: skip
    several = write_run(root / "several", summary, *MANY)
    write_metrics(several, MANY)
    write_details(several, MANY[:2])
    unfinished = write_run(root / "unfinished", None, "pong", "breakout")
    write_metrics(unfinished, ["pong", "breakout"])
    for run in (whole, several, unfinished):
        write_run_page(run)
    write_runs(root / "runs")
    write_run_page(read_run(root / "runs" / "pong-net1-0"))
    assert main(["report", str(root / "runs"), "--out", str(root / "report")]) == 0
    return {name: root / name / "report.html" for name in PAGES}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_its_window_is_readable_by_day_and_night_and_asks_for_nothing(
    name: str, width: int, browser: Browser, pages: dict[str, Path]
) -> None:
    grounds = []
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for scheme in schemes:
        browser.open(pages[name], width=width, scheme=scheme)
        assert browser.value("document.documentElement.scrollWidth") <= width == browser.value("innerWidth")
        assert browser.value(BEYOND) == []
        ratio, where = browser.value(CONTRAST)
        assert ratio >= 4.5, (scheme, where)
        assert browser.value("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
        assert browser.requests == [pages[name].as_uri()] and browser.messages == []
        grounds.append(browser.value("getComputedStyle(document.body).backgroundColor"))
    assert grounds[0] != grounds[1]


def test_a_page_has_all_of_its_parts(browser: Browser, pages: dict[str, Path]) -> None:
    titles = "[...document.querySelectorAll('h2')].map(title => title.textContent)"
    browser.open(pages["whole"], width=800)
    assert browser.value(titles) == [
        "Scores", "Video", "Over the training", "Where student and teacher choose otherwise", "Where the time went",
        "How to reproduce it",
    ]  # fmt: skip
    counts = {"video": 1, ".chart svg": 3, ".moment": 5, ".moment img": 20, ".confusion tr": 8, ".tiles div": 5}
    for selector, count in counts.items():
        assert browser.value(f"document.querySelectorAll({selector!r}).length") == count, selector
    browser.open(pages["several"], width=800)
    assert browser.value("document.querySelectorAll('details[open]').length") == 2
    # Curves of seven games, the last of which has the first one's colour.
    strokes = browser.value(
        "[...document.querySelectorAll('.chart')[0].querySelectorAll('path')].map(p => getComputedStyle(p).stroke)"
    )
    assert len(set(strokes[-7:])) == 6 and strokes[-7] == strokes[-1]
    browser.open(pages["unfinished"], width=800)
    assert "This run has not ended" in browser.value("document.querySelector('.banner').textContent")


def test_pages_print_on_white_with_all_that_is_folded(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["whole"], width=800, scheme="dark")
    browser.call(
        "Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}]
    )
    try:
        assert browser.value("getComputedStyle(document.body).color") == "rgb(29, 31, 34)"
        shown = "document.querySelector('section > details pre').getBoundingClientRect().height"
        assert browser.value(shown) > 200
        assert browser.value("document.querySelector('video').checkVisibility()") is False
    finally:
        browser.call("Emulation.setEmulatedMedia", media="")


def choose(browser: Browser, name: str, value: str) -> None:
    browser.value(
        f"(() => {{ const field = document.querySelector('form.filters').elements[{name!r}]; field.value = {value!r};"
        "field.dispatchEvent(new Event('input', { bubbles: true })); })()"
    )


def test_filters_choose_rows_and_headings_sort_them(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["report"], width=1400)
    everything = browser.value(VISIBLE)
    assert len(everything) == 18
    choose(browser, "game", "breakout")
    assert browser.value(VISIBLE) == [name for name in everything if name.startswith("breakout")]
    choose(browser, "network", "net3")
    assert browser.value(VISIBLE) == [f"breakout-net3-{seed}" for seed in range(3)]
    assert browser.value("document.querySelector('.count').textContent") == "3 of 18 rows"
    choose(browser, "text", "NET3-1")
    assert browser.value(VISIBLE) == ["breakout-net3-1"]
    choose(browser, "text", "nothing like it")
    assert browser.value(VISIBLE) == []
    browser.value("document.querySelector('form.filters').reset()")
    browser.value("new Promise(resolve => setTimeout(resolve, 20))")
    assert browser.value("document.querySelector('.count').textContent") == "18 rows"
    # By what stands above random play: seeds add two per cent each to a network's share.
    choose(browser, "game", "qbert")
    press = "[...document.querySelectorAll('#runs th button')].find(b => b.textContent === 'above random').click()"
    browser.value(press)
    rising = [f"qbert-{network}-{seed}" for network in ("net3", "net1") for seed in range(3)]
    assert browser.value(VISIBLE) == rising
    browser.value(press)
    assert browser.value(VISIBLE) == rising[::-1]
    assert browser.value("document.querySelectorAll('th[aria-sort=descending]').length") == 1
    assert browser.messages == []


def test_without_javascript_it_is_the_whole_table(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["report"], width=800, script=False)
    assert len(browser.value(VISIBLE)) == 18
    assert browser.value("document.querySelector('form.filters').checkVisibility()") is False


def test_the_policy_keeps_a_browser_from_what_slipped_into_a_page(browser: Browser, tmp_path: Path) -> None:
    """Escaping failed, so to speak: none of it is run or asked for."""
    asked = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    run = write_whole_run(tmp_path / "run")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        there = f"http://127.0.0.1:{server.server_port}"
        markup = (
            f'<img src="{there}/image"><script>document.title = "run"</script><script src="{there}/script"></script>'
            f'<link rel="stylesheet" href="{there}/style"><iframe src="{there}/frame"></iframe>'
            f'<video src="{there}/film"></video><style>body {{ background: url({there}/ground) }}</style>'
            f'<b onclick="document.title = 1" id="b">b</b><form action="{there}/form"></form>'
        )
        (tmp_path / "page.html").write_text(run_page(run).replace("<main>", f"<main>{markup}", 1))
        browser.open(tmp_path / "page.html", width=800)
        browser.value("document.getElementById('b').click()")
        browser.value("new Promise(resolve => setTimeout(resolve, 100))")
        assert browser.value("document.title") == "pong into net2"
        server.shutdown()
    assert asked == []
    assert len(browser.messages) >= 6, "the browser says what it refused"


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_names_run_nothing(hostile: str, browser: Browser, tmp_path: Path) -> None:
    scores = {hostile: [1.0, 2.0]}
    write_run(tmp_path / "run", summary_of(scores, scores, student_parameters=1, teacher_parameters=2), "pong")
    write_run_page(read_run(tmp_path / "run"))
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "report")]) == 0
    for page in (tmp_path / "run" / "report.html", tmp_path / "report" / "report.html"):
        browser.open(page, width=390)
        assert browser.messages == [] and browser.requests == [page.as_uri()]
        assert hostile in browser.value("document.body.textContent")
        assert browser.value("document.documentElement.scrollWidth") <= 390
