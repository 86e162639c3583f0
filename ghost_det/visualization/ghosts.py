"""Inside a ghost module: the intrinsic maps, and the ghosts that the cheap operation makes of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from ghost_det.errors import UserError
from ghost_det.models.ghost_module import GhostModule
from ghost_det.models.ghostify import GhostConv2d
from ghost_det.models.reparam import RepGhostModule

from .maps import watched
from .networks import Array, Network, Picture

KINDS = (GhostModule, RepGhostModule, GhostConv2d)


class GhostMaps(NamedTuple):
    """The maps of a ghost module.

    Attributes:
        layer: its name in the network.
        intrinsic: ``[m, H, W]``, of the primary convolution.
        ghosts: ``[n, H, W]``, of the cheap operation; before a gate, or RepGhost's sum.
        sources: ``[n]``, the intrinsic map of each ghost.
    """

    layer: str
    intrinsic: Array
    ghosts: Array
    sources: Array


def ghost_modules(module: nn.Module) -> list[str]:
    """Return the names of a network's ghost modules."""
    return [name for name, each in module.named_modules() if isinstance(each, KINDS)]


@torch.no_grad()
def ghost_maps(network: Network, image: Picture, layer: str | None = None) -> GhostMaps:
    """Return intrinsic and ghost maps of a ghost module, by default of the third.

    In a GhostNet that one widens the second bottleneck. Of a module that runs several times, the first run
    counts.

    Raises:
        UserError: the network has no ghost module, or none of that name; the message names them.
    """
    names = ghost_modules(network.module)
    if not names:
        raise UserError(f'{network.name}: has no ghost modules (ghostnet_1x does)')
    layer = layer or names[min(2, len(names) - 1)]
    if layer not in names:
        raise UserError(f'--layer {layer}: no ghost module of {network.name}; it has {", ".join(names)}')
    inputs: list[Any] = []
    with watched(network.module, lambda _, given, __: inputs.append(given.clone()), layer):
        network.run(image)
    module, given = network.module.get_submodule(layer), inputs[0]
    if isinstance(module, GhostModule):
        intrinsic = module.intrinsic(given)
        made, outputs = module.ghosts(intrinsic), module.oup
    else:
        intrinsic = module.primary_conv(given)
        made = module.cheap_operation(intrinsic)
        outputs = getattr(module, 'out_channels', 2 * made.shape[1])  # RepGhost adds both instead
    count = intrinsic.shape[1]
    ghosts = made[0, : outputs - count]
    sources = np.arange(len(ghosts)) // (made.shape[1] // count)
    return GhostMaps(layer, intrinsic[0].float().cpu().numpy(), ghosts.float().cpu().numpy(), sources)
