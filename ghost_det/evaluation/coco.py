"""COCO's evaluation of boxes and masks by the fastest evaluator installed; needs no detector and no mmdet."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
from pycocotools import mask as masks

from ghost_det.errors import UserError

IouType = Literal['bbox', 'segm']

# In the order of COCO's own summary. COCO's limits of detections per image are 1, 10, 100.
FIGURES = (
    'mAP',
    'mAP_50',
    'mAP_75',
    'mAP_s',
    'mAP_m',
    'mAP_l',
    'AR@1',
    'AR@10',
    'AR@100',
    'AR_s@100',
    'AR_m@100',
    'AR_l@100',
)
CLASS_FIGURES = ('AP', 'AP_50', 'AP_75', 'AP_s', 'AP_m', 'AP_l')
UNDEFINED = -1.0
LIMIT = 100  # detections per image and class
_OCTAVES = 0.5 ** np.arange(32)

FAST, REFERENCE = 'faster-coco-eval', 'pycocotools'
EVALUATOR = FAST if importlib.util.find_spec('faster_coco_eval') is not None else REFERENCE


@dataclass(frozen=True)
class ClassFigures:
    """The figures of one class by the names in `CLASS_FIGURES`; `UNDEFINED` where a size has no boxes."""

    name: str
    category_id: int  # the data set's own
    boxes: int  # in the ground truth, without crowds
    figures: dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """COCO's twelve figures by the names in `FIGURES`, fractions of 1, and what they are of.

    ``precision`` is over IoU 0.50 to 0.95, recall 0 to 1 and classes by category id, shape (10, 101, C), at
    up to 100 detections per image and class; `UNDEFINED` for classes without ground truth.
    """

    iou_type: IouType
    figures: dict[str, float]
    classes: list[ClassFigures]
    precision: np.ndarray[Any, np.dtype[np.float64]]
    images: int
    boxes: int  # in the ground truth, without crowds
    crowds: int  # regions in which detections are neither right nor wrong
    detections: int  # before any limit
    evaluator: str
    seconds: float


def _load_evaluator(evaluator: str) -> tuple[Any, Any]:
    """Return an evaluator's class of data sets and its class of evaluations."""
    if evaluator == FAST:
        from faster_coco_eval import COCO, COCOeval_faster

        return COCO, COCOeval_faster
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return COCO, COCOeval


def _as_annotations(results: Sequence[dict[str, Any]], iou_type: IouType) -> list[dict[str, Any]]:
    """Return results as the evaluators' own ``loadRes`` makes them, without the polygons it draws.

    An object's size is that of its box, or of its mask where masks are evaluated.
    """
    if iou_type == 'segm':
        codes = [result['segmentation'] for result in results]  # one by one: area() fails from 256 masks on
        shapes = [{'segmentation': code, 'area': float(masks.area(code))} for code in codes]
    else:
        shapes = [{'bbox': r['bbox'], 'area': r['bbox'][2] * r['bbox'][3]} for r in results]
    for number, (result, shape) in enumerate(zip(results, shapes), start=1):
        shape.update(
            id=number,
            image_id=result['image_id'],
            category_id=result['category_id'],
            score=result['score'],
            iscrowd=0,
        )
    return shapes


def evaluate(
    truth: dict[str, Any],
    results: Sequence[dict[str, Any]],
    iou_type: IouType = 'bbox',
    evaluator: str = EVALUATOR,
) -> Evaluation:
    """Evaluate detections by COCO's rules; both evaluators give the same figures to the last digit.

    ``truth`` is the content of an annotation file, whose boxes have ``id`` from 1 on, ``area``, ``iscrowd``;
    ``results`` are COCO's: ``image_id``, ``category_id``, ``score``, and ``bbox`` as x, y, width, height in
    pixels or ``segmentation`` as a compressed run-length code.

    Raises:
        UserError: a detection has an image or category that ``truth`` does not have.

    Source: COCO detection evaluation, https://cocodataset.org/#detection-eval
    """
    started = time.perf_counter()
    dataset_class, evaluation_class = _load_evaluator(evaluator)
    ids = sorted(category['id'] for category in truth['categories'])
    truth, results = _numbered(truth, results)
    with contextlib.redirect_stdout(io.StringIO()):
        true, found = dataset_class(), dataset_class()
        true.dataset = truth
        found.dataset = {**truth, 'annotations': _as_annotations(results, iou_type)}
        true.createIndex()
        found.createIndex()
        run = evaluation_class(true, found, iou_type)
        recalls = run.params.recThrs
        if evaluator == FAST:
            run.params.recThrs = np.union1d(recalls, _OCTAVES)
        run.evaluate()
        run.accumulate()
        if evaluator == FAST:
            _round_as_reference(run, truth, recalls)
        run.summarize()
    kept = [box for box in truth['annotations'] if not box['iscrowd']]
    return Evaluation(
        iou_type=iou_type,
        figures={name: float(value) for name, value in zip(FIGURES, run.stats)},
        classes=_class_figures(truth, kept, ids, run.eval['precision']),
        precision=np.array(run.eval['precision'][:, :, :, 0, -1]),
        images=len(truth['images']),
        boxes=len(kept),
        crowds=len(truth['annotations']) - len(kept),
        detections=len(results),
        evaluator=f'{evaluator} {version(evaluator)}',
        seconds=time.perf_counter() - started,
    )


def _numbered(
    truth: dict[str, Any], results: Sequence[dict[str, Any]]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return both with images and categories numbered from 1 on, in the order of their ids.

    faster-coco-eval keeps ids as doubles, where those from 2^53 on collide.
    """
    numbers = {
        key: {number: n for n, number in enumerate(sorted(entry['id'] for entry in truth[key]), start=1)}
        for key in ('images', 'categories')
    }

    def renumber(entry: dict[str, Any]) -> dict[str, Any]:
        image, category = entry['image_id'], entry['category_id']
        return {**entry, 'image_id': numbers['images'][image], 'category_id': numbers['categories'][category]}

    renumbered = {
        key: [{**entry, 'id': ids[entry['id']]} for entry in truth[key]] for key, ids in numbers.items()
    }
    renumbered['annotations'] = [renumber(box) for box in truth['annotations']]
    try:
        return {**truth, **renumbered}, [renumber(result) for result in results]
    except KeyError as error:
        raise UserError(
            f'a detection has the image or category id {error}, which the annotations to evaluate on do not '
            'have: use the same annotation file for the images and for the evaluator'
        ) from None


def _round_as_reference(run: Any, truth: dict[str, Any], recalls: Any) -> None:
    """Give faster-coco-eval's precisions the last digit of pycocotools', at the recalls asked for.

    pycocotools divides right detections by all so far plus 2^-52, which is lost in every sum but 1: the
    precision of a first detection that is right is just under 1, unless the second is right too and lifts
    it to 1. So it is for a curve that is 1 at the recall of one box of N, and no longer at that of two.
    Between the two lies a power of 1/2, whatever N is.
    """
    asked = run.params.recThrs
    precision = run.eval['precision']
    kept: dict[int, list[float]] = {category: [] for category in run.params.catIds}
    for box in truth['annotations']:
        if not box['iscrowd']:
            kept[box['category_id']].append(box['area'])
    for index, areas in enumerate(kept.values()):
        for size, (low, high) in enumerate(run.params.areaRng):
            count = sum(bool(low <= area <= high) for area in areas)
            curves = precision[:, :, index, size]  # a view: IoUs, recalls, limits
            only_first = np.ones_like(curves[:, :1], dtype=bool)
            if count > 1:
                two = np.searchsorted(asked, 0.5 ** ((count - 1).bit_length() - 1))
                only_first = curves[:, two : two + 1] != 1
            curves[(curves == 1) & only_first] = 1 / (1 + np.spacing(1))
    run.eval['precision'] = precision[:, np.searchsorted(asked, recalls)]


def _class_figures(
    truth: dict[str, Any], kept: list[dict[str, Any]], ids: Sequence[int], precision: Any
) -> list[ClassFigures]:
    """Return the figures of each class from precisions of shape (IoUs, recalls, classes, sizes, limits)."""
    names = {category['id']: category['name'] for category in truth['categories']}
    counts = dict.fromkeys(names, 0)
    for box in kept:
        counts[box['category_id']] += 1
    found = []
    for index, category in enumerate(ids):
        own = precision[:, :, index, :, -1]
        parts = (own[..., 0], own[0, :, 0], own[5, :, 0], *(own[..., size] for size in (1, 2, 3)))
        figures = {name: _mean(part) for name, part in zip(CLASS_FIGURES, parts)}
        found.append(ClassFigures(names[index + 1], category, counts[index + 1], figures))
    return found


def _mean(values: Any) -> float:
    defined = values[values > UNDEFINED]
    return float(defined.mean()) if defined.size else UNDEFINED
