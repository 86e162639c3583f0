"""The configs of docs/openmmlab.md, trained and evaluated by each project's own tools/train.py."""

from __future__ import annotations

import json
import math
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from safetensors.torch import save_file

from ghost_det import GhostNet
from ghost_det.data.scene import SHAPES as SCENE
from ghost_det.swap.swap import swap
from ghost_det.weights.load import load_pretrained
from tests.conftest import ROOT
from tests.test_docs import files_of

SHAPES = list(SCENE)
Boxes = list[tuple[int, list[float]]]
"""Category, from 1, and (x, y, width, height) of each object of an image."""


def images(sample: Path, split: str) -> dict[str, Boxes]:
    content = json.loads((sample / f'annotations/instances_{split}2017.json').read_text())
    found: dict[str, Boxes] = {image['file_name']: [] for image in content['images']}
    names = {image['id']: image['file_name'] for image in content['images']}
    for each in content['annotations']:
        found[names[each['image_id']]].append((each['category_id'], each['bbox']))
    return found


def shrink(loader: Any, **dataset: Any) -> None:
    loader.update(batch_size=min(2, loader.batch_size), num_workers=0, persistent_workers=False)
    loader.dataset.update(indices=4, **dataset)


def segmentation(cfg: Any, sample: Path, root: Path) -> None:
    """The boxes as ADE20K's maps of classes."""
    for split, name in (('train', 'training'), ('val', 'validation')):
        maps = root / 'annotations' / name
        maps.mkdir(parents=True)
        (root / 'images').mkdir(exist_ok=True)
        (root / 'images' / name).symlink_to(sample / f'{split}2017')
        for file, boxes in images(sample, split).items():
            labels = np.zeros(cv2.imread(str(sample / f'{split}2017' / file)).shape[:2], np.uint8)
            for category, (x, y, w, h) in boxes:
                labels[int(y) : int(y + h), int(x) : int(x + w)] = category
            cv2.imwrite(str(maps / file.replace('jpg', 'png')), labels)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        shrink(loader, data_root=str(root))
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=2, val_interval=2)
    for step in cfg.train_dataloader.dataset.pipeline:
        if 'Crop' in step['type']:
            step['crop_size'] = (128, 128)
    cfg.model.data_preprocessor['size'] = (128, 128)
    cfg.val_dataloader.dataset.pipeline[1]['scale'] = (160, 160)


def pose(cfg: Any, sample: Path, root: Path) -> None:
    """Seventeen points within each box, as COCO's persons."""
    for split, loader in (('train', cfg.train_dataloader), ('val', cfg.val_dataloader)):
        content = json.loads((sample / f'annotations/instances_{split}2017.json').read_text())
        content['categories'] = [{'id': 1, 'name': 'person'}]
        for each in content['annotations']:
            x, y, w, h = each['bbox']
            points = [[x + w * (n % 5) / 5, y + h * (n // 5) / 4, 2] for n in range(17)]
            each.update(category_id=1, iscrowd=0, num_keypoints=17, keypoints=sum(points, []))
        (root / f'{split}.json').write_text(json.dumps(content))
        prefix = dict(img=str(sample / f'{split}2017'))
        shrink(loader, data_root='', ann_file=str(root / f'{split}.json'), data_prefix=prefix, bbox_file=None)
    cfg.val_evaluator.ann_file = str(root / 'val.json')


def classifier(cfg: Any, sample: Path, root: Path) -> None:
    """Each image in the folder of its first object's class."""
    for split, loader in (('train', cfg.train_dataloader), ('val', cfg.val_dataloader)):
        for shape in SHAPES:
            (root / split / shape).mkdir(parents=True)
        for file, boxes in images(sample, split).items():
            (root / split / SHAPES[boxes[0][0] - 1] / file).symlink_to(sample / f'{split}2017' / file)
        shrink(loader, type='CustomDataset', data_root=str(root), data_prefix=split)
        loader.dataset.pop('split', None)
    cfg.model.head.update(num_classes=len(SHAPES), topk=(1,))
    cfg.data_preprocessor = dict(cfg.data_preprocessor, num_classes=len(SHAPES))


def yolo(cfg: Any, sample: Path, root: Path) -> None:
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        shrink(loader, data_root=f'{sample}/', metainfo=dict(classes=SHAPES))
    cfg.val_evaluator.ann_file = str(sample / 'annotations/instances_val2017.json')
    cfg.model.bbox_head.head_module.num_classes = cfg.model.train_cfg.assigner.num_classes = len(SHAPES)
    cfg.model.test_cfg.nms_pre = 100
    cfg.custom_hooks.pop()  # which changes the pipeline at epoch 280


def rotated(cfg: Any, sample: Path, root: Path) -> None:
    """The boxes, turned by 30 degrees, as DOTA's lines of text."""
    for split, loader in (('train', cfg.train_dataloader), ('val', cfg.val_dataloader)):
        (root / split).mkdir()
        for file, boxes in images(sample, split).items():
            lines = []
            for category, (x, y, w, h) in boxes:
                corners = cv2.boxPoints(((x + w / 2, y + h / 2), (w, h / 2), 30)).ravel()
                lines.append(' '.join([*map(str, corners), ('plane', 'ship')[category % 2], '0']))
            (root / split / file.replace('jpg', 'txt')).write_text('\n'.join(lines))
        prefix = dict(img_path=str(sample / f'{split}2017'))
        shrink(loader, data_root='', ann_file=str(root / split), data_prefix=prefix, img_suffix='jpg')
        for step in loader.dataset.pipeline:
            step.update(dict(scale=(160, 160)) if 'scale' in step else {})
    # Needs mmcv's nms_rotated, and a pool of processes that import this program again.
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None


PROJECTS: dict[str, tuple[str, Callable[[Any, Path, Path], None], str]] = {
    'segmentation.py': ('mmseg', segmentation, 'mIoU'),
    'pose.py': ('mmpose', pose, 'coco/AP'),
    'classifier.py': ('mmpretrain', classifier, 'accuracy/top1'),
    'yolo.py': ('mmyolo', yolo, 'coco/bbox_mAP'),
    'rotated.py': ('mmrotate', rotated, 'dota/mAP'),
}


def package(name: str) -> Path:
    """The folder of an installed project."""
    try:
        return Path(import_module(name).__file__ or '').parent
    except (ImportError, AssertionError) as error:  # a project asserts the versions of others
        pytest.skip(f'no {name}: {error}')


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in place of ``ghost://ghostnet_100``."""
    path = tmp_path / 'weights.safetensors'
    save_file(GhostNet().state_dict(), path)
    monkeypatch.setattr(
        'ghost_det.weights.load.locate', lambda name: path if name == 'ghost://ghostnet_100' else Path(name)
    )
    return path


@pytest.mark.parametrize('name', PROJECTS)
def test_the_projects_own_tool_trains_and_evaluates(
    name: str, tmp_path: Path, sample: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, sooner: None
) -> None:
    project, prepare, metric = PROJECTS[name]
    folder = package(project)
    files_of('openmmlab.md', tmp_path)
    cfg = Config.fromfile(tmp_path / name)
    cfg.train_cfg.update(dict(max_epochs=1, val_interval=1))
    cfg.default_hooks.logger.interval = 1
    data = tmp_path / 'data'
    data.mkdir()
    prepare(cfg, sample, data)
    cfg.dump(tmp_path / 'run.py')
    out = tmp_path / 'out'
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['train.py', str(tmp_path / 'run.py'), '--work-dir', str(out)])
    runpy.run_path(str(folder / '.mim/tools/train.py'), run_name='__main__')
    (log,) = out.glob('*/*.log')
    assert re.search(r'GhostNet: (\d+) of \1 tensors from ghost://ghostnet_100', log.read_text())
    (scalars,) = out.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in scalars.read_text().splitlines()]
    losses = [line['loss'] for line in lines if 'loss' in line]
    assert losses and all(map(math.isfinite, losses)), losses
    assert metric in lines[-1] or cfg.val_cfg is None, lines[-1]
    if name == 'classifier.py':  # its weights in a detector
        loaded = load_pretrained(GhostNet(), out / 'epoch_1.pth')
        assert loaded.loaded == loaded.total and loaded.left_out == {'head': 2}


@pytest.mark.parametrize(
    ('base', 'channels'),
    [
        ('mmyolo::rtmdet/rtmdet_s_syncbn_fast_8xb32-300e_coco.py', [80, 224, 320]),
        ('mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py', [24, 40, 112, 160]),
    ],
)
def test_swap_keeps_the_projects_factor_and_drops_its_weights(
    base: str, channels: list[int], tmp_path: Path
) -> None:
    package(base.partition(':')[0])
    (tmp_path / 'base.py').write_text(f'_base_ = {base!r}')
    swapped = swap(str(tmp_path / 'base.py'), 'GhostNet')
    assert swapped.config.model.neck.in_channels == channels
    assert not swapped.config.model.get('pretrained')
    assert not any('checked only up to the neck' in note for note in swapped.notes), swapped.notes


WITHOUT_MMDET = """
import sys
sys.modules['mmdet'] = None
import ghost_det
from mmengine.registry import MODELS
network = MODELS.build(dict(type='GhostNet', norm_cfg=dict(type='GN', num_groups=2)))
print(isinstance(network, ghost_det.GhostNet), hasattr(ghost_det, 'GhostPAN'))
"""


def test_the_networks_are_registered_without_mmdet() -> None:
    words = [sys.executable, '-c', WITHOUT_MMDET]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == 'True True', done.stderr
