"""Feature maps of a detector in torch, for the page."""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable
from html import escape
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ghost_det import visualization
from ghost_det.errors import UserError
from ghost_det.utils.plots import png
from ghost_det.visualization.networks import Network, Picture

from .results import read_upload

WIDTH = 7
"""Inches of a figure, which make its letters nearly as large as the page's."""
DPI = 180
_open_network = functools.cache(visualization.open_network)


def draw_all(path: Path, config: str, checkpoint: str) -> str:
    """Return pictures as HTML: ghosts and their sources, similar maps, and the levels of the neck."""
    image = np.ascontiguousarray(read_upload(path)[..., ::-1])
    network = _open_network(config, checkpoint)
    return ''.join(_to_html(draw, network, image) for draw in (_ghosts, _similar, _levels))


def _to_html(draw: Callable[[Network, Picture], tuple[Figure, str]], network: Network, image: Picture) -> str:
    try:
        figure, caption = draw(network, image)
    except UserError as error:  # this network has no such part
        return f'<p>{escape(str(error))}</p>'
    figure.set_size_inches(WIDTH, figure.get_figheight() * WIDTH / figure.get_figwidth())
    data = base64.b64encode(png(figure, DPI)).decode()
    return (
        f'<figure><figcaption>{escape(caption)}</figcaption>'
        '<label title="Click to enlarge or shrink"><input type="checkbox">'
        f'<img src="data:image/png;base64,{data}" alt="{escape(caption)}"></label></figure>'
    )


def _ghosts(network: Network, image: Picture) -> tuple[Figure, str]:
    ghosts = visualization.ghost_maps(network, image)
    return visualization.draw_ghosts(ghosts), f'{ghosts.layer}: intrinsic maps and their ghosts'


def _similar(network: Network, image: Picture) -> tuple[Figure, str]:
    layer, values = visualization.maps_at(network, image)
    figure = visualization.draw_redundancy(values, visualization.redundancy(values), stacked=True)
    return figure, f'{layer}: pairs of maps, one predicted from the other by a 3 x 3 kernel'


def _levels(network: Network, image: Picture) -> tuple[Figure, str]:
    levels = visualization.pyramid(network, image)
    return visualization.draw_pyramid(image, levels), 'Mean activation of each level of the neck'
