from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn.bricks.conv_ws import ConvWS2d
from mmcv.cnn.bricks.wrappers import Conv2d as MmcvConv2d
from mmcv.ops import ModulatedDeformConv2dPack
from mmdet.registry import MODELS
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torchvision.models import resnet50

from ghost_det.models.ghost_module import GhostModule
from ghost_det.models.ghostify import GhostConv2d, ghostify
from ghost_det.models.reparam import RepGhostModule
from ghost_det.swap.flops import FlopCounterMode


def ghosts(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, GhostConv2d)]


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def naive(ghost: GhostConv2d, x: Tensor, ratio: int, d: int) -> Tensor:
    """Make each ghost map by a convolution of its own from its intrinsic map."""
    intrinsic = ghost.primary_conv(x)
    cheap = ghost.cheap_operation
    mode = 'constant' if cheap.padding_mode == 'zeros' else cheap.padding_mode
    padded = F.pad(intrinsic, [(d - 1) // 2, d // 2] * 2, mode=mode)
    maps = [intrinsic]
    for number, weight in enumerate(cheap.weight):
        source = number // (ratio - 1)
        bias = None if cheap.bias is None else cheap.bias[number : number + 1]
        maps.append(F.conv2d(padded[:, source : source + 1], weight[None], bias))
    return torch.cat(maps, dim=1)


@pytest.mark.parametrize(
    ('geometry', 'ratio', 'd'),
    [
        (dict(kernel_size=1), 2, 1),
        (dict(kernel_size=3, padding=1, padding_mode='reflect'), 3, 3),
        (dict(kernel_size=(3, 5), stride=(1, 2), padding=(0, 3), bias=False), 2, 2),
        (dict(kernel_size=3, padding='same', dilation=(2, 3)), 3, 3),
        (dict(kernel_size=4, stride=3, padding=2, padding_mode='circular'), 4, 5),
    ],
)
def test_a_ghost_convolution_starts_with_the_old_ones_features(
    geometry: dict[str, Any], ratio: int, d: int
) -> None:
    conv = nn.Conv2d(8, 10, **geometry)
    ghost = GhostConv2d(conv, ratio, d)
    x = torch.rand(2, 8, 15, 12)
    new, kept = ghost(x), math.ceil(10 / ratio)
    torch.testing.assert_close(new, naive(ghost, x, ratio, d)[:, :10])
    torch.testing.assert_close(new[:, :kept], conv(x)[:, :kept])
    if conv.bias is not None:
        biases = torch.cat([ghost.primary_conv.bias, ghost.cheap_operation.bias])
        assert torch.equal(biases[:10], conv.bias)


def test_dtype_device_mode_and_requires_grad_are_kept() -> None:
    conv = nn.Conv2d(8, 16, 3, device='meta', dtype=torch.float16).eval()
    conv.weight.requires_grad_(False)
    ghost = ghostify(conv)
    assert not any(m.training for m in ghost.modules())
    for name, parameter in ghost.named_parameters():
        assert parameter.dtype == torch.float16 and parameter.device.type == 'meta'
        assert parameter.requires_grad is name.endswith('bias')


@pytest.mark.parametrize(
    'conv',
    [
        nn.Conv2d(3, 64, 3),  # sees the image
        nn.Conv2d(4, 64, 3),
        nn.Conv2d(16, 16, 3, groups=16),
        nn.Conv2d(64, 1, 3),  # fewer outputs than ratio
        nn.Conv2d(9, 18, 1),  # 9 * 9 + 9 * 9 weights instead of 9 * 18
        nn.ConvTranspose2d(16, 16, 3),
        nn.Conv1d(16, 16, 3),
        nn.LazyConv2d(16, 3),
        ConvWS2d(16, 16, 3),
        parametrizations.weight_norm(nn.Conv2d(16, 16, 3)),
        nn.utils.spectral_norm(nn.Conv2d(16, 16, 3)),
    ],
    ids=lambda conv: type(conv).__name__,
)
def test_what_is_no_ordinary_convolution_or_would_gain_nothing_is_left(conv: nn.Module) -> None:
    assert ghostify(conv) is conv
    assert not ghosts(ghostify(nn.Sequential(conv)))


def test_what_gains_is_replaced_but_no_part_of_another_layer_and_no_tied_weights() -> None:
    for conv in (nn.Conv2d(10, 18, 1), nn.Conv2d(5, 2, 3), MmcvConv2d(16, 16, 3)):
        ghost = ghostify(conv)
        assert isinstance(ghost, GhostConv2d) and parameters(ghost) < parameters(conv)
    net = nn.Sequential(ModulatedDeformConv2dPack(16, 16, 3), *(nn.Conv2d(16, 16, 3) for _ in range(3)))
    net[2].weight = net[1].weight
    assert ghosts(ghostify(net)) == ['3']


def test_a_shared_convolution_stays_shared() -> None:
    for skip in ([], ['b']):
        conv = nn.Conv2d(16, 16, 3)
        net = ghostify(nn.ModuleDict(dict(a=conv, b=conv, c=nn.Sequential(conv))), skip=skip)
        assert isinstance(net['a'], nn.Conv2d if skip else GhostConv2d)
        assert net['a'] is net['b'] is net['c'][0]


def test_skip_leaves_named_modules_and_all_inside_them() -> None:
    skip = ['layer1', 'layer2.0.conv?', '*.downsample']
    net = ghostify(resnet50(), skip=skip)
    assert ghosts(net)[:4] == ['layer2.1.conv1', 'layer2.1.conv2', 'layer2.1.conv3', 'layer2.2.conv1']
    assert not any('downsample' in name for name in ghosts(net))
    keys = list(net.state_dict())
    assert list(ghostify(net, skip=skip).state_dict()) == keys


@pytest.mark.parametrize('network', ['GhostNetV3', 'RepGhostNet'])
def test_ghost_modules_are_left_and_a_second_call_changes_nothing(network: str) -> None:
    net = MODELS.build(dict(type=network, width=0.5))
    modules = [m for m in net.modules() if isinstance(m, GhostModule | RepGhostModule)]
    inside = [list(m.modules()) for m in modules]
    ghostify(net)
    assert inside == [list(m.modules()) for m in modules]
    assert ghosts(net)  # those of the shortcuts and of squeeze-excite
    for twice in (net, nn.Sequential(GhostConv2d(nn.Conv2d(64, 64, 3)))):
        before = list(twice.modules())
        assert list(ghostify(twice, ratio=4).modules()) == before


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (dict(ratio=1), 'ratio is 1; expected 2 or more'),
        (dict(dw_size=0), 'dw_size is 0'),
        (dict(skip=['0', 'retina_cls']), "skip has 'retina_cls'; Sequential has no such module"),
    ],
)
def test_a_wrong_argument_is_refused_before_anything_changes(wrong: dict[str, object], message: str) -> None:
    net = nn.Sequential(nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 3))
    before = list(net.modules())
    with pytest.raises(ValueError, match=message):
        ghostify(net, **wrong)
    assert list(net.modules()) == before


def test_ghost_resnet_50_against_the_paper() -> None:
    net = resnet50()
    assert ghostify(net, 4) is net
    # As the authors' own code (issue 146 of huawei-noah/Efficient-AI-Backbones). The paper's 6.5 M are met if
    # the classifier's 2.05 M are divided by 4, too.
    assert parameters(net) == 8_151_752
    with torch.device('meta'), FlopCounterMode(display=False) as counter:
        net.to('meta').eval()(torch.rand(1, 3, 224, 224))
    macs = counter.get_flop_counts()['Global'][torch.ops.aten.convolution] / 2
    assert macs / 1e9 == pytest.approx(1.2, rel=0.025)
