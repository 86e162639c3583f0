"""What goes wrong in a detector's results: which classes are confused, and which error costs how much AP.

Source: D. Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020,
section 2. Where the paper leaves the order open, that of its authors' program (tidecv 1.0.1) is taken.
"""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as masks
from pycocotools.coco import COCO

from .coco import LIMIT, UNDEFINED, IouType

FOREGROUND, BACKGROUND = 0.5, 0.1  # the paper's t_f and t_b, IoU
SCORE = 0.3
RIGHT = -1
KINDS = ('classification', 'localisation', 'both', 'duplicate', 'background', 'missed')
CLS, LOC, BOTH, DUPE, BKG, MISS = range(len(KINDS))
SPECIAL = ('false positives', 'false negatives')

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Errors:
    """TIDE's errors at IoU 0.5, by the names in `KINDS`; `gains` also has the two of `SPECIAL`.

    A gain is how much AP would grow, as a fraction of 1, were only this kind of error fixed.
    """

    ap: float  # COCO's mAP_50; `UNDEFINED` without ground truth
    counts: dict[str, int]  # of detections; of 'missed', objects
    gains: dict[str, float]


@dataclass(frozen=True)
class Analysis:
    """The errors, and which classes are taken for which; classes are in the order of category ids.

    ``confusion`` are counts of shape (classes + 1, classes + 1), ground truth down, detections across; the
    last row is of detections where nothing is, the last column of objects that are not detected.
    """

    errors: Errors
    classes: list[str]
    confusion: Array
    score: float  # from which on detections count in the confusion


@dataclass(frozen=True)
class MatchedImage:
    """The detections of one image by falling score, (D,), and its ground truth without crowds, (G,)."""

    id: int
    found: Array  # (D,) labels
    scores: Array  # (D,)
    true: Array  # (G,) labels
    overlaps: Array  # (D, G) IoU, whatever the classes
    in_crowd: Array  # (D,)
    match: Array  # (D,) places in `true`, -1 for none

    def wrong(self) -> Array:
        """Return which detections are not right."""
        return (self.match < 0) & ~self.in_crowd

    def left(self, match: Array) -> Array:
        """Return which objects a matching leaves over."""
        left = np.ones(len(self.true), dtype=bool)
        left[match[match >= 0]] = False
        return left


def analyse(
    truth: dict[str, Any],
    results: Sequence[dict[str, Any]],
    iou_type: IouType = 'bbox',
    score: float = SCORE,
) -> Analysis:
    """Find the errors in detections, and which classes they take for which.

    A detection is right by COCO's rules: by falling score, each takes the free object of its class that it
    overlaps most, from IoU 0.5 on; what lies in a crowd of its class does not count. Detections from
    ``score`` on count in the confusion matrix, errors are of all detections.
    """
    order = sorted(category['id'] for category in truth['categories'])
    names = {category['id']: category['name'] for category in truth['categories']}
    labels = {category: label for label, category in enumerate(order)}
    confusion = np.zeros((len(order) + 1, len(order) + 1), dtype=np.int64)
    true_counts = np.zeros(len(order), dtype=np.int64)
    missed, unfound = np.zeros_like(true_counts), np.zeros_like(true_counts)
    rows: list[Array] = []
    for image in matched_images(truth, results, iou_type, labels):
        _confuse(confusion, image, score)
        kinds, fixed, claimed = _kinds(image)
        counts = ~image.in_crowd
        rows.append(np.stack([image.found, image.scores, kinds, fixed])[:, counts])
        true_counts += np.bincount(image.true, minlength=len(order))
        left = image.left(image.match)
        unfound += np.bincount(image.true[left], minlength=len(order))
        missed += np.bincount(image.true[left & ~claimed], minlength=len(order))
    found = np.concatenate(rows, axis=1) if rows else np.zeros((4, 0))
    errors = _errors(found, true_counts, missed, unfound)
    return Analysis(errors, [names[category] for category in order], confusion, score)


def confused(analysis: Analysis, most: int = 5) -> list[tuple[str, str, int, int]]:
    """Return what is confused most, from twice up: class, detected class, how often, of how many boxes."""
    counts = analysis.confusion[:-1, :-1].copy()
    np.fill_diagonal(counts, 0)
    totals = analysis.confusion.sum(axis=1)
    found = []
    for place in np.argsort(-counts, axis=None, kind='stable')[:most]:
        true, taken = np.unravel_index(place, counts.shape)
        if counts[true, taken] > 1:
            names = analysis.classes[true], analysis.classes[taken]
            found.append((*names, int(counts[true, taken]), int(totals[true])))
    return found


def matched_images(
    truth: dict[str, Any], results: Sequence[dict[str, Any]], iou_type: IouType, labels: dict[int, int]
) -> Iterator[MatchedImage]:
    """Yield every image with its detections matched by COCO's rules at IoU 0.5, the best 100 of each class.

    ``labels`` are numbers from 0 on by category id.
    """
    by_image: dict[int, tuple[list[Any], list[Any], list[Any]]] = {
        image: ([], [], []) for image in sorted(image['id'] for image in truth['images'])
    }
    for box in truth['annotations']:
        by_image[box['image_id']][1 + bool(box['iscrowd'])].append(box)
    for result in results:
        by_image[result['image_id']][0].append(result)
    shapes = _shapes(truth, iou_type)
    for image, (detections, boxes, crowds) in by_image.items():
        kept = _within_limit(detections)
        found = np.array([labels[each['category_id']] for each in kept], dtype=np.int64)
        true = np.array([labels[each['category_id']] for each in boxes], dtype=np.int64)
        overlaps = _overlaps(shapes(kept), shapes(boxes), False)
        in_crowd = np.zeros(len(kept), dtype=bool)
        if crowds and kept:
            same = found[:, None] == np.array([labels[each['category_id']] for each in crowds])
            in_crowd = ((_overlaps(shapes(kept), shapes(crowds), True) >= FOREGROUND) & same).any(axis=1)
        match = _match(np.where(found[:, None] == true, overlaps, 0), len(true))
        scores = np.array([each['score'] for each in kept])
        yield MatchedImage(image, found, scores, true, overlaps, in_crowd & (match < 0), match)


def _within_limit(detections: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return an image's detections by falling score, the best 100 of each class as COCO has it."""
    seen: dict[int, int] = defaultdict(int)
    kept = []
    for each in sorted(detections, key=lambda each: -each['score']):
        seen[each['category_id']] += 1
        if seen[each['category_id']] <= LIMIT:
            kept.append(each)
    return kept


def _shapes(truth: dict[str, Any], iou_type: IouType) -> Any:
    """Return what turns results or ground truth into the shapes that pycocotools compares."""
    if iou_type == 'bbox':
        return lambda entries: np.array([entry['bbox'] for entry in entries], dtype=float).reshape(-1, 4)
    api = COCO()
    api.dataset = truth
    with contextlib.redirect_stdout(io.StringIO()):
        api.createIndex()
    return lambda entries: [api.annToRLE(entry) for entry in entries]


def _overlaps(found: Any, true: Any, crowd: bool) -> Array:
    """Return IoU of shape (D, G); with crowds, the share of a detection that lies within."""
    if not len(found) or not len(true):
        return np.zeros((len(found), len(true)))
    return np.asarray(masks.iou(found, true, [crowd] * len(true)))


def _match(overlaps: Array, true: int) -> Array:
    """Return which object each detection takes, or -1; of equal overlaps the last, as in pycocotools."""
    match = np.full(len(overlaps), -1)
    free = np.ones(true, dtype=bool)
    for index in np.flatnonzero((overlaps >= FOREGROUND).any(axis=1)):
        open_overlaps = np.where(free, overlaps[index], -1)
        best = true - 1 - int(open_overlaps[::-1].argmax())
        if open_overlaps[best] >= FOREGROUND:
            match[index] = best
            free[best] = False
    return match


def _confuse(confusion: Array, image: MatchedImage, score: float) -> None:
    """Count an image's detections from a score on; those wrong by class take what is left over."""
    shown = image.scores >= score
    match = np.where(shown, image.match, -1)
    rest = np.flatnonzero(shown & image.wrong())
    left = image.left(match)
    match[rest] = _match(np.where(left, image.overlaps[rest], 0), len(image.true))
    hits = match >= 0
    background = len(confusion) - 1
    np.add.at(confusion, (image.true[match[hits]], image.found[hits]), 1)
    nowhere = image.found[shown & ~hits & ~image.in_crowd]
    confusion[background, :-1] += np.bincount(nowhere, minlength=background)
    confusion[:-1, background] += np.bincount(image.true[image.left(match)], minlength=background)


def _kinds(image: MatchedImage) -> tuple[Array, Array, Array]:
    """Return each detection's kind of error, the class it would be right for, and the objects so won.

    Of several detections that would be right for one object the best counts, the others would be
    duplicates: their class is -1, as is that of errors which only vanish.
    """
    kinds = np.where(image.wrong(), BKG, RIGHT)
    fixed = np.full(len(kinds), -1)
    claimed = np.zeros(len(image.true), dtype=bool)
    if not len(image.true):
        return kinds, fixed, claimed
    left = image.left(image.match)
    same = image.found[:, None] == image.true
    own, other = np.where(same, image.overlaps, 0), np.where(same, 0, image.overlaps)
    for index in np.flatnonzero(image.wrong() & (image.overlaps.max(axis=1) >= BACKGROUND)):
        if BACKGROUND <= own[index].max() < FOREGROUND:
            kinds[index], box = LOC, own[index].argmax()
        elif other[index].max() >= FOREGROUND:
            kinds[index], box = CLS, other[index].argmax()
        else:
            kinds[index] = DUPE if own[index].max() >= FOREGROUND else BOTH
            continue
        if left[box] and not claimed[box]:
            claimed[box] = True
            fixed[index] = image.true[box]
    return kinds, fixed, claimed


def _errors(found: Array, true: Array, missed: Array, unfound: Array) -> Errors:
    """Return the errors of detections, given as rows: label, score, kind, label once fixed."""
    kinds = found[2]
    ap = _mean_ap(found, true, true)
    counts = {name: int((kinds == kind).sum()) for kind, name in enumerate(KINDS)}
    counts[KINDS[MISS]] = int(missed.sum())
    fixed = {}
    for kind in (CLS, LOC, BOTH, DUPE, BKG):
        better = found.copy()
        won = (kinds == kind) & (found[3] >= 0)
        better[0, won] = found[3, won]
        better[2, won] = RIGHT
        fixed[KINDS[kind]] = _mean_ap(better[:, (kinds != kind) | won], true, true)
    fixed[KINDS[MISS]] = _mean_ap(found, true - missed, true)
    fixed[SPECIAL[0]] = _mean_ap(found[:, kinds == RIGHT], true, true)
    fixed[SPECIAL[1]] = _mean_ap(found, true - unfound, true)
    return Errors(ap, counts, {name: max(value - ap, 0.0) for name, value in fixed.items()})


def _mean_ap(found: Array, true: Array, all_true: Array) -> float:
    """Return the mean AP of the classes with ground truth, of which ``true`` objects are to be detected."""
    by_score = found[:, np.argsort(-found[1], kind='stable')]
    values = []
    for label in np.flatnonzero(all_true):
        right = by_score[2, by_score[0] == label] == RIGHT
        if true[label] or len(right):
            values.append(_ap(right, int(true[label])))
    return float(np.mean(values)) if values else UNDEFINED


def _ap(right: Array, true: int) -> float:
    """Return COCO's AP of detections by falling score: the mean precision at 101 recalls."""
    if not right.any() or not true:
        return 0.0
    hits = right.cumsum()
    precision = hits / np.arange(1, len(right) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(hits / true, np.linspace(0, 1, 101))
    return float(np.where(places < len(right), precision[np.minimum(places, len(right) - 1)], 0).mean())
