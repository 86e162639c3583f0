"""The figures: what was found, drawn by matplotlib without a window, as PNG and as pages of HTML."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ghost_det.deploy.draw import draw
from ghost_det.utils.files import write_or_fail
from ghost_det.utils.html import page
from ghost_det.utils.plots import png

from .cams import Cam, overlay
from .ghosts import GhostMaps
from .networks import Array, Picture
from .redundancy import Redundancy, fit_kernel

SHOWN = 64
"""Maps of a grid, as in the paper's figure 1."""


def draw_redundancy(
    values: Array,
    found: Redundancy,
    size: int = 3,
    count: int = 3,
    title: str = '',
    stacked: bool = False,
) -> Figure:
    """Draw the maps of a layer with the most similar pairs framed, and how each pair's kernel works.

    Source: the frames of GhostNet's figure 1 (arXiv 1911.11907).

    Args:
        values: ``[C, H, W]``; of more than `SHOWN`, those of pairs and the first others are drawn.
        found: of ``redundancy(values)``.
        size: of the kernels.
        count: of the pairs.
        title: of the figure.
        stacked: whether the pairs are below the maps, for a narrow place, not to their right.
    """
    pairs = found.pairs(size, count)
    colours = [colormaps['tab10'](number % 10) for number in range(len(pairs))]
    frames = {place: colour for pair, colour in zip(pairs, colours) for place in pair[:2]}
    rest = [place for place in range(len(values)) if place not in frames]
    shown = sorted([*frames, *rest[: max(0, SHOWN - len(frames))]])
    columns = math.ceil(math.sqrt(len(shown)))
    rows = math.ceil(len(shown) / columns)
    heights = (0.85 * rows, 1.45 * len(pairs))
    figure = Figure(
        figsize=(7, sum(heights) + 1.3) if stacked else (13.5, max(heights) + 0.9), layout='constrained'
    )
    halves: Any = (
        figure.subfigures(2, 1, height_ratios=[each + 0.5 for each in heights])
        if stacked
        else figure.subfigures(1, 2, width_ratios=(1.15, 1))
    )
    left, right = halves
    _mosaic(left.subplots(), values, shown, columns, frames)
    left.suptitle(f'{len(shown)} of {len(values)} maps', fontsize=10)
    strips = right.subplots(max(1, len(pairs)), 4, squeeze=False)
    for pair, colour, strip in zip(pairs, colours, strips):
        fit = fit_kernel(values[pair.source], values[pair.target], size)
        target = values[pair.target]
        _show(strip[0], values[pair.source], f'map {pair.source}', colour)
        bound = abs(fit.kernel).max()
        strip[1].imshow(fit.kernel, cmap='RdBu_r', vmin=-bound, vmax=bound)
        strip[1].set_title(f'its {size} x {size} kernel', fontsize=8)
        _show(strip[2], fit.made, f'made, error {fit.error:.3f}', limits=(target.min(), target.max()))
        _show(strip[3], target, f'map {pair.target}, cosine {pair.cosine:.2f}', colour)
    _blank(right)
    right.suptitle('the most similar pairs: map, kernel, what it makes, and what it should', fontsize=10)
    figure.suptitle(title, fontsize=12, parse_math=False)
    return figure


def _mosaic(axis: Any, values: Array, shown: Sequence[int], columns: int, frames: dict[int, Any]) -> None:
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
    """Draw intrinsic maps, each with the ghosts made of it on its right.

    Args:
        found: of `ghost_maps`.
        count: of the intrinsic maps that are drawn, the first ones.
        title: of the figure.
    """
    count = min(count, len(found.intrinsic))
    groups = [np.flatnonzero(found.sources == place) for place in range(count)]
    wide = 1 + max(1, *map(len, groups))
    across = max(1, min(count, 8 // wide))
    rows = math.ceil(count / across)
    height, width = found.intrinsic.shape[1:]
    figure = Figure(figsize=(11, 11 / (across * wide) * height / width * rows + 1), layout='constrained')
    axes = figure.subplots(rows, across * wide, squeeze=False)
    for place, ghosts in enumerate(groups):
        row, column = divmod(place, across)
        cells = axes[row, column * wide : (column + 1) * wide]
        _show(cells[0], found.intrinsic[place], f'intrinsic {place}', 'black')
        for cell, ghost in zip(cells[1:], ghosts):
            _show(cell, found.ghosts[ghost], f'its ghost {ghost}')
    _blank(figure)
    drawn = f'{found.layer}: {count} of {len(found.intrinsic)} intrinsic maps, and their ghosts'
    figure.suptitle(f'{title}\n{drawn}' if title else drawn, fontsize=11, parse_math=False)
    return figure


def draw_cam(
    image: Picture, found: Cam, classes: Sequence[str], eigen: Array | None = None, title: str = ''
) -> Figure:
    """Draw a detection, the evidence for it and an Eigen-CAM.

    Args:
        image: that was looked at.
        found: of `cam`.
        classes: names, by label.
        eigen: of `eigen_cam`.
        title: of the figure.
    """
    boxed = draw(np.ascontiguousarray(np.asarray(image)[..., ::-1]), found.found, classes)[..., ::-1]
    parts = [('the detection', boxed), ('what raised its score: bright is most', overlay(image, found.heat))]
    if eigen is not None:
        parts.append(('Eigen-CAM: what stands out, of no box', overlay(image, eigen)))
    figure = _row([picture for _, picture in parts], [name for name, _ in parts], title)
    left, top, right, bottom = found.found.boxes[0]
    figure.axes[1].add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, color='white'))
    return figure


def draw_pyramid(image: Picture, levels: dict[str, Array], title: str = '') -> Figure:
    """Draw the activity of each level over the image, each scaled to its own largest.

    Args:
        image: that was looked at.
        levels: of `pyramid`.
        title: of the figure.
    """
    pictures = [
        overlay(image, (each - each.min()) / max(float(np.ptp(each)), 1e-30)) for each in levels.values()
    ]
    names = [
        f'{name}: {each.shape[0]} x {each.shape[1]} cells, brightest {each.max():.2g}'
        for name, each in levels.items()
    ]
    return _row([np.asarray(image), *pictures], ['the image', *names], title)


def _row(pictures: Sequence[Any], names: Sequence[str], title: str) -> Figure:
    """Draw pictures of one size, at most four side by side."""
    across = len(pictures) if len(pictures) < 4 else math.ceil(len(pictures) / math.ceil(len(pictures) / 4))
    rows = math.ceil(len(pictures) / across)
    height, width = pictures[0].shape[:2]
    figure = Figure(figsize=(3.6 * across, (3.6 * height / width + 0.3) * rows + 0.4), layout='constrained')
    for axis, picture, name in zip(figure.subplots(rows, across, squeeze=False).flat, pictures, names):
        axis.imshow(picture)
        axis.set_title(name, fontsize=9, parse_math=False)
    _blank(figure)
    figure.suptitle(title, fontsize=11, parse_math=False)
    return figure


def _show(
    axis: Any, values: Array, title: str, colour: Any = None, limits: tuple[float, float] | None = None
) -> None:
    low, high = limits or (values.min(), values.max())
    axis.imshow(values, cmap='viridis', vmin=low, vmax=high)
    axis.set_title(title, fontsize=8 if len(title) > 4 else 6, pad=2 if colour is None else 4)
    if colour is not None:
        axis.spines[:].set(color=colour, linewidth=3)
        axis.spines[:].set_visible(True)


def _blank(figure: Any) -> None:
    """Take away ticks, and the frames of what has none of its own."""
    for axis in figure.axes:
        axis.set(xticks=[], yticks=[])
        if axis.spines['left'].get_linewidth() < 3:
            axis.axis('off')


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, complete or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    with write_or_fail(path) as partial:
        partial.write_bytes(png(figure))


def html_page(title: str, pictures: Iterable[tuple[str, Figure]], text: str = '') -> str:
    """Return a page that needs nothing else: figures with captions, and text as it is printed."""
    drawn = [(caption, png(figure)) for caption, figure in pictures]
    return page('visualization/figures.html.j2', title=title, text=text, pictures=drawn)


def save_page(text: str, path: Path) -> None:
    """Write a page of HTML, complete or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    with write_or_fail(path) as partial:
        partial.write_text(text, encoding='utf-8')
