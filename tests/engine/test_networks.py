from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.model import BaseModule, PretrainedInit
from mmengine.registry import DefaultScope
from mmengine.runner import load_checkpoint
from mmengine.runner.checkpoint import _load_checkpoint, load_state_dict
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghost_det import models
from ghost_det.config.load import load_config
from ghost_det.engine import networks
from ghost_det.engine.mmdet_networks import GFLSepBNHead, GhostResNet
from ghost_det.errors import UserError
from ghost_det.models import GhostConv2d
from ghost_det.models.bottleneck import GhostBottleneck
from tests.conftest import ROOT

NECK = dict(type='GhostPAN', in_channels=[6, 10, 14, 18], out_channels=8, num_outs=5, start_level=1)
NETWORKS: list[dict[str, Any]] = [*(dict(type=name, width=0.5) for name in models.NETWORKS), NECK]
each = pytest.mark.parametrize('cfg', NETWORKS, ids=lambda cfg: cfg['type'])


@pytest.fixture
def mmdet_scope() -> None:
    if not DefaultScope.check_instance_created('networks'):
        DefaultScope.get_instance('networks', scope_name='mmdet')


def build(cfg: dict[str, Any], **settings: Any) -> Any:
    return MODELS.build({**cfg, **settings, 'type': f'mmdet.{cfg["type"]}'})


def norms(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, _BatchNorm | nn.GroupNorm)]


@each
def test_configs_build_the_networks_of_torch(cfg: dict[str, Any]) -> None:
    settings = dict(cfg)
    plain = getattr(models, settings.pop('type'))
    model = build(cfg)
    assert type(model) is getattr(networks, cfg['type']) and isinstance(model, plain)
    assert list(model.state_dict()) == list(plain(**settings).state_dict())
    assert type(pickle.loads(pickle.dumps(model))) is type(model)
    model.init_weights()
    blocks = [m.eval() for m in model.modules() if isinstance(m, GhostBottleneck)]
    assert blocks
    for block in blocks:  # each starts as its shortcut
        first = next(m for m in block.modules() if isinstance(m, nn.Conv2d))
        x = torch.rand(1, first.in_channels, 4, 4)
        assert torch.equal(block(x), block.shortcut(x))


@each
def test_norm_cfg_act_cfg_and_init_cfg_reach_every_layer(cfg: dict[str, Any]) -> None:
    made = norms(build(cfg, norm_cfg=dict(type='GN', num_groups=2), act_cfg=dict(type='HSwish')))
    assert made and all(isinstance(m, nn.GroupNorm) for m in made)
    fixed = build(cfg, norm_cfg=dict(type='SyncBN', requires_grad=False), act_cfg=None)
    assert all(isinstance(m, nn.SyncBatchNorm) for m in norms(fixed))
    assert not any(p.requires_grad for m in norms(fixed) for p in m.parameters())
    assert not any(isinstance(m, nn.ReLU) for m in fixed.modules())
    model = build(cfg, init_cfg=dict(type='Constant', val=0.5, layer='Conv2d'))
    model.init_weights()
    assert all((m.weight == 0.5).all() for m in model.modules() if isinstance(m, nn.Conv2d))
    assert all((m.weight == 1).all() for m in norms(model))


@pytest.mark.parametrize(
    ('settings', 'channels', 'strides'),
    [
        (dict(depth=18), (64, 128, 256, 512), (4, 8, 16, 32)),
        (dict(depth=50, out_indices=(1, 3)), (512, 2048), (8, 32)),
        (
            dict(depth=18, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2), base_channels=16),
            (16, 32, 64, 128),
            (4, 8, 16, 16),
        ),
    ],
)
def test_backbone_contract(settings: Any, channels: tuple[int, ...], strides: tuple[int, ...]) -> None:
    model = MODELS.build(dict(type='GhostResNet', **settings)).eval()
    assert (model.out_channels, model.out_strides) == (channels, strides)
    shapes = [tuple(m.shape[1:]) for m in model(torch.rand(1, 3, 64, 96))]
    assert shapes == [(c, 64 // s, 96 // s) for c, s in zip(channels, strides)]
    convs = [m for m in model.modules() if type(m) is nn.Conv2d and m.groups == 1]
    ghosts = [m for m in model.modules() if isinstance(m, GhostConv2d)]
    assert len(ghosts) == len(convs) - 1  # each has one primary convolution; the stem is the other
    if 'dilations' in settings:
        assert model.layer4[1].conv1.primary_conv.dilation == (2, 2)


def test_arguments_of_a_ghost_resnet() -> None:
    model = GhostResNet(18, ratio=4, dw_size=5, deep_stem=True)
    ghosts = {name: m for name, m in model.named_modules() if isinstance(m, GhostConv2d)}
    for ghost in ghosts.values():
        assert ghost.primary_conv.out_channels == ghost.out_channels // 4
        assert ghost.cheap_operation.kernel_size == (5, 5)
    assert list(ghosts)[:2] == ['stem.3', 'stem.6']
    assert GhostResNet(18).train().bn1.training and not GhostResNet(18, norm_eval=True).train().bn1.training


@pytest.mark.parametrize('frozen', [-1, 2])
def test_frozen_stages_do_not_learn_and_keep_their_statistics(frozen: int) -> None:
    model = GhostResNet(18, frozen_stages=frozen, base_channels=16, zero_init_residual=False).train()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    sum(m.square().mean() for m in model(torch.rand(4, 3, 64, 64).requires_grad_())).backward()
    optimizer.step()
    for key, value in model.state_dict().items():
        stage = int(key[5]) if key.startswith('layer') else 0
        assert torch.equal(value, before[key]) is (stage <= frozen), key


def test_initialisation_leaves_cheap_operations_their_strength() -> None:
    model = GhostResNet(18)
    model.init_weights()
    for ghost in (m for m in model.modules() if isinstance(m, GhostConv2d)):
        assert ghost.cheap_operation.weight.std().item() == pytest.approx(1 / math.sqrt(27), rel=0.2)
        fan_out = ghost.primary_conv.weight[:, 0].numel()
        assert ghost.primary_conv.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.1)
    assert not model.layer1[0].bn2.weight.any()  # a block starts as its shortcut


def test_pretrained_weights_load_completely_or_not_at_all(tmp_path: Path) -> None:
    dcn = dict(type='DCNv2', deform_groups=1, fallback_on_stride=False)
    size = dict(depth=50, base_channels=4, dcn=dcn, stage_with_dcn=(False, False, False, True))
    trained, plain = GhostResNet(**size), MODELS.build(dict(type='ResNet', norm_eval=False, **size))
    assert type(trained.layer4[0].conv2) is type(plain.layer4[0].conv2)
    assert isinstance(trained.layer4[0].conv1, GhostConv2d)
    torch.save(trained.state_dict(), tmp_path / 'ghost.pth')
    model = GhostResNet(**size, init_cfg=[dict(type='Pretrained', checkpoint=str(tmp_path / 'ghost.pth'))])
    nn.init.ones_(model.layer4[0].conv2.conv_offset.weight)
    model.init_weights()
    for key, value in trained.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    torch.save(plain.state_dict(), tmp_path / 'plain.pth')
    model = GhostResNet(**size, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'plain.pth')))
    with pytest.raises(UserError, match='does not fit GhostResNet'):
        model.init_weights()


@pytest.fixture
def weights(tmp_path: Path) -> dict[str, Any]:
    """The ``init_cfg`` of weights for a GhostNet."""
    torch.save(models.GhostNet(width=0.5).state_dict(), tmp_path / 'weights.pth')
    return dict(type='Pretrained', checkpoint=str(tmp_path / 'weights.pth'))


@pytest.mark.parametrize(
    'change',
    [
        lambda cfg: cfg,
        lambda cfg: [{**cfg, 'type': PretrainedInit}],
        lambda cfg: [cfg, dict(type='Constant', val=0.5, layer='Conv2d')],
        lambda cfg: {**cfg, 'prefix': '', 'map_location': 'cpu', 'partial': True},
    ],
)
def test_init_cfg_loads_every_tensor(change: Any, weights: dict[str, Any]) -> None:
    detector = BaseModule()
    detector.backbone = networks.GhostNet(width=0.5, init_cfg=change(weights))
    detector.init_weights()
    for key, value in torch.load(weights['checkpoint']).items():
        assert torch.equal(detector.backbone.state_dict()[key], value), key


def test_partial_weights_load_what_fits(weights: dict[str, Any]) -> None:
    model = networks.GhostNet(width=0.5, dw_size=5, init_cfg={**weights, 'partial': True})
    before = copy.deepcopy(model.state_dict())
    model.init_weights()
    for key, value in torch.load(weights['checkpoint']).items():
        expected = value if value.shape == before[key].shape else before[key]
        assert torch.equal(model.state_dict()[key], expected), key


@pytest.mark.parametrize('kind', ['Pretrained', 'mmengine.Pretrained', PretrainedInit])
def test_weights_that_do_not_fit_stop_it(kind: Any, weights: dict[str, Any]) -> None:
    with pytest.raises(UserError, match='does not fit GhostNetV2 of width 0.5'):
        networks.GhostNetV2(width=0.5, init_cfg={**weights, 'type': kind}).init_weights()


def test_wrong_uses_of_published_weights() -> None:
    with pytest.raises(UserError, match="name them in the backbone's init_cfg"):  # of another network
        load_checkpoint(nn.Conv2d(3, 16, 3), 'ghost://ghostnet_100', map_location='cpu')
    weights = _load_checkpoint('ghost://gfl_ghostnet.tin')['state_dict']
    for load in (load_state_dict, nn.Module.load_state_dict):
        with pytest.raises(UserError, match='published weights are for the backbones'):
            load(nn.Conv2d(3, 16, 3), weights, strict=False)
    for init_cfg in ('ghost://ghostnet_100', [dict(checkpoint='x')]):
        with pytest.raises(ValueError, match='expected dict.* or None'):
            networks.GhostNet(width=0.5, init_cfg=init_cfg).init_weights()


SIZES = (10, 5, 3, 2)


@pytest.fixture
def head(mmdet_scope: None) -> GFLSepBNHead:
    cfg = load_config(ROOT / 'configs/gfl_ghostnet_ghostpan_lite.py').model
    built: GFLSepBNHead = MODELS.build(
        {**cfg.bbox_head, 'in_channels': 6, 'feat_channels': 8, 'num_classes': 3}
    )
    built.init_weights()
    return built


def maps(batch: int = 2) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    return tuple(torch.randn(batch, 6, s, s) for s in SIZES)


def test_levels_of_a_head_share_convolutions_and_nothing_of_their_norms(head: GFLSepBNHead) -> None:
    classes, distances = head.eval()(maps())
    assert [tuple(m.shape) for m in classes] == [(2, 3, s, s) for s in SIZES]
    assert [tuple(m.shape) for m in distances] == [(2, 4 * (head.reg_max + 1), s, s) for s in SIZES]
    assert torch.cat([m.detach().sigmoid().flatten() for m in classes]).mean() == pytest.approx(0.01, rel=0.1)
    names = {name for name, _ in head.named_parameters()}
    convs = {name for name in names if name.endswith('conv.weight')}
    assert len(convs) == 2 * 2 * head.stacked_convs
    assert all(name.split('.')[1] == '0' for name in convs)
    assert len({name for name in names if name.endswith('bn.weight')}) == len(convs) * len(SIZES)
    before = {name: buffer.clone() for name, buffer in head.named_buffers()}
    head.train()(tuple(m * (i == 2) for i, m in enumerate(maps())))
    moved = {
        name.split('.')[1]
        for name, buffer in head.named_buffers()
        if name.endswith('running_mean') and not torch.equal(buffer, before[name])
    }
    assert moved == {'2'}
