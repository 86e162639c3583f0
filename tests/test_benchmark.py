from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ghost_det.annotations import read_annotations
from ghost_det.benchmark import BOXES, IMAGES, annotation_table, write_annotations

pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='memory is read in /proc')


@pytest.mark.parametrize('polygons', [False, True])
def test_generated_annotations_are_of_cocos_form_and_proportions(tmp_path: Path, polygons: bool) -> None:
    path = tmp_path / 'a.json'
    write_annotations(path, 0.001, polygons)
    content = read_annotations(path)
    assert len(content['images']) == round(IMAGES / 1000) and len(content['annotations']) == round(
        BOXES / 1000
    )
    assert len({box['image_id'] for box in content['annotations']}) == len(content['images'])
    assert all(bool(box['segmentation']) is polygons for box in content['annotations'])
    if polygons:  # COCO's own file has 520 bytes a box, images included
        assert 400 < path.stat().st_size / len(content['annotations']) < 700


def test_a_table_has_a_row_for_each_size_and_way(tmp_path: Path) -> None:
    head, *rows = annotation_table([0.02], workers=2, folder=tmp_path)
    assert [row.split()[:4] for row in rows] == [['0.02', '2366', '3', each] for each in ('yes', 'no')]
    for row in rows:
        start, main, peak, private, share = map(float, row.split()[-5:])
        assert start < main <= peak and 0 < private < share < main
    assert not list(tmp_path.iterdir())
