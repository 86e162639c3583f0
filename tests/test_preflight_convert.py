"""Pascal VOC and YOLO layouts: there and back, wrong files, bombs, the cache."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ghost_det import check_dataset
from ghost_det.data import find_data

supervision = pytest.importorskip('supervision')


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv('GHOST_DET_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


def boxes_of(content: dict[str, Any], plain: bool = False) -> dict[str, list[tuple[str, list[float]]]]:
    """Class and box of each object of an image, by its file's name, in the file's order."""
    names = {c['id']: c['name'] for c in content['categories']}
    files = {i['id']: Path(i['file_name']).name for i in content['images']}
    found: dict[str, list[tuple[str, list[float]]]] = {file: [] for file in files.values()}
    for box in content['annotations']:
        found[files[box['image_id']]].append((names[box['category_id']], box['bbox']))
    return found


def export(coco: Path, out: Path, layout: str) -> None:
    """Write the two splits of a COCO folder as VOC or YOLO, by supervision's own writers."""
    for split, name in (('train', 'train'), ('val', 'valid')):
        source = json.loads((coco / f'annotations/instances_{split}2017.json').read_text())
        plain = out.parent / f'{split}.json'
        for box in source['annotations']:
            box['segmentation'], box['iscrowd'] = [], 0  # boxes alone
        plain.write_text(json.dumps(source))
        dataset = supervision.DetectionDataset.from_coco(str(coco / f'{split}2017'), str(plain))
        if layout == 'yolo':
            dataset.as_yolo(str(out / name / 'images'), str(out / name / 'labels'), str(out / 'data.yaml'))
        else:
            dataset.as_pascal_voc(str(out / name), str(out / name))
    if layout == 'yolo':
        yaml = out / 'data.yaml'
        yaml.write_text(yaml.read_text() + 'train: ../train/images\nval: ../valid/images\n')


@pytest.mark.parametrize('layout', ['voc', 'yolo'])
def test_there_and_back_are_the_same_boxes(coco_mini: Path, tmp_path: Path, layout: str) -> None:
    folder = tmp_path / 'set'
    export(coco_mini, folder, layout)
    files = sorted(folder.rglob('*'))
    data = find_data(folder)
    assert data.train is not None and data.train.annotations.is_relative_to(tmp_path / 'cache')
    assert sorted(folder.rglob('*')) == files  # nothing is written there
    compared, largest = 0, 0.0
    for split, path in (('train', data.train.annotations), ('val', data.val.annotations)):
        before = boxes_of(json.loads((coco_mini / f'annotations/instances_{split}2017.json').read_text()))
        after = boxes_of(json.loads(path.read_text()))
        assert before.keys() == after.keys()
        for file, boxes in before.items():
            assert Counter(name for name, _ in boxes) == Counter(name for name, _ in after[file])
            if not boxes:
                continue
            ours, theirs = (np.array([b for _, b in each]) for each in (after[file], boxes))
            # VOC has whole pixels: corners within half of one, and no box of less than one.
            corners = [np.hstack([b[:, :2], b[:, :2] + b[:, 2:]]) for b in (ours, theirs)]
            largest = max(largest, np.abs(corners[0] - corners[1]).max())
            compared += len(boxes)
    print(layout, compared, 'boxes, largest difference of a corner in px:', largest)
    assert compared == 1363
    assert largest <= (1.0 if layout == 'voc' else 1e-2)
    report = check_dataset(folder, quick=True)
    assert not report.errors, str(report)
