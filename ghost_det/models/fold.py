"""Batch norms and training branches folded into convolutions, for inference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmcv.cnn import ConvModule
from mmcv.cnn.bricks.wrappers import Conv2d as EmptyInputConv2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

_PLAIN = (nn.Conv2d, EmptyInputConv2d)  # mmcv's subclass differs under old torch alone


def fold_norms(model: nn.Module) -> None:
    """Fold training branches and batch norms into convolutions, in place.

    Args:
        model: in evaluation mode.

    Raises:
        ValueError: training branches have other norms than batch norms.
    """
    parts: list[Any] = list(model.modules())
    for module in parts:
        if hasattr(module, 'switch_to_deploy'):
            module.switch_to_deploy()
    for parent, conv_name, norm_name in list(_pairs(model)):
        conv, norm = parent._modules[conv_name], parent._modules[norm_name]
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, _BatchNorm)
        # A copy: other levels may share the convolution, but not the norm.
        parent._modules[conv_name] = fuse_conv_bn_eval(conv, norm)
        parent._modules[norm_name] = nn.Identity()


def _pairs(model: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """Find batch norms registered right behind a convolution of as many channels."""
    for parent in model.modules():
        if isinstance(parent, ConvModule) and parent.order[:2] != ('conv', 'norm'):
            continue
        children: list[tuple[str, Any]] = list(parent._modules.items())
        for (conv_name, conv), (norm_name, norm) in zip(children, children[1:]):
            if (
                type(conv) in _PLAIN
                and 'weight' in conv._parameters  # not computed from others, as with weight_norm
                and isinstance(norm, _BatchNorm)
                and norm.running_var is not None
                and conv.out_channels == norm.num_features
            ):
                yield parent, conv_name, norm_name
