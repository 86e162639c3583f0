"""Feature maps of a detector in torch, as pictures for the page."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg

from ..deploy.letterbox import Image
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


def pictures(path: Path, config: str, checkpoint: str) -> list[tuple[Image, str]]:
    """Return pictures in RGB and their captions: ghosts, maps that are alike, and levels of the neck.

    Args:
        path: of the image.
        config: of a detector.
        checkpoint: of the detector.

    Raises:
        UserError: the image cannot be read, or such a network has nothing to show.
    """
    image = cv2.cvtColor(read_upload(path)[0], cv2.COLOR_BGR2RGB)
    network = _network(config, checkpoint)
    ghosts, maps = ghost_maps(network, image), maps_at(network, image)
    alike = draw_redundancy(maps.values, redundancy(maps.values))
    return [
        (_drawn(draw_ghosts(ghosts)), f'{ghosts.layer}: maps, and the ghosts made of them'),
        (_drawn(alike), f'{maps.layer}: pairs of maps of which a 3 x 3 kernel makes one of the other'),
        (_drawn(draw_pyramid(image, pyramid(network, image))), 'How strongly each level of the neck answers'),
    ]


@functools.cache
def _network(config: str, checkpoint: str) -> Network:
    return open_network(config, checkpoint)


def _drawn(figure: Any) -> Image:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba(), np.uint8)[..., :3]
