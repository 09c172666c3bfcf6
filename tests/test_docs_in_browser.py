"""The pages of the documentation, as built, in a headless Chromium.

    PYRO_COREX_DOCS=docs/_build python -m pytest tests/test_docs_in_browser.py

``.ci/run`` does so after it has built them.
"""

import json
import os
from pathlib import Path

import pytest

FOLDER = os.environ.get("PYRO_COREX_DOCS", "")
DOCS = Path(__file__).parents[1] / "docs"
TUTORIALS = [f"tutorials/{path.stem}" for path in sorted((DOCS / "tutorials").glob("*.md"))]

pytestmark = pytest.mark.skipif(
    not FOLDER, reason="needs the documentation, built: PYRO_COREX_DOCS=docs/_build"
)


def open_page(browser, page):
    path = Path(FOLDER).resolve() / f"{page}.html"
    assert path.is_file(), f"{path} is not built"
    browser.get(path.as_uri())


def test_the_start_page_leads_everywhere(browser):
    open_page(browser, "index")
    assert browser.find_element("tag name", "h1").text.startswith("pyro_corex")
    links = browser.execute_script(
        "return [...document.querySelectorAll('.sidebar-tree a')].map(a => a.href)"
    )
    for page in (*TUTORIALS, "theory", "reproduction", "api", "contributing"):
        assert any(link.endswith(f"{page}.html") for link in links), page
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("page", ["index", "gallery", "theory", "looking", "api", *TUTORIALS])
def test_a_page_on_a_phone(browser, page):
    size = {"width": 375, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    open_page(browser, page)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 375
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("page", ["theory", "api/information"])
def test_formulas_are_typeset_without_a_network(browser, page):
    from selenium.webdriver.support.ui import WebDriverWait

    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["http://*", "https://*"]})
    try:
        open_page(browser, page)
        WebDriverWait(browser, 30).until(
            lambda b: b.execute_script(
                "return document.querySelectorAll('.math').length"
                " === document.querySelectorAll('mjx-container > svg').length"
            )
        )
    finally:
        browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
    assert len(browser.find_elements("css selector", "mjx-container > svg")) > 5
    assert browser.find_elements("css selector", "mjx-merror, [data-mjx-error]") == []
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('mjx-container > svg')].map(s => s.clientWidth)"
    )
    assert all(width > 0 for width in sizes)
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("page", TUTORIALS)
def test_a_tutorial_shows_what_it_computed(browser, page):
    open_page(browser, page)
    assert browser.find_elements("css selector", ".cell_output pre")
    widths = browser.execute_script(
        "return [...document.querySelectorAll('.cell_output img')].map(i => i.naturalWidth)"
    )
    assert widths
    assert all(width > 100 for width in widths)
    assert "assert " not in browser.find_element("tag name", "article").text


def test_cards_of_the_gallery_have_thumbnails(browser):
    open_page(browser, "gallery")
    browser.execute_script(
        "document.querySelectorAll('a.card img').forEach(i => i.loading = 'eager')"
    )
    cards = browser.execute_async_script(
        "Promise.all([...document.querySelectorAll('a.card')].map(a => a.children[0].decode()"
        ".then(() => [a.href, a.children[0].naturalWidth]))).then(arguments[0])"
    )
    assert len(cards) >= 24
    assert all(width == 300 for _, width in cards)
    assert all(Path(href.removeprefix("file://")).is_file() for href, _ in cards)


def test_the_reproduction_is_a_table(browser):
    open_page(browser, "reproduction")
    rows = browser.find_elements("css selector", ".cell_output table tbody tr")
    assert len(rows) == len(json.loads((DOCS / "reproduction.json").read_text())["rows"])
