"""Names in scripts that matplotlib's own font lacks."""

from __future__ import annotations

import warnings
from pathlib import Path

import matplotlib
import pytest
from matplotlib import font_manager
from matplotlib.figure import Figure

from ghost_det.utils import fonts

NAMES = ['cat', '\u2f00\u4eba', '\u0642\u0637']  # Han, Arabic


def test_without_a_font_the_number_stands_and_is_explained_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(matplotlib.rcParams, 'font.family', ['sans-serif'])
    monkeypatch.setattr(font_manager, 'findSystemFonts', list)
    fonts._tell.cache_clear()
    assert fonts.drawable(NAMES) == fonts.drawable(NAMES) == ['cat', 'class 1', 'class 2']
    assert capsys.readouterr().err.count('apt install fonts-noto-cjk') == 1


def test_a_font_that_has_the_letters_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(matplotlib.rcParams, 'font.family', ['sans-serif'])
    mine = font_manager.findfont('STIXGeneral')
    own = fonts._letters(str(font_manager.findfont('DejaVu Sans')))
    letter = min(each for each in fonts._letters(str(mine)) - own if each.isalpha())
    monkeypatch.setattr(font_manager, 'findSystemFonts', lambda: [str(mine)])
    assert fonts.drawable([letter]) == [letter]
    figure = Figure()
    figure.text(0, 0, letter)
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # as of a missing glyph
        figure.savefig(tmp_path / 'x.png')


def test_a_font_of_another_weight_is_used_without_a_word(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(matplotlib.rcParams, 'font.family', ['sans-serif'])
    fonts_of_matplotlib = font_manager.fontManager.ttflist
    monkeypatch.setattr(font_manager.fontManager, 'ttflist', list(fonts_of_matplotlib))
    bold = str(font_manager.findfont(font_manager.FontProperties(family=['STIXGeneral'], weight='bold')))
    own = fonts._letters(str(font_manager.findfont('DejaVu Sans')))
    letter = min(each for each in fonts._letters(bold) - own if each.isalpha())
    # A family with this weight alone, as WenQuanYi Zen Hei is.
    font_manager.fontManager.ttflist = [each for each in fonts_of_matplotlib if 'STIX' not in each.name]
    monkeypatch.setattr(font_manager, 'findSystemFonts', lambda: [bold])
    assert fonts.drawable([letter]) == [letter]
    figure = Figure()
    figure.text(0, 0, letter)
    figure.savefig(tmp_path / 'x.png')
    assert 'font weight' not in caplog.text
