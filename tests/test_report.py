"""The page, in a real browser: what it shows, what it lets happen, and whom it asks."""

from __future__ import annotations

import json
import os
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from dataset_kit import Made, mp4, multiply, one_colour, png
from ledgers import row
from playwright.sync_api import sync_playwright

from oxenbatch.cli import cli
from oxenbatch.dataset.report.page import inert
from oxenbatch.errors import MachineError, UsageProblem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = shutil.which("chromium")
    if found is None and "OXENBATCH_BROWSER" not in os.environ:
        pytest.skip("needs Chromium: apt-get install chromium")  # .ci/run installs it, and says that it must be there
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=found, args=FLAGS)


class Reader:
    """Somebody who looks at a page, and notes what should not be."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.wrong: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda said: self.wrong.append(f"console: {said.text}"))
        page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (self.wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: self.asked.append(request.url))

    def open(self, path: Path) -> None:
        self.page.goto(path.as_uri())
        self.until("document.getElementById('count').textContent !== ''")

    def until(self, holds: str) -> None:
        """Playwright's own way of waiting evaluates text in the page, which the page forbids."""
        for _ in range(500):
            if self.page.evaluate(holds):
                return
            self.page.wait_for_timeout(20)
        raise AssertionError(f"never true: {holds}")

    def cards(self) -> list[str]:
        return self.page.locator(".card .text").all_inner_texts()

    def count(self) -> str:
        return self.page.locator("#count").inner_text()

    def elements(self) -> int:
        return int(self.page.evaluate("document.querySelectorAll('*').length"))

    def strangers(self) -> list[str]:
        return [url for url in self.asked if not url.startswith(("file://", "data:", "blob:"))]


@pytest.fixture
def reader(browser: Browser) -> Iterator[Reader]:
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    found = Reader(context.new_page())
    yield found
    context.close()
    assert not found.wrong
    assert not found.strangers()


def report(*arguments: str | Path) -> Any:
    return CliRunner().invoke(cli, ["report", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    """Four pictures, two videos, one that failed, and every oddity."""
    rows = [
        row("a red cube", id="cube", metadata={"split": "train"}),
        row("a blue ball", id="ball", number=2, metadata={"split": "test"}, parameters={"steps": 4}),
        row("nothing at all", id="void", number=3, metadata={"split": "test"}),
        row("a red cube again", id="twin", number=4, metadata={"split": "train"}),
        row("a wave", id="wave", number=5, model="kling-video-v2-6-pro-text-to-video", parameters={"duration": 10}),
        row("a dune", id="dune", number=6, model="kling-video-v2-6-pro-text-to-video", parameters={"duration": 8}),
        row("something forbidden", id="bad", number=7, metadata={"split": "train"}),
    ]  # fmt: skip
    files = [png(1), png(2), one_colour(), png(1), mp4(1), mp4(2, 8.0), None]
    return Made(tmp_path / "out" / "shapes", rows, files).folder


@pytest.mark.parametrize(
    ("embed", "place"),
    [
        ("auto", "out/shapes/report.html"),
        ("none", "elsewhere/deep down/page #1?.html"),
        ("none", "out/shapes/report.html"),
        ("files", "elsewhere/page.html"),
    ],
)
def test_the_page_shows_every_result_wherever_it_lies(
    reader: Reader, batch: Path, tmp_path: Path, embed: str, place: str
) -> None:
    report(batch, "-o", tmp_path / place, "--embed", embed)
    reader.open(tmp_path / place)

    assert len(reader.cards()) == 7
    assert reader.page.title() == "test: 6 of 7 results"
    reader.until("[...document.querySelectorAll('.card img')].every(i => i.complete && i.naturalWidth)")
    reader.until("[...document.querySelectorAll('.card video')].every(v => v.readyState >= 1)")
    assert reader.page.locator(".card img").count() == 4
    assert reader.page.locator(".card video").count() == 2
    files = [url for url in reader.asked if url.endswith(".png")]
    assert bool(files) == (embed == "none")


def test_the_figures_and_the_reasons_are_told(reader: Reader, batch: Path, tmp_path: Path) -> None:
    report(batch, "-o", tmp_path / "r.html")
    reader.open(tmp_path / "r.html")
    told = reader.page.locator("main").inner_text()

    for words in (
        "6 of 7", "$0.24", "the prompt was rejected by the content policy", "change these rows in the manifest",
        "duration: asked 10, got 5 s", "the same bytes", "one colour", "kling-video-v2-6-pro-text-to-video",
    ):  # fmt: skip
        assert words in told, words
    assert reader.page.locator(".timeline rect.came").count() > 0


def test_results_are_found_by_text_model_state_metadata_and_oddity(reader: Reader, batch: Path, tmp_path: Path) -> None:
    report(batch, "-o", tmp_path / "r.html")
    reader.open(tmp_path / "r.html")
    page = reader.page

    page.fill("#text", "red CUBE")
    assert reader.cards() == ["a red cube", "a red cube again"]
    page.fill("#text", "split:test")
    assert reader.cards() == ["a blue ball", "nothing at all"]
    page.fill("#text", "steps:4")
    assert reader.cards() == ["a blue ball"]
    page.click("#clear")
    assert reader.count() == "7"
    page.select_option("#model", "kling-video-v2-6-pro-text-to-video")
    assert (reader.cards(), reader.count()) == (["a wave", "a dune"], "2 of 7")
    page.click("#clear")
    page.select_option("#state", "failed")
    assert reader.cards() == ["something forbidden"]
    page.click("#clear")
    page.select_option(".facet[data-name=split]", "=train")
    assert reader.cards() == ["a red cube", "a red cube again", "something forbidden"]
    page.select_option("#odd", "yes")
    assert reader.cards() == ["a red cube again"]
    page.fill("#text", "no such words")
    assert page.locator("#none").is_visible()
    page.click("#clear2")
    page.select_option("#order", "new")
    assert reader.cards()[:3] == ["something forbidden", "a dune", "a wave"]


def test_one_result_is_shown_with_all_that_is_known_of_it(reader: Reader, batch: Path, tmp_path: Path) -> None:
    report(batch, "-o", tmp_path / "r.html")
    reader.open(tmp_path / "r.html")
    reader.page.click("text=a wave")
    told = reader.page.locator("#viewer").inner_text()

    for words in ("wave.mp4", "a wave", "duration", "10", "$0.04", "1280 × 720", "5 s, 24 frames a second, no sound",
                  "duration: asked 10, got 5 s", "5 of 7", "oxenbatch reject", "generation_id"):  # fmt: skip
        assert words in told, words


@pytest.mark.parametrize("embed", ["none", "files"])
def test_a_video_plays(reader: Reader, batch: Path, tmp_path: Path, embed: str) -> None:
    report(batch, "-o", tmp_path / "r.html", "--embed", embed)
    reader.open(tmp_path / "r.html")
    page = reader.page

    page.hover(".card:has(video)")
    reader.until("document.querySelector('.card video').currentTime > 0.3")
    page.click("text=a dune")
    reader.until("document.querySelector('#stage video')?.currentTime > 0.2")
    assert page.evaluate("document.querySelector('#stage video').videoWidth") == 320
    assert round(page.evaluate("document.querySelector('#stage video').duration")) == 8
    page.keyboard.press("Space")
    assert page.evaluate("document.querySelector('#stage video').paused")


def test_the_keyboard_is_enough(reader: Reader, batch: Path, tmp_path: Path) -> None:
    report(batch, "-o", tmp_path / "r.html")
    reader.open(tmp_path / "r.html")
    page = reader.page

    def focused() -> str:
        return str(
            page.evaluate("document.activeElement.querySelector('.text')?.textContent || document.activeElement.id")
        )

    page.keyboard.press("/")
    page.keyboard.type("red")
    assert reader.cards() == ["a red cube", "a red cube again"]
    page.keyboard.press("Escape")
    assert reader.count() == "7"
    page.keyboard.press("ArrowDown")
    assert focused() == "a red cube"
    page.keyboard.press("ArrowRight")
    assert focused() == "a blue ball"
    page.keyboard.press("End")
    assert focused() == "something forbidden"
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    below = focused()
    assert below not in ("a red cube", "a blue ball")
    page.keyboard.press("Enter")
    assert page.locator("#viewer").is_visible()
    assert page.locator("#prompt").inner_text() == below
    page.keyboard.press("ArrowLeft")
    before = page.locator("#prompt").inner_text()
    assert before != below
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()
    page.wait_for_function(  # the card may have to be brought back into the page first
        "text => document.activeElement.querySelector('.text')?.textContent === text", arg=before
    )
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.keyboard.press("t")
    assert page.evaluate(background) != light


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 820, 1600])
def test_it_fits_every_screen_in_light_and_dark(
    browser: Browser, batch: Path, tmp_path: Path, scheme: str, width: int
) -> None:
    report(batch, "-o", tmp_path / "r.html")
    context = browser.new_context(viewport={"width": width, "height": 700}, color_scheme=scheme)  # type: ignore[arg-type]
    reader = Reader(context.new_page())
    reader.open(tmp_path / "r.html")

    assert reader.page.evaluate("document.documentElement.scrollWidth") <= width
    red, green, blue = reader.page.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)"
    )
    assert (red + green + blue > 380) == (scheme == "light")
    reader.page.locator(".card").first.click()
    box = reader.page.locator("#viewer").bounding_box()
    assert box is not None
    assert box["width"] <= width
    assert not reader.wrong
    context.close()


# -- ten thousand -------------------------------------------------------------------------------------------------


def test_ten_thousand_results_are_a_hundred_cards_at_a_time(reader: Reader, tmp_path: Path) -> None:
    count = 10_000
    made = Made(tmp_path / "batch", [row(f"p {n}", id=f"r{n}", number=n) for n in range(1, 3)], [png(1), png(2)])
    multiply(made.folder, count - 2)
    told = report(made.folder, "-o", tmp_path / "r.html")
    assert "10000 results" in told.stderr
    reader.open(tmp_path / "r.html")
    page = reader.page

    assert reader.count() == "10,000"
    begin, asked = reader.elements(), len(reader.asked)
    assert begin < 700
    assert asked < 120
    page.locator(".card").first.focus()
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.querySelector('.text').textContent") == f"prompt {count - 2}"
    for share in range(1, 20):  # a long way down and up again
        page.evaluate(f"scrollTo(0, document.documentElement.scrollHeight * {share / 20})")
        page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert reader.elements() < 700
        assert page.locator(".card").count() < 80
    page.fill("#text", "prompt 9998")
    assert reader.cards() == ["prompt 9998"]


def test_what_is_beyond_the_limit_is_counted_and_not_shown(reader: Reader, batch: Path, tmp_path: Path) -> None:
    assert "2 of 7 results" in report(batch, "-o", tmp_path / "r.html", "-n", "2").stderr
    reader.open(tmp_path / "r.html")
    assert len(reader.cards()) == 2
    assert "The first 2 of 7" in reader.page.locator("#results").inner_text()


def test_a_folder_of_nights_is_one_page(reader: Reader, tmp_path: Path) -> None:
    for night in ("2026-11-21", "2026-11-22"):
        Made(tmp_path / "nightly" / night, [row("a cube", id="c")], [png(int(night[-1]))])
    report(tmp_path / "nightly", "-o", tmp_path / "r.html")
    reader.open(tmp_path / "r.html")
    reader.page.select_option("#batch", "2026-11-22")
    assert reader.count() == "1 of 2"


# -- strangers' text ----------------------------------------------------------------------------------------------

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "<img src=x onerror=alert(3)>",
    '"><svg onload=alert(4)>',
    "javascript:alert(5)",
    "<!--<script>",
    "]]>--></title></style></textarea><script>alert(6)</script>",
    "{{ 7*7 }} {% raw %} ${7*7}",
    "' onmouseover='alert(8)",
    "&lt;b&gt; &#60;script&#62;",
    "\u202eevil\u202c \u2066hidden\u2069 \x00\x1b[31m\x07 \u2028\u2029",
    "https://example.com/x.png",
]


def test_a_hostile_prompt_is_only_text(reader: Reader, tmp_path: Path) -> None:
    rows = [row(text, id=f"{n}{text}", number=n, parameters={f"p{text}": text}, metadata={f"m{text}": f"{text}{n % 2}"})
            for n, text in enumerate(HOSTILE, 1)]  # fmt: skip
    made = Made(tmp_path / "batch", rows, [png(n) if n % 2 else None for n in range(len(HOSTILE))])
    report(made.folder, "-o", tmp_path / "r.html")
    reader.open(tmp_path / "r.html")
    page = reader.page

    assert [text.split("\\")[0] for text in reader.cards()] == [text.split("\u202e")[0] for text in HOSTILE]
    for place in range(len(HOSTILE)):
        page.locator(".card").nth(place).click()
        page.keyboard.press("Escape")
    assert page.evaluate("[...document.scripts].map(s => s.type)") == ["application/json", ""]
    assert page.evaluate("document.querySelectorAll('svg').length") <= 1
    assert page.evaluate("[...document.querySelectorAll('*')].flatMap(e => [...e.attributes]).filter(a =>"
                         " /^on/i.test(a.name) || /^\\s*javascript:/i.test(a.value)).length") == 0  # fmt: skip
    shown = page.locator("body").inner_text()
    assert not set(shown) & set("\u202e\u202c\u2066\u2069\x00\x1b\x07\u2028\u2029")
    assert "\\u202eevil" in shown


@pytest.fixture
def stranger() -> Iterator[tuple[str, list[str]]]:
    """Another host, and what it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("policed", [True, False], ids=["with its policy", "without it"])
def test_the_policy_holds_even_against_markup_in_the_page(
    browser: Browser, batch: Path, tmp_path: Path, stranger: tuple[str, list[str]], policed: bool
) -> None:
    """Should escaping ever fail, what a stranger's markup would do is forbidden; without the policy it is done."""
    host, asked = stranger
    report(batch, "-o", tmp_path / "r.html")
    evil = (
        "<script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">"
        f"<img src='{host}/a.png'><link rel=stylesheet href='{host}/a.css'><script src='{host}/a.js'></script>"
        f"<iframe src='{host}/frame'></iframe><video src='{host}/a.mp4'></video><object data='{host}/a'></object>"
        f"<link rel=prefetch href='{host}/b'><base href='{host}/'>"
    )
    text = (tmp_path / "r.html").read_text().replace("<main>", f"{evil}<main>")
    if not policed:
        text = text.replace('http-equiv="Content-Security-Policy"', 'name="nothing"')
    (tmp_path / "r.html").write_text(text)
    context = browser.new_context()
    reader = Reader(context.new_page())
    reader.open(tmp_path / "r.html")
    reader.page.evaluate(f"fetch('{host}/fetched').catch(() => 0)")
    reader.page.wait_for_load_state("networkidle")

    assert (reader.page.title() != "owned") == policed
    assert (asked == []) == policed, asked
    assert reader.count() == "7"
    context.close()


def test_inert_json_is_the_same_value_and_has_no_markup() -> None:
    for text in HOSTILE:
        assert json.loads(inert([text])) == [text]
        assert not set(inert([text])) & set("<>&")


# -- the file -----------------------------------------------------------------------------------------------------


def test_the_same_ledger_gives_the_same_page(batch: Path, tmp_path: Path) -> None:
    pages = []
    for name in ("one/r.html", "two/r.html", "two/r.html"):
        report(batch, "-o", tmp_path / name)
        pages.append((tmp_path / name).read_bytes())
    assert pages[0] == pages[1] == pages[2]


def test_a_file_that_is_no_report_is_left_alone(batch: Path, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<html>mine</html>")
    with pytest.raises(MachineError, match="in the way"):
        report(batch, "-o", tmp_path / "index.html")
    with pytest.raises(MachineError, match="in the way"):
        report(batch, "-o", batch)
    assert (tmp_path / "index.html").read_text() == "<html>mine</html>"


def test_more_than_a_browser_takes_is_refused(batch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oxenbatch.dataset.report.FILES_BYTES_MAX", 1000)
    with pytest.raises(UsageProblem, match="--limit"):
        report(batch, "-o", tmp_path / "r.html", "--embed", "files")


def test_no_address_and_no_key_is_in_the_page(batch: Path, tmp_path: Path) -> None:
    report(batch, "-o", tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert "https://" not in text
    assert text.count("http://") == text.count("http://hub")  # the name of this batch's hub
