"""Detections and figures as files: COCO results to evaluate again, and the json that other programs read."""

from __future__ import annotations

import datetime
import json
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from ghost_det import __version__
from ghost_det.data.annotations import complete_boxes, read_annotations
from ghost_det.data.outlines import run_lengths
from ghost_det.errors import UserError
from ghost_det.utils.files import atomic, read_json, sha256

from .coco import UNDEFINED, Evaluation, IouType, notes
from .errors import Analysis

SCHEMA = 1
FIELDS = ('image_id', 'category_id', 'score', 'bbox', 'segmentation')
PACKAGES = (
    'torch',
    'torchvision',
    'numpy',
    *('onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection', 'mmengine', 'mmcv-lite', 'mmcv', 'mmdet'),
    *('faster-coco-eval', 'pycocotools'),
)


def read_truth(path: Path, iou_type: IouType = 'bbox') -> dict[str, Any]:
    """Read annotations to evaluate on, with masks where ``iou_type`` is ``'segm'``.

    Raises:
        UserError: see `ghost_det.data.annotations.read_annotations`; or a wrong mask.
    """
    content = read_annotations(path)
    complete_boxes(content)
    sizes = _sizes(content)
    for position, box in enumerate(content['annotations']):
        if iou_type == 'segm' and not _is_outline(box.get('segmentation'), sizes[box['image_id']]):
            raise UserError(
                f'{path}: annotations[{position}] has the segmentation '
                f"{str(box.get('segmentation'))[:80]}; polygons or a run-length code of the image's "
                f'{list(sizes[box["image_id"]])} (height, width) are wanted for --iou-type segm'
            )
    return content


def write_results(path: Path, results: Sequence[dict[str, Any]]) -> None:
    """Write detections in COCO's results format, every number as it is."""
    with atomic(path) as partial, partial.open('w') as file:
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
        raise UserError(f'{path}: a list of COCO results is wanted, found {_kind(content)}{hint}')
    images = _sizes(truth)
    categories = {category['id'] for category in truth['categories']}
    for position, result in enumerate(content):
        fault = _fault(result, images, categories, iou_type)
        if fault:
            raise UserError(f'{path}: entry {position} of {len(content)} {fault}')
    return content


def _fault(
    result: Any, images: dict[int, tuple[int, int]], categories: set[int], iou_type: IouType
) -> str | None:
    """Say what is wrong with one result, if anything is."""
    if not isinstance(result, dict):
        return f'is {_kind(result)}; an object with image_id, category_id, score is wanted'
    shape = 'bbox' if iou_type == 'bbox' else 'segmentation'
    for field in ('image_id', 'category_id', 'score', shape):
        if field not in result:
            other = 'segm' if iou_type == 'bbox' else 'bbox'
            given = 'segmentation' if iou_type == 'bbox' else 'bbox'
            hint = f'; --iou-type {other} evaluates its {given}' if field == shape and given in result else ''
            return f"has no '{field}'{hint}"
    image, category = result['image_id'], result['category_id']
    if type(image) is not int or image not in images:
        return (
            f'has the image_id {image!r}, which the annotations have not: '
            'results and annotations are of different data sets or splits'
        )
    if type(category) is not int or category not in categories:
        return (
            f'has the category_id {category!r}, which the annotations have not '
            f'({", ".join(map(str, sorted(categories)[:10]))}{", ..." * (len(categories) > 10)}): '
            "results carry the data set's ids, not a detector's labels"
        )
    if not _is_number(result['score']):
        return f'has the score {result["score"]!r}; a number is wanted'
    value = result[shape]
    if iou_type == 'segm':
        if run_lengths(value, images[image]) is None or not isinstance(value['counts'], str):
            return (
                f'has the segmentation {str(value)[:80]}; a compressed run-length code of the size '
                f'{list(images[image])} (height, width) is wanted'
            )
    elif not (isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))):
        return f'has the bbox {value!r}; [x, y, width, height] is wanted, in pixels'
    return None


def _sizes(content: dict[str, Any]) -> dict[int, tuple[int, int]]:
    return {image['id']: (image['height'], image['width']) for image in content['images']}


def _is_outline(value: Any, size: tuple[int, int]) -> bool:
    """Tell whether a true object's mask is a list of polygons or a run-length code."""
    if not isinstance(value, list):
        return run_lengths(value, size) is not None
    return bool(value) and all(
        isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0 and all(map(_is_number, part))
        for part in value
    )


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
        'versions': {'python': platform.python_version(), **_versions()},
        'detection_seconds': seconds,
        'metrics': {name: _metric(each, analyses[name]) for name, each in evaluations.items()},
    }


def _metric(evaluation: Evaluation, analysis: Analysis) -> dict[str, Any]:
    return {
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
        'errors': {
            'AP_50': _defined({'ap': analysis.errors.ap})['ap'],
            'counts': analysis.errors.counts,
            'gains': analysis.errors.gains,
        },
        'confusion': {'score': analysis.score, 'iou': 0.5, 'matrix': analysis.confusion.tolist()},
    }


def _defined(figures: dict[str, float]) -> dict[str, float | None]:
    return {name: None if value == UNDEFINED else value for name, value in figures.items()}


def _file(path: Path | None) -> dict[str, str] | None:
    return None if path is None else {'path': str(path), 'sha256': sha256(path)}


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def write_summary(path: Path, content: dict[str, Any]) -> None:
    """Write what `summary` returns as strict json."""
    with atomic(path) as partial:
        partial.write_text(json.dumps(content, indent=1, allow_nan=False) + '\n')
