"""Small objects in large images: a detector looks at overlapping tiles of an image, too."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from ghost_det.errors import UserError
from ghost_det.utils.images import Image

from .detector import AnyDetector, Detections, check_image

OVERLAP = 0.2
SHARED = 0.5
"""Boxes of a class that share this much of the smaller one's area are taken for one object."""


class TiledDetector:
    """A detector run on each image and on overlapping tiles of it, for objects that are small in the image.

    As SAHI does (Akyon et al., 2022, arXiv:2202.06934). An image no larger than a tile is run once. The
    graph's ``max_detections`` holds for each tile, not for the image.

    Args:
        detector: a `Detector`, or another with its ``classes`` and ``stream``.
        tile: side of a tile in pixels of the image, 32 or more.
        overlap: share of a tile that the next one repeats, 0 to 0.9. Objects of up to
            ``tile * overlap`` pixels are complete in one of the tiles.

    Raises:
        UserError: ``tile`` or ``overlap`` is out of range.

    Example:
        >>> detector = TiledDetector(Detector('detector.xml', score_threshold=0.3), 640)  # doctest: +SKIP
        >>> found = detector(cv2.imread('aerial.jpg'))  # doctest: +SKIP
    """

    def __init__(self, detector: AnyDetector, tile: int, overlap: float = OVERLAP) -> None:
        if tile < 32:
            raise UserError(f'tile: expected 32 pixels or more, got {tile}')
        if not 0 <= overlap <= 0.9:
            raise UserError(f'overlap: expected a number from 0 to 0.9, got {overlap}')
        self._detector, self._tile, self._overlap = detector, tile, overlap
        self.classes = detector.classes

    def __call__(self, image: Image) -> Detections:
        """See `Detector.__call__`; the tiles run as in `stream`."""
        return next(self.stream([image]))

    def stream(self, images: Iterable[Image], batch: int = 1) -> Iterator[Detections]:
        """See `Detector.stream`; ``batch`` counts tiles."""
        views: deque[tuple[int, int, bool]] = deque()  # x and y of those under way; the last of its image

        def cut() -> Iterator[Image]:
            for image in images:
                check_image(image)
                size = self._tile
                corners = tile_corners(image.shape[1], image.shape[0], size, self._overlap)
                views.append((0, 0, len(corners) == 1))
                yield image
                for x, y in corners if len(corners) > 1 else ():
                    views.append((x, y, (x, y) == corners[-1]))
                    yield image[y : y + size, x : x + size]

        parts: list[Detections] = []
        for found in self._detector.stream(cut(), batch):
            x, y, is_last = views.popleft()
            parts.append(replace(found, boxes=found.boxes + np.array([x, y, x, y], np.float32)))
            if is_last:
                yield merge(parts) if len(parts) > 1 else found
                parts = []


def tiled(detector: AnyDetector, tile: int | None, overlap: float | None) -> AnyDetector:
    """Return a detector as the options ``--tile`` and ``--overlap`` of the commands want it."""
    if tile is not None:
        return TiledDetector(detector, tile, OVERLAP if overlap is None else overlap)
    if overlap is not None:
        raise UserError('--overlap: needs --tile N, the side of a tile in pixels')
    return detector


def tile_corners(width: int, height: int, tile: int, overlap: float = OVERLAP) -> list[tuple[int, int]]:
    """Return the left and top of each tile of an image, row by row; the last ones end at its border."""
    repeated = int(overlap * tile)
    rows, columns = (
        [min(start, max(0, side - tile)) for start in range(0, max(1, side - repeated), tile - repeated)]
        for side in (height, width)
    )
    return [(x, y) for y, x in product(rows, columns)]


def merge(parts: Sequence[Detections]) -> Detections:
    """Return the detections in one image from those in its parts, by non-maximum suppression by class.

    A box goes if it shares `SHARED` of the smaller one's area with a higher-scoring one, as an object that is
    cut by the border of a tile does with the complete one.
    """
    boxes, scores, labels = (
        np.concatenate([getattr(each, key) for each in parts]) for key in ('boxes', 'scores', 'labels')
    )
    order = np.lexsort((*boxes.T[::-1], labels, -scores))  # the same if parts come in another order
    boxes, scores, labels = boxes[order], scores[order], labels[order]
    kept: list[int] = []
    left: NDArray[np.intp] = np.arange(len(order))
    while len(left):
        kept.append(best := left[0])
        left = left[1:]
        left = left[(labels[left] != labels[best]) | ~_is_shared(boxes[best], boxes[left])]
    return Detections(boxes[kept], scores[kept], labels[kept])


def _is_shared(box: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return whether a box shares `SHARED` of the smaller one's area with each of the others."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    areas = [(each[..., 2:] - each[..., :2]).prod(axis=-1) for each in (box, others)]
    shared: NDArray[np.bool_] = sides.clip(0).prod(axis=1) >= SHARED * np.minimum(*areas)
    return shared
