"""The Ghost networks, which need only torch; `ghost_det.engine.networks` makes them mmdet's."""

from .fuse import optimize
from .ghost_module import GhostModule
from .ghost_pan import GhostPAN
from .ghostify import GhostConv2d, ghostify
from .ghostnet import GhostNet, GhostNetV2, GhostNetV3, RepGhostNet

NETWORKS: dict[str, type[GhostNet]] = {
    cls.__name__: cls for cls in (GhostNet, GhostNetV2, GhostNetV3, RepGhostNet)
}

BACKBONES = (*NETWORKS, 'GhostResNet')
"""The backbones registered with mmdet, whose ``init_cfg`` is verified."""

__all__ = [
    'BACKBONES',
    'NETWORKS',
    'GhostConv2d',
    'GhostModule',
    'GhostNet',
    'GhostNetV2',
    'GhostNetV3',
    'GhostPAN',
    'RepGhostNet',
    'ghostify',
    'optimize',
]
