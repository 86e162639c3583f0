"""Feature maps of a detector in torch, for the page."""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable
from html import escape
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ghost_det.errors import UserError
from ghost_det.visualization import (
    Network,
    draw_ghosts,
    draw_pyramid,
    draw_redundancy,
    ghost_maps,
    maps_at,
    open_network,
    pyramid,
    redundancy,
)
from ghost_det.visualization.networks import Picture

from .results import read_upload

WIDTH = 7
"""Inches of a figure: as wide on the page, its letters are nearly as large as the page's."""
DPI = 180
"""Of a figure, which fills the window at a click."""


def maps_page(path: Path, config: str, checkpoint: str) -> str:
    """Return pictures as HTML: ghosts and what they are made of, maps that are alike, and levels of the neck.

    Args:
        path: of the image.
        config: of a detector.
        checkpoint: of the detector.

    Raises:
        UserError: the image cannot be read, or the network cannot be opened.
    """
    image = np.ascontiguousarray(read_upload(path)[0][..., ::-1])
    network = _network(config, checkpoint)
    return ''.join(_part(draw, network, image) for draw in (_ghosts, _alike, _levels))


def _part(draw: Callable[[Network, Picture], str], network: Network, image: Picture) -> str:
    try:
        return draw(network, image)
    except UserError as error:  # this network has none of it; but others
        return f'<p>{escape(str(error))}</p>'


def _ghosts(network: Network, image: Picture) -> str:
    ghosts = ghost_maps(network, image)
    return _shown(draw_ghosts(ghosts), f'{ghosts.layer}: maps, and the ghosts made of them')


def _alike(network: Network, image: Picture) -> str:
    maps = maps_at(network, image)
    figure = draw_redundancy(maps.values, redundancy(maps.values), stacked=True)
    return _shown(figure, f'{maps.layer}: pairs of maps, of which a 3 x 3 kernel makes one of the other')


def _levels(network: Network, image: Picture) -> str:
    return _shown(draw_pyramid(image, pyramid(network, image)), 'How strongly each level of the neck answers')


@functools.cache
def _network(config: str, checkpoint: str) -> Network:
    return open_network(config, checkpoint)


def _shown(figure: Figure, caption: str) -> str:
    png = BytesIO()
    figure.set_size_inches(WIDTH, figure.get_figheight() * WIDTH / figure.get_figwidth())
    figure.savefig(png, format='png', dpi=DPI)
    data = base64.b64encode(png.getvalue()).decode()
    return (
        f'<figure><figcaption>{escape(caption)}</figcaption>'
        '<label title="A click enlarges it, another makes it small"><input type="checkbox">'
        f'<img src="data:image/png;base64,{data}" alt="{escape(caption)}"></label></figure>'
    )
