"""The pages in a real browser: an installed Chromium, driven from Python; desktop and phone width, light and dark."""

import shutil

import numpy as np
import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="the browser is driven by Playwright, of the extra `test`")
pytest.importorskip("jinja2", reason="pages need the extra `report`")

from crossentropy.evaluation import compare, report  # noqa: E402

from .conftest import pa, softmax_rows  # noqa: E402
from .test_page import HOSTILE, hostile_table  # noqa: E402

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge")
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no browser is installed: none of {', '.join(NAMES)} is on the path")
    with sync_api.sync_playwright() as driver:
        # no sandbox: containers that run as root have none
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Open a file; whatever the console, a dialog or the network has to say fails the test."""
    contexts, problems = [], []

    def open_(path, viewport=DESKTOP, scheme="light"):
        context = browser.new_context(viewport=viewport, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(f"console: {message.type} {message.text}"))
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (problems.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or problems.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not problems


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    probabilities, labels = softmax_rows(2000, 12, seed=51)
    sharp = probabilities**2 / (probabilities**2).sum(axis=1, keepdims=True)
    report(sharp, labels=labels, html=folder / "report.html")
    compare(sharp, probabilities, labels=labels, html=folder / "compare.html")
    pa.parquet.write_table(hostile_table(), folder / "hostile.parquet")
    report(folder / "hostile.parquet", classes=HOSTILE, by=[HOSTILE[0] + "$"], html=folder / "hostile.html")
    return folder


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("name", ["report", "compare", "hostile"])
def test_a_page_fits_its_window(open_page, pages, name, viewport, scheme):
    page = open_page(pages / f"{name}.html", viewport, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]  # tables scroll by themselves
    answer = page.locator(".verdict .answer").bounding_box()
    assert answer["y"] + answer["height"] < viewport["height"]  # the verdict is on the first screen
    if viewport is DESKTOP:
        last = page.locator(".card").last.bounding_box()
        assert last["y"] + last["height"] < viewport["height"]  # and all answers on a desktop's
    for picture in page.locator("figure svg").all():
        box = picture.bounding_box()
        assert box["width"] > 200
        assert box["height"] > 150
    # words on the paper are told from it: the contrast of the colours the browser took, as WCAG 2 counts it
    for selector in ("body", ".verdict .answer", ".card h2", "figcaption", "svg text"):
        assert contrast(page, selector) > 4.5, selector


def contrast(page, selector):
    colours = page.evaluate(
        """selector => {
            const element = document.querySelector(selector), own = getComputedStyle(element);
            const found = element instanceof SVGElement ? own.fill : own.color;
            let behind = element;
            const clear = 'rgba(0, 0, 0, 0)';
            while (behind && getComputedStyle(behind).backgroundColor === clear) behind = behind.parentElement;
            const paper = getComputedStyle(behind ?? document.body).backgroundColor;
            return [found, paper].map(text => text.match(/[0-9.]+/g).slice(0, 3).map(Number));
        }""",
        selector,
    )
    light, dark = sorted((luminance(colour) for colour in colours), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (value / 255 for value in colour)]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_dark_is_dark_and_light_is_light(open_page, pages):
    for scheme, is_light in (("light", True), ("dark", False)):
        page = open_page(pages / "report.html", scheme=scheme)
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)")
        assert (luminance(colour[:3]) > 0.5) == is_light


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_tables_sort_by_a_click(open_page, pages, viewport):
    page = open_page(pages / "report.html", viewport)
    table = page.locator("table.sortable").first

    def column(i):
        return table.locator(f"tbody td:nth-child({i})").all_inner_texts()

    def numbers(i):
        return [float(text.rstrip(" *%\u00a0")) for text in column(i)]

    before = column(1)
    assert before == [str(i) for i in range(12)]
    for i in (3, 5, 6):
        header = table.locator(f"th:nth-child({i})")
        header.locator("button").click()
        assert header.get_attribute("aria-sort") == "descending"
        assert numbers(i) == sorted(numbers(i), reverse=True)
        header.locator("button").click()
        assert header.get_attribute("aria-sort") == "ascending"
        assert numbers(i) == sorted(numbers(i))
    assert column(1) != before
    table.locator("th:nth-child(1) button").click()  # names: 10 comes after 9
    assert column(1) == before
    assert table.locator("th[aria-sort]").count() == 1


def test_sorting_by_the_keyboard(open_page, pages):
    page = open_page(pages / "compare.html")
    button = page.locator("table.sortable").first.locator("th:nth-child(3) button")
    button.focus()
    page.keyboard.press("Enter")
    assert page.locator("th[aria-sort='descending']").count() == 1


def test_hostile_names_are_seen_as_text(open_page, pages):
    page = open_page(pages / "hostile.html")
    cells = page.locator("table.sortable").first.locator("tbody td:first-child").all_inner_texts()
    for name in ("<script>alert(1)</script>", '" onload="alert(1)', "'><img src=x onerror=alert(1)>", "שלום עולם"):
        assert name in cells
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 1
    assert page.evaluate("[...document.querySelectorAll('*')].every(e => !e.onclick && !e.onload && !e.onerror)")


def test_the_policy_stops_a_script_that_got_in(browser, pages, tmp_path):
    """The second wall, with the first one broken on purpose."""
    text = (pages / "report.html").read_text("utf-8")
    broken = tmp_path / "broken.html"
    broken.write_text(text.replace("</h1>", "<script>document.title = 'hacked'</script></h1>", 1), "utf-8")
    context = browser.new_context()
    page = context.new_page()
    refused = []
    page.on("console", lambda message: refused.append(message.text))
    page.goto(broken.as_uri())
    assert page.title() != "hacked"
    assert any("Content Security Policy" in message for message in refused)
    context.close()
