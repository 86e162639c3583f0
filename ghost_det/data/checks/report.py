"""The report of a check as a self-contained HTML page."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ghost_det.data.table import LIMITS, sound_boxes
from ghost_det.utils.html import page
from ghost_det.utils.plots import label, make_figure, png

from .check import Part, Report

CLASSES_SHOWN = 40


def render(report: Report) -> str:
    """Return the report as the text of an HTML page."""
    parts = [part for part in report.parts if len(part.table.boxes)]
    figures = {'Boxes of each class': _classes(parts), 'Sizes of boxes': _sizes(parts)} if parts else {}
    pictures = [(title, png(figure)) for title, figure in figures.items()]
    return page('data/checks/report.html.j2', title='Data check', report=report, pictures=pictures)


def _classes(parts: list[Part]) -> Figure:
    """Plot the share of each class in the boxes of each split, the most frequent first."""
    counts = [
        {str(part.table.categories[n]['name']): int(part.table.counts()[n]) for n in part.table.classes()}
        for part in parts
    ]
    names = sorted(counts[0] | counts[-1], key=lambda name: -counts[0].get(name, 0))
    half = CLASSES_SHOWN // 2
    shown = names if len(names) <= CLASSES_SHOWN else names[:half] + names[-half:]  # and the rarest
    figure = make_figure(10, 1.2 + 0.22 * len(shown))
    axes: Any = figure.subplots()
    rows = np.arange(len(shown))
    height = 0.8 / len(parts)
    for number, (part, count) in enumerate(zip(parts, counts)):
        values = [100 * count.get(name, 0) / max(1, sum(count.values())) for name in shown]
        bars = axes.barh(rows + number * height, values, height, align='edge', label=part.name)
        axes.bar_label(bars, [str(count.get(name, 0)) for name in shown], fontsize=6, padding=2)
    axes.set_yticks(rows + 0.4, [label(name, 30) for name in shown], fontsize=8)
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.set(
        xlabel=f'percent of the boxes of the split, and their number; {len(shown)} of {len(names)} classes'
    )
    axes.legend(loc='lower right')
    return figure


def _sizes(parts: list[Part]) -> Figure:
    """Plot a histogram of the boxes' sizes in the original images."""
    figure = make_figure(10, 3.4)
    axes: Any = figure.subplots()
    bins = np.geomspace(1, 2048, 40)
    for part in parts:
        sides = np.sqrt(part.table.boxes[sound_boxes(part.table), 2:].prod(1)).clip(1, 2048)
        weights = np.full(len(sides), 100 / max(1, len(sides)))
        axes.hist(sides, bins, weights=weights, histtype='step', linewidth=1.6, label=part.name)
    for limit in LIMITS:
        axes.axvline(limit**0.5, color='grey', linestyle=':')
    xlabel = 'square root of the area in px; dotted: 32 and 96'
    axes.set(xscale='log', xlabel=xlabel, ylabel='percent of boxes')
    axes.legend(loc='upper right')
    return figure
