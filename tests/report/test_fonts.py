"""Names in any script: fonts that have them are found; where none is there, one line says which package brings one."""

import matplotlib.font_manager
import numpy as np
import pytest
from matplotlib.ft2font import FT2Font

from shapjax.report import figures, fonts

DEJAVU = matplotlib.font_manager.findfont("DejaVu Sans")


@pytest.fixture
def installed(monkeypatch):
    """Makes fonts {family: characters} the only ones."""
    def install(characters):
        listed = [matplotlib.font_manager.FontEntry(fname=family, name=family) for family in characters]
        monkeypatch.setattr(matplotlib.font_manager.fontManager, "ttflist", listed)
        monkeypatch.setattr(fonts, "_characters", lambda path: frozenset(map(ord, characters[path])))
        for cached in (fonts._installed, fonts._all_fonts, fonts._say):
            cached.cache_clear()

    yield install
    for cached in (fonts._installed, fonts._all_fonts, fonts._say):
        cached.cache_clear()


def test_fonts_with_the_missing_characters_are_added_noto_first(installed, capsys):
    installed({"Base": "é", "Alpha": "猫ب", "Noto Sans CJK": "猫", "Zeta": "ب", "Unused": "x"})
    assert fonts.with_glyphs(["None", "Base"], ["cat é"]) == ["None", "Base"]
    assert fonts.with_glyphs(["Base"], ["猫 é"]) == ["Base", "Noto Sans CJK"]
    assert fonts.with_glyphs(["Base"], ["猫", "ب\n\u200d\ufe0f"]) == ["Base", "Noto Sans CJK", "Alpha"]
    assert capsys.readouterr().err == ""


def test_what_no_font_has_is_said_once_with_the_packages_that_bring_one(installed, capsys):
    installed({"Base": "é"})
    for _ in range(2):
        assert fonts.with_glyphs(["Base"], ["é 猫", "한"]) == ["Base"]
    assert capsys.readouterr().err == ("no installed font has 猫한 (2 characters), drawn as boxes; install one, of "
                                       "Debian's fonts-noto-cjk for instance\n")
    fonts.with_glyphs(["Base"], ["ሀ", "😀"])
    assert "fonts-noto-core and fonts-symbola" in capsys.readouterr().err


def test_the_characters_of_a_font_are_read_from_its_file():
    assert {ord("é"), ord("я")} < fonts._characters(DEJAVU) and ord("猫") not in fonts._characters(DEJAVU)
    assert FT2Font(DEJAVU).family_name in {family for _, family in fonts._all_fonts()}
    assert fonts._characters(__file__) == frozenset()


@pytest.mark.parametrize("name", ["猫の写真", "$x < & \"y", "a" * 80, "한" * 80, "кошка", ""])
def test_a_picture_of_a_class_of_any_name_is_drawn_without_warnings(name, capsys):
    figure = figures.explanation_figure(np.zeros((8, 8, 3), np.uint8), np.ones((2, 2, 2), np.float32), [0.7, 0.3],
                                        [name, "other"], label=name, title=name)
    assert figures.figure_bytes(figure, dpi=20).startswith(b"\x89PNG")
    svg = figures.figure_bytes(figure, format="svg").decode()
    assert "猫" in svg or "猫" not in name


def test_wide_letters_are_cut_at_half_as_many():
    assert figures._shorten("a" * 22) == "a" * 22 and figures._shorten("a" * 23) == "a" * 21 + "…"
    assert figures._shorten("猫" * 11) == "猫" * 11 and figures._shorten("猫" * 12) == "猫" * 10 + "…"
