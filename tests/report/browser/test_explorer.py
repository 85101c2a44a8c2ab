"""The explorer in a real browser, used as a person does: choosing, pointing, dragging, with mouse and keyboard."""

import io
import math
import re

import numpy as np
from matplotlib.colors import to_hex
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from shapjax.report.formatting import probability_text, scientific, signed
from shapjax.report.heatmap import COLORS, overlay
from tests.report.browser.conftest import (
    GRID,
    KEYS,
    click,
    find,
    find_all,
    in_middle,
    of_maps,
    point_at,
    press,
)


def map_of(comparison, key, image=0, offered=0):
    return comparison.arrays["attributions"][KEYS.index(key), image, offered]


def course_of(comparison, key, image=0, offered=0):
    return comparison.arrays["deleted"][KEYS.index(key), image, offered]


def value_and_rank(values, patch, half_width=None):
    """Returns the text below a map: the value to three digits of the map's largest, its error, the patch's rank."""
    value, limit = float(values[patch]), float(np.abs(values).max())
    digits = 2 - math.floor(math.log10(limit))
    text = signed(value, digits=max(0, digits))
    if digits > 6:
        text = "0" if value == 0 else ("−" if value < 0 else "+") + scientific(abs(value))
    if half_width is not None:
        text += f" ± {half_width[patch]:.{max(0, digits)}f}"
    return f"{text} · rank {1 + (values > value).sum()}"


def errors_of(comparison, key):
    """Returns half the widths of the intervals of the first image and class, which only the model's own values have."""
    return comparison.arrays["half_width"][0, 0] if key == "phi" else None


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
        assert of_maps(browser, ".patch") == {
            key: value_and_rank(map_of(comparison, key), patch, errors_of(comparison, key)) for key in KEYS}
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
    own = value_and_rank(map_of(comparison, "phi"), 7, errors_of(comparison, "phi"))
    assert f"phi, this model’s own {own.replace(' ·', ',')}" in spoken
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


def test_a_map_looks_as_the_maps_elsewhere_on_the_page_do(browser, comparison):
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
