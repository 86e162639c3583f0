"""Pictures of a training: its curves, and ground truth next to detections."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from matplotlib.figure import Figure

from ghost_det.deploy import Detections
from ghost_det.deploy.draw import draw
from ghost_det.evaluation.errors import SCORE, matched_images
from ghost_det.evaluation.metric import FullCocoMetric
from ghost_det.utils.images import Image
from ghost_det.utils.plots import label, make_figure, plot_steps
from ghost_det.utils.text import plural

from .history import FIGURES

SIDE = 336
"""Pixels of the longer side of an image."""
PAIRS = 3
"""Best and worst images in `plot_detections`, each."""


class RankedImage(NamedTuple):
    """How well the objects of one image were detected, by COCO's rules at IoU 0.5 and scores from `SCORE`."""

    image_id: int
    f1: float  # 2 * right / (true + found)
    true: int  # objects, without crowds
    found: int  # detections, without those in crowds
    right: int  # correct detections


def rank(truth: dict[str, Any], results: Sequence[dict[str, Any]]) -> list[RankedImage]:
    """Return the images by decreasing F1; of equals, those with most boxes are first and last.

    An image with neither objects nor detections has no F1. AP would also rate boxes that are not shown.
    """
    ranked = []
    for image in matched_images(truth, [each for each in results if each['score'] >= SCORE]):
        found = int((~image.in_crowd).sum())
        right = int((image.match >= 0).sum())
        true = len(image.true)
        if true + found:
            ranked.append(RankedImage(image.id, 2 * right / (true + found), true, found, right))
    return sorted(ranked, key=lambda each: (-each.f1, (0.5 - each.f1) * (each.true + each.found)))


def best_and_worst(ranked: Sequence[RankedImage]) -> tuple[list[RankedImage], list[RankedImage]]:
    """Return the best images and, the worst first, the worst; no image is both."""
    best = [each for each in ranked[:PAIRS] if each.right]
    rest = ranked[len(best) :]
    return best, [each for each in reversed(rest[-PAIRS:]) if each.f1 < 1]


def load_images(dataset: Any, ids: set[int]) -> dict[int, tuple[str, Image]]:
    """Return file name and image for ids, by the dataset's own loader: paths may be URLs or database keys."""
    found = {}
    for place in range(len(dataset)):
        info = dataset.get_data_info(place)
        if info['img_id'] in ids:
            image = dataset.pipeline.transforms[0](info)['img']
            found[info['img_id']] = Path(info['img_path']).name, image
    return found


def draw_pair(image: Image, image_id: int, metric: FullCocoMetric) -> Image:
    """Return ground truth on the left and detections from `SCORE` on the right, in one colour per class."""
    results = next(iter(metric.detections.values()))
    detected = [each for each in results if each['image_id'] == image_id and each['score'] >= SCORE]
    truth = [each for each in metric.truth['annotations'] if each['image_id'] == image_id]
    categories = metric.truth['categories']
    scale = SIDE / max(image.shape[:2])
    small: Any = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    halves = []
    for boxes, scored in ((truth, False), (detected, True)):
        found = _from_coco(boxes, [category['id'] for category in categories])
        names = [str(category['name']) for category in categories]
        halves.append(draw(small, replace(found, boxes=found.boxes * scale), names, scored))
    gap = np.full((len(small), 6, 3), 255, np.uint8)
    return np.hstack([halves[0], gap, halves[1]])


def _from_coco(boxes: Sequence[dict[str, Any]], ids: list[int]) -> Detections:
    """Return annotations or results, the highest-scoring first."""
    ordered = sorted(boxes, key=lambda each: -each.get('score', 1))
    corners = np.array([each['bbox'] for each in ordered], np.float32).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    scores = np.array([each.get('score', 1) for each in ordered], np.float32)
    return Detections(corners, scores, np.array([ids.index(each['category_id']) for each in ordered], int))


def plot_detections(metric: FullCocoMetric, dataset: Any) -> Figure:
    """Draw ground truth next to detections for the best images and for the worst."""
    groups = best_and_worst(rank(metric.truth, next(iter(metric.detections.values()))))
    images = load_images(dataset, {each.image_id for group in groups for each in group})
    rows = max(1, *map(len, groups))
    figure = make_figure(14, 3.8 * rows)
    figure.suptitle(f'best images | worst images: ground truth, detections (score from {SCORE})', fontsize=10)
    axes = figure.subplots(rows, 2, squeeze=False)
    for column, group in zip(axes.T, groups):
        for axis, each in zip(column, group):
            name, image = images[each.image_id]
            axis.imshow(draw_pair(image, each.image_id, metric)[..., ::-1])
            right = f'{each.right} of {each.found} detections right'
            title = f'{label(name, 40)}: F1 {each.f1:.2f}, {right}, {plural(each.true, "object")}'
            axis.set_title(title, fontsize=9, loc='left')
            axis.set_anchor('NW')
    for axis in axes.flat:
        axis.axis('off')
    return figure


def plot_curves(runs: Mapping[str, dict[str, Any]]) -> Figure:
    """Plot loss and mAP of trainings by name, each with what `make_curves` returns or nothing."""
    figure = make_figure(11, 4)
    left, right = figure.subplots(1, 2)
    for name, found in runs.items():
        text = ' ' * name.startswith('_') + label(name, 60)  # matplotlib hides names that start with "_"
        losses, scores = found.get('loss', ()), found.get('mAP', ())
        plot_steps(left, [each[0] for each in losses], [each[1] for each in losses], label=text)
        for figure_name in FIGURES[:1] if len(runs) > 1 else FIGURES:
            values = [each[figure_name] for each in scores]
            plot_steps(right, [each['step'] for each in scores], values, label=f'{text}: {figure_name}')
    units = dict.fromkeys(found['unit'] for found in runs.values() if found)
    left.set(xlabel='iteration', ylabel='loss', ylim=(0, None), title='Training loss')
    right.set(xlabel=' or '.join(units), ylabel='mAP', ylim=(0, None), title='Validation mAP')
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend()
    return figure
