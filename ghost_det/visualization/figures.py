"""Figures of maps, ghosts and evidence, by matplotlib without a window."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ghost_det.deploy.draw import draw
from ghost_det.utils.plots import make_figure

from .cams import Cam, overlay
from .ghosts import GhostMaps
from .networks import Array, Picture
from .redundancy import Redundancy, fit_kernel

SHOWN = 64  # maps of a grid, as in the paper's figure 1


def draw_redundancy(
    values: Array, found: Redundancy, size: int = 3, count: int = 3, title: str = ''
) -> Figure:
    """Draw maps ``[C, H, W]`` with the most similar pairs framed, and below how each pair's kernel works.

    Of more than `SHOWN` maps, those of pairs and the first others are drawn. ``found`` comes from
    ``redundancy(values)``, ``count`` is of pairs, and ``size`` the side of their kernels.

    Source: the frames of GhostNet's figure 1 (arXiv 1911.11907).
    """
    pairs = found.pairs(size, count)
    colours = [colormaps['tab10'](number % 10) for number in range(len(pairs))]
    frames = {place: colour for pair, colour in zip(pairs, colours) for place in pair[:2]}
    rest = [place for place in range(len(values)) if place not in frames]
    shown = sorted([*frames, *rest[: max(0, SHOWN - len(frames))]])
    columns = math.ceil(math.sqrt(len(shown)))
    heights = [0.85 * math.ceil(len(shown) / columns) + 0.5, 1.45 * len(pairs) + 0.5]
    figure = make_figure(7, sum(heights) + 0.3)
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=heights).flat
    _draw_grid(upper.subplots(), values, shown, columns, frames)
    upper.suptitle(f'{len(shown)} of {len(values)} maps', fontsize=10)
    strips = lower.subplots(max(1, len(pairs)), 4, squeeze=False)
    for pair, colour, strip in zip(pairs, colours, strips):
        source, target = values[pair.source], values[pair.target]
        fit = fit_kernel(source, target, size)
        bound = abs(fit.kernel).max()
        _show(strip[0], source, f'map {pair.source}', colour)
        _show(strip[1], fit.kernel, f'its {size} x {size} kernel', cmap='RdBu_r', vmin=-bound, vmax=bound)
        _show(strip[2], fit.made, f'made, error {fit.error:.3f}', vmin=target.min(), vmax=target.max())
        _show(strip[3], target, f'map {pair.target}, cosine {pair.cosine:.2f}', colour)
    _hide_axes(lower)
    lower.suptitle('the most similar pairs: map, kernel, what it makes, and what it should', fontsize=10)
    figure.suptitle(title, fontsize=12, parse_math=False)
    return figure


def _draw_grid(axis: Any, values: Array, shown: Sequence[int], columns: int, frames: dict[int, Any]) -> None:
    """Draw maps side by side in one axis: with one for each, matplotlib takes seconds to lay them out."""
    height, width = values.shape[1:]
    gap = 0.16 * max(height, width)
    for number, place in enumerate(shown):
        row, column = divmod(number, columns)
        x, y = column * (width + gap), row * (height + gap)
        axis.imshow(values[place], extent=(x, x + width, y + height, y))
        axis.text(x, y - 0.02 * height, str(place), fontsize=6, va='bottom')
        if place in frames:
            axis.add_patch(Rectangle((x, y), width, height, fill=False, color=frames[place], linewidth=3))
    rows = math.ceil(len(shown) / columns)
    axis.set(xlim=(-gap / 4, columns * (width + gap)), ylim=(rows * (height + gap), -gap))
    axis.axis('off')


def draw_ghosts(found: GhostMaps, count: int = 12, title: str = '') -> Figure:
    """Draw the first ``count`` intrinsic maps, each with the ghosts made of it on its right."""
    count = min(count, len(found.intrinsic))
    groups = [np.flatnonzero(found.sources == place) for place in range(count)]
    wide = 1 + max(1, *map(len, groups))
    across = max(1, min(count, 8 // wide))
    rows = math.ceil(count / across)
    height, width = found.intrinsic.shape[1:]
    figure = make_figure(11, 11 / (across * wide) * height / width * rows + 1)
    cells = figure.subplots(rows, across * wide, squeeze=False).reshape(rows * across, wide)
    for place, (ghosts, row) in enumerate(zip(groups, cells)):
        _show(row[0], found.intrinsic[place], f'intrinsic {place}', 'black')
        for cell, ghost in zip(row[1:], ghosts):
            _show(cell, found.ghosts[ghost], f'its ghost {ghost}')
    _hide_axes(figure)
    drawn = f'{found.layer}: {count} of {len(found.intrinsic)} intrinsic maps, and their ghosts'
    figure.suptitle(f'{title}\n{drawn}'.strip(), fontsize=11, parse_math=False)
    return figure


def draw_cam(image: Picture, found: Cam, classes: Sequence[str], title: str = '') -> Figure:
    """Draw a detection and the evidence for it; ``classes`` are names by label."""
    boxed = draw(np.ascontiguousarray(np.asarray(image)[..., ::-1]), found.found, classes)[..., ::-1]
    parts = {'the detection': boxed, 'what raised its score: bright is most': overlay(image, found.heat)}
    figure = _draw_row(parts, title)
    left, top, right, bottom = found.found.boxes[0]
    figure.axes[1].add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, color='white'))
    return figure


def draw_pyramid(image: Picture, levels: dict[str, Array], title: str = '') -> Figure:
    """Draw the activity of each level over the image, each scaled to its own largest."""
    parts = {'the image': np.asarray(image)}
    for name, each in levels.items():
        caption = f'{name}: {each.shape[0]} x {each.shape[1]} cells, brightest {each.max():.2g}'
        parts[caption] = overlay(image, (each - each.min()) / max(float(np.ptp(each)), 1e-30))
    return _draw_row(parts, title)


def _draw_row(parts: dict[str, Any], title: str) -> Figure:
    """Draw pictures of one size, by caption, at most four side by side."""
    rows = math.ceil(len(parts) / 4)
    across = math.ceil(len(parts) / rows)
    height, width = next(iter(parts.values())).shape[:2]
    figure = make_figure(3.6 * across, (3.6 * height / width + 0.3) * rows + 0.4)
    for axis, (name, picture) in zip(figure.subplots(rows, across, squeeze=False).flat, parts.items()):
        _show(axis, picture, name)
    _hide_axes(figure)
    figure.suptitle(title, fontsize=11, parse_math=False)
    return figure


def _show(axis: Any, values: Array, title: str, colour: Any = None, **settings: Any) -> None:
    axis.imshow(values, **settings)
    axis.set_title(title, fontsize=8, parse_math=False)
    if colour is not None:
        axis.spines[:].set(color=colour, linewidth=3)


def _hide_axes(figure: Any) -> None:
    """Hide ticks, and the frames that are not coloured."""
    for axis in figure.axes:
        axis.set(xticks=[], yticks=[])
        if axis.spines['left'].get_linewidth() < 3:
            axis.axis('off')
