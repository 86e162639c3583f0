from __future__ import annotations

import copy
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope

import ghost_det_main
from ghost_det import swap_backbone
from ghost_det.config.load import load_config
from ghost_det.config.overrides import use_pretrained
from ghost_det.config.query import input_size
from ghost_det.config.write import changes
from ghost_det.engine.train import prepare
from ghost_det.errors import UserError
from ghost_det.swap.channels import fit_levels
from ghost_det.swap.probe import count
from ghost_det.swap.settings import IMAGENET, use_images
from ghost_det.swap.swap import Swap, parse_backbone, swap
from tests.conftest import ROOT
from tools.sweep import exercise

RETINANET = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
OURS = str(ROOT / 'configs/retinanet_ghostnet_fpn.py')
LITE = str(ROOT / 'configs/retinanet_ghostnet_fpn_lite.py')

# Config, new backbone, settings, strides that it is to give, the first part behind it and its in_channels.
SWAPS: dict[str, tuple[str, str, dict[str, Any], tuple[int, ...], str, Any]] = {
    'retinanet': (RETINANET, 'GhostNetV2', {'width': 1.3}, (4, 8, 16, 32), 'neck', [32, 52, 144, 208]),
    'faster-rcnn': (
        *('mmdet::faster_rcnn/faster-rcnn_r50-caffe_fpn_1x_coco.py', 'GhostNet', {}, (4, 8, 16, 32)),
        *('neck', [24, 40, 112, 160]),
    ),
    'mask-rcnn': (
        *('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', 'GhostResNet', {'depth': 18}, (4, 8, 16, 32)),
        *('neck', [64, 128, 256, 512]),
    ),
    'fcos': (
        'mmdet::fcos/fcos_r50-dcn-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco.py',
        *('GhostNet', {'width': 0.5}, (4, 8, 16, 32), 'neck', [12, 20, 56, 80]),
    ),
    'yolox': (
        *('mmdet::yolox/yolox_tiny_8xb8-300e_coco.py', 'RepGhostNet', {'width': 0.5}, (8, 16, 32)),
        *('neck', [20, 56, 80]),
    ),
    'yolov3': (
        *('mmdet::yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py', 'GhostNet', {}, (8, 16, 32)),
        *('neck', [160, 112, 40]),
    ),
    'rtmdet-ins': (
        *('mmdet::rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py', 'GhostNetV3', {}, (8, 16, 32)),
        *('neck', [40, 112, 160]),
    ),
    'detr': ('mmdet::detr/detr_r18_8xb2-500e_coco.py', 'GhostNetV2', {}, (32,), 'neck', [160]),
    'deformable-detr': (
        *('mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py', 'GhostNet', {}, (8, 16, 32)),
        *('neck', [40, 112, 160]),
    ),
    'mask2former': (
        *('mmdet::mask2former/mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco-panoptic.py', 'GhostNet', {}),
        *((4, 8, 16, 32), 'panoptic_head', [24, 40, 112, 160]),
    ),
    'panoptic-fpn': (
        *('mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py', 'GhostNet', {}, (4, 8, 16, 32)),
        *('neck', [24, 40, 112, 160]),
    ),
    'centernet': (
        *('mmdet::centernet/centernet_r18_8xb16-crop512-140e_coco.py', 'GhostNet', {}, (4, 8, 16, 32)),
        *('neck', 160),
    ),
    'qdtrack': (
        'mmdet::qdtrack/qdtrack_faster-rcnn_r50_fpn_8xb2-4e_mot17halftrain_test-mot17halfval.py',
        *('GhostNet', {}, (4, 8, 16, 32), 'neck', [24, 40, 112, 160]),
    ),
    'to-resnet': (OURS, 'ResNet', {'depth': 18}, (4, 8, 16, 32), 'neck', [64, 128, 256, 512]),
    'to-mobilenet': (OURS, 'MobileNetV2', {}, (4, 8, 16, 32), 'neck', [24, 32, 96, 1280]),
    'to-darknet': (OURS, 'CSPDarknet', {'widen_factor': 0.25}, (4, 8, 16, 32), 'neck', [32, 64, 128, 256]),
}  # fmt: skip


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


def detector_of(swapped: Swap) -> Any:
    detector: Any = swapped.config
    for key in swapped.place:
        detector = detector[key]
    return detector


@pytest.mark.parametrize('case', SWAPS)
def test_swapped_detector_is_its_child_config_and_trains_and_predicts(case: str, tmp_path: Path) -> None:
    config, backbone, settings, strides, part, channels = SWAPS[case]
    swapped = swap(config, backbone, **settings)
    detector = detector_of(swapped)
    assert detector.backbone.type == backbone
    _, maps = fit_levels(detector.backbone, strides)
    assert detector[part].in_channels == channels and tuple(m.stride for m in maps) == strides
    text = swapped.write(tmp_path / 'deep/child.py')
    assert len(text.splitlines()) < 40 and max(map(len, text.splitlines())) < 160
    again = Config.fromfile(str(tmp_path / 'deep/child.py'))
    assert again._cfg_dict == swapped.config._cfg_dict
    exercise(detector)


REFUSED = {
    'mmdet::cornernet/cornernet_hourglass104_10xb5-crop511-210e-mstest_coco.py': 'HourglassNet is part',
    'mmdet::detectors/cascade-rcnn_r50-rfp_1x_coco.py': 'DetectoRS_ResNet is part of the method',
    'mmdet::tridentnet/tridentnet_r50-caffe_1x_coco.py': 'three branches',
    'mmdet::faster_rcnn/faster-rcnn_r50-caffe-c4_ms-1x_coco.py': 'shared_head .ResLayer. is the last',
    'mmdet::rtmdet/rtmdet_x_p6_4xb8-300e_coco.py': 'strides 8, 16, 32, 64, and GhostNet gives 4, 8, 16, 32',
    'mmdet::misc/d2_faster-rcnn_r50-caffe_fpn_ms-90k_coco.py': 'a network of detectron2',
    'mmdet::common/ms-90k_coco.py': 'not the config of a detector',
    'mmdet::retinanet/retinanet_r50.py': 'no such config file.*retinanet_r101',
}


@pytest.mark.parametrize(('config', 'message'), REFUSED.items())
def test_what_cannot_be_swapped_is_refused_with_the_reason(config: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        swap_backbone(config, 'GhostNet')
    assert str(error.value).startswith(config)


@pytest.mark.parametrize(
    ('backbone', 'settings', 'message'),
    [
        ('GhostNet', {'width': -1}, 'GhostNet: cannot be built: .*width is -1'),
        ('GhostNet', {'depth': 50}, 'GhostNet: cannot be built: .*depth'),
        ('GhostNet', {'out_indices': (0, 1)}, 'has strides 4, 8, 16, 32, and GhostNet gives 4, 8'),
        ('GhostResNet', {}, "GhostResNet: cannot be built: .*'depth'"),
        ('GhostNet4', {}, 'there is no backbone GhostNet4; ours are GhostNet, '),
        ('FPN', {}, 'FPN: cannot be built'),
        ('timm', {}, 'there is no backbone timm; ours are GhostNet, .*; those of mmdet RegNet, ResNet, '),
    ],
)
def test_wrong_settings_are_told(backbone: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message.replace('has strides', 'have strides')):
        swap_backbone(small(), backbone, **settings)


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
    with pytest.raises(UserError, match='HRNet has no out_indices: it gives 4 maps where 1 are taken'):
        cfg = small()
        cfg.model.backbone.out_indices = (3,)
        cfg.model.neck.update(in_channels=[64], start_level=0)
        swap_backbone(cfg, 'HRNet', extra=extra)


def test_the_given_config_stays_as_it_is() -> None:
    cfg = small()
    before = copy.deepcopy(cfg._cfg_dict)
    swapped = swap_backbone(cfg, dict(type='GhostNet', width=0.5))
    assert cfg._cfg_dict == before
    assert swapped.model.backbone.width == 0.5 and swapped.model.neck.in_channels == [12, 20, 56, 80]


def test_freezing_and_norms_follow_the_weights() -> None:
    caffe = small()
    norm = dict(type='BN', requires_grad=False)
    caffe.model.backbone.update(frozen_stages=1, norm_eval=True, norm_cfg=norm)
    backbone = swap_backbone(caffe, 'GhostNet').model.backbone
    assert backbone == dict(
        type='GhostNet',
        width=1.0,
        out_indices=(0, 1, 2, 3),
        frozen_stages=1,
        norm_eval=True,
        norm_cfg=dict(type='BN', requires_grad=False),
        init_cfg=dict(type='Pretrained', checkpoint='ghost://ghostnet_100'),
    )
    scratch = dict(type='GhostNet', width=1.0, out_indices=(0, 1, 2, 3))
    assert swap_backbone(caffe, 'GhostNet', 'none').model.backbone == scratch
    swapped = swap(caffe, 'GhostNet', width=1.2)
    assert swapped.config.model.backbone == {**scratch, 'width': 1.2}
    assert 'none; GhostNet has some at width 1, but not as it is asked for' in swapped.notes[1]
    assert 'init_cfg' not in swap_backbone(caffe, 'GhostNet', ratio=4).model.backbone
    own = swap_backbone(caffe, 'GhostNet', 'my.pth', width=1.2, frozen_stages=0).model.backbone
    assert own.init_cfg.checkpoint == 'my.pth' and own.frozen_stages == 0 and own.norm_eval
    caffe.model.backbone.norm_cfg = dict(type='GN', num_groups=4)
    assert 'norm_cfg' not in swap_backbone(caffe, 'GhostNet').model.backbone
    cfg = small()
    cfg.model.backbone.update(norm_cfg=dict(type='SyncBN', requires_grad=True), with_cp=True)
    kept = swap_backbone(cfg, 'GhostNet').model.backbone
    assert kept.norm_cfg == dict(type='SyncBN') and kept.with_cp
    resnet = swap_backbone(cfg, 'ResNet', depth=18, pretrained='none').model.backbone
    assert resnet.norm_eval is False and 'init_cfg' not in resnet


def test_images_are_normalised_as_the_weights_want_it_everywhere() -> None:
    rgb = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
    bgr = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False)

    def of(preprocessor: Any) -> dict[str, Any]:
        return {key: preprocessor[key] for key in rgb}

    cfg = load_config('mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py')
    use_images(cfg, IMAGENET)
    semi = cfg.model
    assert of(semi.data_preprocessor.data_preprocessor) == of(semi.detector.data_preprocessor) == rgb
    assert 'mean' not in semi.data_preprocessor
    weights = 'open-mmlab://detectron2/resnet50_caffe'
    caffe = swap(small(), 'ResNet', depth=50, style='caffe', pretrained=weights)
    assert of(caffe.config.model.data_preprocessor) == bgr
    assert any('images: BGR' in note for note in caffe.notes)
    cfg = small()
    assert not any('images' in note for note in swap(cfg, 'GhostNet').notes)
    cfg.model.data_preprocessor.update(bgr_to_rgb=False, rgb_to_bgr=True)
    cfg.train_dataloader.dataset.pipeline.insert(
        2, dict(type='Normalize', mean=[0] * 3, std=[1] * 3, to_rgb=False)
    )
    swapped = swap_backbone(cfg, 'GhostNet')
    assert of(swapped.model.data_preprocessor) == rgb and not swapped.model.data_preprocessor.rgb_to_bgr
    step = swapped.train_dataloader.dataset.pipeline[2]
    assert step.mean == rgb['mean'] and step.std == rgb['std'] and step.to_rgb
    del cfg.model['data_preprocessor']
    assert of(swap_backbone(cfg, 'GhostNet').model.data_preprocessor) == rgb


def test_the_optimizer_forgets_the_layers_of_the_old_backbone() -> None:
    cfg = small()
    cfg.optim_wrapper.constructor = 'LearningRateDecayOptimizerConstructor'
    cfg.optim_wrapper.paramwise_cfg = dict(
        decay_rate=0.95,
        decay_type='layer_wise',
        num_layers=6,
        norm_decay_mult=0.0,
        custom_keys={
            'backbone': dict(lr_mult=0.1),
            'backbone.layer4': dict(lr_mult=1.0),
            'absolute_pos_embed': dict(decay_mult=0.0),
            'another': dict(lr_mult=2.0),
        },
    )
    swapped = swap(cfg, 'GhostNet', 'none')
    wrapper = swapped.config.optim_wrapper
    assert wrapper.constructor == 'DefaultOptimWrapperConstructor'
    assert wrapper.paramwise_cfg == dict(
        norm_decay_mult=0.0, custom_keys={'backbone': dict(lr_mult=0.1), 'another': dict(lr_mult=2.0)}
    )
    notes = '\n'.join(swapped.notes)
    assert (
        'LearningRateDecayOptimizerConstructor' in notes
        and 'parameters now: backbone.layer4, absolute_pos_embed' in notes
    )
    assert 'slows the backbone down' in notes


def test_checkpoints_of_the_old_detector_are_removed() -> None:
    cfg = small()
    cfg.load_from = 'old.pth'
    cfg.model.init_cfg = dict(type='Pretrained', checkpoint='old.pth')
    swapped = swap(cfg, 'GhostNet')
    assert swapped.config.load_from is None and swapped.config.model.init_cfg is None
    assert sum('removed: ' in note for note in swapped.notes) == 2


def test_imports_are_kept_and_ours_added() -> None:
    cfg = small()
    cfg.custom_imports = dict(imports='json', allow_failed_imports=True)
    assert swap_backbone(cfg, 'GhostNet').custom_imports == dict(
        imports=['json', 'ghost_det'], allow_failed_imports=True
    )
    assert 'custom_imports' not in swap_backbone(small(), 'ResNet', depth=18)


def test_a_teacher_stays_and_is_not_loaded() -> None:
    swapped = swap_backbone('mmdet::lad/lad_r50-paa-r101_fpn_2xb8_coco_1x.py', 'GhostNet').model
    assert swapped.backbone.type == 'GhostNet' and swapped.teacher_backbone.type == 'ResNet'


def test_changes_are_what_mmengine_merges() -> None:
    old = dict(a=1, b=dict(c=1, d=dict(e=2), f=[1, 2]), g=None, h=dict(i=1), j=3)
    new = dict(a=1, b=dict(c=2, d=dict(e=2), f=[1, 3]), g=dict(k=1), h=dict(m=1), j=dict(n=1), o=dict(p=1))
    said = changes(old, new)
    assert said == dict(
        b=dict(c=2, f=[1, 3]),
        g=dict(_delete_=True, k=1),
        h=dict(_delete_=True, m=1),
        j=dict(_delete_=True, n=1),
        o=dict(p=1),
    )
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
        (base, 'is the config to inherit from'),
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
    with pytest.raises(UserError, match='no file to inherit from'):
        swap(Config(small()._cfg_dict), 'GhostNet').write(tmp_path / 'other.py')


def test_branches_are_counted_folded() -> None:
    for name in ('GhostNetV3', 'RepGhostNet'):
        backbone = MODELS.build(dict(type=name))
        branched = sum(p.numel() for p in backbone.parameters())
        backbone.switch_to_deploy()
        folded = sum(p.numel() for p in backbone.parameters())
        row = swap(small(), name).table(64, 64).splitlines()[2].split()
        assert row[2] == f'{folded / 1e6:.2f}' != f'{branched / 1e6:.2f}'


def test_channels_that_the_neck_cannot_take_are_refused() -> None:
    cfg = small()
    cfg.model.neck = dict(
        type='CSPNeXtPAFPN',
        in_channels=[8, 16, 32, 64],
        out_channels=8,
        norm_cfg=dict(type='GN', num_groups=4),
    )
    cfg.model.bbox_head.anchor_generator.strides = [4, 8, 16, 32]
    with pytest.raises(UserError, match='its neck does not go with the new channels: .*divisible'):
        swap(cfg, 'GhostNet', width=0.5)


def test_table_adds_up_to_the_built_detectors() -> None:
    rows = {
        line.split()[0]: [float(cell) for cell in line.split()[1:]]
        for line in swap(RETINANET, 'GhostNet').table(320, 320).splitlines()[2:]
    }
    assert list(rows) == ['backbone', 'neck', 'bbox_head', 'all']
    assert rows['backbone'] == [11.18, 2.52, 3.7, 0.27]  # M, M, G, G
    for column, total in enumerate(rows['all']):
        assert total == pytest.approx(sum(rows[name][column] for name in list(rows)[:3]), abs=0.02)


def test_what_depends_on_proposals_is_not_counted_and_sizes_that_do_not_fit_are_told() -> None:
    table = swap(SWAPS['faster-rcnn'][0], 'GhostNet').table(320, 320)
    (line,) = [line for line in table.splitlines() if line.startswith('roi_head')]
    assert line.split()[3:] == ['-', '-'] and 'what is found in an image (proposals, queries)' in table
    one_stage = swap('mmdet::ssd/ssd300_coco.py', 'GhostNet').table(300, 300)
    assert [line.split()[0] for line in one_stage.splitlines()[-2:]] == ['bbox_head', 'all']
    with pytest.raises(UserError, match='--size 33 33: CSPDarknet does not take it'):
        count(load_config(SWAPS['yolox'][0]).model, 33, 33)


def test_width_is_part_of_the_name_on_the_command_line() -> None:
    assert parse_backbone('GhostNet') == ('GhostNet', {})
    assert parse_backbone('GhostNetV2:1.3') == ('GhostNetV2', {'width': 1.3})
    with pytest.raises(UserError, match='expected NAME or NAME:WIDTH'):
        parse_backbone('GhostNetV2:wide')


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


def test_ssd_has_the_channels_in_neck_and_head() -> None:
    model = swap_backbone('mmdet::ssd/ssd300_coco.py', 'GhostNet').model
    assert model.backbone.out_indices == (1, 2) and model.neck.in_channels == (40, 112)
    assert model.neck.out_channels == model.bbox_head.in_channels == (40, 112, 512, 256, 256, 256)


def test_without_a_neck_all_heads_get_the_channels() -> None:
    swapped = swap('mmdet::faster_rcnn/faster-rcnn_r50-caffe-dc5_1x_coco.py', 'GhostNet')
    model = swapped.config.model
    assert model.backbone.out_indices == (2,) and model.rpn_head.in_channels == 112
    assert model.roi_head.bbox_roi_extractor.out_channels == model.roi_head.bbox_head.in_channels == 112
    assert any('dilated' in note for note in swapped.notes)


def test_tool_writes_the_child_and_prints_both_sizes(tmp_path: Path) -> None:
    out = tmp_path / 'mine.py'
    words = [sys.executable, '-m', 'ghost_det_main', 'swap', LITE, '-o', str(out), '--width', '1.3']
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    for piece in ("type='GhostNetV2'", 'weights: ghost://ghostnetv2_130', 'before', 'bbox_head', '320 x 320'):
        assert piece in done.stdout
    assert f'{out} is written:\n{out.read_text()}' in done.stdout


@pytest.mark.parametrize(
    ('config', 'size'),
    [
        (LITE, (320, 320)),
        (OURS, (800, 1344)),
        ('mmdet::ssd/ssd300_coco.py', (300, 300)),
        ('mmdet::yolox/yolox_s_8xb8-300e_coco.py', (640, 640)),
        ('mmdet::detr/detr_r50_8xb2-150e_coco.py', (800, 1333)),
    ],
)
def test_multiply_adds_are_of_the_config_s_own_size(config: str, size: tuple[int, int]) -> None:
    assert input_size(load_config(config)) == size


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([OURS, '-o', OURS], 'is the config to inherit from'),
        ([OURS, '--settings', 'depth'], '--settings: expected KEY=VALUE: the backbone'),
        ([OURS, '--backbone', 'GhostNet:wide'], 'NAME or NAME:WIDTH'),
        ([next(iter(REFUSED))], 'error: mmdet::cornernet'),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, 'argv', ['swap.py', *arguments])
    with pytest.raises(SystemExit) as stop:
        ghost_det_main.main('swap')
    assert stop.value.code == 2 and message in capsys.readouterr().err


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
