"""The Ghost networks, registered in mmdet's ``MODELS``."""

from .gfl_head import GFLSepBNHead
from .ghost_module import GhostModule
from .ghost_pan import GhostPAN
from .ghostify import GhostConv2d, GhostResNet, ghostify
from .ghostnet import GhostNet, GhostNetV2, GhostNetV3, RepGhostNet

NETWORKS: dict[str, type[GhostNet]] = {
    cls.__name__: cls for cls in (GhostNet, GhostNetV2, GhostNetV3, RepGhostNet)
}

BACKBONES = (*NETWORKS, 'GhostResNet')
"""Those whose ``init_cfg`` is verified."""

__all__ = [
    'BACKBONES',
    'GFLSepBNHead',
    'NETWORKS',
    'GhostConv2d',
    'GhostModule',
    'GhostNet',
    'GhostNetV2',
    'GhostNetV3',
    'GhostPAN',
    'GhostResNet',
    'RepGhostNet',
    'ghostify',
]
