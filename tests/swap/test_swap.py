from __future__ import annotations

import copy
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope

from ghost_det import swap_backbone
from ghost_det.config.load import load_config
from ghost_det.config.overrides import use_pretrained
from ghost_det.config.query import get_path
from ghost_det.config.write import changes
from ghost_det.engine.train import prepare
from ghost_det.errors import UserError
from ghost_det.swap.channels import fit_levels
from ghost_det.swap.probe import without_weights
from ghost_det.swap.settings import CAFFE, IMAGENET, use_images
from ghost_det.swap.swap import parse_backbone, swap
from tests.conftest import ROOT
from tools.exercise import exercise

RETINANET = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
OURS = str(ROOT / 'configs/retinanet_ghostnet_fpn.py')

ALL = (4, 8, 16, 32)
# Config of mmdet, new backbone, settings, strides that it gives, first part behind it and its in_channels.
SWAPS: dict[str, tuple[str, dict[str, Any], tuple[int, ...], str, Any]] = {
    'retinanet/retinanet_r18_fpn_1x_coco': ('GhostNetV2', {'width': 1.3}, ALL, 'neck', [32, 52, 144, 208]),
    'yolox/yolox_tiny_8xb8-300e_coco': ('RepGhostNet', {'width': 0.5}, (8, 16, 32), 'neck', [20, 56, 80]),
    'yolo/yolov3_mobilenetv2_8xb24-320-300e_coco': ('GhostNet', {}, (8, 16, 32), 'neck', [160, 112, 40]),
    'detr/detr_r18_8xb2-500e_coco': ('GhostNetV3', {}, (32,), 'neck', [160]),
    'mask2former/mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco-panoptic': (
        *('GhostNet', {}, ALL, 'panoptic_head', [24, 40, 112, 160]),
    ),
    'centernet/centernet_r18_8xb16-crop512-140e_coco': ('GhostNet', {}, ALL, 'neck', 160),
    'qdtrack/qdtrack_faster-rcnn_r50_fpn_8xb2-4e_mot17halftrain_test-mot17halfval': (
        *('GhostResNet', {'depth': 18}, ALL, 'neck', [64, 128, 256, 512]),
    ),
    'ssd/ssd300_coco': ('GhostNet', {}, (8, 16), 'neck', (40, 112)),
    'faster_rcnn/faster-rcnn_r50-caffe-dc5_1x_coco': ('GhostNet', {}, (16,), 'rpn_head', 112),
    OURS: ('CSPDarknet', {'widen_factor': 0.25}, ALL, 'neck', [32, 64, 128, 256]),
}
EXERCISED = ('yolox', 'ssd300')
"""Are trained for a step as well; `swap` itself runs every one, and tools/sweep.py trains all of mmdet's."""


def small() -> Any:
    """A RetinaNet that is built and run in no time."""
    cfg = load_config(RETINANET)
    cfg.model.backbone.base_channels = 8
    cfg.model.neck.update(in_channels=[8, 16, 32, 64], out_channels=8)
    cfg.model.bbox_head.update(in_channels=8, feat_channels=8, stacked_convs=1, num_classes=1)
    return cfg


@pytest.fixture(autouse=True)
def scope() -> None:
    DefaultScope.get_instance('ghost_det_tests', scope_name='mmdet')


@pytest.mark.parametrize('name', SWAPS)
def test_swapped_detector_is_its_child_config_and_trains_and_predicts(name: str, tmp_path: Path) -> None:
    backbone, settings, strides, part, channels = SWAPS[name]
    swapped = swap(name if name == OURS else f'mmdet::{name}.py', backbone, **settings)
    detector = get_path(swapped.config, swapped.place)
    assert detector.backbone.type == backbone
    _, maps = fit_levels(detector.backbone, strides)
    assert detector[part].in_channels == channels and tuple(m.stride for m in maps) == strides
    text = swapped.write(tmp_path / 'deep/child.py')
    assert len(text.splitlines()) < 40 and max(map(len, text.splitlines())) < 160
    assert Config.fromfile(str(tmp_path / 'deep/child.py'))._cfg_dict == swapped.config._cfg_dict
    if any(each in name for each in EXERCISED):
        exercise(detector)
    if 'ssd300' in name:
        assert detector.neck.out_channels == detector.bbox_head.in_channels == (40, 112, 512, 256, 256, 256)
    if 'dc5' in name:
        roi_head = detector.roi_head
        assert roi_head.bbox_roi_extractor.out_channels == roi_head.bbox_head.in_channels == 112
        assert any('dilated' in note for note in swapped.notes)


REFUSED = {
    'mmdet::cornernet/cornernet_hourglass104_10xb5-crop511-210e-mstest_coco.py': 'HourglassNet',
    'mmdet::faster_rcnn/faster-rcnn_r50-caffe-c4_ms-1x_coco.py': 'shared_head',
    'mmdet::rtmdet/rtmdet_x_p6_4xb8-300e_coco.py': 'strides 8, 16, 32, 64, but GhostNet gives 4, 8, 16, 32',
    'mmdet::misc/d2_faster-rcnn_r50-caffe_fpn_ms-90k_coco.py': 'Detectron2Wrapper',
    'mmdet::common/ms-90k_coco.py': 'not the config of a detector',
    'mmdet::retinanet/retinanet_r50.py': 'retinanet_r101',
}


@pytest.mark.parametrize(('config', 'message'), REFUSED.items())
def test_what_cannot_be_swapped_is_refused_with_the_reason(config: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        swap_backbone(config, 'GhostNet')
    assert str(error.value).startswith(config)


@pytest.mark.parametrize(
    ('backbone', 'settings', 'message'),
    [
        ('GhostNet', {'width': -1}, 'width is -1'),
        ('GhostNet', {'depth': 50}, 'depth'),
        ('GhostNet', {'out_indices': (0, 1)}, 'strides 4, 8, 16, 32, but GhostNet gives 4, 8'),
        ('GhostResNet', {}, "'depth'"),
        ('GhostNet4', {}, 'GhostNet4; ours are GhostNet, '),
        ('FPN', {}, 'FPN'),
        ('timm', {}, 'ours are GhostNet, .*; those of mmdet RegNet, ResNet, '),
    ],
)
def test_wrong_settings_are_refused(backbone: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        swap_backbone(small(), backbone, **settings)


def test_a_neck_or_a_head_that_does_not_take_the_channels_is_named() -> None:
    cfg = small()
    norm = dict(type='GN', num_groups=4)
    cfg.model.neck = dict(type='CSPNeXtPAFPN', in_channels=[8, 16, 32, 64], out_channels=8, norm_cfg=norm)
    cfg.model.bbox_head.anchor_generator.strides = [4, 8, 16, 32]
    with pytest.raises(UserError, match='divisible'):
        swap(cfg, 'GhostNet', width=0.5)
    cfg.model.bbox_head.type = 'NoSuchHead'  # which cannot be built, before or after
    with pytest.raises(UserError, match='its neck does not take .*divisible'):
        swap(cfg, 'GhostNet', width=0.5)
    cfg.model.neck = small().model.neck
    assert 'checked only up to the neck' in swap(cfg, 'GhostNet').notes[-1]
    cfg.model.neck.in_channels = [8, 16, 32, 65]
    with pytest.raises(UserError, match=r'FPN has in_channels=.*has \[8, 16, 32, 64\]'):
        swap(cfg, 'GhostNet')
    cfg = load_config('mmdet::faster_rcnn/faster-rcnn_r50-caffe-dc5_1x_coco.py')
    cfg.model.backbone.depth = 18
    with pytest.raises(UserError, match=r'no head has in_channels=\[512\]'):
        swap(cfg, 'GhostNet')


def test_a_backbone_without_a_choice_of_maps_is_refused_where_not_all_are_taken() -> None:
    stage = dict(num_modules=1, num_branches=1, block='BOTTLENECK', num_blocks=(1,), num_channels=(8,))
    more = dict(stage, block='BASIC')
    extra = dict(
        stage1=stage,
        stage2=dict(more, num_branches=2, num_blocks=(1, 1), num_channels=(8, 16)),
        stage3=dict(more, num_branches=3, num_blocks=(1, 1, 1), num_channels=(8, 16, 32)),
        stage4=dict(more, num_branches=4, num_blocks=(1, 1, 1, 1), num_channels=(8, 16, 32, 64)),
    )
    assert swap_backbone(small(), 'HRNet', extra=extra).model.neck.in_channels == [8, 16, 32, 64]
    with pytest.raises(UserError, match='HRNet has no out_indices: it returns 4 maps instead of 1'):
        cfg = small()
        cfg.model.backbone.out_indices = (3,)
        cfg.model.neck.update(in_channels=[64], start_level=0)
        swap_backbone(cfg, 'HRNet', extra=extra)


def test_freezing_and_norms_follow_the_weights() -> None:
    caffe = small()
    norm = dict(type='BN', requires_grad=False)
    caffe.model.backbone.update(frozen_stages=1, norm_eval=True, norm_cfg=norm)
    before = copy.deepcopy(caffe._cfg_dict)
    scratch = dict(type='GhostNet', width=1.0, out_indices=(0, 1, 2, 3))
    kept = dict(frozen_stages=1, norm_eval=True, norm_cfg=norm)
    weights = dict(type='Pretrained', checkpoint='ghost://ghostnet_100')
    backbone = swap_backbone(caffe, 'GhostNet').model.backbone
    assert backbone == {**scratch, **kept, 'init_cfg': weights}
    assert caffe._cfg_dict == before
    assert swap_backbone(caffe, 'GhostNet', 'none').model.backbone == scratch
    swapped = swap(caffe, 'GhostNet', width=1.2)
    assert swapped.config.model.backbone == {**scratch, 'width': 1.2}
    assert 'none; GhostNet has some at width 1, but not for these settings' in swapped.notes[1]
    assert 'init_cfg' not in swap_backbone(caffe, 'GhostNet', ratio=4).model.backbone
    own = swap_backbone(caffe, 'GhostNet', 'my.pth', width=1.2, frozen_stages=0).model.backbone
    assert own.init_cfg.checkpoint == 'my.pth' and own.frozen_stages == 0 and own.norm_eval
    caffe.model.backbone.norm_cfg = dict(type='GN', num_groups=4)
    assert 'norm_cfg' not in swap_backbone(caffe, 'GhostNet').model.backbone
    cfg = small()
    cfg.model.backbone.update(norm_cfg=dict(type='SyncBN', requires_grad=True), with_cp=True)
    backbone = swap_backbone(cfg, dict(type='GhostNet', width=0.5)).model.backbone
    assert backbone.norm_cfg == dict(type='SyncBN') and backbone.with_cp and backbone.width == 0.5
    dcn = dict(type='DCN', deform_groups=1)
    cfg.model.backbone.update(depth=50, dcn=dcn, stage_with_dcn=[False] * 3 + [True])
    cfg.model.neck.in_channels = [32, 64, 128, 256]
    assert any('dcn' in note for note in swap(cfg, 'GhostNet').notes)
    resnet = swap_backbone(cfg, 'ResNet', depth=18, pretrained='none').model.backbone
    assert resnet.norm_eval is False and 'init_cfg' not in resnet


def of(preprocessor: Any) -> dict[str, Any]:
    return {key: preprocessor[key] for key in IMAGENET}


def test_images_are_normalised_for_the_weights_everywhere() -> None:
    cfg = load_config('mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py')
    use_images(cfg, IMAGENET)
    semi = cfg.model
    assert of(semi.data_preprocessor.data_preprocessor) == of(semi.detector.data_preprocessor) == IMAGENET
    assert 'mean' not in semi.data_preprocessor
    weights = 'open-mmlab://detectron2/resnet50_caffe'
    caffe = swap(small(), 'ResNet', depth=50, style='caffe', pretrained=weights)
    assert of(caffe.config.model.data_preprocessor) == CAFFE != IMAGENET
    assert any('images: BGR' in note for note in caffe.notes)
    cfg = small()
    assert not any('images' in note for note in swap(cfg, 'GhostNet').notes)
    cfg.model.data_preprocessor.update(bgr_to_rgb=False, rgb_to_bgr=True)
    step = dict(type='Normalize', mean=[0] * 3, std=[1] * 3, to_rgb=False)
    cfg.train_dataloader.dataset.pipeline.insert(2, step)
    swapped = swap_backbone(cfg, 'GhostNet')
    assert of(swapped.model.data_preprocessor) == IMAGENET
    assert not swapped.model.data_preprocessor.rgb_to_bgr
    step = swapped.train_dataloader.dataset.pipeline[2]
    assert step.mean == IMAGENET['mean'] and step.std == IMAGENET['std'] and step.to_rgb
    del cfg.model['data_preprocessor']
    assert of(swap_backbone(cfg, 'GhostNet').model.data_preprocessor) == IMAGENET


def test_optimizer_checkpoints_and_imports_follow_the_backbone() -> None:
    cfg = small()
    cfg.optim_wrapper.constructor = 'LearningRateDecayOptimizerConstructor'
    keys = {'backbone': dict(lr_mult=0.1), 'another': dict(lr_mult=2.0)}
    per_layer = dict(decay_rate=0.95, decay_type='layer_wise', num_layers=6)
    cfg.optim_wrapper.paramwise_cfg = dict(**per_layer, norm_decay_mult=0.0, custom_keys=keys)
    cfg.load_from = 'old.pth'
    cfg.model.init_cfg = dict(type='Pretrained', checkpoint='old.pth')
    cfg.custom_imports = dict(imports='json', allow_failed_imports=True)
    swapped = swap(cfg, 'GhostNet', 'none')
    wrapper, notes = swapped.config.optim_wrapper, '\n'.join(swapped.notes)
    assert wrapper.constructor == 'DefaultOptimWrapperConstructor'
    assert wrapper.paramwise_cfg == dict(norm_decay_mult=0.0, custom_keys=keys)
    assert 'removed: LearningRateDecayOptimizerConstructor' in notes and 'slows the backbone down' in notes
    assert swapped.config.load_from is None and swapped.config.model.init_cfg is None
    assert notes.count('removed: ') == 3
    assert swapped.config.custom_imports == dict(imports=['json', 'ghost_det'], allow_failed_imports=True)
    pretrained = swap(cfg, 'ResNet', depth=18, pretrained='my.pth')
    assert not any('slows' in note for note in pretrained.notes)
    assert pretrained.config.custom_imports == cfg.custom_imports


def test_the_backbone_s_learning_rate_and_frozen_stages_reach_the_optimizer() -> None:
    cfg = small()
    cfg.model.backbone.frozen_stages = 2
    cfg.model.backbone.norm_cfg = dict(type='SyncBN')
    cfg.optim_wrapper.paramwise_cfg = dict(custom_keys=dict(backbone=dict(lr_mult=0.1)), norm_decay_mult=0.0)
    swapped = swap_backbone(cfg, pretrained='my.pth')
    model = MODELS.build({**swapped.model, 'backbone': without_weights(swapped.model.backbone)})
    optimizer = build_optim_wrapper(model, swapped.optim_wrapper).optimizer
    groups = {id(group['params'][0]): group for group in optimizer.param_groups}
    lr, decay = (swapped.optim_wrapper.optimizer[key] for key in ('lr', 'weight_decay'))
    frozen = set()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            group = groups[id(parameter)]
            assert group['lr'] == pytest.approx(lr * (0.1 if name.startswith('backbone.') else 1)), name
            # What a custom key matches is left out of norm_decay_mult, the backbone's norms with it.
            assert group['weight_decay'] == decay
        else:
            frozen.add(name[: len('backbone.blocks.0')])
    assert frozen == {'backbone.conv_ste', 'backbone.bn1.weig', 'backbone.bn1.bias'} | {
        f'backbone.blocks.{i}' for i in range(5)
    }
    model.backbone(torch.rand(2, 3, 64, 64))  # SyncBN of a single process, in training, on a CPU


def test_a_teacher_stays_and_is_not_loaded() -> None:
    swapped = swap_backbone('mmdet::lad/lad_r50-paa-r101_fpn_2xb8_coco_1x.py', 'GhostNet').model
    assert swapped.backbone.type == 'GhostNet' and swapped.teacher_backbone.type == 'ResNet'


def test_changes_are_what_mmengine_merges() -> None:
    old = dict(a=1, b=dict(c=1, d=dict(e=2), f=[1, 2]), g=None, h=dict(i=1))
    new = dict(a=1, b=dict(c=2, d=dict(e=2), f=[1, 3]), g=dict(k=1), h=dict(m=1), o=dict(p=1))
    said = changes(old, new)
    whole = dict(g=dict(_delete_=True, k=1), h=dict(_delete_=True, m=1))
    assert said == dict(b=dict(c=2, f=[1, 3]), o=dict(p=1), **whole)
    assert Config._merge_a_into_b(copy.deepcopy(said), copy.deepcopy(old)) == new


def test_a_child_is_short_python_and_overwrites_nothing(tmp_path: Path) -> None:
    base = tmp_path / 'base.py'
    small().dump(base)
    swapped = swap(str(base), 'GhostNet')
    out = tmp_path / 'mine.py'
    assert swapped.write(out).splitlines()[:2] == [
        '# GhostNet width 1.0 in base.py; made by ghost-det swap.',
        "_base_ = 'base.py'",
    ]
    assert runpy.run_path(str(out))['model']['neck'] == dict(in_channels=[24, 40, 112, 160])
    out.write_text('mine')
    for path, message in (
        (out, 'exists; --force overwrites it'),
        (base, 'is the base config itself'),
        (tmp_path / 'x.txt', 'ends in .py'),
        (out / 'x.py', 'cannot be written'),
    ):
        with pytest.raises(UserError, match=message):
            swapped.write(path)
    assert out.read_text() == 'mine' and not list(tmp_path.glob('.partial*'))
    swapped.write(out, force=True)
    assert Config.fromfile(str(out)).model == swapped.config.model


def test_a_config_in_memory_gets_a_child_of_its_file(tmp_path: Path) -> None:
    swapped = swap(small(), 'GhostNet')
    assert swapped.name == RETINANET
    text = swapped.write(tmp_path / 'mine.py')
    assert f'_base_ = {RETINANET!r}' in text and 'stacked_convs=1' in text and '_scope_' not in text
    assert Config.fromfile(str(tmp_path / 'mine.py')).model == swapped.config.model
    with pytest.raises(UserError, match='the base config is not a file'):
        swap(Config(small()._cfg_dict), 'GhostNet').write(tmp_path / 'other.py')


def rows(table: str) -> dict[str, list[str]]:
    cells = [[cell.strip() for cell in line.strip('|').split('|')] for line in table.splitlines()]
    return {name: values for name, *values in cells if values}


def test_branches_are_counted_folded() -> None:
    backbone = MODELS.build(dict(type='GhostNetV3'))
    branched = sum(p.numel() for p in backbone.parameters())
    backbone.switch_to_deploy()
    folded = sum(p.numel() for p in backbone.parameters())
    count = rows(swap(small(), 'GhostNetV3').table(64, 64))['backbone'][1]
    assert count == f'{folded / 1e6:.2f}' != f'{branched / 1e6:.2f}'


def test_the_table_adds_up() -> None:
    swapped = swap(RETINANET, 'GhostNet')
    table = swapped.table(320, 320)
    found = rows(table)
    found.pop('part')
    assert list(found) == ['backbone', 'neck', 'bbox_head', 'all'] and '320 x 320' in table
    assert found['backbone'] == ['11.18', '2.52', '3.70', '0.27']  # M, M, G, G
    for before, neck, head, total in zip(*found.values()):
        assert float(total) == pytest.approx(float(before) + float(neck) + float(head), abs=0.02)
    table = swap('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', 'GhostNet').table(320, 320)
    assert rows(table)['roi_head'][2:] == rows(table)['all'][2:] == ['-', '-'] and '\n-: ' in table
    assert rows(table)['rpn_head'][2] == rows(table)['rpn_head'][3] != '-'
    with pytest.raises(UserError, match='--size 33 33'):
        swap('mmdet::yolox/yolox_tiny_8xb8-300e_coco.py', 'GhostNet').table(33, 33)


def test_width_is_part_of_the_name_on_the_command_line() -> None:
    assert parse_backbone('GhostNet') == ('GhostNet', {})
    assert parse_backbone('GhostNetV2:1.3') == ('GhostNetV2', {'width': 1.3})
    for text in ('GhostNetV2:wide', 'GhostNetV2:', ':1.3', 'GhostNet:0', 'GhostNet:-1', 'GhostNet:inf'):
        with pytest.raises(UserError, match='--backbone'):
            parse_backbone(text)


def test_runs_take_another_backbone_and_options_are_for_it(tmp_path: Path, sample: Path) -> None:
    from ghost_det.data.dataset import find_data

    cfg = prepare(
        str(ROOT / 'configs/retinanet_ghostnet_fpn_lite.py'),
        work_dir=str(tmp_path),
        data=find_data(sample),
        backbone='GhostNetV2:1.3',
        options={'model.backbone.frozen_stages': 2},
    )
    assert cfg.model.backbone.type == 'GhostNetV2' and cfg.model.backbone.width == 1.3
    assert cfg.model.backbone.frozen_stages == 2
    assert cfg.model.bbox_head.num_classes == 6


@pytest.mark.parametrize('backbone', ['GhostNet', 'ResNet'])
def test_nothing_random_is_kept_fixed_when_a_swapped_config_starts_from_scratch(backbone: str) -> None:
    settings = {'depth': 18} if backbone == 'ResNet' else {}
    cfg = swap_backbone('mmdet::retinanet/retinanet_r50-caffe_fpn_1x_coco.py', backbone, **settings)
    assert cfg.model.backbone.norm_cfg.requires_grad is False and cfg.model.backbone.frozen_stages == 1
    cfg.model.backbone.pop('norm_eval', None)  # whose default is not the same for all
    use_pretrained(cfg, 'none')
    built = MODELS.build(cfg.model.backbone)
    built.train()
    assert all(each.requires_grad for each in built.parameters())
    assert all(each.training for each in built.modules())
