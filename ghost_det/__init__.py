"""GhostNet backbones for MMDetection.

Importing the package is all that a config or a script needs: it registers networks, hooks and metrics with
MMDetection, and provides mmcv's operators if mmcv was built without (`ghost_det.register`). With mmengine and
mmcv, but without MMDetection, it registers the networks for OpenMMLab's other projects; without these two,
nothing. The networks (`ghost_det.models`) need only torch, and the runtime of exported detectors
(`ghost_det.deploy`) not even that.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .utils.system import MMCV_STACK, without_stack

if TYPE_CHECKING:  # for editors, type checkers and the API page
    from .data.checks.check import check_dataset
    from .engine.hooks import ChannelsLastHook, InterruptHook, LossGuardHook, ProgressHook
    from .engine.mmdet_networks import GhostResNet
    from .engine.networks import GhostNet, GhostNetV2, GhostNetV3, GhostPAN, RepGhostNet
    from .engine.runner import Bf16OptimWrapper
    from .evaluation.metric import FullCocoMetric
    from .models import GhostModule, ghostify, optimize
    from .swap.swap import swap_backbone
    from .weights.load import load_pretrained
    from .weights.zoo import classifier, feature_extractor

__version__ = '0.1.0'

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
    'feature_extractor',
    'ghostify',
    'load_pretrained',
    'optimize',
    'swap_backbone',
]
_NETWORKS = ('GhostNet', 'GhostNetV2', 'GhostNetV3', 'GhostPAN', 'RepGhostNet')
_TORCH_ONLY = {
    **dict.fromkeys((*_NETWORKS, 'GhostModule', 'ghostify', 'optimize'), 'models'),
    **dict.fromkeys(('classifier', 'feature_extractor'), 'weights.zoo'),
    'load_pretrained': 'weights.load',
}
"""The modules of public names that need only torch."""
_WITH_MMCV = dict.fromkeys(_NETWORKS, 'engine.networks')
"""The modules of the networks that configs build, where mmengine and mmcv are installed."""
_WITH_MMDET = {
    'GhostResNet': 'engine.mmdet_networks',
    **dict.fromkeys(('ChannelsLastHook', 'InterruptHook', 'LossGuardHook', 'ProgressHook'), 'engine.hooks'),
    'Bf16OptimWrapper': 'engine.runner',
    'FullCocoMetric': 'evaluation.metric',
    'check_dataset': 'data.checks.check',
    'swap_backbone': 'swap.swap',
}
"""The modules of public names that need MMDetection."""


def __getattr__(name: str) -> Any:
    """Import a public name on first use, or a classifier such as ``ghostnet_1x``; see PEP 562."""
    if name in __all__:
        home = _TORCH_ONLY.get(name)
        if name in _WITH_MMCV and without_stack(name, MMCV_STACK) is None:
            home = _WITH_MMCV[name]
        elif home is None:
            if (reason := without_stack(f'{__name__}.{name}')) is not None:
                raise ImportError(reason)
            home = _WITH_MMDET[name]
        return getattr(import_module(f'{__name__}.{home}'), name)
    if name.startswith(('ghostnet', 'repghost')):
        from .weights.zoo import ENTRIES

        if name in ENTRIES:
            return ENTRIES[name]
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return [*globals(), *__all__]


if without_stack(__name__, MMCV_STACK) is None:
    import_module('.register', __name__)
