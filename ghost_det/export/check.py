"""What an exported file must find: what mmdet's own pipeline and prediction find in the same images."""

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

from ghost_det.data.sample import make_sample
from ghost_det.deploy.detector import Detections, Detector
from ghost_det.deploy.letterbox import Placement, place
from ghost_det.deploy.metadata import Metadata
from ghost_det.errors import UserError
from ghost_det.models.selection import select_fast
from ghost_det.utils.images import Image, read_image

from .graph import is_pad, is_resize

CHECKED = 16
"""Images that torch and the file are compared on."""
SHAPES = (4 / 3, 3 / 4, 16 / 9, 1.0)
"""Width to height of half of them, cropped to it: the data may have images of one shape only."""
TIES = 0.02
"""Share of boxes that only one of them may find: where two scores differ by less than rounding does, either
may suppress the other, and so on with what those overlap. A wrong graph has all its boxes elsewhere."""


def check_file(detector: Any, steps: Sequence[Any], path: Path, images: Sequence[Image]) -> Iterator[str]:
    """Compare a file with mmdet's ``detector`` and the ``steps`` of its test pipeline; yield lines to print.

    Raises:
        UserError: they find different objects.
    """
    runtime = Detector(path)
    metadata = runtime.metadata
    expected: list[Detections] = []
    found: list[Detections] = []
    smaller = 0
    for image in images:
        at = place(image.shape[1], image.shape[0], metadata)
        smaller += is_shrunk(at, metadata)
        # Compared in pixels of the canvas: those of a large image are finer than the network's own steps.
        scale = np.array([at.new_width / at.width, at.new_height / at.height] * 2)
        for each, to in ((predict(detector, steps, image, metadata), expected), (runtime(image), found)):
            to.append(replace(each, boxes=each.boxes * scale))
    apart = compare(expected, found, 4.0 if metadata.precision == 'fp16' else 0.5, metadata.max_detections)
    figures = (
        f'{len(images)} images through mmdet and through the file: {apart.boxes} boxes matched, the largest '
        f'differences {apart.pixels:.2g} pixels and {apart.score:.2g} of score'
    )
    single = f'{apart.unmatched} boxes were found by only one of them'
    if apart.unmatched > TIES * apart.boxes:
        raise UserError(
            f'{path.name}: not written: {figures}, and {single}. Please report it with the config'
        )
    if apart.boxes:
        yield f'checked: {figures}' + (f'; {single}, by near ties of scores' if apart.unmatched else '')
    else:
        yield (
            f'warning: {figures}: that shows nothing; check it on images of objects that the detector finds, '
            'with --data'
        )
    if smaller:
        yield (
            f'warning: {smaller} of these images are upright where the canvas is wide, or the reverse: the '
            'file makes them smaller than mmdet does; --dynamic takes them as mmdet does'
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
    """Return what mmdet finds in an image, by the steps of its own test pipeline and ``test_step``.

    For a file of a fixed canvas, the image is in a batch with one that fills the canvas, so that mmdet's own
    preprocessor pads it to the same size. Boxes are clipped to the image, and those without area dropped,
    where mmdet leaves them (YOLOX). Of equal scores at a cut, mmdet may take any: ``detector`` takes
    the first from then on, as the file does.
    """
    select_fast(detector)
    at = place(image.shape[1], image.shape[0], metadata)
    batch = [Compose(_array_steps(steps, at, metadata))(dict(img=image, img_id=0))]
    if not metadata.dynamic:
        size = metadata.height, metadata.width
        meta = dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0))
        inputs = torch.zeros(3, *size, dtype=torch.uint8)
        batch.append(dict(inputs=inputs, data_samples=DetDataSample(metainfo=meta)))
    found = detector.test_step({key: [each[key] for each in batch] for key in ('inputs', 'data_samples')})[0]
    instances = found.pred_instances.cpu()
    boxes, scores, labels = (instances[key].numpy() for key in ('bboxes', 'scores', 'labels'))
    boxes = boxes.clip(0, np.array([at.width, at.height] * 2))
    order = np.argsort(-scores, kind='stable')[: metadata.max_detections]  # mmdet sets YOLOX no limit
    order = order[(boxes[order, 2:] > boxes[order, :2]).all(1)]
    return Detections(boxes[order], scores[order], labels[order])


def _array_steps(steps: Sequence[Any], at: Placement, metadata: Metadata) -> list[Any]:
    """Return a pipeline's steps for an image that is an array, with the sizes of an export's own canvas."""
    made = [dict(type='mmdet.LoadImageFromNDArray')]
    for step in steps[1:]:
        if is_resize(step) and is_shrunk(at, metadata):
            step = {**step, 'scale': (at.new_width, at.new_height), 'keep_ratio': False}
        elif is_resize(step):
            step = {**step, 'scale': metadata.scale}
        elif is_pad(step) and step.get('size') is not None:
            step = {**step, 'size': (metadata.width, metadata.height)}
        made.append(step)
    return made


def is_shrunk(at: Placement, metadata: Metadata) -> bool:
    """Tell whether an image is smaller on a fixed canvas than mmdet, which would turn the canvas, has it."""
    return at != place(at.width, at.height, replace(metadata, dynamic=True))


@dataclass(frozen=True)
class Difference:
    """How far two sets of detections are apart: matched boxes, their largest distances, others."""

    boxes: int
    pixels: float
    score: float
    unmatched: int


def compare(
    expected: Sequence[Detections], found: Sequence[Detections], near: float, limit: int
) -> Difference:
    """Match the detections of each image, by class and distance.

    A match may differ by ``near`` pixels, and a hundredth of that in score. Where an image has ``limit``
    boxes, the last may be others of about that score.
    """
    boxes = unmatched = 0
    pixels = score = 0.0
    for a, b in zip(expected, found):
        if not len(a) or not len(b):
            unmatched += len(a) + len(b)
            continue
        apart = np.abs(a.boxes[:, None] - b.boxes[None]).max(-1)
        off = np.abs(a.scores[:, None] - b.scores[None])
        fits = (a.labels[:, None] == b.labels[None]) & (apart <= near) & (off <= near / 100)
        cost = np.where(fits, apart, np.inf)
        left_over = set(range(len(b)))
        edge = max(a.scores.min(), b.scores.min()) + near / 100
        for row in range(len(a)):
            best = min(left_over, key=lambda column: cost[row, column], default=None)
            if best is None or not np.isfinite(cost[row, best]):
                unmatched += int(len(a) < limit or a.scores[row] > edge)
                continue
            left_over.remove(best)
            boxes += 1
            pixels, score = max(pixels, float(apart[row, best])), max(score, float(off[row, best]))
        unmatched += sum(len(b) < limit or bool(b.scores[column] > edge) for column in left_over)
    return Difference(boxes, pixels, score, unmatched)
