"""Feature maps of a detector in torch, for the page."""

from __future__ import annotations

import base64
import functools
from html import escape
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..visualization import (
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
from .detect import read_upload


def maps_page(path: Path, config: str, checkpoint: str) -> str:
    """Return pictures as HTML: ghosts and what they are made of, maps that are alike, and levels of the neck.

    Args:
        path: of the image.
        config: of a detector.
        checkpoint: of the detector.

    Raises:
        UserError: the image cannot be read, or such a network has nothing to show.
    """
    image = np.ascontiguousarray(read_upload(path)[0][..., ::-1])
    network = _network(config, checkpoint)
    ghosts, maps = ghost_maps(network, image), maps_at(network, image)
    alike = draw_redundancy(maps.values, redundancy(maps.values))
    return (
        _shown(draw_ghosts(ghosts), f'{ghosts.layer}: maps, and the ghosts made of them')
        + _shown(alike, f'{maps.layer}: pairs of maps, of which a 3 x 3 kernel makes one of the other')
        + _shown(draw_pyramid(image, pyramid(network, image)), 'How strongly each level of the neck answers')
    )


@functools.cache
def _network(config: str, checkpoint: str) -> Network:
    return open_network(config, checkpoint)


def _shown(figure: Figure, caption: str) -> str:
    png = BytesIO()
    figure.savefig(png, format='png')
    data = base64.b64encode(png.getvalue()).decode()
    return (
        f'<figure><figcaption>{escape(caption)}</figcaption>'
        f'<img src="data:image/png;base64,{data}" alt="{escape(caption)}"></figure>'
    )
