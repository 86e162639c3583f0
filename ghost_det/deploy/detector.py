"""An exported detector, run on images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from time import perf_counter
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from ghost_det.errors import UserError
from ghost_det.utils.images import Image
from ghost_det.utils.threads import ordered

from .backends import Engine, Raw, open_model, unusable
from .letterbox import Placement, image_sizes, letterbox, to_image


@dataclass(frozen=True)
class Detections:
    """What was found in an image, the highest-scoring first.

    Attributes:
        boxes: ``[n, 4]`` float32: x1 y1 x2 y2 in pixels of the image.
        scores: ``[n]`` float32, from 0 to 1.
        labels: ``[n]`` int64, places in the detector's classes.
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
    """An exported detector; needs numpy, OpenCV, and OpenVINO or ONNX Runtime, but no torch.

    Args:
        path: ``NAME.onnx`` or ``NAME.xml``, of ``ghost-det export``.
        device: ``'CPU'``; for an ``.xml`` also another one of OpenVINO's, as ``'GPU'`` or ``'AUTO'``.
        threads: cores to use; ``None`` for all that this process may use.
        score_threshold: what scores less is left out; ``None`` for the least that the graph gives out, which
            a lower one does not change.
        streams: batches that `stream` works at, at a time; ``None`` has the engine choose.

    Attributes:
        metadata: what the file says of itself.
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
        device: str = 'CPU',
        threads: int | None = None,
        score_threshold: float | None = None,
        streams: int | None = None,
    ) -> None:
        for name, number in (('threads', threads), ('streams', streams)):
            if number is not None and number < 1:
                raise UserError(f'{name}: expected a number from 1 up, got {number}')
        if score_threshold is not None and not 0 <= score_threshold <= 1:
            raise UserError(f'score_threshold: expected a number from 0 to 1, got {score_threshold}')
        self._path = Path(path)
        self._model = open_model(self._path, device, threads)
        self.metadata = self._model.metadata
        self.classes = self.metadata.classes
        self._least = self.metadata.score_threshold if score_threshold is None else score_threshold
        self._streams = streams
        self._engines: dict[tuple[int, int | None], Engine] = {}

    @overload
    def __call__(self, images: Image) -> Detections: ...

    @overload
    def __call__(self, images: Sequence[Image]) -> list[Detections]: ...

    def __call__(self, images: Image | Sequence[Image]) -> Detections | list[Detections]:
        """Find objects in an image, by all cores; or in each of a list of images, as `stream` does.

        Args:
            images: ``[height, width, 3]`` of uint8, in OpenCV's order (BGR), of any size; or several.

        Raises:
            UserError: an image is something else.
        """
        if isinstance(images, np.ndarray):
            return self._find(self._engine(1, 1), [images])[0]
        return list(self.stream(images))

    def stream(self, images: Iterable[Image], batch: int = 1) -> Iterator[Detections]:
        """Yield what is found in each image, in order, while later ones are worked at.

        Args:
            images: as in a call; taken a few batches ahead.
            batch: images that the graph is given at a time. On a CPU, one at a time is mostly fastest.

        Raises:
            UserError: an image is something else.
        """
        if batch < 1:
            raise UserError(f'batch: expected a number from 1 up, got {batch}')
        source = iter(images)
        first = list(islice(source, batch))  # all, perhaps: for one image, no graph for a hundred is made
        engine = self._engine(max(1, len(first)), self._streams)
        groups = chain([first] if first else [], iter(lambda: list(islice(source, batch)), []))
        found = ordered(lambda group: self._find(engine, group), groups, engine.requests)
        return chain.from_iterable(found)

    def timed(self, image: Image) -> tuple[Detections, dict[str, float]]:
        """Find objects in an image as a call does, and measure the seconds that each step takes.

        Returns:
            What is found; and the seconds of ``'prepare'`` (onto the canvas), ``'network'`` (with its
            non-maximum suppression) and ``'boxes'`` (back into the image).
        """
        engine = self._engine(1, 1)
        times = [perf_counter()]
        canvases, places = self._prepare([image])
        times.append(perf_counter())
        raw = self._run(engine, canvases, places)
        times.append(perf_counter())
        (found,) = self._finish(raw, places)
        times.append(perf_counter())
        return found, dict(zip(('prepare', 'network', 'boxes'), np.diff(times).tolist()))

    def _engine(self, batch: int, streams: int | None) -> Engine:
        if (batch, streams) not in self._engines:
            self._engines[batch, streams] = self._model.engine(batch, streams)
        return self._engines[batch, streams]

    def _find(self, engine: Engine, images: Sequence[Image]) -> list[Detections]:
        canvases, places = self._prepare(images)
        return self._finish(self._run(engine, canvases, places), places)

    def _prepare(self, images: Sequence[Image]) -> tuple[Image, list[Placement]]:
        for image in images:
            _check_image(image)
        return letterbox(images, self.metadata)

    def _run(self, engine: Engine, canvases: Image, places: Sequence[Placement]) -> Raw:
        try:
            return engine.run(canvases, image_sizes(canvases, places, self.metadata))
        except Exception as error:  # a graph that does not keep to its metadata
            raise unusable(self._path, error) from None

    def _finish(self, raw: Raw, places: Sequence[Placement]) -> list[Detections]:
        return [detections(*each, self._least) for each in zip(*raw, places)]


def detections(
    boxes: NDArray[Any], scores: NDArray[Any], labels: NDArray[Any], at: Placement, least: float = 0.0
) -> Detections:
    """Return what a graph found in one image, in the image's pixels.

    Boxes ``[K, 4]`` are in pixels of the canvas; rows without a detection have label -1.
    """
    kept = (labels >= 0) & (scores >= least) & np.isfinite([*boxes.T, scores]).all(axis=0)
    boxes = to_image(boxes, at)
    kept &= (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    return Detections(boxes[kept], scores[kept].astype(np.float32), labels[kept].astype(np.int64))


def _check_image(image: Any) -> None:
    if not isinstance(image, np.ndarray):
        found = type(image).__name__
    elif image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size:
        return
    else:
        found = f'{image.dtype} {image.shape}'
    raise UserError(f'expected an image, uint8 [height, width, 3] in BGR, got {found}')
