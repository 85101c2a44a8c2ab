"""Formats numbers for people: with a minus sign and few digits. Only exact values become 0 or 100 %."""

from collections.abc import Sequence

MINUS = "\N{MINUS SIGN}"


def signed(value: float, *, digits: int = 2, plus: str = "+") -> str:
    """Formats a number with its sign, a real minus, and no sign if it rounds to zero."""
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return (MINUS if value < 0 else plus) + text


def percent(share: float) -> str:
    """Formats 0.9731 as "97.3 %"; rounds to 0 or 100 % only what is exactly that."""
    if 0.9995 <= share < 1:
        return "> 99.9 %"
    if 0 < share < 0.0005:
        return "< 0.1 %"
    return f"{100 * share:.1f} %"


def probability_text(probability: float) -> str:
    """Formats a softmax as `percent`, never as 0 or 100 %, also if float32 has rounded it to that."""
    return percent(min(max(probability, 1e-9), 1 - 1e-9))


def decimal(number: float | None, *, digits: int = 2) -> str:
    """Formats a number with a real minus; "undefined" for None."""
    return "undefined" if number is None else signed(number, digits=digits, plus="")


def count(number: float) -> str:
    """Formats 65536 as "65 536", with a narrow space that no line breaks at."""
    return f"{int(number):,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def scientific(number: float) -> str:
    """Formats 3.3e-06 as "3.3 × 10⁻⁶"."""
    if number == 0:
        return "0"
    mantissa, exponent = f"{number:.1e}".split("e")
    if exponent in ("+00", "-01"):
        return decimal(number)
    power = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa} × 10{power}"


def duration(seconds: float | None) -> str:
    """Formats 0.0012 as "1.2 ms"; "–" for None."""
    return "0 s" if seconds == 0 else _with_unit(seconds, ((1, "s"), (1e-3, "ms"), (1e-6, "µs")))


def size(bytes: float | None) -> str:
    """Formats 3400000 as "3.4 MB"; "–" for None."""
    return _with_unit(bytes, ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")))


def passes(number: float | None) -> str:
    """Formats a number of forward passes: 2048 as "2 048", 33.5 as "33.5"; "–" for None."""
    if number is None:
        return "–"
    return count(round(number)) if number >= 100 or number == int(number) else f"{number:.1f}"


def interval(low: float, high: float, *, digits: int) -> str:
    """Formats the ends of an interval, "[0.12, 0.15]"."""
    return f"[{decimal(low, digits=digits)}, {decimal(high, digits=digits)}]"


def _with_unit(number: float | None, units: Sequence[tuple[float, str]]) -> str:
    """Formats with at least two digits (1.2, 12, 1 234), in the first unit of which it is 1 or more, or the last."""
    if number is None:
        return "–"
    factor, unit = next((pair for pair in units if number >= 0.9995 * pair[0]), units[-1])
    number /= factor
    text = count(round(number)) if number >= 9.95 else f"{number:.1f}"
    return f"{text} {unit}"
