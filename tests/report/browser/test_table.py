"""The table and the curves in a real browser, and the page as a whole: phone, dark, without scripts."""

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from shapjax.report.formatting import percent
from tests.report.browser.conftest import KEYS, click, emulate, find, find_all, in_middle, press


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
