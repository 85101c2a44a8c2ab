"""Fixtures of the tests in a browser: Chromium, a page that compares methods, and ways to click and look."""

import json
import pathlib
import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

from shapjax.report import page
from shapjax.report.reading import read_comparison

GRID = (3, 4)
KEYS = ("random", "gradient", "integrated_gradients", "gradcam", "gradient_rollout", "kernel_shap", "exact", "phi")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--force-color-profile=srgb")


@pytest.fixture(scope="session")
def run(tmp_path_factory, make_run, make_methods):
    return make_methods(make_run(tmp_path_factory.mktemp("runs") / "model"), keys=KEYS, grid=GRID)


@pytest.fixture(scope="session")
def comparison(run):
    return read_comparison(run, step=1200)


@pytest.fixture(scope="session")
def address(run, tmp_path_factory, leave_out_plots):
    """Returns the address of the page."""
    with pytest.MonkeyPatch.context() as patch:
        leave_out_plots(patch)
        return pathlib.Path(page.write_report(tmp_path_factory.mktemp("report"), [run])).as_uri()


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("chromium and chromedriver are not on PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium, address):
    """Loads the page in a window of 1200 × 1000; asserts afterwards that nothing was fetched and no error logged."""
    emulate(chromium, width=1200, height=1000, scheme="light")
    chromium.get_log("performance")  # of what came before, such as the browser's own first tab
    chromium.get(address)
    chromium.execute_script("document.documentElement.style.scrollBehavior = 'auto'")
    yield chromium
    requests = (json.loads(entry["message"])["message"] for entry in chromium.get_log("performance"))
    urls = [r["params"]["request"]["url"] for r in requests if r["method"] == "Network.requestWillBeSent"]
    assert [url for url in urls if not (url == address or url.startswith("data:"))] == []
    assert chromium.get_log("browser") == []


def emulate(driver, *, width, height, scheme):
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def find(browser, selector):
    return browser.find_element(By.CSS_SELECTOR, selector)


def find_all(browser, selector):
    return browser.find_elements(By.CSS_SELECTOR, selector)


def in_middle(browser, element):
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    return element


def click(browser, element):
    ActionChains(browser).move_to_element(in_middle(browser, element)).click().perform()


def press(browser, *keys):
    ActionChains(browser).send_keys(*keys).perform()


def of_maps(browser, part, property="textContent"):
    """Returns a property of this part of every method's map, by method, hidden maps included."""
    return browser.execute_script(
        "return Object.fromEntries([...document.querySelectorAll('.map[data-method]')].map("
        "map => [map.dataset.method, map.querySelector(arguments[0])[arguments[1]] ?? null]))", part, property)


def point_at(browser, key, patch, *, then=lambda chain: chain):
    picture = in_middle(browser, find(browser, f'.map[data-method="{key}"] .picture'))
    row, column = divmod(patch, GRID[1])
    x = ((column + 0.5) / GRID[1] - 0.5) * picture.rect["width"]
    y = ((row + 0.5) / GRID[0] - 0.5) * picture.rect["height"]
    then(ActionChains(browser).move_to_element_with_offset(picture, round(x), round(y))).perform()
