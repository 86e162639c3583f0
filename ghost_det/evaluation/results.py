"""Detections and figures as files: COCO results to evaluate again, and the JSON that other programs read."""

from __future__ import annotations

import datetime
import json
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ghost_det import __version__
from ghost_det.data.annotations import complete_boxes, read_annotations
from ghost_det.errors import UserError
from ghost_det.utils.files import read_json, require_folder, require_writable, sha256, write_file
from ghost_det.utils.system import versions

from .coco import UNDEFINED, Evaluation, IouType, evaluate
from .errors import SCORE, Analysis, analyse
from .plots import draw_all
from .tables import class_table, error_table, figure_table, notes

SCHEMA = 1
FIELDS = ('image_id', 'category_id', 'score', 'bbox', 'segmentation')
PACKAGES = (
    *('torch', 'torchvision', 'numpy'),
    *('onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection', 'mmengine', 'mmcv-lite', 'mmcv', 'mmdet'),
    *('faster-coco-eval', 'pycocotools'),
)
Sizes = dict[int, tuple[int, int]]
"""Height and width by image id."""


def evaluate_saved(
    results: Path,
    annotations: Path,
    iou_type: IouType = 'bbox',
    json_file: Path | None = None,
    folder: Path | None = None,
    score: float = SCORE,
) -> Iterator[str]:
    """Evaluate saved detections without their model, and yield the lines to print.

    The figures are those of the run that saved them, to the last digit. Detections from ``score`` on count in
    the confusion matrix; ``json_file`` is for other programs, ``folder`` for pictures.
    """
    if json_file is not None:
        require_writable(json_file, '--json', (results, annotations))
    if folder is not None:
        require_folder(folder, '--out-dir')
    truth = read_truth(annotations, iou_type)
    found = read_results(results, truth, iou_type)
    evaluation = evaluate(truth, found, iou_type)
    analysis = analyse(truth, found, iou_type, score)
    yield class_table(evaluation)
    yield figure_table([evaluation])
    yield error_table(analysis)
    yield f'{evaluation.seconds:.1f} s by {evaluation.evaluator}'
    if folder is not None:
        for name, path in draw_all(evaluation, analysis, folder).items():
            yield f'{name:<11}{path}'
    if json_file is not None:
        write_summary(json_file, summary({iou_type: evaluation}, {iou_type: analysis}, annotations, results))
        yield f'{"json":<11}{json_file}'


def read_truth(path: Path, iou_type: IouType = 'bbox') -> dict[str, Any]:
    """Read annotations to evaluate on, with masks where ``iou_type`` is ``'segm'``."""
    content = read_annotations(path)
    complete_boxes(content)
    sizes = _sizes(content)
    for position, box in enumerate(content['annotations'] if iou_type == 'segm' else ()):
        mask, size = box.get('segmentation'), sizes[box['image_id']]
        polygons = mask if isinstance(mask, list) else []
        if not _is_run_length(mask, size) and not (polygons and all(map(_is_polygon, polygons))):
            raise UserError(
                f'{path}: annotations[{position}] has the segmentation {str(mask)[:80]}; --iou-type segm '
                f"expects polygons or a run-length code of the image's {list(size)} (height, width)"
            )
    return content


def write_results(path: Path, results: Sequence[dict[str, Any]]) -> None:
    """Write detections in COCO's results format, without rounding."""
    content = [{key: result[key] for key in FIELDS if key in result} for result in results]
    write_file(path, json.dumps(content))


def read_results(path: Path, truth: dict[str, Any], iou_type: IouType = 'bbox') -> list[dict[str, Any]]:
    """Read detections on ``truth`` in COCO's results format; each entry is checked."""
    content = read_json(path)
    if not isinstance(content, list):
        raise UserError(f'{path}: expected a list of COCO results, got {type(content).__name__}')
    sizes = _sizes(truth)
    categories = {category['id'] for category in truth['categories']}
    for position, result in enumerate(content):
        problem = _problem(result, sizes, categories, iou_type)
        if problem:
            raise UserError(f'{path}: entry {position} of {len(content)} {problem}')
    return content


def _problem(result: Any, sizes: Sizes, categories: set[int], iou_type: IouType) -> str | None:
    """Return why one result cannot be evaluated, if so."""
    if not isinstance(result, dict):
        return f'is {str(result)[:80]}; expected an object'
    image, category, mask = (result.get(field) for field in ('image_id', 'category_id', 'segmentation'))
    if type(image) is not int or image not in sizes:
        field, expected = 'image_id', 'an image of the annotations'
    elif type(category) is not int or category not in categories:
        field, expected = 'category_id', "an id of the annotations' categories, not a detector's label"
    elif not _are_numbers([result.get('score')], 1):
        field, expected = 'score', 'a number'
    elif iou_type == 'bbox' and not _are_numbers(result.get('bbox'), 4):
        field, expected = 'bbox', '[x, y, width, height] in pixels'
    elif iou_type == 'segm' and mask is None:
        return 'has no segmentation: --iou-type segm needs results with masks'
    elif iou_type == 'segm' and not _is_run_length(mask, sizes[image], str):
        field, expected = 'segmentation', f'a compressed run-length code of the size {list(sizes[image])}'
    else:
        return None
    return f'has {field} {str(result.get(field))[:80]}; expected {expected}'


def _sizes(content: dict[str, Any]) -> Sizes:
    return {image['id']: (image['height'], image['width']) for image in content['images']}


def _is_run_length(value: Any, size: tuple[int, int], kind: Any = str | list) -> bool:
    is_of_size = isinstance(value, dict) and value.get('size') == list(size)
    return is_of_size and isinstance(value.get('counts'), kind)


def _is_polygon(value: Any) -> bool:
    is_long = isinstance(value, list) and len(value) >= 6 and len(value) % 2 == 0
    return is_long and _are_numbers(value, len(value))


def _are_numbers(values: Any, count: int) -> bool:
    """Return whether a value is a list of numbers that are neither NaN nor too large for a float."""
    if not isinstance(values, list) or len(values) != count:
        return False
    return all(type(value) in (int, float) and abs(value) < 1e100 for value in values)


def summary(
    evaluations: dict[str, Evaluation],
    analyses: dict[str, Analysis],
    annotations: Path | None,
    results: Path | None = None,
    config: str | None = None,
    checkpoint: Path | None = None,
    seconds: float | None = None,
) -> dict[str, Any]:
    """Return evaluations and analyses as plain data, by IoU type; docs/evaluation.md has the schema."""
    return {
        'schema': SCHEMA,
        'ghost_det': __version__,
        'created': datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
        'config': config,
        'checkpoint': _file(checkpoint),
        'annotations': _file(annotations),
        'results': None if results is None else str(results),
        'versions': {'python': platform.python_version(), **versions(PACKAGES)},
        'detection_seconds': seconds,
        'metrics': {name: _metric(each, analyses.get(name)) for name, each in evaluations.items()},
    }


def _metric(evaluation: Evaluation, analysis: Analysis | None) -> dict[str, Any]:
    metric = {
        'figures': _defined(evaluation.figures),
        'notes': notes(evaluation),
        'classes': [
            {'name': each.name, 'id': each.category_id, 'boxes': each.boxes, **_defined(each.figures)}
            for each in evaluation.classes
        ],
        'counts': {key: getattr(evaluation, key) for key in ('images', 'boxes', 'crowds', 'detections')},
        'evaluator': evaluation.evaluator,
        'seconds': round(evaluation.seconds, 3),
    }
    if analysis is not None:
        ap, matrix = _defined({'AP_50': analysis.ap}), analysis.confusion.tolist()
        metric['errors'] = {**ap, 'counts': analysis.counts, 'gains': analysis.gains}
        metric['confusion'] = {'score': analysis.score, 'iou': 0.5, 'matrix': matrix}
    return metric


def _defined(figures: dict[str, float]) -> dict[str, float | None]:
    return {name: None if value == UNDEFINED else value for name, value in figures.items()}


def _file(path: Path | None) -> dict[str, str] | None:
    return None if path is None else {'path': str(path), 'sha256': sha256(path)}


def write_summary(path: Path, content: dict[str, Any]) -> None:
    """Write plain data, as of `summary`, as strict JSON."""
    write_file(path, json.dumps(content, indent=1, allow_nan=False) + '\n')
