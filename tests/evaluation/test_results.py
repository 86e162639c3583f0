from __future__ import annotations

import json
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
from tests.conftest import ROOT, Cli
from tests.scenes import hard_scene

from .test_coco import with_masks


@pytest.fixture(params=['bbox', 'segm'])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path, str]:
    """Results and annotations of a hard scene."""
    scene = hard_scene(0) if request.param == 'bbox' else with_masks(*hard_scene(0))
    (tmp_path / 'annotations.json').write_text(json.dumps(scene[0]))
    write_results(tmp_path / 'results.json', scene[1])
    return tmp_path / 'results.json', tmp_path / 'annotations.json', request.param


boxes_only = pytest.mark.parametrize('files', ['bbox'], indirect=True)
masks_only = pytest.mark.parametrize('files', ['segm'], indirect=True)


@boxes_only
def test_results_come_back_unrounded(files: tuple[Path, Path, str]) -> None:
    _, results = hard_scene(0)
    for each in results:
        each['bbox'] = [value + random.random() / 3 for value in each['bbox']]
    write_results(files[0], [{**each, 'area': 1.0, 'id': 7} for each in results])
    assert read_results(files[0], read_truth(files[1])) == results


@boxes_only
def test_missing_areas_and_crowd_flags_are_filled_in(files: tuple[Path, Path, str]) -> None:
    content = json.loads(files[1].read_text())
    for box in content['annotations']:
        del box['area'], box['iscrowd'], box['id']
    files[1].write_text(json.dumps(content))
    box = read_truth(files[1])['annotations'][0]
    assert box['id'] == 1 and box['iscrowd'] == 0 and box['area'] == box['bbox'][2] * box['bbox'][3]


def refusal(files: tuple[Path, Path, str]) -> str:
    with pytest.raises(UserError) as error:
        list(evaluate_saved(files[0], files[1], files[2]))  # type: ignore[arg-type]
    assert '\n' not in str(error.value)
    return str(error.value)


SIZE = [300, 400]
BAD_RESULTS: dict[str, tuple[Any, ...]] = {
    'image_id': (999, '1', True, None, []),
    'category_id': (5, 7.0, True, None),
    'score': (float('nan'), float('inf'), '0.5', True, None),
    'bbox': ([1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 3, float('nan')], [1, 2, 3, 10**400], None),
    'segmentation': (
        *(None, [1], {'size': SIZE}),
        *({'counts': 'x', 'size': SIZE[::-1]}, {'counts': [9], 'size': SIZE}),
    ),
}


@pytest.mark.parametrize(
    ('field', 'files'),
    [(field, 'segm' if field == 'segmentation' else 'bbox') for field in BAD_RESULTS],
    indirect=['files'],
)
def test_a_bad_result_is_named(field: str, files: tuple[Path, Path, str]) -> None:
    content = json.loads(files[0].read_text())
    good = content[7]
    lacking = {key: good[key] for key in good if key != field}
    for bad in (lacking, *({**good, field: value} for value in BAD_RESULTS[field])):
        content[7] = bad
        files[0].write_text(json.dumps(content))
        message = refusal(files).replace(' has no ', ' has ').replace(f'{field}:', field)
        assert message.startswith(f'{files[0]}: entry 7 of {len(content)} has {field} ')


@masks_only
def test_a_bad_mask_of_the_ground_truth_is_named(files: tuple[Path, Path, str]) -> None:
    annotations = json.loads(files[1].read_text())
    for shape in (None, [], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6, 7]], [['a'] * 6], {}):
        annotations['annotations'][2]['segmentation'] = shape
        files[1].write_text(json.dumps(annotations))
        assert 'annotations[2] has the segmentation' in refusal(files)


@boxes_only
@pytest.mark.parametrize('content', [b'', b'[{]', b'{"images": []}', b'5', b'[3]', b'[' * 100_000])
def test_a_file_with_other_content_is_named(content: bytes, files: tuple[Path, Path, str]) -> None:
    files[0].write_bytes(content)
    assert refusal(files).startswith(f'{files[0]}: ')


def test_the_json_has_its_schema(files: tuple[Path, Path, str], tmp_path: Path, cli: Cli) -> None:
    out, folder, iou_type = tmp_path / 'new/out.json', tmp_path / 'pictures', files[2]
    done = cli('eval', *files[:2], '--iou-type', iou_type, '--json', out, '--out-dir', folder)
    assert done.returncode == 0 and 'AR_l@100' in done.stdout and 'localisation' in done.stdout
    content = json.loads(out.read_text(), parse_constant=lambda name: pytest.fail(f'{name} is no json'))
    assert content['schema'] == SCHEMA and content['checkpoint'] is None and content['config'] is None
    assert content['annotations'] == {'path': str(files[1]), 'sha256': sha256(files[1])}
    assert content['results'] == str(files[0]) and {'python', 'pycocotools'} <= set(content['versions'])
    found = content['metrics'][iou_type]
    truth, results = hard_scene(0) if iou_type == 'bbox' else with_masks(*hard_scene(0))
    assert found['figures'] == evaluate(truth, results, iou_type).figures  # type: ignore[arg-type]
    assert list(found['figures']) == list(FIGURES)
    assert [each['id'] for each in found['classes']] == [3, 7, 12, 44, 90]
    empty = found['classes'][3]
    assert empty['boxes'] == 0 and all(empty[name] is None for name in CLASS_FIGURES)
    assert found['counts']['detections'] == len(results) and found['counts']['images'] == 24
    assert found['counts']['boxes'] + found['counts']['crowds'] == len(truth['annotations'])
    assert list(found['errors']['counts']) == list(KINDS)
    assert list(found['errors']['gains']) == [*KINDS, *SPECIAL]
    assert len(found['confusion']['matrix']) == 6 and found['confusion']['score'] == 0.3
    suffix = '' if iou_type == 'bbox' else '_segm'
    names = {f'{name}{suffix}.png' for name in ('pr_curves', 'confusion', 'errors')}
    assert {path.name for path in folder.iterdir()} == names
    table = (ROOT / 'docs/evaluation.md').read_text()
    keys = [*content, *found, *found['counts'], *found['errors'], *found['confusion'], *empty]
    assert [key for key in keys if f'`{key}`' not in table] == []


@boxes_only
def test_undefined_figures_are_null(files: tuple[Path, Path, str], tmp_path: Path) -> None:
    truth = read_truth(files[1])
    truth['annotations'] = []
    content = summary({'bbox': evaluate(truth, [])}, {'bbox': analyse(truth, [])}, files[1])
    write_summary(tmp_path / 'out.json', content)
    found = json.loads((tmp_path / 'out.json').read_text())['metrics']['bbox']
    assert set(found['figures'].values()) == {None} and found['errors']['AP_50'] is None
    assert found['notes']
