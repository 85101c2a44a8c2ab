"""Numbers as people read them: a real minus, few digits, nothing rounded to what it is not."""

MINUS = "\N{MINUS SIGN}"


def signed(value: float, *, digits: int = 2, plus: str = "+") -> str:
    """A number with its sign, a real minus, and no sign if it rounds to zero."""
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return (MINUS if value < 0 else plus) + text


def percent(probability: float) -> str:
    """0.9731 as "97.3 %"; what is not quite all or nothing is not rounded to it."""
    if 0.9995 <= probability < 1:
        return "> 99.9 %"
    if 0 < probability < 0.0005:
        return "< 0.1 %"
    return f"{100 * probability:.1f} %"


def decimal(number: float | None, *, digits: int = 2) -> str:
    """A number with a real minus; "undefined" for None."""
    return "undefined" if number is None else signed(number, digits=digits, plus="")


def count(number: float) -> str:
    """65536 as "65 536", with a narrow space that no line breaks at."""
    return f"{int(number):,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def scientific(number: float) -> str:
    """3.3e-06 as "3.3 × 10⁻⁶"."""
    if number == 0:
        return "0"
    mantissa, exponent = f"{number:.1e}".split("e")
    if exponent in ("+00", "-01"):
        return decimal(number)
    power = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa} × 10{power}"
