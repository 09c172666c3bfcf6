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
FROM_ELSEWHERE = ("https://cdn.jsdelivr.net/",)  # MathJax

pytestmark = pytest.mark.skipif(
    not FOLDER, reason="needs the documentation, built: PYRO_COREX_DOCS=docs/_build"
)


def open_page(browser, page):
    path = Path(FOLDER).resolve() / f"{page}.html"
    assert path.is_file(), f"{path} is not built"
    browser.get(path.as_uri())


def errors(browser):
    """What is logged, but for what the network does not give."""
    return [
        entry
        for entry in browser.get_log("browser")
        if not any(address in entry["message"] for address in FROM_ELSEWHERE)
    ]


def test_the_start_page_leads_everywhere(browser):
    open_page(browser, "index")
    assert browser.find_element("tag name", "h1").text.startswith("pyro_corex")
    links = browser.execute_script(
        "return [...document.querySelectorAll('.sidebar-tree a')].map(a => a.href)"
    )
    for page in (*TUTORIALS, "theory", "reproduction", "api", "contributing"):
        assert any(link.endswith(f"{page}.html") for link in links), page
    assert errors(browser) == []


@pytest.mark.parametrize("page", ["index", "theory", "reproduction", "api", *TUTORIALS])
def test_a_page_on_a_phone(browser, page):
    size = {"width": 375, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    open_page(browser, page)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 375
    assert errors(browser) == []


@pytest.mark.parametrize("page", TUTORIALS)
def test_a_tutorial_shows_what_it_computed(browser, page):
    open_page(browser, page)
    assert browser.find_elements("css selector", ".cell_output pre")
    widths = browser.execute_script(
        "return [...document.querySelectorAll('.cell_output img')].map(i => i.naturalWidth)"
    )
    assert widths or page in ("tutorials/custom",)
    assert all(width > 100 for width in widths)
    assert "assert " not in browser.find_element("tag name", "article").text


def test_the_reproduction_is_a_table(browser):
    open_page(browser, "reproduction")
    rows = browser.find_elements("css selector", ".cell_output table tbody tr")
    assert len(rows) == len(json.loads((DOCS / "reproduction.json").read_text())["rows"])
