"""The errors in a detector's results: which classes are confused, and how much AP each kind of error costs.

Source: D. Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020,
section 2. Where the paper leaves the order open, that of its authors' program (tidecv 1.0.1) is taken.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
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
class Analysis:
    """TIDE's errors at IoU 0.5, by the names in `KINDS`, and which classes are detected as which.

    A gain is how much AP would grow, as a fraction of 1, if only this kind of error were fixed; ``gains``
    also has the two of `SPECIAL`. ``confusion`` are counts of shape (classes + 1, classes + 1), ground truth
    down, detections across, by category id; the last row counts detections where nothing is, the last column
    objects that are not detected.
    """

    ap: float  # COCO's mAP_50; `UNDEFINED` without ground truth
    counts: dict[str, int]  # of detections; of 'missed', objects
    gains: dict[str, float]
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

    @property
    def wrong(self) -> Array:
        """Which detections are not right."""
        return (self.match < 0) & ~self.in_crowd

    def unmatched(self, match: Array) -> Array:
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
    """Find the errors in detections, and which classes are detected as which.

    A detection is right by COCO's rules: by falling score, each takes the free object of its class that it
    overlaps most, from IoU 0.5 on; what lies in a crowd of its class does not count. Detections from
    ``score`` on count in the confusion matrix, errors are of all detections.
    """
    names = [each['name'] for each in sorted(truth['categories'], key=lambda each: each['id'])]
    confusion = np.zeros((len(names) + 1, len(names) + 1), dtype=np.int64)
    detections: list[Array] = [np.zeros((4, 0))]
    objects: list[Array] = [np.zeros((3, 0), dtype=int)]
    for image in matched_images(truth, results, iou_type):
        _confuse(confusion, image, score)
        kinds, fixed, missed = _kinds(image)
        detections.append(np.stack([image.found, image.scores, kinds, fixed])[:, ~image.in_crowd])
        objects.append(np.stack([image.true, image.unmatched(image.match), missed]))
    errors = _errors(np.concatenate(detections, axis=1), np.concatenate(objects, axis=1), len(names))
    return Analysis(*errors, names, confusion, score)


def matched_images(
    truth: dict[str, Any], results: Sequence[dict[str, Any]], iou_type: IouType = 'bbox'
) -> Iterator[MatchedImage]:
    """Yield every image with its detections matched by COCO's rules at IoU 0.5, the best 100 of each class.

    Labels are numbers from 0 on by category id.
    """
    categories = sorted(category['id'] for category in truth['categories'])
    labels = {category: label for label, category in enumerate(categories)}
    found, boxes, crowds = (defaultdict[int, list[Any]](list) for _ in range(3))
    for box in truth['annotations']:
        (crowds if box['iscrowd'] else boxes)[box['image_id']].append(box)
    for result in sorted(results, key=lambda result: -result['score']):
        found[result['image_id']].append(result)
    api = COCO()
    api.imgs = {image['id']: image for image in truth['images']}

    def labels_of(entries: list[Any]) -> Array:
        return np.array([labels[each['category_id']] for each in entries], dtype=np.int64)

    def shapes_of(entries: list[Any]) -> Any:
        return [api.annToRLE(each) if iou_type == 'segm' else each['bbox'] for each in entries]

    for image in sorted(api.imgs):
        ranks = defaultdict[int, Any](count)  # of the next detection, by class
        kept = [each for each in found[image] if next(ranks[each['category_id']]) < LIMIT]
        own, true, regions = labels_of(kept), labels_of(boxes[image]), labels_of(crowds[image])
        shapes = shapes_of(kept)
        overlaps = _overlaps(shapes, shapes_of(boxes[image]), False)
        inside = _overlaps(shapes, shapes_of(crowds[image]), True) >= FOREGROUND
        match = _match(np.where(own[:, None] == true, overlaps, 0), len(true))
        in_crowd = (inside & (own[:, None] == regions)).any(axis=1) & (match < 0)
        scores = np.array([each['score'] for each in kept])
        yield MatchedImage(image, own, scores, true, overlaps, in_crowd, match)


def _overlaps(found: list[Any], true: list[Any], crowd: bool) -> Array:
    """Return IoU of shape (D, G); with crowds, the share of a detection that lies within."""
    overlaps = masks.iou(found, true, [crowd] * len(true))  # of nothing, an empty list
    return np.reshape(overlaps, (len(found), len(true)))


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
    """Count an image's detections from a score on; those wrong by class take the objects left over."""
    shown = image.scores >= score
    match = np.where(shown, image.match, -1)
    rest = np.flatnonzero(shown & image.wrong)
    match[rest] = _match(np.where(image.unmatched(match), image.overlaps[rest], 0), len(image.true))
    hits = match >= 0
    np.add.at(confusion, (image.true[match[hits]], image.found[hits]), 1)
    confusion[-1] += np.bincount(image.found[shown & ~hits & ~image.in_crowd], minlength=len(confusion))
    confusion[:, -1] += np.bincount(image.true[image.unmatched(match)], minlength=len(confusion))


def _kinds(image: MatchedImage) -> tuple[Array, Array, Array]:
    """Return each detection's kind of error, the class it would be right for, and which objects are missed.

    Of several detections that would be right for one object the best counts, the others would be
    duplicates: their class is -1, as is that of errors which only vanish.
    """
    same = image.found[:, None] == image.true
    own, other = (np.where(mask, image.overlaps, 0).max(axis=1, initial=0) for mask in (same, ~same))
    rules = {
        RIGHT: ~image.wrong,
        LOC: (own >= BACKGROUND) & (own < FOREGROUND),
        CLS: other >= FOREGROUND,
        DUPE: own >= FOREGROUND,
        BOTH: other >= BACKGROUND,
    }
    kinds = np.select(list(rules.values()), list(rules), BKG)  # the first that fits
    fixed = np.full(len(kinds), -1)
    missed = image.unmatched(image.match)
    for index in np.flatnonzero((kinds == LOC) | (kinds == CLS)):
        candidates = same[index] if kinds[index] == LOC else ~same[index]
        box = np.where(candidates, image.overlaps[index], 0).argmax()
        if missed[box]:
            missed[box] = False
            fixed[index] = image.true[box]
    return kinds, fixed, missed


def _errors(found: Array, objects: Array, classes: int) -> tuple[float, dict[str, int], dict[str, float]]:
    """Return AP, counts and gains. Rows of ``found`` are label, score, kind, label once fixed.

    Rows of ``objects`` are label, whether no detection is right, whether it is missed.
    """
    kinds = found[2]
    true, unmatched, missed = (
        np.bincount(objects[0], weights, classes) for weights in (None, objects[1], objects[2])
    )
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
    fixed[SPECIAL[1]] = _mean_ap(found, true - unmatched, true)
    return ap, counts, {name: max(value - ap, 0.0) for name, value in fixed.items()}


def _mean_ap(found: Array, true: Array, all_true: Array) -> float:
    """Return the mean AP of the classes with ground truth; ``true`` is the number of objects of each."""
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
