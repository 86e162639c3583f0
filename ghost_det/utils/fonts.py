"""Names in any script in matplotlib's pictures: by fonts of this machine, or else by number."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from dataclasses import replace
from unicodedata import bidirectional

import matplotlib
from matplotlib import font_manager


def drawable(names: Sequence[str], kind: str = 'class') -> list[str]:
    """Return names as matplotlib can draw them, from then on with the fonts that have their letters.

    What no font has, or is written from right to left, which matplotlib cannot, becomes ``class 3``.
    """
    letters = {letter for name in names for letter in name if letter.isprintable()}
    backward = {letter for letter in letters if bidirectional(letter) in ('R', 'AL')}
    chosen = [str(font_manager.findfont('DejaVu Sans'))]
    missing = letters - backward - _letters(chosen[0])
    paths = sorted(font_manager.findSystemFonts()) if missing else []
    while missing and paths:
        best = max(paths, key=lambda path: len(missing & _letters(path)))
        if not missing & _letters(best):
            break
        missing -= _letters(best)
        listed = font_manager.fontManager.ttflist
        known = len(listed)
        font_manager.fontManager.addfont(best)  # which may be newer than matplotlib's list of fonts
        # As of normal weight, whatever it is: else matplotlib warns wherever it is used.
        listed[known:] = [replace(font, weight=400) for font in listed[known:]]
        chosen.append(best)
    matplotlib.rcParams['font.family'] = [font_manager.get_font(path).family_name for path in chosen]
    lost = {name: f'{kind} {place}' for place, name in enumerate(names) if {*name} & (missing | backward)}
    if lost:
        _tell(next(iter(lost)), next(iter(lost.values())), bool(missing))
    return [lost.get(name, name) for name in names]


@functools.cache
def _letters(path: str) -> frozenset[str]:
    try:
        font = font_manager.get_font(path)
    except (OSError, RuntimeError):  # a damaged one
        return frozenset()
    return frozenset(map(chr, font.get_charmap())) if font.scalable else frozenset()  # emoji may be bitmaps


@functools.cache
def _tell(name: str, number: str, can_help: bool) -> None:
    why = 'no font here has its letters (apt install fonts-noto-cjk fonts-noto-core)'
    why = why if can_help else 'matplotlib writes from left to right alone'
    print(f'Pictures say "{number}" for {name!r}, and so on: {why}.', file=sys.stderr)
