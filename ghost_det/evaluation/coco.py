"""COCO's evaluation of boxes and masks by the fastest evaluator installed; needs no detector and no mmdet."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import time
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Literal, NamedTuple

import numpy as np
from pycocotools import mask as masks

from ghost_det.errors import UserError

IouType = Literal['bbox', 'segm']

# In the order of COCO's own summary. COCO's limits of detections per image are 1, 10, 100.
FIGURES = (
    *('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l'),
    *('AR@1', 'AR@10', 'AR@100', 'AR_s@100', 'AR_m@100', 'AR_l@100'),
)
CLASS_FIGURES = ('AP', 'AP_50', 'AP_75', 'AP_s', 'AP_m', 'AP_l')
UNDEFINED = -1.0
LIMIT = 100  # detections per image and class
_OCTAVES = 0.5 ** np.arange(32)

FAST, REFERENCE = 'faster-coco-eval', 'pycocotools'
EVALUATOR = FAST if importlib.util.find_spec('faster_coco_eval') is not None else REFERENCE


class ClassFigures(NamedTuple):
    """The figures of one class by the names in `CLASS_FIGURES`; `UNDEFINED` if a size has no boxes."""

    name: str
    category_id: int  # the data set's own
    boxes: int  # in the ground truth, without crowds
    figures: dict[str, float]


class Evaluation(NamedTuple):
    """COCO's twelve figures by the names in `FIGURES`, fractions of 1, and the counts behind them.

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

    Source: COCO detection evaluation, https://cocodataset.org/#detection-eval
    """
    started = time.perf_counter()
    categories = sorted(truth['categories'], key=lambda category: category['id'])
    ids = [{entry['id'] for entry in entries} for entries in (truth['images'], categories)]
    for result in results:
        if result['image_id'] not in ids[0] or result['category_id'] not in ids[1]:
            raise UserError(
                f'image_id {result["image_id"]}, category_id {result["category_id"]} of a detection are not '
                'both in the annotations: use the same annotation file for images and evaluator'
            )
    if any(abs(number) >= 2**53 for number in ids[0] | ids[1]):
        evaluator = REFERENCE  # faster-coco-eval keeps ids as doubles, where these collide
    if evaluator == FAST:
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as COCOeval
    else:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    # Copies, as evaluators add to annotations.
    both = [dict(box) for box in truth['annotations']], _as_annotations(results, iou_type)
    with contextlib.redirect_stdout(io.StringIO()):
        apis = COCO(), COCO()
        for api, annotations in zip(apis, both):
            api.dataset = {**truth, 'annotations': annotations}
            api.createIndex()
        run = COCOeval(*apis, iou_type)
        recalls = run.params.recThrs
        if evaluator == FAST:
            run.params.recThrs = np.union1d(recalls, _OCTAVES)
        run.evaluate()
        run.accumulate()
        if evaluator == FAST:
            _round_as_reference(run, truth, recalls)
        run.summarize()
    precision = run.eval['precision']  # IoUs, recalls, classes, sizes, limits
    boxes = Counter(box['category_id'] for box in truth['annotations'] if not box['iscrowd'])
    return Evaluation(
        iou_type=iou_type,
        figures={name: float(value) for name, value in zip(FIGURES, run.stats)},
        classes=[
            ClassFigures(each['name'], each['id'], boxes[each['id']], _class_figures(precision[:, :, index]))
            for index, each in enumerate(categories)
        ],
        precision=np.array(precision[:, :, :, 0, -1]),
        images=len(truth['images']),
        boxes=boxes.total(),
        crowds=len(truth['annotations']) - boxes.total(),
        detections=len(results),
        evaluator=f'{evaluator} {version(evaluator)}',
        seconds=time.perf_counter() - started,
    )


def _as_annotations(results: Sequence[dict[str, Any]], iou_type: IouType) -> list[dict[str, Any]]:
    """Return results as the evaluators' own ``loadRes`` does, but without drawing a polygon for each box."""
    key = 'bbox' if iou_type == 'bbox' else 'segmentation'
    annotations = []
    for number, result in enumerate(results, start=1):
        shape = result[key]
        area = shape[2] * shape[3] if iou_type == 'bbox' else float(masks.area(shape))
        place = {name: result[name] for name in ('image_id', 'category_id', 'score')}
        annotations.append({**place, 'id': number, key: shape, 'area': area, 'iscrowd': 0})
    return annotations


def _round_as_reference(run: Any, truth: dict[str, Any], recalls: Any) -> None:
    """Give faster-coco-eval's precisions the last digit of pycocotools', at the recalls asked for.

    pycocotools divides right detections by all so far plus 2^-52, which is lost in every sum but 1: the
    precision of a first detection that is right is just under 1, unless the second is right too and lifts
    it to 1. So it is for a curve that is 1 at the recall of one box of N, and no longer at that of two.
    Between the two lies a power of 1/2, whatever N is.
    """
    asked = run.params.recThrs
    precision = run.eval['precision']
    areas: dict[int, list[float]] = {category: [] for category in run.params.catIds}
    for box in truth['annotations']:
        if not box['iscrowd']:
            areas[box['category_id']].append(box['area'])
    for index, of_class in enumerate(areas.values()):
        for size, (low, high) in enumerate(run.params.areaRng):
            count = sum(low <= area <= high for area in of_class)
            curves = precision[:, :, index, size]  # a view: IoUs, recalls, limits
            only_first = np.ones_like(curves[:, :1], dtype=bool)
            if count > 1:
                two = np.searchsorted(asked, 0.5 ** ((count - 1).bit_length() - 1))
                only_first = curves[:, two : two + 1] != 1
            curves[(curves == 1) & only_first] = 1 / (1 + np.spacing(1))
    run.eval['precision'] = precision[:, np.searchsorted(asked, recalls)]


def _class_figures(precision: Any) -> dict[str, float]:
    """Return the figures of one class from precisions of shape (IoUs, recalls, sizes, limits)."""
    of_all, *of_sizes = np.moveaxis(precision[..., -1], 2, 0)
    parts = zip(CLASS_FIGURES, (of_all, of_all[0], of_all[5], *of_sizes))
    defined = {name: part[part > UNDEFINED] for name, part in parts}
    return {name: float(part.mean()) if part.size else UNDEFINED for name, part in defined.items()}
