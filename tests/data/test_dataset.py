"""Data sets in COCO's format: their parts are found, and configs follow them."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mmdet.datasets import CocoDataset, ConcatDataset

from ghost_det.config.load import load_config
from ghost_det.data.dataset import aligned_annotations, find_data, missing_data, use_data, used_boxes
from ghost_det.errors import UserError
from tests.conftest import CONFIGS, ROOT

from .makers import built, content, write, write_both

CONFIG = ROOT / 'configs/retinanet_ghostnet_fpn.py'


def test_valid_wins_over_test_and_parts_can_be_named(tmp_path: Path) -> None:
    write_both(tmp_path, content(['cat']))
    other = write(tmp_path / 'test/_annotations.coco.json', content(['cat']))
    assert find_data(tmp_path).val.images.name == 'valid'
    assert find_data(tmp_path, val_ann=other).val.annotations == other
    outright = find_data(None, other, other.parent, other, other.parent)
    assert outright.train == outright.val
    write(tmp_path / 'valid/_annotations.coco.json', content(['cat', 'dgo']))
    with pytest.raises(UserError, match="boxes of the class 'dgo'"):
        find_data(tmp_path)


def test_labels_follow_the_training_order_in_a_copy_of_val(tmp_path: Path) -> None:
    given = content(['dog', 'extra', 'cat'], used=[0, 2])
    del given['annotations'][0]['area']
    path = write(tmp_path / 'val.json', given)
    before = path.read_bytes()
    copy = aligned_annotations(path, ('cat', 'bird', 'dog'), tmp_path / 'aligned')
    assert copy != path and path.read_bytes() == before
    dataset = built(copy, metainfo=dict(classes=('cat', 'bird', 'dog')), test_mode=True)
    assert [instance['bbox_label'] for instance in dataset.get_data_info(0)['instances']] == [2, 0]


@pytest.mark.parametrize('change', ['none', 'id 0', 'same ids', 'ids as texts', 'byte order mark'])
def test_a_file_in_order_is_used_as_it_is(tmp_path: Path, change: str) -> None:
    given = content(['cat', 'dog'], first=0 if change == 'id 0' else 1)
    for box in given['annotations']:
        box['id'] = {'same ids': 7, 'ids as texts': str(box['id'])}.get(change, box['id'])
    path = write(tmp_path / 'val.json', given)
    if change == 'byte order mark':
        path.write_bytes(b'\xef\xbb\xbf' + path.read_bytes())
    copy = aligned_annotations(path, ('cat', 'dog'), tmp_path / 'aligned')
    assert (copy == path) == (change == 'none') == (not (tmp_path / 'aligned').exists())
    assert [box['id'] for box in json.loads(copy.read_text())['annotations']] == [1, 2]


@pytest.mark.parametrize('config', CONFIGS, ids=lambda p: p.stem)
def test_every_config_follows_the_data(config: Path, sample: Path, tmp_path: Path) -> None:
    cfg = load_config(config)
    data = find_data(sample)
    assert missing_data(cfg, ('train', 'val'))[0].name == 'instances_train2017.json'
    use_data(cfg, data, tmp_path)
    assert missing_data(cfg, ('train', 'val', 'test')) == []
    heads = str([head for key, head in cfg.model.items() if key.endswith('head')])
    assert {*re.findall(r"'num_classes': (\d+)", heads)} == {str(len(data.classes))}
    for name in ('val', 'test'):
        assert cfg[f'{name}_evaluator'].ann_file == str(data.val.annotations)
        assert cfg[f'{name}_dataloader'].dataset.metainfo['classes'] == data.classes


def test_wrapped_and_concatenated_datasets_are_followed(tmp_path: Path) -> None:
    write_both(tmp_path, content([f'class {i}' for i in range(90)]))  # more than COCO has colours
    cfg = load_config(CONFIG)
    inner = cfg.train_dataloader.dataset
    both = dict(type='ConcatDataset', datasets=[inner, inner])
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=2, dataset=both)
    use_data(cfg, find_data(tmp_path), tmp_path)
    assert len(cfg.val_dataloader.dataset.metainfo.palette) == 90
    assert cfg.train_dataloader.dataset.times == 2
    (only,) = cfg.train_dataloader.dataset.dataset.datasets
    assert only.ann_file.startswith(str(tmp_path))
    only.data_root = 's3://bucket/coco/'
    assert missing_data(cfg, ('train',)) == []  # remote data is not looked for


class Picky(CocoDataset):
    """A dataset that drops an image for a reason of its own."""

    def filter_data(self) -> list[Any]:
        return super().filter_data()[1:]


def odd_boxes(path: Path, seed: int) -> Path:
    """Write boxes at and over every limit that mmdet has."""
    rng = random.Random(seed)
    given = content(['cat', 'cow', 'dog'])
    sizes = [{'width': (31, 32, 60)[n % 3], 'height': 40} for n in range(9)]
    given['images'] = [{'id': n, 'file_name': f'{n}.jpg', **size} for n, size in enumerate(sizes)]
    choices = {
        'image_id': range(9),
        'category_id': (0, 0, 10, 20),
        'area': (-1, 0, 7, 7.5, 100),
        'iscrowd': (0, 0, 1, True),
        'ignore': (0, 0, 0, 0, 0, 1),
    }
    sides = (-40, -1, 0, 5, 31, 60), (-40, 0, 0, 5.5, 40), (0, 0.99, 1, 5, 9, 40), (0, 0.99, 1, 5, 9, 40)
    given['annotations'] = [
        {'id': n, 'bbox': [*map(rng.choice, sides)], **{key: rng.choice(c) for key, c in choices.items()}}
        for n in range(1, 400)
    ]
    path.write_text(json.dumps(given))
    return path


def test_boxes_that_mmdet_ignores_are_counted_exactly(tmp_path: Path) -> None:
    text = ''
    for seed in range(2):
        path = odd_boxes(tmp_path / f'{seed}.json', seed)
        dataset = built(path)
        used = sum(not i['ignore_flag'] for entry in dataset for i in entry['instances'])
        loader = SimpleNamespace(dataset=ConcatDataset([dataset, built(path, Picky)]))
        (line, is_warning), (picky, is_odd) = used_boxes(loader)
        assert line.startswith(f'train ({seed}.json): {used} of 399 boxes in {len(dataset)} of 9 images')
        assert used and not is_warning and is_odd and 'for other reasons' in picky
        text += line
    reasons = 'with ignore/under 1 px/outside the image/area of 0/other classes/crowd/32 px'
    assert all(reason in text for reason in reasons.split('/'))
    assert list(used_boxes(SimpleNamespace(dataset=[1, 2]))) == []


def test_a_training_without_boxes_is_refused(tmp_path: Path) -> None:
    given = content(['cat', 'dog'])
    for box in given['annotations']:
        box['area'] = 0
    dataset = built(write(tmp_path / 'a.json', given), filter_cfg=None)
    with pytest.raises(UserError, match='0 of 2 boxes .*: 2 with an area of 0 or below.*nothing to learn'):
        list(used_boxes(SimpleNamespace(dataset=dataset)))
