"""Detections and figures as files: COCO results to evaluate again, and the JSON that other programs read."""

from __future__ import annotations

import datetime
import json
import math
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ghost_det import __version__
from ghost_det.data.annotations import complete_boxes, read_annotations
from ghost_det.errors import UserError
from ghost_det.utils.files import read_json, require_writable, sha256, write_or_fail
from ghost_det.utils.system import versions

from .coco import UNDEFINED, Evaluation, IouType, evaluate
from .errors import SCORE, Analysis, analyse
from .plots import draw_all
from .tables import class_table, error_table, figure_table, notes

SCHEMA = 1
FIELDS = ('image_id', 'category_id', 'score', 'bbox', 'segmentation')
PACKAGES = (
    'torch',
    'torchvision',
    'numpy',
    *('onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection', 'mmengine', 'mmcv-lite', 'mmcv', 'mmdet'),
    *('faster-coco-eval', 'pycocotools'),
)


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

    Raises:
        UserError: a file that cannot be read or written, or has other content.
    """
    if not math.isfinite(score):
        raise UserError(f'--score {score}: expected a number')
    if json_file is not None:
        require_writable(json_file, '--json', (results, annotations))
    if folder is not None:
        require_writable(folder / 'pr_curves.png', '--out-dir')
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
    """Read annotations to evaluate on, with masks where ``iou_type`` is ``'segm'``.

    Raises:
        UserError: see `ghost_det.data.annotations.read_annotations`; or a wrong mask.
    """
    content = read_annotations(path)
    complete_boxes(content)
    sizes = _sizes(content)
    for position, box in enumerate(content['annotations']):
        mask, size = box.get('segmentation'), sizes[box['image_id']]
        if iou_type == 'segm' and not (_is_run_length(mask, size) or _is_polygons(mask)):
            raise UserError(
                f'{path}: annotations[{position}] has the segmentation {str(mask)[:80]}; --iou-type segm '
                f"expects polygons or a run-length code of the image's {list(size)} (height, width)"
            )
    return content


def write_results(path: Path, results: Sequence[dict[str, Any]]) -> None:
    """Write detections in COCO's results format, every number as it is."""
    with write_or_fail(path) as partial, partial.open('w') as file:
        json.dump([{key: result[key] for key in FIELDS if key in result} for result in results], file)


def read_results(path: Path, truth: dict[str, Any], iou_type: IouType = 'bbox') -> list[dict[str, Any]]:
    """Read detections on ``truth`` in COCO's results format.

    Raises:
        UserError: it is not such a list, or of another data set.
    """
    content = read_json(path)
    if not isinstance(content, list):
        annotations = isinstance(content, dict) and 'images' in content
        hint = '; annotations are the second file' if annotations else ''
        raise UserError(f'{path}: expected a list of COCO results, got {_kind(content)}{hint}')
    images = _sizes(truth)
    categories = {category['id'] for category in truth['categories']}
    for position, result in enumerate(content):
        problem = _problem(result, images, categories, iou_type)
        if problem:
            raise UserError(f'{path}: entry {position} of {len(content)} {problem}')
    return content


def _problem(
    result: Any, images: dict[int, tuple[int, int]], categories: set[int], iou_type: IouType
) -> str | None:
    """Return what is wrong with one result, if anything is."""
    if not isinstance(result, dict):
        return f'is {_kind(result)}; expected an object with image_id, category_id, score'
    shape, other = ('bbox', 'segmentation') if iou_type == 'bbox' else ('segmentation', 'bbox')
    for field in ('image_id', 'category_id', 'score', shape):
        if field not in result:
            option = 'segm' if iou_type == 'bbox' else 'bbox'
            hint = (
                f'; --iou-type {option} evaluates its {other}' if field == shape and other in result else ''
            )
            return f"has no '{field}'{hint}"
    image, category, value = result['image_id'], result['category_id'], result[shape]
    if type(image) is not int or image not in images:
        return (
            f'has the image_id {image!r}, which is not in the annotations: '
            'results and annotations are of different data sets or splits'
        )
    if type(category) is not int or category not in categories:
        known = ', '.join(map(str, sorted(categories)[:10])) + ', ...' * (len(categories) > 10)
        return (
            f'has the category_id {category!r}, which is not in the annotations ({known}): '
            "results carry the data set's ids, not a detector's labels"
        )
    if not _is_number(result['score']):
        return f'has the score {result["score"]!r}; expected a number'
    if iou_type == 'segm' and not (_is_run_length(value, images[image]) and isinstance(value['counts'], str)):
        return (
            f'has the segmentation {str(value)[:80]}; expected a compressed run-length code of the size '
            f'{list(images[image])} (height, width)'
        )
    if iou_type == 'bbox' and not (
        isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))
    ):
        return f'has the bbox {value!r}; expected [x, y, width, height] in pixels'
    return None


def _sizes(content: dict[str, Any]) -> dict[int, tuple[int, int]]:
    return {image['id']: (image['height'], image['width']) for image in content['images']}


def _is_run_length(value: Any, size: tuple[int, int]) -> bool:
    return (
        isinstance(value, dict)
        and value.get('size') == list(size)
        and isinstance(value.get('counts'), str | list)
    )


def _is_polygons(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_polygon, value))


def _is_polygon(part: Any) -> bool:
    return isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0 and all(map(_is_number, part))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e100  # neither NaN nor too long for a float


def _kind(value: Any) -> str:
    names = {dict: 'an object', list: 'a list', str: 'a text', type(None): 'null', bool: 'true or false'}
    return names.get(type(value), 'a number')


def summary(
    evaluations: dict[str, Evaluation],
    analyses: dict[str, Analysis],
    annotations: Path | None,
    results: Path | None = None,
    config: str | None = None,
    checkpoint: Path | None = None,
    seconds: float | None = None,
) -> dict[str, Any]:
    """Return evaluations and analyses, by ``'bbox'`` and ``'segm'``, as plain data for other programs.

    docs/evaluation.md has the schema.
    """
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
    found = {
        'figures': _defined(evaluation.figures),
        'notes': notes(evaluation),
        'classes': [
            {'name': each.name, 'id': each.category_id, 'boxes': each.boxes, **_defined(each.figures)}
            for each in evaluation.classes
        ],
        'counts': {
            'images': evaluation.images,
            'boxes': evaluation.boxes,
            'crowds': evaluation.crowds,
            'detections': evaluation.detections,
        },
        'evaluator': evaluation.evaluator,
        'seconds': round(evaluation.seconds, 3),
    }
    if analysis is not None:
        errors = analysis.errors
        found['errors'] = {
            'AP_50': _defined({'ap': errors.ap})['ap'],
            'counts': errors.counts,
            'gains': errors.gains,
        }
        found['confusion'] = {'score': analysis.score, 'iou': 0.5, 'matrix': analysis.confusion.tolist()}
    return found


def _defined(figures: dict[str, float]) -> dict[str, float | None]:
    return {name: None if value == UNDEFINED else value for name, value in figures.items()}


def _file(path: Path | None) -> dict[str, str] | None:
    return None if path is None else {'path': str(path), 'sha256': sha256(path)}


def write_summary(path: Path, content: dict[str, Any]) -> None:
    """Write what `summary` returns as strict JSON."""
    with write_or_fail(path) as partial:
        partial.write_text(json.dumps(content, indent=1, allow_nan=False) + '\n')
