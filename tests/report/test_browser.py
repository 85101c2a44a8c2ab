"""The page in a real browser, used as a person does: sorting, choosing, pointing, dragging, with mouse and keyboard."""

import io
import json
import math
import re
import shutil

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from shapjax.report import page
from shapjax.report.comparison import read_comparison
from shapjax.report.formatting import percent, probability_text, scientific, signed
from shapjax.report.heatmap import COLORS, overlay

pytestmark = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")), reason="chromium and chromedriver are not on PATH")

GRID = (3, 4)
KEYS = ("random", "gradient", "integrated_gradients", "gradcam", "gradient_rollout", "kernel_shap", "exact", "phi")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--force-color-profile=srgb")


@pytest.fixture(scope="module")
def run(tmp_path_factory, make_run, make_methods):
    return make_methods(make_run(tmp_path_factory.mktemp("runs") / "model"), keys=KEYS, grid=GRID)


@pytest.fixture(scope="module")
def comparison(run):
    return read_comparison(run)


@pytest.fixture(scope="module")
def address(run, tmp_path_factory):
    plots = {f"{theme}_{width}": "data:," for theme in ("light", "dark") for width in ("wide", "narrow")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "_variants", lambda *_, **__: plots)
        return page.write_report(tmp_path_factory.mktemp("report"), [run]).as_uri()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
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
    """The page, freshly loaded in a window of 1200 × 1000; afterwards nothing was fetched and no error logged."""
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
    """A property of this part of every method's map, by method, also of those that are not shown."""
    return browser.execute_script(
        "return Object.fromEntries([...document.querySelectorAll('.map[data-method]')].map("
        "map => [map.dataset.method, map.querySelector(arguments[0])[arguments[1]] ?? null]))", part, property)


def point_at(browser, key, patch, *, then=lambda chain: chain):
    picture = in_middle(browser, find(browser, f'.map[data-method="{key}"] .picture'))
    row, column = divmod(patch, GRID[1])
    x = ((column + 0.5) / GRID[1] - 0.5) * picture.rect["width"]
    y = ((row + 0.5) / GRID[0] - 0.5) * picture.rect["height"]
    then(ActionChains(browser).move_to_element_with_offset(picture, round(x), round(y))).perform()


def map_of(comparison, key, image=0, offered=0):
    return comparison.arrays["attributions"][KEYS.index(key), image, offered]


def course_of(comparison, key, image=0, offered=0):
    return comparison.arrays["deleted"][KEYS.index(key), image, offered]


def value_and_rank(values, patch):
    """As written below a map: three digits of the map's largest value, and the patch's rank."""
    value, limit = float(values[patch]), float(np.abs(values).max())
    digits = 2 - math.floor(math.log10(limit))
    text = signed(value, digits=max(0, digits))
    if digits > 6:
        text = "0" if value == 0 else ("−" if value < 0 else "+") + scientific(abs(value))
    return f"{text} · rank {1 + (values > value).sum()}"


def column(browser, index):
    cells = find_all(browser, f"#methods-table tbody tr > :nth-child({index + 1})")
    return [cell.get_attribute("data-sort") for cell in cells]


def sorted_headings(browser):
    return {h.text.split("\n")[0]: h.get_attribute("aria-sort")
            for h in find_all(browser, "#methods-table thead th[aria-sort]")}


def test_the_table_sorts_by_mouse_and_keyboard_and_keeps_the_undefined_last(browser):
    assert sorted_headings(browser) == {"Deletion AUC": "ascending"}
    buttons = find_all(browser, "#methods-table thead button")
    r2, insertion = 1, 3
    click(browser, buttons[insertion])
    assert sorted_headings(browser) == {"Insertion AUC": "descending"}  # the best first
    numbers = [float(text) for text in column(browser, insertion)]
    assert numbers == sorted(numbers, reverse=True)
    browser.execute_script("arguments[0].focus()", buttons[r2])
    for direction in ("descending", "ascending"):
        press(browser, Keys.ENTER)
        assert sorted_headings(browser) == {"R² to exact": direction}
        texts = column(browser, r2)
        defined = [float(text) for text in texts if text]
        assert defined == sorted(defined, reverse=direction == "descending")
        assert texts[len(defined):] == [""] * (len(texts) - len(defined)) != []
    click(browser, buttons[0])
    assert column(browser, 0) == sorted(column(browser, 0), key=str.lower)


def test_a_heading_explains_itself_on_hover_and_focus_and_escape_hides_it(browser, comparison):
    heading = find_all(browser, "#methods-table thead button")[2]
    hint = find(browser, "#methods figure > .tip")
    definition = comparison.summary["metrics"][1]["hint"]
    in_middle(browser, heading)
    assert not hint.is_displayed()
    ActionChains(browser).move_to_element(heading).perform()
    WebDriverWait(browser, 10).until(lambda _: hint.is_displayed())  # the page hears of the mouse in its own time
    assert hint.text == definition
    press(browser, Keys.ESCAPE)
    assert not hint.is_displayed()
    browser.execute_script("arguments[0].focus({preventScroll: true})", heading)
    assert hint.is_displayed()


def test_small_numbers_can_be_differences_to_the_best(browser):
    interval, difference = (find(browser, f"#methods-table td .{name}") for name in ("interval", "difference"))
    assert interval.is_displayed() and not difference.is_displayed()
    click(browser, find(browser, '.small-numbers [value="difference"]'))
    assert difference.is_displayed() and not interval.is_displayed()


def test_a_method_is_picked_out_of_the_curves(browser):
    lines = '.line[data-method="gradcam"]'
    button = find(browser, '.legend [data-method="gradcam"]')
    assert button.get_attribute("aria-pressed") == "false"
    click(browser, button)
    assert button.get_attribute("aria-pressed") == "true"
    assert all("lit" in line.get_attribute("class") for line in find_all(browser, lines)) and find_all(browser, lines)
    click(browser, button)
    assert not any("lit" in line.get_attribute("class") for line in find_all(browser, lines))


@pytest.mark.parametrize(("place", "kind", "index"), [(1, "deletion", 6), (2, "positive", 5)])
def test_pointing_at_a_curve_reads_it(browser, comparison, place, kind, index):
    chart = in_middle(browser, find_all(browser, ".charts .chart")[place])
    points = browser.execute_script(
        "const line = arguments[0].querySelector('[data-method=random]'), matrix = arguments[0].getScreenCTM();"
        "return [...line.points].map(p => p.matrixTransform(matrix)).map(p => [p.x, p.y])", chart)
    x, y = points[index]
    left, top = browser.execute_script(
        "const r = arguments[0].getBoundingClientRect(); return [r.left + r.width / 2, r.top + r.height / 2]", chart)
    ActionChains(browser).move_to_element_with_offset(chart, round(x - left), round(y - top)).perform()
    expected = comparison.summary["methods"][0]["curves"][kind][index]
    assert find(browser, ".curves .tip").text == f"Random: {percent(expected)} with 50 % of the patches removed"


def test_choosing_an_image_and_a_class_shows_its_numbers(browser, comparison):
    arrays, names = comparison.arrays, comparison.summary["class_names"]
    click(browser, find_all(browser, ".thumbs input")[1])
    labels = [label.text for label in find_all(browser, ".classes label")]
    for index, text in zip(arrays["classes"][1], labels, strict=True):
        assert text.startswith(f"{names[index]} {probability_text(float(arrays['probabilities'][1, index]))}")
        assert ("predicted" in text) == (index == arrays["probabilities"][1].argmax())
        assert ("label" in text) == (index == arrays["labels"][1])
    click(browser, find_all(browser, ".classes input")[2])
    wholes = {key: course_of(comparison, key, 1, 2)[0] for key in KEYS}
    expected = {key: f"{probability_text(float(whole))} nothing removed" for key, whole in wholes.items()}
    assert of_maps(browser, ".after") == expected
    point_at(browser, "exact", 5)
    assert of_maps(browser, ".patch")["exact"] == value_and_rank(map_of(comparison, "exact", 1, 2), 5)


def test_pointing_at_a_patch_reads_its_value_and_rank_in_every_map(browser, comparison):
    for patch in (0, 6, 11):
        point_at(browser, "kernel_shap", patch)
        assert of_maps(browser, ".patch") == {key: value_and_rank(map_of(comparison, key), patch) for key in KEYS}
        row, at = divmod(patch, GRID[1])
        outline = f'class="cursor on" rx="0.6" x="{at * 100 // GRID[1]}" y="{row * 75 // GRID[0]}"'
        assert all(outline in html for html in of_maps(browser, ".cursor", "outerHTML").values())
    ActionChains(browser).move_to_element(find(browser, ".deck label")).perform()
    assert of_maps(browser, ".patch")["phi"].strip() == ""


def test_arrow_keys_move_the_patch_and_say_where_it_is(browser, comparison):
    point_at(browser, "phi", 6, then=lambda chain: chain.click())
    for key, patch in ((Keys.ARROW_RIGHT, 7), (Keys.ARROW_RIGHT, 7), (Keys.ARROW_UP, 3), (Keys.HOME, 0),
                       (Keys.ARROW_DOWN, 4), (Keys.END, 7)):
        press(browser, key)
        active = browser.switch_to.active_element
        assert active.get_attribute("aria-label") == f"Row {patch // GRID[1] + 1}, column {patch % GRID[1] + 1}"
        assert of_maps(browser, ".patch")["random"] == value_and_rank(map_of(comparison, "random"), patch)
    spoken = find(browser, ".spoken").get_attribute("textContent")
    assert spoken.startswith("Patch in row 2, column 4: ")
    assert f"phi, this model’s own {value_and_rank(map_of(comparison, 'phi'), 7).replace(' ·', ',')}" in spoken
    press(browser, Keys.ESCAPE)
    ActionChains(browser).move_to_element(find(browser, ".deck label")).perform()
    assert of_maps(browser, ".patch")["random"].strip() == ""


def test_dragging_the_slider_removes_the_top_patches_of_each_map(browser, comparison):
    slider = in_middle(browser, find(browser, "#removed"))
    width, players = slider.rect["width"], GRID[0] * GRID[1]
    ActionChains(browser).move_to_element_with_offset(slider, round(8 - width / 2), 0).click_and_hold().move_by_offset(
        round(width / 4), 0).move_by_offset(round(width / 4), 0).release().perform()
    removed = int(slider.get_attribute("value"))
    assert abs(removed - players / 2) <= 1

    def check(removed):
        assert find(browser, ".deck output").text == f"{removed} of {players}"
        assert slider.get_attribute("aria-valuetext") == f"{removed} of {players} patches"
        left = {key: probability_text(float(course_of(comparison, key)[removed])) for key in KEYS}
        assert of_maps(browser, ".after b") == left
        for key, path in of_maps(browser, ".removed", "outerHTML").items():
            top = np.argsort(-map_of(comparison, key), kind="stable")[:removed]
            corners = {tuple(map(float, corner)) for corner in re.findall(r"M([\d.]+) ([\d.]+)h", path)}
            assert corners == {(100 / GRID[1] * (n % GRID[1]), 75 / GRID[0] * (n // GRID[1])) for n in top}

    check(removed)
    press(browser, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    check(removed + 2)
    assert f"without the top {removed + 2}: " in find(browser, ".spoken").get_attribute("textContent")
    press(browser, Keys.END)
    check(players)
    press(browser, Keys.HOME)
    check(0)


def tints(browser, key):
    return re.findall(r'fill="(.*?)"', of_maps(browser, ".tints", "innerHTML")[key])


def test_maps_of_one_unit_can_share_a_scale(browser, comparison):
    before = tints(browser, "gradcam")
    click(browser, find(browser, '.scales [value="logits"]'))
    limit = max(np.abs(map_of(comparison, key)).max() for key in ("phi", "exact", "kernel_shap"))
    ends = of_maps(browser, ".scale-end")
    assert ends["phi"] == ends["exact"] == ends["kernel_shap"]
    assert ends["phi"] == f"colors to ±{signed(float(limit), digits=2 - math.floor(math.log10(limit)), plus='')}"
    assert tints(browser, "gradcam") == before  # of another unit
    for key in ("phi", "exact", "kernel_shap"):
        colors = COLORS((1 + map_of(comparison, key) / limit) / 2)
        assert tints(browser, key) == [to_hex(color) for color in colors]


def test_a_map_looks_as_the_votes_do_elsewhere_on_the_page(browser, comparison):
    values = map_of(comparison, "phi").reshape(GRID)
    picture = in_middle(browser, find(browser, '.map[data-method="phi"] .picture'))
    ActionChains(browser).move_to_element(find(browser, ".deck label")).perform()
    browser.execute_script("arguments[0].querySelector('.lines').remove()", picture)
    shown = Image.open(io.BytesIO(picture.screenshot_as_png)).convert("RGB")
    expected = overlay(comparison.arrays["images"][0], values, float(np.abs(values).max()))
    expected = Image.fromarray(expected).resize(shown.size, Image.Resampling.NEAREST)
    difference = np.abs(np.asarray(shown, int) - np.asarray(expected, int))
    assert np.median(difference) <= 2 and difference.mean() < 4


def test_methods_are_shown_and_hidden(browser):
    def shown():
        return {figure.get_attribute("data-method") for figure in find_all(browser, ".map[data-method]")
                if figure.is_displayed()}

    assert shown() == set(KEYS) - {"gradient"}
    click(browser, find(browser, ".shown summary"))
    click(browser, find(browser, '.shown [value="gradient"]'))
    click(browser, find(browser, '.shown [value="exact"]'))
    assert shown() == set(KEYS) - {"exact"}
    assert find(browser, ".shown-count").text == f"{len(KEYS) - 1} of {len(KEYS)}"


def luminance(color):
    red, green, blue = (int(part) for part in color[color.index("(") + 1:-1].split(",")[:3])
    return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_the_paper_in_both_schemes(browser, scheme):
    emulate(browser, width=1200, height=1000, scheme=scheme)
    card = luminance(find(browser, ".explorer").value_of_css_property("background-color"))
    assert (card > 0.9) == (scheme == "light")
    for selector in (".classes span", ".map .after", ".map .scale-end", ".methods td", ".methods .own td",
                     ".methods small", ".legend button", ".panel .sub", ".deck .where", ".shown summary"):
        assert abs(luminance(find(browser, selector).value_of_css_property("color")) - card) > 0.35, selector


def test_nothing_is_wider_than_a_phone(browser):
    emulate(browser, width=360, height=740, scheme="light")
    click(browser, find(browser, ".shown summary"))
    root = find(browser, "html")
    assert root.get_property("scrollWidth") == root.get_property("clientWidth")
    table = find(browser, ".methods-scroll")
    browser.execute_script("arguments[0].scrollLeft = 300", table)
    names = find(browser, "#methods-table tbody th")
    assert names.rect["x"] == pytest.approx(table.rect["x"], abs=2)  # the names stay


def test_without_scripts_there_is_a_table_and_a_note(chromium, address):
    chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        chromium.get(address)
        assert "needs JavaScript" in find(chromium, "#explorer").text
        assert not find(chromium, ".explorer").is_displayed()
        assert find_all(chromium, "#methods-table thead button") == []
        assert len(find_all(chromium, "#methods-table tbody tr")) == len(KEYS)
        assert find(chromium, ".charts .line").is_displayed()
    finally:
        chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
