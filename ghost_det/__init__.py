"""GhostNet backbones for MMDetection.

Importing the package is all that a config or a script needs: mmcv's operators work without a
compiler from then on, and the networks, hooks and metrics are in mmdet's registries. Where torch or
MMDetection is missing, `ghost_det.deploy` alone can be used.
"""

import contextlib
import io
import sys

from ghost_det.installed import Refuser, refusal, refuse, waits
from ghost_det.version import __version__

if refusal('ghost_det'):
    sys.meta_path.insert(0, Refuser())
    globals().update(__getattr__=refuse)
elif not waits():  # else `load` reloads this
    from ghost_det.ops import ensure_ops

    ensure_ops()

    # onedl-mmdetection prints, on import, which optional data sets it could not import.
    with contextlib.redirect_stdout(io.StringIO()):
        from ghost_det.data.checks.check import check_dataset
        from ghost_det.engine.guards import InterruptHook, LossGuardHook
        from ghost_det.engine.runner import Bf16OptimWrapper, ChannelsLastHook, ProgressHook
        from ghost_det.evaluation.metric import FullCocoMetric
        from ghost_det.mends import mend
        from ghost_det.models import (
            GhostModule,
            GhostNet,
            GhostNetV2,
            GhostNetV3,
            GhostPAN,
            GhostResNet,
            RepGhostNet,
            ghostify,
        )
        from ghost_det.models.optimize import optimize
        from ghost_det.swap.swap import swap_backbone
        from ghost_det.weights.load import load_pretrained
        from ghost_det.weights.zoo import ENTRIES, classifier

    mend()
    globals().update(ENTRIES)  # ghost_det.ghostnet_1x and the other classifiers

__all__ = [
    'Bf16OptimWrapper',
    'ChannelsLastHook',
    'FullCocoMetric',
    'GhostModule',
    'GhostNet',
    'GhostNetV2',
    'GhostNetV3',
    'GhostPAN',
    'GhostResNet',
    'InterruptHook',
    'LossGuardHook',
    'ProgressHook',
    'RepGhostNet',
    '__version__',
    'check_dataset',
    'classifier',
    'ghostify',
    'load_pretrained',
    'optimize',
    'swap_backbone',
]
