"""The layers of a network, and the maps that they make of an image."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ghost_det.errors import UserError

from .networks import Array, Network, Picture

STRIDE = 4  # of the layer that is shown by default: that of ResNet-50's first group, the paper's choice

Shapes = dict[str, tuple[int, int, int]]


class Maps(NamedTuple):
    """The feature maps of a layer, ``[C, H, W]``."""

    layer: str
    values: Array


@contextlib.contextmanager
def watched(module: nn.Module, see: Callable[[str, Any, Any], None], *names: str) -> Iterator[None]:
    """Call ``see`` with name, first argument and output of each module that runs, or of those named."""
    modules = {name: each for name, each in module.named_modules() if name}
    with contextlib.ExitStack() as stack:
        for name in names or modules:
            hook = modules[name].register_forward_hook(
                lambda _, given, output, name=name: see(name, given[0] if given else None, output)
            )
            stack.callback(hook.remove)
        yield


def layers(network: Network, image: Picture) -> Shapes:
    """Return the layers that make maps, in the order in which they run, as channels, height and width.

    Of a detector these are the backbone's.
    """
    return _shapes(network, image)[0]


@torch.no_grad()
def _shapes(network: Network, image: Picture) -> tuple[Shapes, int]:
    """Return the layers, and the height of the network's input."""
    found: Shapes = {}
    heights: list[int] = []

    def see(name: str, given: Any, output: Any) -> None:
        if isinstance(given, Tensor) and given.dim() == 4:
            heights.append(given.shape[2])
        if isinstance(output, Tensor) and output.dim() == 4 and output[0, 0].numel() > 1:
            if network.pipeline is None or name.startswith('backbone.'):
                found.setdefault(name, (output.shape[1], output.shape[2], output.shape[3]))

    with watched(network.module, see):
        network.run(image)
    if not found:
        raise UserError(f'{network.name}: no layer makes feature maps')
    return found, heights[0]


def _default_layer(network: Network, image: Picture) -> str:
    """Return the last layer at the stride nearest to `STRIDE`, of those that are least deep inside others."""
    shapes, height = _shapes(network, image)

    def distance(name: str) -> tuple[float, int]:
        return abs(np.log2(height / shapes[name][1] / STRIDE)), name.count('.')

    return min(reversed(shapes), key=distance)


@torch.no_grad()
def maps_at(network: Network, image: Picture, layer: str | None = None) -> Maps:
    """Return the feature maps of a layer; by default the last whose cells are `STRIDE` pixels apart.

    Raises:
        UserError: there is no such layer; the message names those there are.
    """
    layer = layer or _default_layer(network, image)
    found: list[Array] = []

    def see(_: str, __: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.dim() == 4 and not found:
            found.append(output[0].float().cpu().numpy().copy())  # as the next layer may work in place

    if layer in dict(network.module.named_modules()):
        with watched(network.module, see, layer):
            network.run(image)
    if not found:
        shapes = layers(network, image).items()
        names = ', '.join(f'{name} ({c}, {h} x {w})' for name, (c, h, w) in shapes)
        raise UserError(f'--layer {layer}: no layer of {network.name} that makes maps; there are {names}')
    return Maps(layer, found[0])
