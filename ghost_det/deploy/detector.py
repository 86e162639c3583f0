"""An exported detector, run on images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ghost_det.errors import UserError
from ghost_det.utils.images import Image
from ghost_det.utils.threads import ordered

from .backends import Engine, explain_errors, open_model
from .letterbox import Placement, image_sizes, letterbox, to_image


@dataclass(frozen=True)
class Detections:
    """Detections in an image, the highest-scoring first.

    Attributes:
        boxes: ``[n, 4]`` float32: x1 y1 x2 y2 in pixels of the image.
        scores: ``[n]`` float32, from 0 to 1.
        labels: ``[n]`` int64, indices into the detector's classes.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.scores)

    def to_coco(self, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
        """Return them as COCO results.

        Args:
            image_id: of the image.
            category_ids: the data set's id of each class.
        """
        corners = self.boxes.astype(float)
        sizes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        return [
            {'image_id': image_id, 'category_id': category_ids[label], 'score': score, 'bbox': box}
            for box, score, label in zip(sizes.tolist(), self.scores.tolist(), self.labels.tolist())
        ]


class Detector:
    """An exported detector; needs numpy, OpenCV, and OpenVINO, ONNX Runtime or ncnn, but no torch.

    Args:
        path: ``NAME.onnx``, ``NAME.xml`` or ``NAME.ncnn``, from ``ghost-det export``.
        threads: cores to use; ``None`` for all that this process may use.
        score_threshold: the minimum score; ``None``, or any lower one, for the minimum built into the graph.

    Attributes:
        metadata: the description in the file.
        classes: names, by label.

    Raises:
        UserError: the file cannot be used; the message says why.

    Example:
        >>> detector = Detector('retinanet.xml')  # doctest: +SKIP
        >>> found = detector(cv2.imread('street.jpg'))  # doctest: +SKIP
        >>> [detector.classes[label] for label in found.labels]  # doctest: +SKIP
        ['person', 'bicycle']
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        threads: int | None = None,
        score_threshold: float | None = None,
    ) -> None:
        if score_threshold is not None and not 0 <= score_threshold <= 1:
            raise UserError(f'score_threshold: expected a number from 0 to 1, got {score_threshold}')
        self._path = Path(path)
        self._model = open_model(self._path, threads)
        self.metadata = self._model.metadata
        self.classes = self.metadata.classes
        self._least = self.metadata.score_threshold if score_threshold is None else score_threshold
        self._engines: dict[tuple[int, bool], Engine] = {}

    def __call__(self, image: Image) -> Detections:
        """Find objects in an image, with all cores.

        Args:
            image: ``[height, width, 3]`` of uint8, in OpenCV's order (BGR), of any size.

        Raises:
            UserError: it has another type or shape.
        """
        return self._find(self._engine(1, single=True), [image])[0]

    def stream(self, images: Iterable[Image], batch: int = 1) -> Iterator[Detections]:
        """Yield the detections in each image, in order, working a few batches ahead.

        Args:
            images: as in a call.
            batch: images in a batch of the graph. On a CPU, 1 is mostly fastest.

        Raises:
            UserError: an image has another type or shape.
        """
        if batch < 1:
            raise UserError(f'batch: expected 1 or more, got {batch}')
        source = iter(images)
        first = list(islice(source, batch))  # perhaps all: a single image needs no graph for a hundred
        engine = self._engine(max(1, len(first)))
        groups = chain([first] if first else [], iter(lambda: list(islice(source, batch)), []))
        return chain.from_iterable(ordered(partial(self._find, engine), groups, engine.requests))

    def _engine(self, batch: int, single: bool = False) -> Engine:
        if (batch, single) not in self._engines:
            self._engines[batch, single] = self._model.engine(batch, single)
        return self._engines[batch, single]

    def _find(self, engine: Engine, images: Sequence[Image]) -> list[Detections]:
        for image in images:
            check_image(image)
        canvases, places = letterbox(images, self.metadata)
        with explain_errors(self._path):  # as of a graph that does not fit its metadata
            raw = engine.run(canvases, image_sizes(canvases, places, self.metadata))
        return [detections(*each, self._least) for each in zip(*raw, places)]


class AnyDetector(Protocol):
    """An exported detector, or one in torch."""

    classes: tuple[str, ...]

    def stream(self, images: Iterable[Image], batch: int = 1) -> Iterator[Detections]:
        """See `Detector.stream`."""


def detections(
    boxes: NDArray[Any], scores: NDArray[Any], labels: NDArray[Any], at: Placement, least: float = 0.0
) -> Detections:
    """Return the detections in one image, in its pixels, from a graph's outputs on the canvas."""
    kept = (labels >= 0) & (scores >= least) & np.isfinite([*boxes.T, scores]).all(axis=0)
    boxes = to_image(boxes, at)
    kept &= (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    return Detections(boxes[kept], scores[kept].astype(np.float32), labels[kept].astype(np.int64))


def check_image(image: Any) -> None:
    """Raise an error about anything but an image."""
    kind, shape = getattr(image, 'dtype', type(image).__name__), list(getattr(image, 'shape', []))
    if kind != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise UserError(f'expected an image, uint8 [height, width, 3] in BGR, got {kind} {shape}')
