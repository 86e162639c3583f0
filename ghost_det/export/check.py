"""The check of an exported file: it must find the objects that mmdet finds in the same images."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.dataset import Compose
from scipy.optimize import linear_sum_assignment

from ghost_det.data.sample import make_sample
from ghost_det.deploy.detector import Detections, Detector
from ghost_det.deploy.letterbox import Placement, place
from ghost_det.deploy.metadata import Metadata
from ghost_det.errors import UserError
from ghost_det.utils.images import Image, read_image

from .graph import PAD, RESIZES

CHECKED = 16
"""Images that torch and the file are compared on."""
SHAPES = (4 / 3, 3 / 4, 16 / 9, 1.0)
"""Width to height of half of them, cropped to it: the data may have images of one shape only."""
TIES = 0.02
"""Share of boxes that only one of them may find: where two scores differ by less than rounding does, either
may suppress the other, and then what that overlaps. A wrong graph has all its boxes elsewhere."""


def check_file(detector: Any, steps: Sequence[Any], path: Path, images: Sequence[Image]) -> Iterator[str]:
    """Compare a file with mmdet's ``detector`` and ``steps``, its test pipeline; yield lines to print."""
    runtime = Detector(path)
    metadata = runtime.metadata
    expected, found, smaller = [], [], 0
    for image in images:
        at = place(image.shape[1], image.shape[0], metadata)
        smaller += is_shrunk(at, metadata)
        # In pixels of the canvas: in those of a large image, one step of the network would be too far.
        scale = np.array([at.new_width / at.width, at.new_height / at.height] * 2)
        theirs, ours = predict(detector, steps, image, metadata), runtime(image)
        expected.append(replace(theirs, boxes=theirs.boxes * scale))
        found.append(replace(ours, boxes=ours.boxes * scale))
    result = compare(expected, found, 4.0 if metadata.precision == 'fp16' else 0.5, metadata.max_detections)
    figures = (
        f'{len(images)} images through mmdet and through the file: {result.boxes} boxes matched, up to '
        f'{result.pixels:.2g} pixels and {result.score:.2g} of score apart; '
        f'{result.unmatched} found by only one of the two'
    )
    if result.unmatched > TIES * result.boxes:
        raise UserError(f'{path.name}: not written: {figures}. Please report it with the config')
    nothing = ', so this check is inconclusive; use --data with objects that it can detect'
    yield f'checked: {figures}' if result.boxes else f'warning: {figures}{nothing}'
    if smaller:
        yield (
            f'warning: {smaller} of these images differ in orientation from the canvas, which shrinks them '
            f'more than mmdet does{"" if metadata.strides else "; --dynamic, without --int8, does not"}'
        )


def check_images(files: Sequence[Path] | None) -> list[Image]:
    """Return images to compare on, the first files or generated; every second one is cropped to `SHAPES`."""
    with tempfile.TemporaryDirectory() as folder:
        if files is None:
            files = sorted(make_sample(Path(folder), train=1, val=CHECKED).glob('val*/*'))
        images = [read_image(path) for path in files[:CHECKED]]
    for number, image in enumerate(images[1::2]):
        height, width = image.shape[:2]
        shape = SHAPES[number % len(SHAPES)]
        images[2 * number + 1] = image[: max(1, round(width / shape)), : max(1, round(height * shape))]
    return images


@torch.no_grad()
def predict(detector: Any, steps: Sequence[Any], image: Image, metadata: Metadata) -> Detections:
    """Return mmdet's detections in an image, by the steps of its own test pipeline and ``test_step``."""
    at = place(image.shape[1], image.shape[0], metadata)
    loaded = Compose(_array_steps(steps, at, metadata))(dict(img=image, img_id=0))
    batch = {key: [loaded[key]] for key in ('inputs', 'data_samples')}
    if not metadata.dynamic:  # a second image makes mmdet's preprocessor pad to the canvas
        size = metadata.height, metadata.width
        meta = dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0))
        batch['inputs'].append(torch.zeros(3, *size, dtype=torch.uint8))
        batch['data_samples'].append(DetDataSample(metainfo=meta))
    found = detector.test_step(batch)[0].pred_instances.cpu().numpy()
    # YOLOX's have no limit, may leave the image, and may then have no area.
    boxes = found.bboxes.clip(0, np.array([at.width, at.height] * 2))
    order = np.argsort(-found.scores, kind='stable')[: metadata.max_detections]
    order = order[(boxes[order, 2:] > boxes[order, :2]).all(1)]
    return Detections(boxes[order], found.scores[order], found.labels[order])


def _array_steps(steps: Sequence[Any], at: Placement, metadata: Metadata) -> list[Any]:
    """Return a pipeline's steps for an image that is an array, with the sizes of the file's canvas."""
    resized: dict[str, Any] = {'scale': metadata.scale}
    if is_shrunk(at, metadata):
        resized = {'scale': (at.new_width, at.new_height), 'keep_ratio': False}
    made = [dict(type='mmdet.LoadImageFromNDArray')]
    for step in steps[1:]:
        if step['type'] in RESIZES:
            step = {**step, **resized}
        elif step['type'] == PAD and step.get('size') is not None:
            step = {**step, 'size': (metadata.width, metadata.height)}
        made.append(step)
    return made


def is_shrunk(at: Placement, metadata: Metadata) -> bool:
    """Return whether an image is smaller on a fixed canvas than in mmdet, which would turn the canvas."""
    return at != place(at.width, at.height, replace(metadata, dynamic=True))


@dataclass(frozen=True)
class Difference:
    """The distance of two sets of detections: matched boxes, their largest differences, other boxes."""

    boxes: int
    pixels: float
    score: float
    unmatched: int


def compare(
    expected: Sequence[Detections], found: Sequence[Detections], near: float, limit: int
) -> Difference:
    """Match the detections in each image that differ by ``near`` pixels and a hundredth of that in score.

    Where an image has ``limit`` boxes, the last may be others of about that score.
    """
    boxes = unmatched = 0
    pixels = score = 0.0
    for one, other in zip(expected, found, strict=True):
        if not len(one) or not len(other):
            unmatched += len(one) + len(other)
            continue
        distance = np.abs(one.boxes[:, None] - other.boxes[None]).max(-1)
        gap = np.abs(one.scores[:, None] - other.scores[None])
        fits = (one.labels[:, None] == other.labels[None]) & (distance <= near) & (gap <= near / 100)
        rows, columns = linear_sum_assignment(np.where(fits, distance, 1e6))
        matched = fits[rows, columns]
        rows, columns = rows[matched], columns[matched]
        boxes += len(rows)
        pixels = max(pixels, float(distance[rows, columns].max(initial=0)))
        score = max(score, float(gap[rows, columns].max(initial=0)))
        edge = max(one.scores.min(), other.scores.min()) + near / 100
        for side, used in ((one, rows), (other, columns)):
            others = np.delete(side.scores, used)
            unmatched += len(others) if len(side) < limit else int((others > edge).sum())
    return Difference(boxes, pixels, score, unmatched)
