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


def test_installed_fonts_are_used_for_letters_that_dejavu_lacks_and_only_in_our_figures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = dict(matplotlib.rcParams)
    paths = [str(font_manager.findfont(name)) for name in ('STIXGeneral', 'DejaVu Sans')]
    theirs, ours = (font_manager.get_font(path).get_charmap() for path in paths)
    letter = min(filter(str.isalpha, map(chr, set(theirs) - set(ours))))
    mine = font_manager.FontEntry(paths[0], name='WenQuanYi Zen Hei')
    monkeypatch.setattr(font_manager.fontManager, 'ttflist', [*font_manager.fontManager.ttflist, mine])
    figure = make_figure(3, 2)
    figure.subplots().barh([letter], [1])  # a tick, whose text is made when it is drawn
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # a missing glyph is a warning
        assert png(figure).startswith(b'\x89PNG')
    assert dict(matplotlib.rcParams) == before


def test_labels_are_short_and_no_mathematics() -> None:
    assert label('$x$\n' + 'y' * 40, 10) == r'\$x\$?yyyyy…'
