"""GhostNet backbones for MMDetection.

Importing the package is all that a config or a script needs: mmcv's operators work without a
compiler from then on, and the networks, hooks and metrics are in mmdet's registries.
"""

from .ops import ensure_ops
from .version import __version__

ensure_ops()

from .engine import ChannelsLastHook  # noqa: E402
from .evaluation import FullCocoMetric  # noqa: E402
from .models import GhostModule, GhostNet  # noqa: E402

__all__ = ['ChannelsLastHook', 'FullCocoMetric', 'GhostModule', 'GhostNet', '__version__']
