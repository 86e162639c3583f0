"""What a config says of classes and anchors, against its data."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.datasets.transforms import Resize
from mmdet.registry import TASK_UTILS
from mmdet.structures.bbox import bbox_overlaps
from mmengine.config import ConfigDict

from ghost_det import check_dataset
from ghost_det.config.load import load_config
from ghost_det.data.annotations import survey
from ghost_det.data.checks.anchors import (
    NotExamined,
    best_overlaps,
    check_anchors,
    find_generator,
    resize_factors,
)
from ghost_det.data.checks.config import check_configured, config_splits, data_of_config
from ghost_det.engine.train import prepare
from ghost_det.errors import UserError
from tests.conftest import ROOT

from .faults import NAMES, TOGETHER, Folder, kinds

LITE = ROOT / 'configs/retinanet_ghostnet_fpn_lite.py'
FASTER = ROOT / 'configs/faster-rcnn_ghostnet_fpn.py'
GFL = ROOT / 'configs/gfl_ghostnet_ghostpan_lite.py'


load_once = cache(load_config)


def named(root: Path, **metainfo: Any) -> Any:
    """A config that names the data of a folder, and three classes unless said otherwise."""
    cfg = deepcopy(load_once(LITE))
    for split, part in (('train', 'train'), ('val', 'val'), ('test', 'val')):
        cfg[f'{split}_dataloader'].dataset.update(
            data_root=f'{root}/',
            ann_file=f'annotations/instances_{part}2017.json',
            data_prefix=dict(img=f'{part}2017/'),
            metainfo=metainfo or dict(classes=NAMES),
        )
    cfg.model.bbox_head.num_classes = 3
    return cfg


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / 'set', train=9, val=6)


def test_a_number_of_classes_is_an_error_where_data_does_not_set_it(folder: Folder) -> None:
    cfg = named(folder.save())
    assert check_configured(cfg, ('train', 'val', 'test')) == []
    cfg.model.bbox_head.num_classes = 80
    for parts, severity in (((None, *data_of_config(cfg)), 'error'), ((folder.root,), 'note')):
        report = check_dataset(*parts, config=cfg, quick=True)
        assert [f.severity for f in report.findings if f.kind == 'num_classes'] == [severity] * 2
    for name in ('train', 'val'):
        del cfg[f'{name}_dataloader'].dataset.metainfo
    assert 'num_classes' not in kinds(check_dataset(folder.root, config=cfg, quick=True))


@pytest.mark.parametrize(
    ('kind', 'metainfo', 'place'),
    [
        ('class name in config', dict(classes=('cat', 'dgo', 'cow')), "class 1 is 'dgo'; the data has"),
        ('class order in config', dict(classes=('dog', 'cat', 'cow')), "has 'dog' but the data has"),
        ('CLASSES in config', dict(CLASSES=NAMES), 'metainfo has CLASSES='),
        ('classes is a text', dict(classes='cat'), "classes is 'cat'"),
        ('num_classes', dict(classes=('cat', 'dog')), 'model.bbox_head.num_classes is 3, the data has 2'),
        ('class name in config', dict(palette=[(0, 0, 0)]), "class 0 is 'person'"),
    ],
)
def test_wrong_classes_in_a_config_are_found_and_refused(
    folder: Folder, kind: str, metainfo: dict[str, Any], place: str
) -> None:
    cfg = named(folder.save(), **metainfo)
    report = check_dataset(folder.root, config=cfg, quick=True)
    if 'palette' not in metainfo:  # --data sets the classes of a config that names none
        (finding,) = (f for f in report.findings if f.kind == kind and f.split == 'train')
        assert place in finding.where[0], finding
    with pytest.raises(UserError, match=f'(?s)train: {kind} .*val: {kind} ') as error:
        check_configured(cfg, ('train', 'val'))
    assert place in str(error.value)


def test_the_data_that_a_config_names_is_checked_before_a_training(
    folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    TOGETHER['box sticks out'](folder)
    cfg = named(folder.save())
    first, second = dict(cfg.train_dataloader.dataset), dict(cfg.val_dataloader.dataset)
    second['pipeline'] = first['pipeline']
    cfg.train_dataloader.dataset = dict(
        type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[first, second])
    )
    cfg.dump(tmp_path / 'config.py')
    assert data_of_config(cfg)[0] == folder.root / 'annotations/instances_train2017.json'
    ready = prepare(str(tmp_path / 'config.py'), work_dir=str(tmp_path / 'work'))
    assert len(ready.train_dataloader.dataset.dataset.datasets) == 2
    assert 'warning: train: box sticks out (1): annotations[0]' in capsys.readouterr().out
    (folder.root / 'val2017/0503.jpg').unlink()
    with pytest.raises(UserError, match=r'(?s)train: missing file \(1\): .*0503.jpg'):
        prepare(str(tmp_path / 'config.py'), work_dir=str(tmp_path / 'work'))


def test_remote_and_hidden_data_are_not_checked(folder: Folder) -> None:
    cfg = named(folder.save())
    (folder.root / 'train2017/0003.jpg').unlink()
    for change in (
        dict(backend_args=dict(backend='petrel')),
        dict(data_root='s3://bucket/'),
        dict(ann_file='nothing.json'),
        dict(type='LVISV1Dataset'),
    ):
        other = named(folder.root)
        other.train_dataloader.dataset.update(change)
        assert check_configured(other, ('train', 'val')) == []
    cfg.val_evaluator.format_only = True
    assert [name for name, _ in config_splits(cfg, ('train', 'val'))] == ['train']
    cfg.train_dataloader.dataset.data_root = 's3://bucket/'
    with pytest.raises(UserError, match='give a FOLDER'):
        data_of_config(cfg)


@pytest.mark.parametrize('name', [LITE, 'mmdet::ssd/ssd300_coco.py'])
def test_the_best_anchor_is_that_of_all_anchors(name: str | Path) -> None:
    generator = TASK_UTILS.build(find_generator(load_config(name))[0])
    draw = torch.Generator().manual_seed(0)
    width, height = 320, 224
    shapes = torch.tensor([width, height], dtype=torch.float64).expand(300, 2)
    first = torch.rand(300, 2, generator=draw, dtype=torch.float64) * shapes
    size = torch.exp(torch.rand(300, 2, generator=draw, dtype=torch.float64) * 5.5)
    boxes = torch.cat([first, torch.minimum(first + size, shapes)], 1)
    sizes = [(-(-height // stride[1]), -(-width // stride[0])) for stride in generator.strides]
    anchors = torch.cat(generator.grid_priors(sizes, dtype=boxes.dtype, device='cpu'))
    expected = bbox_overlaps(boxes, anchors).amax(1)
    assert 0.1 < (expected >= 0.5).float().mean() < 0.999
    torch.testing.assert_close(best_overlaps(generator, boxes, shapes), expected, rtol=0, atol=1e-9)


def test_resizing_is_that_of_the_pipeline() -> None:
    sizes = np.array([[640.0, 480.0], [333.0, 500.0], [1999.0, 31.0]])
    for step in (dict(scale=(1333, 800), keep_ratio=True), dict(scale=(320, 320), keep_ratio=False)):
        factors = resize_factors([ConfigDict(type='Resize', **step)], sizes)
        for (width, height), factor in zip(sizes, factors):
            done = Resize(**step).transform(dict(img=np.zeros((int(height), int(width), 3), np.uint8)))
            # mmdet scales boxes by its scale_factor: the sizes' ratio.
            np.testing.assert_allclose(factor, done['scale_factor'], rtol=1e-6)
    assert (resize_factors([ConfigDict(type='PackDetInputs')], sizes) == 1).all()
    for step in (dict(type='RandomResize', scale=(1, 2)), dict(type='Resize', scale_factor=2)):
        with pytest.raises(NotExamined):
            resize_factors([ConfigDict(step)], sizes)


@pytest.mark.parametrize('config', [LITE, FASTER])
def test_the_suggestion_reaches_what_it_says(config: Path, coco_mini: Path) -> None:
    table = survey(coco_mini / 'annotations/instances_train2017.json').table
    cfg = load_config(config)
    _, lines = check_anchors(cfg, table, 'train')
    assert len(lines) > 2 and lines == [*lines[:2], *sorted(lines[2:], reverse=True)]
    generator, _ = find_generator(cfg)
    shares, _, words = lines[2].rpartition('   ')
    generator.update(eval(f'dict({words.partition(" (")[0]})'))
    _, then = check_anchors(cfg, table, 'train')
    assert then[1].rpartition('   ')[0] == shares > lines[1] and ' of 731: small ' in shares


def test_boxes_that_no_anchor_reaches_are_a_warning(folder: Folder) -> None:
    for box in folder.content['train']['annotations']:
        box['bbox'] = [3, 3, 3, 3]
    report = check_dataset(folder.save(), config=load_once(LITE), quick=True)
    assert [f.kind for f in report.findings] == ['few anchors fit']  # --data sets num_classes
    (line,) = check_dataset(folder.root, config=load_config(GFL), quick=True).anchors
    assert line.startswith('anchors: not examined: ')
