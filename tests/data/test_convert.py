"""Conversions to COCO: the same boxes, in the cache, until the data change."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from ghost_det import check_dataset
from ghost_det.data.dataset import find_data

from .makers import NAMES, label, read_boxes, thing, tree, voc, voc_lists


def export(coco: Path, out: Path, layout: str) -> None:
    """Write the two splits of a COCO folder as VOC, in whole pixels, or as YOLO, in five digits."""
    for split, name in (('train', 'train'), ('val', 'valid')):
        source = json.loads((coco / f'annotations/instances_{split}2017.json').read_text())
        classes = [category['name'] for category in source['categories']]
        for image in source['images']:
            things = []
            for box in (each for each in source['annotations'] if each['image_id'] == image['id']):
                x, y, width, height = box['bbox']
                row = np.array([x + width / 2, y + height / 2, width, height])
                if layout == 'polygons':
                    row = np.hstack(box['segmentation'])
                shares = (row.reshape(-1, 2) / [image['width'], image['height']]).ravel()
                text = f'{box["category_id"] - 1} {" ".join(f"{value:.5f}" for value in shares)}\n'
                if layout == 'voc':
                    corners = round(x) + 1, round(y) + 1, round(x + width), round(y + height)
                    text = thing(classes[box['category_id'] - 1], *corners)
                things.append(text)
            stem = Path(image['file_name']).stem
            if layout == 'voc':
                tree(out, {f'{name}/{stem}.xml': f'<annotation>{"".join(things)}</annotation>'})
            else:
                tree(out, {f'{name}/{stem}.txt': ''.join(things)})
            shutil.copy(coco / f'{split}2017' / image['file_name'], out / name)
    if layout != 'voc':
        tree(out, {'data.yaml': f'names: {json.dumps(classes)}\ntrain: train\nval: valid\n'})


@pytest.mark.parametrize(('layout', 'tolerance'), [('voc', 0.5), ('yolo', 0.005), ('polygons', 0.5)])
def test_there_and_back_are_the_same_boxes(
    sample: Path, tmp_path: Path, cache: Path, layout: str, tolerance: float
) -> None:
    export(sample, tmp_path, layout)
    files = sorted(tmp_path.rglob('*'))
    for split in ('train', 'val'):
        before, after = (read_boxes(root, split) for root in (sample, tmp_path))
        assert before.keys() == after.keys()
        for first, second in zip(before.values(), after.values()):
            assert [name for name, _ in first] == [name for name, _ in second]
            corners = [[[x, y, x + w, y + h] for _, (x, y, w, h) in each] for each in (first, second)]
            np.testing.assert_allclose(*corners, atol=tolerance)
    assert sorted(tmp_path.rglob('*')) == files  # nothing is written there
    assert find_data(tmp_path).val.annotations.is_relative_to(cache)


def test_the_cache_is_used_until_the_data_change(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / 'set'
    voc_lists(root, train=NAMES[:2], val=NAMES[2:])
    first = find_data(root)
    with monkeypatch.context() as patch:
        patch.setattr('ghost_det.data.convert._convert', lambda *_: pytest.fail('converted again'))
        assert find_data(root) == first
    label(root / 'Annotations/im 1.xml', thing('owl', 3.5, 2, 20, 15))  # of the same length
    second = find_data(root)
    assert second.classes == ('cat', 'dog', 'owl') and not first.val.annotations.exists()
    shutil.copytree(root, tmp_path / 'copy')
    assert find_data(tmp_path / 'copy').val.annotations.parent != second.val.annotations.parent
    assert second.val.annotations.exists()


@pytest.mark.skipif(sys.platform == 'darwin', reason='its file systems refuse such names')
def test_names_that_are_no_text(tmp_path: Path, cache: Path) -> None:
    report = check_dataset(voc(tmp_path / os.fsdecode(b'set\xff'), '.', '.'), quick=True)
    assert not report.errors and r'set\udcff' in str(report)
    str(report).encode()
