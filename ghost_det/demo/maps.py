"""Feature maps of a detector in torch, for the page."""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable
from html import escape
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ghost_det.errors import UserError
from ghost_det.utils.plots import png
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
_network = functools.cache(open_network)


def draw_all(path: Path, config: str, checkpoint: str) -> str:
    """Return pictures as HTML: ghosts and their sources, similar maps, and the levels of the neck."""
    image = np.ascontiguousarray(read_upload(path)[..., ::-1])
    network = _network(config, checkpoint)
    return ''.join(_part(draw, network, image) for draw in (_ghosts, _similar, _levels))


def _part(draw: Callable[[Network, Picture], tuple[Figure, str]], network: Network, image: Picture) -> str:
    try:
        figure, caption = draw(network, image)
    except UserError as error:  # this network has none of it; but others
        return f'<p>{escape(str(error))}</p>'
    figure.set_size_inches(WIDTH, figure.get_figheight() * WIDTH / figure.get_figwidth())
    data = base64.b64encode(png(figure, DPI)).decode()
    return (
        f'<figure><figcaption>{escape(caption)}</figcaption>'
        '<label title="A click enlarges it, another makes it small"><input type="checkbox">'
        f'<img src="data:image/png;base64,{data}" alt="{escape(caption)}"></label></figure>'
    )


def _ghosts(network: Network, image: Picture) -> tuple[Figure, str]:
    ghosts = ghost_maps(network, image)
    return draw_ghosts(ghosts), f'{ghosts.layer}: maps, and the ghosts made of them'


def _similar(network: Network, image: Picture) -> tuple[Figure, str]:
    layer, values = maps_at(network, image)
    figure = draw_redundancy(values, redundancy(values))
    return figure, f'{layer}: pairs of maps, of which a 3 x 3 kernel makes one of the other'


def _levels(network: Network, image: Picture) -> tuple[Figure, str]:
    return draw_pyramid(image, pyramid(network, image)), 'How strongly each level of the neck answers'
