from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from ghost_det.errors import UserError
from ghost_det.evaluation.coco import CLASS_FIGURES, FIGURES, evaluate
from ghost_det.evaluation.errors import KINDS, SPECIAL, analyse
from ghost_det.evaluation.results import (
    SCHEMA,
    evaluate_saved,
    read_results,
    read_truth,
    summary,
    write_results,
    write_summary,
)
from ghost_det.utils.files import sha256
from tests.scenes import hard_scene

from .test_coco import with_masks


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Results and annotations of a hard scene."""
    truth, results = hard_scene(0)
    (tmp_path / 'annotations.json').write_text(json.dumps(truth))
    write_results(tmp_path / 'results.json', results)
    return tmp_path / 'results.json', tmp_path / 'annotations.json'


def test_results_come_back_to_the_bit(files: tuple[Path, Path]) -> None:
    _, results = hard_scene(0)
    for each in results:  # what no rounding leaves as it is
        each['bbox'] = [value + random.random() / 3 for value in each['bbox']]
    truth = read_truth(files[1])
    write_results(files[0], [{**each, 'area': 1.0, 'id': 7} for each in results])
    assert read_results(files[0], truth) == results


def test_missing_areas_and_crowd_flags_are_filled_in(files: tuple[Path, Path]) -> None:
    content = json.loads(files[1].read_text())
    for box in content['annotations']:
        del box['area'], box['iscrowd'], box['id']
    files[1].write_text(json.dumps(content))
    box = read_truth(files[1])['annotations'][0]
    assert box['id'] == 1 and box['iscrowd'] == 0 and box['area'] == box['bbox'][2] * box['bbox'][3]


BAD: list[tuple[Any, str]] = [
    ({'image_id': 999}, 'image_id 999, which is not in the annotations: results and annotations are of dif'),
    ({'image_id': '1'}, "image_id '1'"),
    ({'image_id': True}, 'image_id True'),
    ({'category_id': 5}, 'category_id 5, which is not in the annotations (3, 7, 12, 44, 90): results'),
    ({'category_id': None}, 'category_id None'),
    ({'score': float('nan')}, 'score nan; expected a number'),
    ({'score': float('inf')}, 'score inf'),
    ({'score': '0.5'}, "score '0.5'"),
    ({'bbox': [1, 2, 3]}, '[1, 2, 3]; expected [x, y, width, height] in pixels'),
    ({'bbox': [1, 2, 3, float('nan')]}, 'nan]; expected [x, y, width'),
    ({'bbox': None}, 'bbox None'),
    ({'bbox': [1, 2, 3, 10**400]}, '[x, y, width, height]'),
    ({'image_id': ...}, "has no 'image_id'"),
    ({'category_id': ...}, "has no 'category_id'"),
    ({'score': ...}, "has no 'score'"),
    ({'bbox': ...}, "has no 'bbox'"),
    ({'bbox': ..., 'segmentation': {}}, '--iou-type segm evaluates its segmentation'),
]


@pytest.mark.parametrize(('change', 'message'), BAD)
def test_a_bad_result_is_named(change: dict[str, Any], message: str, files: tuple[Path, Path]) -> None:
    content = json.loads(files[0].read_text())
    entry = {**content[7], **change}
    content[7] = {key: value for key, value in entry.items() if value is not ...}
    files[0].write_text(json.dumps(content))
    with pytest.raises(UserError) as error:
        list(evaluate_saved(*files))
    assert message in str(error.value) and str(error.value).startswith(f'{files[0]}: entry 7 of ')


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('', 'not json: Expecting value in line 1'),
        ('[{]', 'not json: '),
        ('{"images": []}', 'expected a list of COCO results, got an object; annotations are the second'),
        ('5', 'got a number'),
        ('[' + '9' * 5000 + ']', 'not json: '),
        ('[3]', 'entry 0 of 1 is a number; expected an object with image_id'),
        (b'\x80\x04\x95', 'not json in UTF-8'),
        ('[' * 100_000, 'nested too deep'),
    ],
)
def test_a_file_of_something_else_is_named(
    content: str | bytes, message: str, files: tuple[Path, Path]
) -> None:
    files[0].write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        list(evaluate_saved(*files))
    assert message in str(error.value) and str(files[0]) in str(error.value)


@pytest.fixture
def masked(tmp_path: Path) -> tuple[Path, Path]:
    """Results and annotations with masks."""
    truth, results = with_masks(*hard_scene(1))
    (tmp_path / 'annotations.json').write_text(json.dumps(truth))
    write_results(tmp_path / 'results.json', results)
    return tmp_path / 'results.json', tmp_path / 'annotations.json'


def test_masks_are_evaluated_from_files(masked: tuple[Path, Path], tmp_path: Path) -> None:
    list(evaluate_saved(*masked, iou_type='segm', json_file=tmp_path / 'out.json', folder=tmp_path))
    found = json.loads((tmp_path / 'out.json').read_text())['metrics']['segm']
    assert found['figures'] == evaluate(*with_masks(*hard_scene(1)), 'segm').figures
    assert (tmp_path / 'confusion_segm.png').exists()


@pytest.mark.parametrize(
    'code',
    [
        *(None, [1], {'counts': 'x'}, {'counts': [120_000], 'size': [300, 400]}, {'size': [300, 400]}),
        {'counts': 'x', 'size': [400, 300]},
    ],
)
def test_a_bad_mask_is_named(code: Any, masked: tuple[Path, Path]) -> None:
    content = json.loads(masked[0].read_text())
    masked[0].write_text(json.dumps([{**content[0], 'segmentation': code}]))
    with pytest.raises(UserError, match=r'expected a compressed run-length code of the size \[300, 400\]'):
        list(evaluate_saved(*masked, iou_type='segm'))


@pytest.mark.parametrize('shape', [None, [], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6, 7]], [['a'] * 6], {}])
def test_a_bad_outline_is_named(shape: Any, masked: tuple[Path, Path]) -> None:
    content = json.loads(masked[1].read_text())
    content['annotations'][2]['segmentation'] = shape
    masked[1].write_text(json.dumps(content))
    with pytest.raises(UserError, match=r'annotations\[2\] has the segmentation'):
        list(evaluate_saved(*masked, iou_type='segm'))


def test_odd_options_are_refused_and_a_link_is_followed(files: tuple[Path, Path], tmp_path: Path) -> None:
    pipe, link, target = tmp_path / 'pipe', tmp_path / 'link', tmp_path / 'target'
    os.mkfifo(pipe)
    with pytest.raises(UserError, match='--json .*pipe: expected a file, got a pipe or a device'):
        next(iter(evaluate_saved(*files, json_file=pipe)))
    for path in files:
        with pytest.raises(UserError, match='--json .*: would replace what is read'):
            next(iter(evaluate_saved(*files, json_file=path)))
    with pytest.raises(UserError, match='pipe: cannot be written .a pipe or a device is there'):
        write_results(pipe, [])
    assert pipe.is_fifo()
    with pytest.raises(UserError, match='--score nan: expected a number'):
        next(iter(evaluate_saved(*files, score=float('nan'))))
    link.symlink_to(target)
    write_results(link, [])
    assert link.is_symlink() and target.read_text() == '[]'


@pytest.mark.parametrize('flag', ['no', '2', [], 2, -1, 0.5])
def test_annotations_with_a_wrong_flag_are_named(flag: Any, files: tuple[Path, Path]) -> None:
    content = json.loads(files[1].read_text())
    content['annotations'][3]['iscrowd'] = flag
    files[1].write_text(json.dumps(content))
    with pytest.raises(UserError, match=r'annotations\[3\]: iscrowd is '):
        list(evaluate_saved(*files))


def test_where_nothing_can_be_written_it_is_said_first(files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match='--json .*: expected a file, got a folder'):
        next(iter(evaluate_saved(*files, json_file=tmp_path)))
    with pytest.raises(UserError, match='--json .*: its folder cannot be made'):
        next(iter(evaluate_saved(*files, json_file=files[0] / 'out.json')))
    with pytest.raises(UserError, match='--out-dir .*: its folder cannot be made'):
        next(iter(evaluate_saved(*files, folder=files[0])))


def test_the_json_has_its_schema_and_no_minus_one(files: tuple[Path, Path], tmp_path: Path) -> None:
    lines = list(evaluate_saved(*files, json_file=tmp_path / 'new/out.json', folder=tmp_path / 'pictures'))
    assert any('AR_l@100' in line for line in lines) and any('localisation' in line for line in lines)
    text = (tmp_path / 'new/out.json').read_text()
    content = json.loads(text, parse_constant=lambda name: pytest.fail(f'{name} is no json'))
    assert content['schema'] == SCHEMA and content['checkpoint'] is None and content['config'] is None
    assert content['annotations'] == {'path': str(files[1]), 'sha256': sha256(files[1])}
    assert content['results'] == str(files[0]) and {'python', 'pycocotools'} <= set(content['versions'])
    found = content['metrics']['bbox']
    truth, results = hard_scene(0)
    assert found['figures'] == evaluate(truth, results).figures
    assert list(found['figures']) == list(FIGURES)
    assert [each['id'] for each in found['classes']] == [3, 7, 12, 44, 90]
    empty = found['classes'][3]
    assert empty['boxes'] == 0 and all(empty[name] is None for name in CLASS_FIGURES)
    assert found['counts']['detections'] == len(results) and found['counts']['images'] == 24
    assert found['counts']['boxes'] + found['counts']['crowds'] == len(truth['annotations'])
    assert list(found['errors']['counts']) == list(KINDS)
    assert list(found['errors']['gains']) == [*KINDS, *SPECIAL]
    assert len(found['confusion']['matrix']) == 6 and found['confusion']['score'] == 0.3
    assert {path.name for path in (tmp_path / 'pictures').iterdir()} == {
        'pr_curves.png', 'confusion.png', 'errors.png',
    }  # fmt: skip
    table = (Path(__file__).parents[2] / 'docs/evaluation.md').read_text()
    keys = [*content, *found, *found['counts'], *found['errors'], *found['confusion'], *empty]
    assert [key for key in keys if f'`{key}`' not in table] == []


def test_undefined_figures_are_null(files: tuple[Path, Path], tmp_path: Path) -> None:
    truth = read_truth(files[1])
    truth['annotations'] = []
    content = summary({'bbox': evaluate(truth, [])}, {'bbox': analyse(truth, [])}, files[1])
    write_summary(tmp_path / 'out.json', content)
    found = json.loads((tmp_path / 'out.json').read_text())['metrics']['bbox']
    assert set(found['figures'].values()) == {None} and found['errors']['AP_50'] is None
    assert 'no box that counts' in ' '.join(found['notes'])
