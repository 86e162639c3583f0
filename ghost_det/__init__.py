"""GhostNet backbones for MMDetection.

Importing the package is all that a config or a script needs: it registers the networks, hooks and metrics
with MMDetection, and provides mmcv's operators where mmcv has none compiled (`ghost_det.register`). Without
MMDetection nothing is registered: the networks (`ghost_det.models`) need only torch, and the runtime of
exported detectors (`ghost_det.deploy`) not even that.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .utils.system import without_stack

if TYPE_CHECKING:  # for editors, type checkers and the API page
    from .data.checks.check import check_dataset
    from .engine.hooks import ChannelsLastHook, InterruptHook, LossGuardHook, ProgressHook
    from .engine.networks import GhostNet, GhostNetV2, GhostNetV3, GhostPAN, GhostResNet, RepGhostNet
    from .engine.runner import Bf16OptimWrapper
    from .evaluation.metric import FullCocoMetric
    from .models import GhostModule, ghostify, optimize
    from .swap.swap import swap_backbone
    from .weights.load import load_pretrained
    from .weights.zoo import classifier

__version__ = '0.1.0'

_HOME = {
    'Bf16OptimWrapper': 'engine.runner',
    'ChannelsLastHook': 'engine.hooks',
    'FullCocoMetric': 'evaluation.metric',
    'GhostModule': 'models',
    'GhostResNet': 'engine.networks',
    'InterruptHook': 'engine.hooks',
    'LossGuardHook': 'engine.hooks',
    'ProgressHook': 'engine.hooks',
    'check_dataset': 'data.checks.check',
    'classifier': 'weights.zoo',
    'ghostify': 'models',
    'load_pretrained': 'weights.load',
    'optimize': 'models',
    'swap_backbone': 'swap.swap',
}
"""The public names, each imported on first use from its module."""
_TORCH_ONLY = ('GhostModule', 'classifier', 'ghostify', 'load_pretrained', 'optimize')
"""Of these, what needs no MMDetection."""
_NETWORKS = ('GhostNet', 'GhostNetV2', 'GhostNetV3', 'GhostPAN', 'RepGhostNet')
"""Further ones: mmdet's classes of `engine.networks`, or where it is not installed, torch's of `models`."""
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


def __getattr__(name: str) -> Any:
    """Import a public name, or one of the classifiers as ``ghostnet_1x``; see PEP 562."""
    reason = without_stack(f'{__name__}.{name}') if name in __all__ else None
    if reason and name not in (*_TORCH_ONLY, *_NETWORKS):
        raise ImportError(reason)
    if name in _HOME:
        return getattr(import_module(f'{__name__}.{_HOME[name]}'), name)
    if name in _NETWORKS:
        home = 'models' if reason else 'engine.networks'
        return getattr(import_module(f'{__name__}.{home}'), name)
    if name.startswith(('ghostnet', 'repghost')):
        from .weights.zoo import ENTRIES

        if name in ENTRIES:
            return ENTRIES[name]
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return [*globals(), *__all__]


if without_stack(__name__) is None:
    import_module('.register', __name__)
