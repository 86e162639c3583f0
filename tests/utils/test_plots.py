from __future__ import annotations

import warnings

import matplotlib
import pytest
from matplotlib import font_manager

from ghost_det.utils.plots import label, make_figure, plot_steps, png


def test_one_point_is_visible_and_at_an_integer_step() -> None:
    one, many = make_figure(8, 4).subplots(1, 2)
    plot_steps(one, [8], [0.5])
    plot_steps(many, range(100), [0.5] * 100)
    low, high = one.get_xlim()
    assert [tick for tick in one.get_xticks() if low <= tick <= high] == [8]
    assert one.lines[0].get_marker() == 'o' and many.lines[0].get_marker() == ''


def test_installed_fonts_stand_in_for_missing_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = font_manager.FontEntry(font_manager.findfont('STIXGeneral'), name='WenQuanYi Zen Hei')
    monkeypatch.setattr(font_manager.fontManager, 'ttflist', [*font_manager.fontManager.ttflist, mine])
    letter = min(_letters('STIXGeneral') - _letters('DejaVu Sans'))
    before = dict(matplotlib.rcParams)
    figure = make_figure(2, 2)
    axis = figure.subplots()
    axis.set_title(letter)
    axis.plot([0, 1], label=letter)
    axis.legend()
    axis.set_xticks([0, 1], [letter, letter])
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # as of a missing glyph
        assert png(figure).startswith(b'\x89PNG')
    assert dict(matplotlib.rcParams) == before  # they are the whole process's


def _letters(family: str) -> set[str]:
    font = font_manager.get_font(str(font_manager.findfont(family)))
    return {letter for letter in map(chr, font.get_charmap()) if letter.isalpha()}


def test_labels_are_short_and_no_mathematics() -> None:
    assert label('$x$\n' + 'y' * 40, 10) == r'\$x\$?yyyyy…'
