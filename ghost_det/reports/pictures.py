"""Pictures of a training: its curves, and ground truth next to detections for some images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.dataset import pseudo_collate

from ghost_det.deploy import Detections
from ghost_det.deploy.draw import colour_of, draw
from ghost_det.evaluation.errors import SCORE, matched_images
from ghost_det.utils.images import Image
from ghost_det.utils.plots import label, make_figure, plot_steps

from .logs import FIGURES, Rows, curves

SIDE = 336  # px, of the longer side of an image in a picture
QUALITY = 82  # of JPEG
GAP = 6  # px
PAIRS = 6  # of images in `plot_detections`
CURVES = dict(zip(FIGURES, ('mAP (IoU 0.50 to 0.95)', 'mAP at IoU 0.50', 'mAP at IoU 0.75')))


class RankedImage(NamedTuple):
    """How well the objects of one image were detected, by COCO's rules at IoU 0.5 and scores from `SCORE`."""

    image_id: int  # the data set's own
    f1: float  # 2 * right / (true + found)
    true: int  # objects, without crowds
    found: int  # detections, without those in crowds
    right: int  # of these


def rank(truth: dict[str, Any], results: Sequence[dict[str, Any]]) -> list[RankedImage]:
    """Return the images by falling F1.

    Of equals those with most boxes are at the ends. An image with neither objects nor detections has no F1
    and is left out. F1 and not AP, as it rates just the boxes that a picture shows.
    """
    ranked = []
    for image in matched_images(truth, [each for each in results if each['score'] >= SCORE]):
        found = int((~image.in_crowd).sum())
        right = int((image.match >= 0).sum())
        true = len(image.true)
        if true + found:
            ranked.append(RankedImage(image.id, 2 * right / (true + found), true, found, right))
    return sorted(ranked, key=lambda each: (-each.f1, (0.5 - each.f1) * (each.true + each.found)))


def ends(ranked: Sequence[RankedImage], most: int) -> tuple[list[RankedImage], list[RankedImage]]:
    """Return the best images and, the worst first, the worst; no image is both."""
    best = [each for each in ranked[:most] if each.right]
    rest = ranked[len(best) :]
    return best, [each for each in reversed(rest[-most:]) if each.f1 < 1]


def draw_pair(
    image: Image,
    true: Sequence[dict[str, Any]],
    found: Sequence[dict[str, Any]],
    categories: Sequence[dict[str, Any]],
) -> bytes:
    """Return a JPEG file of annotations next to COCO results from `SCORE`, in the same colour for a class."""
    names = [str(category['name']) for category in categories]
    labels = {category['id']: label for label, category in enumerate(categories)}
    shown = sorted((each for each in found if each['score'] >= SCORE), key=lambda each: -each['score'])
    parts = []
    for boxes in (true, shown):
        corners = np.array([each['bbox'] for each in boxes], dtype=np.float32).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        scores = np.array([each.get('score', 1) for each in boxes], dtype=np.float32)
        classes = np.array([labels[each['category_id']] for each in boxes], dtype=np.int64)
        parts.append(Detections(corners, scores, classes))
    pair = _draw_both((image, image), (parts[0], parts[1]), names)
    done, data = cv2.imencode('.jpg', pair, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert done
    return data.tobytes()


def _draw_both(
    images: tuple[Image, Image], parts: tuple[Detections, Detections], classes: Sequence[str]
) -> Image:
    """Return ground truth, without scores, left of detections, on images made `SIDE` pixels long or high."""
    scale = SIDE / max(images[0].shape[:2])
    halves = []
    for image, boxes, scored in zip(images, parts, (False, True)):
        small: Any = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        halves.append(draw(small, replace(boxes, boxes=boxes.boxes * scale), classes, scored))
    halves.insert(1, np.full((len(halves[0]), GAP, 3), 255, np.uint8))
    return np.hstack(halves)


def load_image(dataset: Any, info: dict[str, Any]) -> Image:
    """Return an image by the data set's own loader, as ``img_path`` may be a key in a database or a URL."""
    image: Image = dataset.pipeline.transforms[0](info)['img']
    return image


@torch.no_grad()
def plot_detections(model: Any, dataset: Any) -> Figure:
    """Draw ground truth next to detections for images spread over an mmdet dataset in test mode."""
    picks = np.linspace(0, len(dataset) - 1, min(PAIRS, len(dataset))).round().astype(int)
    model.eval()
    rows = -(-len(picks) // 2)
    figure = make_figure(14, 3.6 * rows)
    axes = figure.subplots(rows, 2, squeeze=False).ravel()
    for axis, pick in zip(axes, picks):
        sample = model.test_step(pseudo_collate([dataset[int(pick)]]))[0].cpu()
        info = dataset.get_data_info(int(pick))
        image = load_image(dataset, info)
        found = sample.pred_instances
        found = found[found.scores >= SCORE]
        masked = image.copy()
        for mask, number in zip(found.get('masks', ()), found.labels):
            masked[mask.numpy()] = masked[mask.numpy()] // 2 + np.array(colour_of(int(number))) // 2
        boxes = Detections(found.bboxes.numpy(), found.scores.numpy(), found.labels.numpy())
        pair = _draw_both((image, masked), (_ground_truth(info), boxes), dataset.metainfo['classes'])
        axis.imshow(pair[..., ::-1])
        name = label(Path(sample.img_path).name, 60)
        axis.set_title(f'{name}: ground truth | detections (score from {SCORE})', fontsize=9, loc='left')
        axis.set_anchor('NW')
    for axis in axes:
        axis.axis('off')
    return figure


def _ground_truth(info: dict[str, Any]) -> Detections:
    """Return an image's annotated boxes in pixels of the file, whatever the test pipeline does to them."""
    boxes = [(each['bbox'], each['bbox_label']) for each in info['instances'] if not each['ignore_flag']]
    corners = np.array([box for box, _ in boxes], np.float32).reshape(-1, 4)
    return Detections(corners, np.ones(len(boxes), np.float32), np.array([n for _, n in boxes], np.int64))


def plot_training_curves(rows: Rows, epochs: bool = True) -> Figure:
    """Plot losses, learning rate and mAP of what `read_scalars` returns; see `curves` for ``epochs``."""
    losses = [row for row in rows if 'loss' in row]
    found = curves(rows, epochs)
    figure = make_figure(11, 4)
    left, right = figure.subplots(1, 2)
    for name in sorted({name for row in losses for name in row if name.startswith('loss')}):
        plot_steps(left, [r['iter'] for r in losses], [r.get(name) for r in losses], label=name)
    left.set(xlabel='iteration', ylabel='loss', ylim=(0, None), title='Training loss')
    rate = left.twinx()
    style = {'linestyle': ':', 'color': 'grey', 'label': 'learning rate'}
    plot_steps(rate, [r['iter'] for r in losses], [r.get('lr') for r in losses], **style)
    rate.set(ylabel='learning rate', ylim=(0, None))
    left.legend(handles=[*left.get_legend_handles_labels()[0], *rate.get_legend_handles_labels()[0]])
    for key, text in CURVES.items():
        plot_steps(right, [r['step'] for r in found['mAP']], [r[key] for r in found['mAP']], label=text)
    right.set(xlabel=found['unit'], ylabel='mAP', ylim=(0, 1), title='COCO mAP on the validation split')
    right.grid(alpha=0.3)
    right.legend()
    return figure


def plot_run_curves(runs: Mapping[str, dict[str, Any]]) -> Figure:
    """Plot loss and mAP of several trainings by name, each with what `curves` returns or nothing."""
    figure = make_figure(11, 4)
    left, right = figure.subplots(1, 2)
    for name, found in runs.items():
        text = ' ' * name.startswith('_') + label(name, 60)  # else matplotlib hides it
        losses = [(step, loss) for step, loss, _ in found.get('loss', ()) if loss is not None]
        plot_steps(left, [step for step, _ in losses], [loss for _, loss in losses], label=text)
        scores = [each for each in found.get('mAP', ()) if each['mAP'] is not None]
        plot_steps(right, [each['step'] for each in scores], [each['mAP'] for each in scores], label=text)
    left.set(xlabel='iteration', ylabel='loss', ylim=(0, None), title='Training loss')
    unit = ' or '.join(dict.fromkeys(found['unit'] for found in runs.values() if found))
    right.set(xlabel=unit, ylabel='mAP', ylim=(0, None), title='COCO mAP on the validation split')
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend()
    return figure
