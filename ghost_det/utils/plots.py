"""matplotlib figures without a screen, whatever backend the process has."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import font_manager, rc_context
from matplotlib.figure import Figure
from matplotlib.text import Text

from .files import write_file
from .text import cut

MARKED = 20  # points up to which a curve has a mark at each
FONTS = (
    *('Noto Sans CJK SC', 'WenQuanYi Zen Hei', 'Noto Sans Arabic', 'Noto Sans Hebrew', 'Noto Sans Thai'),
    *('Noto Sans Devanagari', 'Arial Unicode MS', 'Microsoft YaHei', 'PingFang SC'),
)
"""Used, where installed, for letters that DejaVu Sans, matplotlib's own font, does not have."""


def make_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches."""
    return Figure(figsize=(width, height), layout='constrained')


def png(figure: Figure, dpi: int = 100) -> bytes:
    """Return a figure as a PNG file; its text may be in any script (`FONTS`)."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    family = ['DejaVu Sans', *(name for name in FONTS if name in installed)]
    file = io.BytesIO()
    with rc_context({'font.family': family}):  # for labels of ticks, which drawing makes
        for text in figure.findobj(Text):
            text.set_fontfamily(family)
        figure.savefig(file, format='png', dpi=dpi)
    return file.getvalue()


def save_figure(figure: Figure, path: Path, dpi: int = 110) -> Path:
    """Write a figure as a PNG file, completely or not at all, and return its path."""
    return write_file(path, png(figure, dpi))


def label(name: object, width: int = 20) -> str:
    """Return a name of bounded length, escaped for matplotlib's math mode."""
    text = ''.join(letter if letter.isprintable() else '?' for letter in str(name))
    return cut(text, width).replace('$', r'\$')


def plot_steps(axis: Any, steps: Sequence[float], values: Sequence[float | None], **style: Any) -> None:
    """Plot over integer steps, with marks if there are few: a line through one point is invisible."""
    axis.plot(steps, values, marker='o' if len(steps) <= MARKED else '', **style)
    axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
