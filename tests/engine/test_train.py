from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.runner import Runner
from safetensors.torch import load_file

from ghost_det import GhostNet
from ghost_det.config.load import load_config
from ghost_det.config.overrides import stop_early
from ghost_det.data.dataset import DetectionData, find_data
from ghost_det.engine.hooks import ProgressHook
from ghost_det.engine.runner import LISTINGS, OUR_HOOKS, GhostRunner
from ghost_det.engine.train import batch_note, prepare, train
from ghost_det.errors import UserError
from ghost_det.swap.probe import build_detector
from tests.conftest import ROOT
from tests.engine.conftest import LITE, TrainSmall
from tools import soak

GFL = 'configs/gfl_ghostnet_ghostpan_lite.py'


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_options_win_over_data_and_machine(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr('ghost_det.config.overrides.cores', lambda: 9)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '2')
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    threads: list[int] = []
    monkeypatch.setattr(torch, 'set_num_threads', threads.append)
    options = {'train_dataloader.num_workers': 5, 'train_dataloader.persistent_workers': False}
    settings: dict[str, Any] = dict(work_dir=str(tmp_path), options=options, data=find_data(sample))
    settings |= dict(epochs=2, batch_size=3, tensorboard=True, amp=True, auto_scale_lr=True)
    cfg = prepare(LITE, pretrained='none', **settings)
    assert threads == [4]
    assert cfg.train_dataloader.num_workers == 5 and cfg.val_dataloader.num_workers == 2
    assert cfg.train_dataloader.batch_size == 3 and cfg.train_cfg.max_epochs == 2
    assert cfg.work_dir == str(tmp_path) and cfg.auto_scale_lr.enable
    assert cfg.model.backbone.init_cfg is None and cfg.optim_wrapper.type == 'Bf16OptimWrapper'
    assert [b.type for b in cfg.visualizer.vis_backends] == ['LocalVisBackend', 'TensorboardVisBackend']
    assert [hook.type for hook in cfg.custom_hooks] == ['ChannelsLastHook']
    cfg.custom_hooks.append(dict(type='LossGuardHook', factor=7.0))
    del cfg.visualizer.vis_backends[1]
    runner = GhostRunner.from_cfg(cfg)
    names = [type(hook).__name__ for hook in runner.hooks]
    assert all(names.count(name) == 1 for name in OUR_HOOKS)
    assert next(hook for hook in runner.hooks if hasattr(hook, 'factor')).factor == 7.0
    cfg = prepare(LITE, data=find_data(sample), options={'work_dir': str(tmp_path / 'x')}, subfolder='test')
    assert cfg.work_dir == str(tmp_path / 'x')
    monkeypatch.chdir(tmp_path)
    cfg = prepare(str(ROOT / LITE), data=find_data(sample), subfolder='test')
    assert cfg.work_dir == 'work_dirs/retinanet_ghostnet_fpn_lite/test'


def test_another_batch_than_the_learning_rate_is_meant_for_is_reported() -> None:
    cfg = load_config(ROOT / 'configs/retinanet_ghostnet_fpn.py')
    note = batch_note(cfg, 1)
    assert note and '16 images a step and this run has 2' in note and 'makes it 0.00125' in note
    assert batch_note(cfg, 8) is None
    cfg.auto_scale_lr.enable = True
    assert batch_note(cfg, 1) is None


@pytest.mark.parametrize(
    ('message', 'is_shown'),
    [
        ('\n------\nSystem environment:\n  sys.platform: linux', False),
        ('Config:\nmodel = dict()', False),
        ('bbox_head.cls_convs.1.0 is duplicate. It is skipped since bypass_duplicate=True', False),
        ('Epoch(train) [1][10/30]  loss: 1.0', True),
        ('weight is skipped since its requires_grad=False', True),
    ],
)
def test_long_listings_go_only_to_the_file(message: str, is_shown: bool) -> None:
    assert (LISTINGS.match(message) is None) is is_shown


def test_weights_of_the_backbone_reach_the_detector_that_trains(
    sample: Path, train_small: TrainSmall, tmp_path: Path
) -> None:
    weights = tmp_path / 'backbone.pth'
    backbone = GhostNet(width=0.5, frozen_stages=0)
    torch.save(backbone.state_dict(), weights)
    options = {'model.backbone.frozen_stages': 0}
    runner = train_small(pretrained=str(weights), epochs=1, options=options)
    assert torch.equal(runner.model.backbone.conv_stem.weight, backbone.conv_stem.weight)
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    count = len(backbone.state_dict())
    assert f'GhostNet: {count} of {count} tensors from {weights}' in log
    boxes = len(json.loads((sample / 'annotations/instances_train2017.json').read_text())['annotations'])
    assert (
        f'INFO - train (instances_train2017.json): {boxes} of {boxes} boxes in 8 of 8 images are used' in log
    )
    assert 'warm-up is shortened from 10 to 2 steps' in log
    weights.unlink()  # resuming does not need it
    again = train_small(pretrained=str(weights), epochs=2, options=options, resume='auto')
    assert again.epoch == 2 and again.seed == runner.seed == 3
    assert len(list((tmp_path / 'run').glob('*/vis_data/scalars.json'))) == 2  # though in one process
    assert torch.equal(again.model.backbone.conv_stem.weight, backbone.conv_stem.weight)


def test_patience_ends_a_training_that_does_not_improve(train_small: TrainSmall, tmp_path: Path) -> None:
    options = {'optim_wrapper.optimizer.lr': 0.0, 'train_cfg.val_interval': 1}
    options['default_hooks.checkpoint.save_best'] = 'auto'
    runner = train_small(epochs=6, patience=2, options=options)
    assert runner.epoch == 3  # the first evaluation sets the mark
    assert list((tmp_path / 'run').glob('best_coco_bbox_mAP_epoch_*.pth'))
    assert (tmp_path / 'run/epoch_3.pth').exists()


def test_patience_needs_no_checkpoint_hook_and_keeps_its_rule() -> None:
    less = dict(type='CheckpointHook', save_best='loss', rule='less')
    for hooks, expected in (
        ({}, ('coco/bbox_mAP', 'greater')),
        ({'default_hooks': {'checkpoint': None}}, ('coco/bbox_mAP', 'greater')),
        ({'default_hooks': {'checkpoint': less}}, ('loss', 'less')),
    ):
        cfg = Config(hooks)
        stop_early(cfg, 3)
        assert cfg.default_hooks.checkpoint.save_best == expected[0]
        assert (cfg.custom_hooks[0].monitor, cfg.custom_hooks[0].rule) == expected


SINGLE = {'train_dataloader.num_workers': 0, 'train_dataloader.persistent_workers': False}
SINGLE |= {'val_dataloader.num_workers': 0, 'val_dataloader.persistent_workers': False}


def test_a_training_starts_from_our_detector(
    shipped: Path, small_data: DetectionData, tmp_path: Path, sooner: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('ghost_det.engine.train.report_training', lambda *_: None)
    options = {**SINGLE, 'randomness.seed': 3, 'optim_wrapper.optimizer.lr': 0.0}
    settings: dict[str, Any] = dict(work_dir=str(tmp_path), batch_size=4, options=options, resume='auto')
    logs = []
    for epochs in (1, 2):  # the first has nothing to resume
        runner = train(GFL, small_data, epochs=epochs, **settings)
        assert runner.cfg.load_from == 'ghost://gfl_ghostnet.tin'
        logs.append(max(tmp_path.glob('*/*.log')).read_text())
    started = 'GFL: 811 of 813 tensors from ghost://gfl_ghostnet.tin (Tiny-ImageNet, 200 classes; '
    assert [started in log for log in logs] == ['--pretrained ghostnet_100 takes' in log for log in logs]
    assert started in logs[0] and 'class layer left out: 2' in logs[0] and started not in logs[1]
    state = load_file(shipped / 'gfl_ghostnet.tin.safetensors')
    for key, value in runner.model.named_parameters():
        assert torch.equal(value, state[key].float()) == ('.gfl_cls.' not in key), key


def test_our_detector_does_not_silently_replace_other_weights(
    shipped: Path, small_data: DetectionData, tmp_path: Path
) -> None:
    init_cfg = dict(type='Pretrained', checkpoint='ghost://ghostnet_100.tin')
    options = {**SINGLE, 'model.backbone.init_cfg': init_cfg}
    with pytest.raises(UserError, match="would replace the weights of the model's init_cfg"):
        train(GFL, small_data, epochs=1, work_dir=str(tmp_path), options=options)


@pytest.mark.parametrize('width', [1.0, 0.5])
def test_our_detector_is_loaded_by_mmengines_own_runner(
    width: float, shipped: Path, small_data: DetectionData, tmp_path: Path
) -> None:
    options = {**SINGLE, 'model.backbone.width': width, 'model.bbox_head.num_classes': 200}  # as the file's
    cfg = prepare(GFL, data=small_data, work_dir=str(tmp_path), options=options)
    cfg.custom_hooks = [dict(type='EMAHook')]
    runner = Runner.from_cfg(cfg)
    with pytest.raises(UserError, match='can only start a training'):
        runner.load_checkpoint(cfg.load_from)
    assert runner.train_loop and runner.call_hook('before_run') is None
    runner._resume = True
    with pytest.raises(UserError, match='can only start a training'):
        runner.load_checkpoint(cfg.load_from)
    runner._resume = False
    if width == 0.5:
        with pytest.raises(UserError, match=r'does not fit this GFL: \d+ tensors differ: backbone'):
            runner.load_checkpoint(cfg.load_from)
        runner.hooks.clear()
        with pytest.raises(UserError, match="with default_hooks=.*'DetectorWeightsHook'"):
            runner.load_checkpoint(cfg.load_from)
        return
    runner.load_checkpoint(cfg.load_from)
    state = load_file(shipped / 'gfl_ghostnet.tin.safetensors')
    (ema,) = (hook.ema_model.module for hook in runner.hooks if isinstance(hook, EMAHook))
    for key, value in [*runner.model.named_parameters(), *ema.named_parameters()]:
        assert torch.equal(value, state[key].float()) == ('.gfl_cls.' not in key), key
    runner.model.backbone.init_cfg = dict(type='Pretrained', checkpoint='ghost://ghostnet_100.tin')
    with pytest.raises(UserError, match="would replace the weights of the model's init_cfg"):
        runner.load_checkpoint(cfg.load_from)


def test_a_training_starts_from_a_complete_detector(train_small: TrainSmall, tmp_path: Path) -> None:
    cfg = load_config(soak.make_config(tmp_path), {'model.bbox_head.num_classes': 6})
    detector = build_detector(cfg.model)
    path = str(tmp_path / 'complete.pth')
    torch.save({'state_dict': detector.state_dict()}, path)
    options = {'load_from': path, 'optim_wrapper.optimizer.lr': 0.0}
    runner = train_small(epochs=1, options=options, pretrained='nowhere.pth')
    assert torch.equal(runner.model.backbone.conv_stem.weight, detector.backbone.conv_stem.weight)
    torch.save(detector.backbone.state_dict(), path)
    with pytest.raises(UserError, match='has no part of'):
        train_small(options={'load_from': path})
    whole = detector.state_dict()
    torch.save({key: value for key, value in whole.items() if '.bn1.' not in key}, path)
    with pytest.raises(
        UserError, match=r'does not fit the backbone: \d+ of \d+ tensors differ: backbone.bn1'
    ):
        train_small(options={'load_from': path})
    with pytest.raises(UserError, match='expected a PyTorch checkpoint'):
        train_small(options={'load_from': 'complete.safetensors'})


def test_bfloat16_computes_in_half_the_bits_and_keeps_the_weights_in_float32(train_small: TrainSmall) -> None:
    # Not at 64 pixels: over maps of one pixel, torch's bfloat16 convolutions leave gradients unset.
    options = {'model.data_preprocessor.batch_augments': None}
    types: dict[bool, set[torch.dtype]] = {False: set(), True: set()}
    losses = []
    for amp, found in types.items():

        def record(layer: Any, _: Any, out: Any, found: set[torch.dtype] = found) -> None:
            if isinstance(layer, torch.nn.Conv2d) and layer.training:
                found.add(out.dtype)

        with torch.nn.modules.module.register_module_forward_hook(record):
            runner = train_small(str(amp), options=options, epochs=1, amp=amp)
        # Runs that start within a second share a hub.
        losses.append(runner.message_hub.get_scalar('train/loss').data[0].tolist()[-2:])
    assert types[False] == {torch.float32} and types[True] >= {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in runner.model.parameters())
    full, mixed = losses
    assert len(full) == 2 and full != mixed == pytest.approx(full, rel=0.05)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'optim_wrapper.optimizer.momentum': 0.9}, 'cannot be built: .*momentum'),
        ({'model.neck.in_channels': [1, 2, 3, 4]}, 'the first step failed: RuntimeError.*in_channels'),
        ({'val_evaluator.ann_file': 'nowhere.json'}, 'cannot be built: .*nowhere.json'),
    ],
)
def test_an_error_in_the_config_is_explained(
    options: dict[str, Any], message: str, train_small: TrainSmall
) -> None:
    with pytest.raises(UserError, match=message):
        train_small(options=options)


@pytest.mark.parametrize('place', ['before_train', 'after_train_iter'])
def test_bugs_stay_bugs(place: str, train_small: TrainSmall, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError('a bug')

    monkeypatch.setattr(ProgressHook, place, fail)
    with pytest.raises(ValueError, match='a bug'):
        train_small()


def test_a_training_needs_an_image_that_it_can_use(train_small: TrainSmall) -> None:
    with pytest.raises(UserError, match='no training image can be used'):
        train_small(options={'train_dataloader.dataset.filter_cfg.min_size': 9999})
