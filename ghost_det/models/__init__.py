"""The Ghost networks, registered in mmdet's ``MODELS``."""

from .ghost_module import GhostModule
from .ghostnet import GhostNet, GhostNetV2, GhostNetV3, RepGhostNet

__all__ = ['GhostModule', 'GhostNet', 'GhostNetV2', 'GhostNetV3', 'RepGhostNet']
