"""GhostNet networks, registered in mmdet's ``MODELS``."""

from .ghost_module import GhostModule
from .ghostnet import GhostNet

__all__ = ['GhostModule', 'GhostNet']
