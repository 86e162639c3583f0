from __future__ import annotations

import contextlib
import json
import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ghost_det import GhostNet
from ghost_det.config.load import load_config
from ghost_det.config.overrides import fit_to_cpu, use_pretrained
from ghost_det.config.schedules import set_epochs
from ghost_det.data.dataset import find_data
from ghost_det.engine.hooks import ChannelsLastHook
from ghost_det.engine.runner import OUR_HOOKS, GhostRunner, is_no_listing
from ghost_det.engine.test import test as evaluate
from ghost_det.engine.train import batch_note, prepare, train
from ghost_det.errors import UserError
from ghost_det.reports.logs import read_scalars
from ghost_det.swap.probe import build_detector
from tests.conftest import ROOT
from tests.data.faults import Folder

LITE = ROOT / 'configs/retinanet_ghostnet_fpn_lite.py'
FULL = ROOT / 'configs/retinanet_ghostnet_fpn.py'


def test_epochs_stretch_the_schedule_with_the_training() -> None:
    cfg = load_config(FULL)
    set_epochs(cfg, 36)
    assert cfg.train_cfg.max_epochs == 36 and cfg.train_cfg.val_interval == 3
    warmup, steps = cfg.param_scheduler
    assert warmup.end == 500  # iterations stay
    assert steps.milestones == [24, 33] and steps.end == 36
    cfg = load_config(LITE)
    set_epochs(cfg, 3)
    assert cfg.param_scheduler[1].T_max == cfg.param_scheduler[1].end == 3
    set_epochs(cfg, 1)
    assert cfg.train_cfg.val_interval == 1 and cfg.param_scheduler[1].end == 1
    with pytest.raises(UserError, match='--epochs 0'):
        set_epochs(cfg, 0)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=10)
    with pytest.raises(UserError, match='counts epochs'):
        set_epochs(cfg, 3)


@pytest.mark.parametrize('key', ['train_cfg', 'optim_wrapper', 'param_scheduler'])
def test_a_part_of_a_config_that_is_no_dictionary_is_named(key: str) -> None:
    with pytest.raises(UserError, match=f'{key} is 3; expected dict'):
        load_config(LITE, {key: 3})


def test_a_batch_that_the_learning_rate_is_not_for_is_told() -> None:
    cfg = load_config(FULL)
    note = batch_note(cfg, 1)
    assert note is not None and '0.01 is meant for 16 images a step and this run has 2' in note
    assert 'makes it 0.00125' in note
    assert batch_note(cfg, 8) is None
    cfg.auto_scale_lr.enable = True
    assert batch_note(cfg, 1) is None


def test_cores_are_shared_between_computing_and_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    for cores, workers in ((1, 1), (2, 1), (8, 2)):
        monkeypatch.setattr(os, 'sched_getaffinity', lambda _, cores=cores: set(range(cores)))
        cfg = load_config(FULL)
        fit_to_cpu(cfg)
        assert torch.get_num_threads() == cores
        assert cfg.train_dataloader.num_workers == cfg.val_dataloader.num_workers == workers
    torch.set_num_threads(threads)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    cfg = load_config(FULL)
    cfg.train_dataloader.num_workers = 7
    fit_to_cpu(cfg)
    assert cfg.train_dataloader.num_workers == 7


def test_options_win_over_data_and_machine(sample: Path, tmp_path: Path) -> None:
    cfg = prepare(
        str(LITE),
        work_dir=str(tmp_path),
        options={'train_dataloader.num_workers': 0, 'train_dataloader.persistent_workers': False},
        data=find_data(sample),
        epochs=2,
        batch_size=3,
        tensorboard=True,
    )
    assert cfg.train_dataloader.num_workers == 0 and cfg.train_dataloader.batch_size == 3
    assert cfg.train_cfg.max_epochs == 2 and cfg.work_dir == str(tmp_path)
    assert [b.type for b in cfg.visualizer.vis_backends] == ['LocalVisBackend', 'TensorboardVisBackend']
    assert [hook.type for hook in cfg.custom_hooks] == ['ChannelsLastHook']
    cfg.custom_hooks.append(dict(type='LossGuardHook', factor=7.0))
    runner = GhostRunner.from_cfg(cfg)
    names = [type(hook).__name__ for hook in runner.hooks]
    assert all(names.count(name) == 1 for name in OUR_HOOKS)
    assert next(hook for hook in runner.hooks if hasattr(hook, 'factor')).factor == 7.0


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (None, 'no such config file'),
        ('model = dict(', 'not a config: .* in line 1'),
        ('x = 1', 'it has no model, train_dataloader, val_dataloader, val_evaluator'),
        ("_base_ = './nothing.py'", 'cannot be read as a config: FileNotFoundError'),
        ('1 / 0', 'cannot be read as a config: ZeroDivisionError'),
    ],
)
def test_bad_configs_are_named_with_their_problem(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / 'bad.py'
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message) as error:
        load_config(path)
    assert str(path) in str(error.value)


def test_options_that_do_not_fit_are_named() -> None:
    with pytest.raises(UserError, match='does not fit'):
        load_config(LITE, {'param_scheduler.7.end': 3})


def test_missing_data_names_the_options() -> None:
    with pytest.raises(UserError) as error:
        prepare(str(FULL))
    for piece in (str(FULL), 'data/coco', '--data sample', '--data FOLDER', '--cfg-options'):
        assert piece in str(error.value)


def test_channels_last_is_a_switch() -> None:
    for enabled in (True, False):
        model = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3), torch.nn.Conv2d(8, 2, 3))
        runner: Any = SimpleNamespace(model=model)
        ChannelsLastHook(enabled).before_train(runner)
        out = model(torch.rand(2, 4, 9, 9))
        assert out.is_contiguous(memory_format=torch.channels_last) is enabled


def test_long_listings_go_only_to_the_file() -> None:
    def shown(message: str) -> bool:
        return is_no_listing(logging.LogRecord('m', logging.INFO, '', 1, message, (), None))

    assert not shown('\n------\nSystem environment:\n  sys.platform: linux')
    assert not shown('Config:\nmodel = dict()')
    assert shown('Epoch(train) [1][10/30]  loss: 1.0') and shown('Saving checkpoint at 1 epochs')


def test_scalars_of_a_resumed_run_replace_those_it_did_again(tmp_path: Path) -> None:
    for name, rows in (
        (
            '20260101_000000',
            '{"loss": 3.0, "step": 10}\n{"loss": 2.0, "step": 20}\n{"loss": 1.5, "step": 30}\n'
            '{"coco/bbox_mAP": 0.1, "step": 1}\n',
        ),
        ('20260102_000000', '{"loss": 1.9, "step": 20}\n{"coco/bbox_mAP": 0.2, "step": 1}\n'),
    ):
        (tmp_path / name / 'vis_data').mkdir(parents=True)
        (tmp_path / name / 'vis_data/scalars.json').write_text(rows)
    rows = read_scalars(tmp_path)
    assert [row['loss'] for row in rows if 'loss' in row] == [3.0, 1.9]
    assert [row['coco/bbox_mAP'] for row in rows if 'loss' not in row] == [0.2]


def test_from_scratch_nothing_of_the_backbone_stays_fixed() -> None:
    cfg = load_config(FULL, {'model.backbone.frozen_stages': 1})
    assert cfg.model.backbone.norm_eval
    use_pretrained(cfg, 'none')
    assert cfg.model.backbone.init_cfg is None
    assert not cfg.model.backbone.norm_eval and cfg.model.backbone.frozen_stages == -1


@pytest.mark.parametrize(
    ('source', 'checkpoint'),
    [('ghostnet_100', 'ghost://ghostnet_100'), ('ghost://x', 'ghost://x'), ('a/b.pth', 'a/b.pth')],
)
def test_pretrained_takes_names_and_files(source: str, checkpoint: str) -> None:
    cfg = load_config(FULL)
    use_pretrained(cfg, source)
    assert cfg.model.backbone.init_cfg == dict(type='Pretrained', checkpoint=checkpoint)
    assert cfg.model.backbone.norm_eval


def test_wrong_weights_stop_a_training_before_anything_is_built(sample: Path, tmp_path: Path) -> None:
    broken = tmp_path / 'broken.pth'
    broken.write_text('<html>')
    for source, message in (
        (str(broken), 'a web page'),
        (str(tmp_path / 'none.pth'), 'found nothing'),
        ('ghost://ghostnet_101', 'no such published weights'),
    ):
        with pytest.raises(UserError, match=message):
            train(str(LITE), find_data(sample), pretrained=source, work_dir=str(tmp_path / 'run'))
    assert not list((tmp_path / 'run').glob('*/vis_data'))


def test_weights_of_the_backbone_reach_the_detector_that_trains(sample: Path, tmp_path: Path) -> None:
    weights = tmp_path / 'backbone.pth'
    backbone = GhostNet(frozen_stages=0)
    torch.save(backbone.state_dict(), weights)
    options = {'model.backbone.frozen_stages': 0, 'train_dataloader.batch_size': 4}
    runner = train(
        str(LITE),
        find_data(sample),
        pretrained=str(weights),
        epochs=1,
        work_dir=str(tmp_path / 'run'),
        options=options,
    )
    assert torch.equal(runner.model.backbone.conv_stem.weight, backbone.conv_stem.weight)
    (log,) = (tmp_path / 'run').glob('*/*.log')
    count = len(backbone.state_dict())
    assert f'GhostNet: {count} of {count} tensors from {weights}' in log.read_text()
    boxes = len(json.loads((sample / 'annotations/instances_train2017.json').read_text())['annotations'])
    used = f'INFO - train (instances_train2017.json): {boxes} of {boxes} boxes in 8 of 8 images are used'
    assert used in log.read_text()
    weights.unlink()  # which going on does not need
    again = train(
        str(LITE),
        find_data(sample),
        pretrained=str(weights),
        resume='auto',
        epochs=2,
        work_dir=str(tmp_path / 'run'),
        options=options,
    )
    assert again.epoch == 2
    scalars = list((tmp_path / 'run').glob('*/vis_data/scalars.json'))
    assert len(scalars) == 2  # though both ran in one process
    assert torch.equal(again.model.backbone.conv_stem.weight, backbone.conv_stem.weight)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(area=0), 'train (instances_train2017.json): 3 of 3 boxes in 3 of 3 images are used'),
        (dict(bbox=[70, 5, 0.5, 0.5]), r'0 of 3 boxes .* left out: 3 under 1 px: nothing to learn from'),
        (dict(width=31), 'no image of train can be used'),
    ],
)
def test_a_training_says_how_many_boxes_it_uses(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder = Folder(tmp_path / 'set', train=3, val=3)
    for content in folder.content.values():
        for entry in content['images' if 'width' in change else 'annotations']:
            entry.update(change)
    with contextlib.nullcontext() if 'area' in change else pytest.raises(UserError, match=message):
        cfg = prepare(str(LITE), str(tmp_path / 'run'), data=find_data(folder.save()))
        runner = GhostRunner.from_cfg(cfg)
        runner.build_train_loop(runner._train_loop)
        (log,) = (tmp_path / 'run').glob('*/*.log')
        assert message in log.read_text()


def test_pretrained_weights_are_for_our_backbones() -> None:
    cfg = load_config(FULL)
    cfg.model.backbone.type = 'ResNet'
    with pytest.raises(UserError, match='the backbone is ResNet, and only those of ghost_det'):
        use_pretrained(cfg, 'ghostnet_100')
    del cfg.model.backbone
    with pytest.raises(UserError, match='there is no backbone, in model or model.detector'):
        use_pretrained(cfg, 'none')


def test_a_whole_detector_to_start_from_needs_no_weights_of_its_backbone(
    sample: Path, tmp_path: Path
) -> None:
    detector = build_detector(load_config(LITE, {'model.bbox_head.num_classes': 6}).model)
    torch.save({'state_dict': detector.state_dict()}, tmp_path / 'whole.pth')
    runner = train(
        str(LITE),
        find_data(sample),
        epochs=1,
        work_dir=str(tmp_path / 'run'),
        options={'load_from': str(tmp_path / 'whole.pth'), 'optim_wrapper.optimizer.lr': 0.0},
    )
    assert torch.equal(runner.model.backbone.conv_stem.weight, detector.backbone.conv_stem.weight)
    torch.save(detector.backbone.state_dict(), tmp_path / 'part.pth')
    with pytest.raises(UserError, match='named by --pretrained'):
        train(
            str(LITE),
            find_data(sample),
            work_dir=str(tmp_path / 'run'),
            options={'load_from': str(tmp_path / 'part.pth')},
        )


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'out': 'predictions.csv'}, r'--out predictions.csv: predictions are written as .json .* or .pkl'),
        ({'out': 'README.md/x.json'}, '--out README.md: cannot be written'),
        ({'json_file': 'configs'}, '--json configs: expected a file, got a folder'),
    ],
)
def test_a_result_that_cannot_be_written_stops_an_evaluation_before_it(
    options: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=message):
        evaluate(str(LITE), 'none.pth', **options)
