"""GhostNet backbones for MMDetection.

Importing the package is all that a config or a script needs: it registers the networks, hooks and metrics
with MMDetection, and provides mmcv's operators where mmcv has none compiled (`ghost_det.register`). Without
MMDetection nothing is registered: the networks (`ghost_det.models`) need only torch, and the runtime of
exported detectors (`ghost_det.deploy`) not even that.
"""

from importlib import import_module
from typing import Any

from .utils.system import without_stack

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
_NETWORKS = ('GhostNet', 'GhostNetV2', 'GhostNetV3', 'GhostPAN', 'RepGhostNet')
"""Further ones: mmdet's classes of `engine.networks`, or where it is not installed, torch's of `models`."""
__all__ = ['__version__', *_HOME, *_NETWORKS]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    """Import a public name, or one of the classifiers as ``ghostnet_1x``; see PEP 562."""
    if name in _HOME:
        return getattr(import_module(f'{__name__}.{_HOME[name]}'), name)
    if name in _NETWORKS:
        home = 'models' if without_stack(__name__) else 'engine.networks'
        return getattr(import_module(f'{__name__}.{home}'), name)
    if name.startswith(('ghostnet', 'repghost')):
        from .weights.zoo import ENTRIES

        if name in ENTRIES:
            return ENTRIES[name]
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return [*globals(), *_HOME, *_NETWORKS]


if without_stack(__name__) is None:
    import_module('.register', __name__)
