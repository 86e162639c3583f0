"""Feature maps of a detector in torch, for the page."""

import functools
import io
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from ghost_det import visualization
from ghost_det.errors import UserError
from ghost_det.utils.plots import png
from ghost_det.visualization.networks import Network, Picture

from .results import read_upload

DPI = 120
_open_network = functools.cache(visualization.open_network)


def draw_all(path: Path, config: str, checkpoint: str) -> Iterator[tuple[Image.Image, str]]:
    """Yield pictures and captions: ghosts and their sources, similar maps, and the levels of the neck."""
    image = np.ascontiguousarray(read_upload(path)[..., ::-1])
    network = _open_network(config, checkpoint)
    for draw in (_ghosts, _similar, _levels):
        try:
            figure, caption = draw(network, image)
        except UserError as error:  # this network has no such part
            gr.Info(str(error))
        else:
            yield Image.open(io.BytesIO(png(figure, DPI))), caption


def _ghosts(network: Network, image: Picture) -> tuple[Figure, str]:
    ghosts = visualization.ghost_maps(network, image)
    return visualization.draw_ghosts(ghosts), f'{ghosts.layer}: intrinsic maps and their ghosts'


def _similar(network: Network, image: Picture) -> tuple[Figure, str]:
    layer, values = visualization.maps_at(network, image)
    figure = visualization.draw_redundancy(values, visualization.redundancy(values))
    return figure, f'{layer}: pairs of maps, one predicted from the other by a 3 x 3 kernel'


def _levels(network: Network, image: Picture) -> tuple[Figure, str]:
    levels = visualization.pyramid(network, image)
    return visualization.draw_pyramid(image, levels), 'Mean activation of each level of the neck'
