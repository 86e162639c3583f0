"""The Ghost networks, registered in mmdet's ``MODELS``."""

from .ghost_module import GhostModule
from .ghostnet import GhostNet, GhostNetV2, GhostNetV3, RepGhostNet

NETWORKS: dict[str, type[GhostNet]] = {
    cls.__name__: cls for cls in (GhostNet, GhostNetV2, GhostNetV3, RepGhostNet)
}

__all__ = ['NETWORKS', 'GhostModule', 'GhostNet', 'GhostNetV2', 'GhostNetV3', 'RepGhostNet']
