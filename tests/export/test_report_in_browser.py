"""The report as people see it: in a headless Chromium, on a desk and on a phone."""

from itertools import pairwise

import pytest
import torch
from selenium.webdriver.common.keys import Keys

import pyro_corex as pc
from pyro_corex.programs import mlp_decoder, mlp_encoder


def write(kind, path):
    torch.manual_seed(0)
    if kind == "CorEx":
        x = torch.randn(200, 2).repeat(1, 3) + 0.5 * torch.randn(200, 6)
        pc.report(pc.CorEx((2, 1), random_state=0, cv=None, max_iter=20, tol=1.0).fit(x), x, path)
        return
    if kind == "table":
        x = torch.randn(200, 1) + 0.5 * torch.randn(200, 6)
        networks = mlp_encoder([6, 2]), mlp_decoder([2, 6])
        module, options = pc.CorExVAE(*networks, 2, likelihood="learned_normal"), {}
    else:
        x = torch.bernoulli(torch.rand(100, 1).expand(100, 16))
        module, options = (
            pc.StackedCorEx([(16, 8, 3), (3, 3)], n_classes=3),
            {"image_shape": (4, 4)},
        )
    history = pc.fit(module, x, epochs=3, lr=0.02, progress=False)
    pc.report(module, x, path, history=history, **options)


@pytest.fixture(scope="module", params=["table", "images", "CorEx"])
def any_page(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write(request.param, path)
    return path.as_uri()


@pytest.fixture(scope="module", params=["table", "images"])
def page(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write(request.param, path)
    return path.as_uri()


def phone(browser):
    size = {"width": 375, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def shot(browser, picture):
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", picture)
    return picture.screenshot_as_png


def parts(browser, page):
    """The first continuous traversal: its slider, its picture, and what it says."""
    browser.get(page)
    found = browser.find_elements("css selector", "[data-traversal]")
    assert found
    box = next(box for box in found if "Latent" in box.find_element("tag name", "h3").text)
    picture = box.find_element("css selector", ".film, .chart")
    return box.find_element("tag name", "input"), picture, box.find_element("tag name", "output")


def test_nothing_is_logged_or_asked_of_the_network(browser, any_page):
    browser.get(any_page)
    asked = browser.execute_script(
        "return performance.getEntriesByType('resource').map(e => e.name.slice(0, 5))"
    )
    assert set(asked) <= {"data:"}
    broken = browser.execute_script(
        "return [...document.images].filter(i => !i.complete || !i.naturalWidth).length"
    )
    assert broken == 0
    assert browser.get_log("browser") == []


def test_the_slider_moves_the_picture(browser, page):
    slider, picture, output = parts(browser, page)
    shots = []
    for value in (0, 12, 0):
        browser.execute_script(
            "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))",
            slider,
            value,
        )
        shots.append((output.text, shot(browser, picture)))
    assert [text for text, _ in shots] == ["-3.0 sd", "+3.0 sd", "-3.0 sd"]
    assert shots[0][1] != shots[1][1]
    assert shots[0][1] == shots[2][1]
    assert browser.get_log("browser") == []


def test_the_keyboard_moves_the_slider(browser, page):
    slider, picture, output = parts(browser, page)
    for _ in range(20):  # by the tab key alone
        browser.switch_to.active_element.send_keys(Keys.TAB)
        if browser.switch_to.active_element == slider:
            break
    assert browser.switch_to.active_element == slider
    slider.send_keys(Keys.HOME)
    assert output.text == "-3.0 sd"
    before = shot(browser, picture)
    for _ in range(4):
        slider.send_keys(Keys.ARROW_RIGHT)
    assert output.text == "-1.0 sd"
    assert slider.get_attribute("aria-valuetext") == "-1.0 sd"
    assert shot(browser, picture) != before


def test_on_a_phone_nothing_sticks_out(browser, any_page):
    phone(browser)
    browser.get(any_page)
    assert browser.execute_script("return window.innerWidth") == 375
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 375


def test_a_finger_finds_the_slider(browser, page):
    phone(browser)
    slider, _, _ = parts(browser, page)
    assert slider.size["width"] >= 150
    assert slider.size["height"] >= 24


def test_everything_has_a_name_and_headings_are_in_order(browser, any_page):
    browser.get(any_page)
    unnamed = browser.execute_script(
        "return [...document.querySelectorAll('input')].filter(i => !i.labels.length).length"
        " + [...document.images].filter(i => !i.alt).length"
    )
    assert unnamed == 0
    levels = browser.execute_script(
        "return [...document.querySelectorAll('h1, h2, h3')].map(h => Number(h.tagName[1]))"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    assert browser.execute_script("return document.documentElement.lang") == "en"


@pytest.mark.parametrize("page", ["images"], indirect=True)
def test_the_window_shows_the_frame_of_the_slider(browser, page):
    slider, picture, _ = parts(browser, page)
    for value in (0, 5, 12):
        top, left, height = browser.execute_script(
            "arguments[0].value = arguments[2]; arguments[0].dispatchEvent(new Event('input'));"
            "const a = arguments[1].getBoundingClientRect();"
            "const b = arguments[1].querySelector('img').getBoundingClientRect();"
            "return [b.top - a.top, b.left - a.left, a.height]",
            slider,
            picture,
            value,
        )
        assert left == pytest.approx(0, abs=0.5)
        assert top == pytest.approx(-value * height, abs=2)
