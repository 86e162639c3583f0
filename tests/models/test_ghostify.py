from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn.bricks.conv_ws import ConvWS2d
from mmcv.cnn.bricks.wrappers import Conv2d as MmcvConv2d
from mmdet.registry import MODELS
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet50
from torchvision.models.vgg import cfgs

from ghost_det.models.ghost_module import GhostModule
from ghost_det.models.ghostify import GhostConv2d, ghostify
from ghost_det.models.reparam import RepGhostModule


def ghosts(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, GhostConv2d)]


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def conv_macs(model: nn.Module, size: int) -> int:
    with torch.device('meta'), FlopCounterMode(display=False) as counter:
        model.to('meta').eval()(torch.rand(1, 3, size, size))
    return counter.get_flop_counts()['Global'][torch.ops.aten.convolution] // 2


def naive(ghost: GhostConv2d, x: Tensor, ratio: int, out: int) -> Tensor:
    """Make each ghost map by a convolution of its own from its intrinsic map."""
    intrinsic = ghost.primary_conv(x)
    cheap = ghost.cheap_operation
    d = cheap.kernel_size[0]
    mode = 'constant' if cheap.padding_mode == 'zeros' else cheap.padding_mode
    maps = list(intrinsic.split(1, dim=1))
    for i, one in enumerate(maps[:]):
        padded = F.pad(one, [(d - 1) // 2, d // 2] * 2, mode=mode)
        for j in range(i * (ratio - 1), (i + 1) * (ratio - 1)):
            bias = None if cheap.bias is None else cheap.bias[j : j + 1]
            maps.append(F.conv2d(padded, cheap.weight[j : j + 1], bias))
    return torch.cat(maps[:out], dim=1)


@pytest.mark.parametrize(
    ('mode', 'd', 'ratio', 'out', 'bias'),
    [
        ('zeros', 1, 2, 8, True),
        ('zeros', 2, 2, 9, False),
        ('reflect', 3, 3, 8, True),
        ('circular', 5, 4, 5, True),
    ],
)
def test_ghost_convolution_equals_its_naive_reference(
    mode: str, d: int, ratio: int, out: int, bias: bool
) -> None:
    conv = nn.Conv2d(6, out, 3, 2, 1, bias=bias, padding_mode=mode)
    x = torch.rand(2, 6, 13, 10)
    ghost = GhostConv2d(conv, ratio, d)
    torch.testing.assert_close(ghost(x), naive(ghost, x, ratio, out))


@pytest.mark.parametrize(
    'geometry',
    [
        dict(kernel_size=1),
        dict(kernel_size=3, padding=1, padding_mode='reflect'),
        dict(kernel_size=(3, 5), stride=(1, 2), padding=(0, 3), bias=False),
        dict(kernel_size=3, padding='same', dilation=(2, 3)),
        dict(kernel_size=4, stride=3, padding=2, padding_mode='circular'),
    ],
)
def test_the_first_features_are_the_old_convolutions(geometry: dict[str, object]) -> None:
    conv = nn.Conv2d(8, 10, **geometry)
    x = torch.rand(2, 8, 15, 12)
    old, new = conv(x), GhostConv2d(conv, ratio=3)(x)
    assert new.shape == old.shape
    torch.testing.assert_close(new[:, :4], old[:, :4])


def test_the_whole_bias_is_taken_over() -> None:
    conv = nn.Conv2d(8, 9, 3)
    for ratio in (2, 4):
        ghost = GhostConv2d(conv, ratio)
        biases = torch.cat([ghost.primary_conv.bias, ghost.cheap_operation.bias])
        assert torch.equal(biases[:9], conv.bias)


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


@pytest.mark.parametrize('conv', [nn.Conv2d(10, 18, 1), nn.Conv2d(5, 2, 3), MmcvConv2d(16, 16, 3)])
def test_what_gains_is_replaced(conv: nn.Conv2d) -> None:
    ghost = ghostify(conv)
    assert isinstance(ghost, GhostConv2d)
    assert parameters(ghost) < parameters(conv)


def test_offsets_inside_of_a_deformable_convolution_are_left() -> None:
    from mmcv.ops import ModulatedDeformConv2dPack

    net = nn.Sequential(ModulatedDeformConv2dPack(16, 16, 3), nn.Conv2d(16, 16, 3))
    assert ghosts(ghostify(net)) == ['1']


def test_a_shared_convolution_stays_shared() -> None:
    conv = nn.Conv2d(16, 16, 3)
    net = ghostify(nn.ModuleDict(dict(a=conv, b=conv, c=nn.Sequential(conv))))
    assert isinstance(net['a'], GhostConv2d)
    assert net['a'] is net['b'] is net['c'][0]
    conv = nn.Conv2d(16, 16, 3)
    net = ghostify(nn.ModuleDict(dict(a=conv, b=conv)), skip=['b'])
    assert net['a'] is net['b'] is conv


def test_tied_weights_are_left() -> None:
    net = nn.Sequential(nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 3))
    net[1].weight = net[0].weight
    assert ghosts(ghostify(net)) == ['2']


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


def vgg16() -> nn.Sequential:
    """Build the CIFAR-10 network: with one hidden layer of 512 it has the paper's 15.0 M parameters."""
    layers: list[nn.Module] = []
    channels = 3
    for out in cfgs['D']:
        if out == 'M':
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            channels = out
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))


@pytest.mark.parametrize(('s', 'd', 'params', 'macs'), [(2, 1, 7.6, 157), (2, 7, 7.7, 163), (5, 3, 3.3, 65)])
def test_ghost_vgg_16_is_the_papers_to_the_last_digit(s: int, d: int, params: float, macs: int) -> None:
    net = ghostify(vgg16(), s, d)
    # The first convolution is left, as in the authors' code, but the paper's tables count it as replaced.
    assert round(parameters(net) / 1e6, 1) == params
    assert conv_macs(copy.deepcopy(net), 32) / 1e6 == pytest.approx(macs, rel=0.022)
    net[0] = GhostConv2d(net[0], s, d)
    assert round(parameters(net) / 1e6, 1) == params
    assert round(conv_macs(net, 32) / 1e6) == macs


def test_ghost_resnet_50_against_the_paper() -> None:
    net = resnet50()
    assert ghostify(net, 4) is net
    # As the authors' own code (issue 146 of huawei-noah/Efficient-AI-Backbones). The paper's 6.5 M are met if
    # the classifier's 2.05 M are divided by 4, too.
    assert parameters(net) == 8_151_752
    assert conv_macs(net, 224) / 1e9 == pytest.approx(1.2, rel=0.025)
