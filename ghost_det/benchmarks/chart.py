"""Charts of comparisons of speed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib

from ghost_det.utils.files import atomic

from .rows import Results, Row, digits

matplotlib.use('Agg')
import matplotlib.pyplot as plt  # noqa: E402

BAR = 0.24
"""Inches of a contender's bar."""


def draw(results: Results, folder: Path) -> list[Path]:
    """Draw a chart of bars for each size, batch and number of threads, and one of growth over sizes.

    Args:
        results: what was measured.
        folder: where the charts go, as ``backbones-320x320-batch1-threads2.png``.

    Returns:
        The files.
    """
    charts = {}
    for setting in dict.fromkeys(row.setting for row in results.rows):
        height, width, batch, threads = setting
        rows = [row for row in results.rows if row.setting == setting]
        title = f'{height} x {width} px, batch {batch}, {threads} thread{"s" * (threads > 1)}'
        charts[f'{results.what}-{height}x{width}-batch{batch}-threads{threads}'] = _bars(rows, title)
    if len({row.height for row in results.rows}) > 2:
        charts[f'{results.what}-growth'] = _growth(results.rows)
    paths = []
    for name, figure in charts.items():
        path = folder / f'{name}.png'
        with atomic(path) as partial:
            figure.savefig(partial, format='png', dpi=110, bbox_inches='tight')
        plt.close(figure)
        paths.append(path)
    return paths


def _colours(rows: Sequence[Row]) -> dict[str, Any]:
    engines = list(dict.fromkeys(row.engine for row in rows))
    return dict(zip(engines, plt.get_cmap('tab10').colors))  # type: ignore[attr-defined]


def _placed(rows: Sequence[Row]) -> Iterator[tuple[float, Row]]:
    """Yield each row with its place on the axis: those of a network together, the fastest network first."""
    networks: dict[str, list[Row]] = {}
    for row in rows:
        networks.setdefault(row.network, []).append(row)
    place = 0.0
    for _, group in sorted(
        networks.items(), key=lambda each: min(row.milliseconds.middle for row in each[1])
    ):
        for row in group:
            yield place, row
            place += 1
        place += 0.8


def _bars(rows: Sequence[Row], title: str) -> Any:
    placed = list(_placed(rows))
    figure, axis = plt.subplots(figsize=(10, 2 + BAR * placed[-1][0]), layout='constrained')
    colours = _colours(rows)
    names: dict[str, list[float]] = {}
    for place, row in placed:
        low, middle, high = row.milliseconds
        first = row.engine not in axis.get_legend_handles_labels()[1]
        axis.barh(
            place,
            middle,
            xerr=[[middle - low], [high - middle]],
            color=colours[row.engine],
            error_kw=dict(lw=0.8),
            label=row.engine if first else None,
        )
        axis.annotate(
            digits(middle), (high, place), (4, 0), textcoords='offset points', va='center', fontsize=7
        )
        names.setdefault(row.network, []).append(place)
    axis.set_yticks([sum(places) / len(places) for places in names.values()], list(names))
    axis.set(xlabel='ms a call (median and quartiles)', title=title, ylim=(placed[-1][0] + 0.8, -0.8))
    axis.margins(x=0.08)
    axis.grid(axis='x', alpha=0.3)
    axis.set_axisbelow(True)
    figure.legend(loc='outside lower center', ncols=4)
    return figure


def _growth(rows: Sequence[Row]) -> Any:
    figure, axis = plt.subplots(figsize=(9, 6), layout='constrained')
    colours = _colours(rows)
    networks = list(dict.fromkeys(row.network for row in rows))
    lines: dict[tuple[str, str, int, int], list[Row]] = {}
    for row in rows:
        lines.setdefault((row.network, row.engine, row.batch, row.threads), []).append(row)
    for (network, engine, batch, threads), line in lines.items():
        line = sorted(line, key=lambda row: row.height * row.width)
        axis.plot(
            [row.height * row.width / 1e6 for row in line],
            [row.milliseconds.middle for row in line],
            marker='osv^Dx+*'[networks.index(network) % 8],
            color=colours[engine],
            label=f'{network}, {engine}' + f', batch {batch}' * (batch > 1) + f', {threads} threads',
        )
    axis.set(xscale='log', yscale='log', xlabel='megapixels', ylabel='ms a call (median)')
    axis.grid(which='both', alpha=0.3)
    axis.legend(fontsize=8, loc='upper left', bbox_to_anchor=(1.01, 1))
    return figure
