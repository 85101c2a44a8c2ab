"""Finds fonts for the names of classes and files, which may be in any script."""

import functools
import sys
import unicodedata
from collections.abc import Iterable, Sequence

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

# Words of the Unicode names of characters -> Debian's package with a font that has them.
_PACKAGES = {"fonts-noto-cjk": ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO"),
             "fonts-symbola": ("FACE", "EMOJI", "HEART", "HAND")}
_OTHERS = "fonts-noto-core"
_SELECTORS = set(range(0xFE00, 0xFE10))  # choose between forms of the character before them, and have none themselves


def with_glyphs(families: Sequence[str], texts: Iterable[str]) -> list[str]:
    """Returns families of fonts, and behind them installed ones with the characters of texts that they lack.

    What no installed font has, is said once on stderr, with the package that brings one.

    Args:
      families: matplotlib's `font.sans-serif`; those that are not installed do nothing.
      texts: to be drawn.
    """
    found = list(families)
    characters = {ord(c) for text in texts for c in text if not c.isascii() and unicodedata.category(c)[0] not in "CZ"}
    characters -= _SELECTORS
    missing = characters.difference(*(_characters(path) for path in _installed(tuple(families))))
    for path, family in _all_fonts() if missing else ():
        if has := missing & _characters(path):
            found.append(family)
            missing -= has
    if missing:
        _say(frozenset(missing))
    return found


@functools.cache
def _say(missing: frozenset[int]) -> None:
    names = {unicodedata.name(chr(c), "") for c in missing}
    packages = {next((package for package, words in _PACKAGES.items() if any(word in name.split() for word in words)),
                     _OTHERS) for name in names}
    shown = "".join(map(chr, sorted(missing)[:10]))
    print(f"no installed font has {shown} ({len(missing)} characters), drawn as boxes; install one, of Debian's "
          f"{' and '.join(sorted(packages))} for instance", file=sys.stderr)


@functools.cache
def _installed(families: tuple[str, ...]) -> list[str]:
    """Returns the files of those families that are installed."""
    return [font.fname for font in font_manager.fontManager.ttflist if font.name in families]


@functools.cache
def _all_fonts() -> list[tuple[str, str]]:
    """Returns (file, family) of the installed fonts of usual weight, Noto's first."""
    usual = {(font.fname, font.name) for font in font_manager.fontManager.ttflist
             if font.style == "normal" and font.weight in ("normal", "regular", 400) and "Last Resort" not in font.name}
    return sorted(usual, key=lambda font: ("Noto" not in font[1], "Serif" in font[1], font))


@functools.cache
def _characters(path: str) -> frozenset[int]:
    """Returns the characters that a font has."""
    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):  # gone, or of a kind that FreeType does not read
        return frozenset()
