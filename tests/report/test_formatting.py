"""Numbers are written with a minus sign and few digits, and never claim certainty."""

import numpy as np
import pytest

from shapjax.report import formatting


@pytest.mark.parametrize(("value", "text"), [(1.234, "+1.23"), (-1.234, "−1.23"), (-0.001, "0.00"), (0.0, "0.00")])
def test_signed(value, text):
    assert formatting.signed(value) == text


@pytest.mark.parametrize(("value", "text"), [
    (0.9731, "97.3 %"), (1.0, "100.0 %"), (0.99996, "> 99.9 %"), (0.0, "0.0 %"), (0.0001, "< 0.1 %")])
def test_percent_never_rounds_to_certainty(value, text):
    assert formatting.percent(value) == text


@pytest.mark.parametrize(("value", "text"), [(np.float32(1 - 1e-9), "> 99.9 %"), (0.0, "< 0.1 %"), (0.9731, "97.3 %")])
def test_a_probability_is_no_certainty_even_where_its_float_is_one(value, text):
    assert formatting.probability_text(float(value)) == text


@pytest.mark.parametrize(("number", "text"), [(3.3e-6, "3.3 × 10⁻⁶"), (0, "0"), (0.25, "0.25"), (2.5e10, "2.5 × 10¹⁰")])
def test_scientific(number, text):
    assert formatting.scientific(number) == text


@pytest.mark.parametrize(("seconds", "text"), [
    (None, "–"), (0, "0 s"), (2e-7, "0.2 µs"), (1.2e-4, "120 µs"), (0.0012, "1.2 ms"), (0.9999, "1.0 s"),
    (2345, "2\u202f345 s")])
def test_duration(seconds, text):
    assert formatting.duration(seconds) == text


@pytest.mark.parametrize(("size", "text"), [(None, "–"), (512, "0.5 kB"), (3.4e6, "3.4 MB"), (9.996e8, "1.0 GB")])
def test_size(size, text):
    assert formatting.size(size) == text


@pytest.mark.parametrize(("number", "text"), [(None, "–"), (1.0, "1"), (33.5, "33.5"), (2048.0, "2\u202f048")])
def test_passes(number, text):
    assert formatting.passes(number) == text


def test_an_interval_has_real_minus_signs():
    assert formatting.interval(-0.123, 0.05, digits=2) == "[−0.12, 0.05]"
