"""The report as one HTML file that needs nothing else: pictures are inside, and all text is escaped."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ghost_det.data.table import IOU, LIMITS, SIZES, sound_boxes
from ghost_det.utils.html import page
from ghost_det.utils.plots import label, make_figure, png

from .check import Part, Report

CLASSES_SHOWN = 40


def render(report: Report) -> str:
    """Return the report as the text of an HTML page."""
    return page('data/checks/report.html.j2', title='Data check', report=report, pictures=pictures(report))


def pictures(report: Report) -> list[tuple[str, bytes]]:
    """Return titles and PNG files: class balance, box sizes, and the anchors' reach where it is known."""
    parts = [part for part in report.parts if len(part.table.boxes)]
    drawn: list[tuple[str, Figure]] = []
    if parts:
        drawn = [('Boxes of each class', _classes(parts)), ('Sizes of boxes', _sizes(parts))]
    if report.reach is not None and len(report.reach.overlaps):
        drawn.append(('Best anchor of each box', _reach(report)))
    return [(title, png(figure)) for title, figure in drawn]


def _classes(parts: list[Part]) -> Figure:
    """Bars of the shares of each split's boxes by class, the most frequent first."""
    counts: list[dict[str, int]] = []
    for part in parts:
        table = part.table
        numbers = table.counts()
        counts.append({str(table.categories[n]['name']): int(numbers[n]) for n in table.classes()})
    names = sorted(counts[0] | counts[-1], key=lambda name: -counts[0].get(name, 0))
    shown = names[:CLASSES_SHOWN]
    if len(names) > CLASSES_SHOWN:  # the rare ones are what one looks for
        shown = names[: CLASSES_SHOWN // 2] + names[-CLASSES_SHOWN // 2 :]
    figure = make_figure(10, 1.2 + 0.22 * len(shown))
    axes: Any = figure.subplots()
    rows = np.arange(len(shown))
    height = 0.8 / len(parts)
    for number, (part, count) in enumerate(zip(parts, counts)):
        total = max(1, sum(count.values()))
        values = [100 * count.get(name, 0) / total for name in shown]
        bars = axes.barh(rows + number * height, values, height, align='edge', label=part.name)
        axes.bar_label(bars, [str(count.get(name, 0)) for name in shown], fontsize=6, padding=2)
    axes.set_yticks(rows + 0.4, [label(name, 30) for name in shown], fontsize=8)
    axes.margins(y=0.01)
    axes.invert_yaxis()
    rest = (
        '' if len(shown) == len(names) else f' ({len(names)} classes: the first and last {len(shown) // 2})'
    )
    axes.set(xlabel=f'percent of the boxes of the split, and their number{rest}')
    axes.legend(loc='lower right')
    return figure


def _sizes(parts: list[Part]) -> Figure:
    """Histograms of the square root of the area in the original image, and of width over height."""
    figure = make_figure(10, 3.6)
    left, right = figure.subplots(1, 2)
    for part in parts:
        boxes = part.table.boxes[sound_boxes(part.table)]
        if not len(boxes):
            continue
        side = np.sqrt(boxes[:, 2] * boxes[:, 3])
        weights = np.full(len(boxes), 100 / len(boxes))
        for axes, values, bins in (
            (left, side, np.geomspace(1, max(1024.0, side.max()), 40)),
            (right, boxes[:, 2] / boxes[:, 3], np.geomspace(1 / 16, 16, 40)),
        ):
            values = np.clip(values, bins[0], bins[-1])
            axes.hist(values, bins, weights=weights, histtype='step', linewidth=1.6, label=part.name)
    for limit in LIMITS:
        left.axvline(limit**0.5, color='grey', linestyle=':')
    left.set(
        xscale='log', xlabel='square root of the area in px; dotted: 32 and 96', ylabel='percent of boxes'
    )
    right.set(xscale='log', xlabel='width / height')
    right.set_xticks([1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8], ['1/8', '1/4', '1/2', '1', '2', '4', '8'])
    left.legend(loc='upper right')
    return figure


def _reach(report: Report) -> Figure:
    """Histogram of the best IoU of each box, and the share reached by size."""
    reach = report.reach
    assert reach is not None
    figure = make_figure(10, 3.4)
    left, right = figure.subplots(1, 2)
    left.hist(reach.overlaps, np.linspace(0, 1, 41), color='tab:blue')
    left.axvline(IOU, color='grey', linestyle=':')
    left.set(xlabel='IoU with the best anchor', ylabel='boxes', xlim=(0, 1))
    shares = [100 * got / max(1, count) for got, count in zip(reach.reached, reach.boxes)]
    bars = right.bar([f'{name}\n{count} boxes' for name, count in zip(SIZES, reach.boxes)], shares)
    right.bar_label(bars, [f'{share:.1f} %' for share in shares])
    right.set(ylabel=f'percent with an anchor at IoU {IOU}', ylim=(0, 110))
    return figure
