import os
import shutil
from collections.abc import Iterator

# Of what is imported and started below: threads of several processes wait for each other busily.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pyro
import pytest
import torch


class NoStack:
    """Torch notes the stack at each seed for devices that are not in use: milliseconds here."""

    format_stack = staticmethod(lambda: [])


for device in ("cuda", "mtia", "xpu"):
    if hasattr(torch, device):
        getattr(torch, device).traceback = NoStack


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Each process takes neighbouring tests, which share what their modules have trained."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.option.dist == "load" else None


@pytest.fixture(autouse=True)
def _fresh_pyro() -> Iterator[None]:
    """One thread, a fixed seed and an empty parameter store."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    yield
    pyro.clear_param_store()
    torch.set_num_threads(threads)


@pytest.fixture
def _float64() -> Iterator[None]:
    """Modules and tensors of the test are float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1000,900",
]


@pytest.fixture(scope="session")
def _chromium(tmp_path_factory):
    """A headless Chromium; what needs it is skipped without one, and fails in .ci/run."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    chromedriver = shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        reason = "needs Debian's chromium and chromium-driver (apt-get install)"
        if os.environ.get("PYRO_COREX_BROWSER") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("profile")
    for flag in [*FLAGS, f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    yield driver
    driver.quit()


@pytest.fixture
def browser(_chromium):
    """The browser, at the size of a desk, without what earlier pages logged."""
    _chromium.get_log("browser")
    _chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    return _chromium
