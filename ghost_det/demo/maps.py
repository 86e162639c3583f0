"""Feature maps of a detector in torch, as pictures for the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg

from ..deploy.letterbox import Image
from ..visualization import (
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


class Mapped:
    """A detector whose feature maps can be shown.

    Args:
        config: of the detector.
        checkpoint: of the detector.
    """

    def __init__(self, config: str, checkpoint: str) -> None:
        self._network = open_network(config, checkpoint)

    def pictures(self, path: Path) -> list[tuple[Image, str]]:
        """Return pictures in RGB, and their captions: the levels, ghosts by module, and pairs that are alike.

        Raises:
            UserError: the image cannot be read, or there is nothing to show of such a network.
        """
        image = cv2.cvtColor(read_upload(path)[0], cv2.COLOR_BGR2RGB)
        ghosts = ghost_maps(self._network, image)
        maps = maps_at(self._network, image)
        levels = pyramid(self._network, image)
        pairs = redundancy(maps.values)
        return [
            (_drawn(draw_pyramid(image, levels)), 'How strongly each level of the neck answers'),
            (_drawn(draw_ghosts(ghosts)), f'{ghosts.layer}: maps, and the ghosts that it makes of them'),
            (
                _drawn(draw_redundancy(maps.values, pairs)),
                f'{maps.layer}: maps that a 3 x 3 kernel makes of others',
            ),
        ]


def _drawn(figure: Any) -> Image:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba(), np.uint8)[..., :3]
