"""A detector of MMDetection behind the same calls as an exported one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from mmdet.apis import init_detector
from mmdet.utils import get_test_pipeline_cfg
from mmengine.dataset import Compose

from ghost_det.config.load import load_config
from ghost_det.data.dataset import set_num_classes
from ghost_det.deploy.detector import Detections
from ghost_det.errors import UserError
from ghost_det.models.optimize import optimize
from ghost_det.utils.images import Image
from ghost_det.weights.checkpoint import check_fits, checkpoint_classes, load_checkpoint

from .messages import NamedCompose, told


def open_model(config: str, checkpoint: str, options: dict[str, Any] | None = None) -> tuple[Any, Compose]:
    """Return a detector with its weights, as it was trained, and the pipeline that takes images as arrays.

    The number of classes is that of the weights.

    Raises:
        UserError: config or checkpoint cannot be used, or they do not belong together.
    """
    cfg = load_config(config, options)
    content = load_checkpoint(checkpoint)
    named = checkpoint_classes(content)
    if named:
        set_num_classes(cfg.model, len(named))
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    with told(config):
        # It would build the data set for the palette, were none named.
        model: Any = init_detector(cfg, str(Path(checkpoint).expanduser()), 'coco', device)
    check_fits(model, content, checkpoint, config)
    return model, array_pipeline(cfg)


def array_pipeline(cfg: Any) -> Compose:
    """Return the test pipeline of a config, for images that are arrays in BGR."""
    pipeline = get_test_pipeline_cfg(cfg)
    pipeline[0].type = 'mmdet.LoadImageFromNDArray'
    return NamedCompose(Compose(pipeline).transforms)


class TorchDetector:
    """A config and its checkpoint, run by torch; what scores below ``score_threshold`` is left out.

    Attributes:
        classes: names, by label.

    Raises:
        UserError: see `open_model`.
    """

    def __init__(
        self,
        config: str,
        checkpoint: str,
        threads: int | None = None,
        score_threshold: float = 0.0,
        options: dict[str, Any] | None = None,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self._model, self._pipeline = open_model(config, checkpoint, options)
        optimize(self._model)
        self._config = config
        self._least = score_threshold
        self.classes: tuple[str, ...] = tuple(self._model.dataset_meta['classes'])

    def __call__(self, images: Image | Sequence[Image]) -> Detections | list[Detections]:
        """See `ghost_det.deploy.Detector`."""
        if isinstance(images, np.ndarray):
            return self._find([images])[0]
        return list(self.stream(images))

    def stream(self, images: Iterable[Image], batch: int = 1) -> Iterator[Detections]:
        """See `ghost_det.deploy.Detector.stream`."""
        source = iter(images)
        while group := list(islice(source, batch)):
            yield from self._find(group)

    def timed(self, image: Image) -> tuple[Detections, dict[str, float]]:
        """See `ghost_det.deploy.Detector.timed`; mmdet makes the boxes within ``'network'``."""
        times = [perf_counter()]
        loaded = self._prepare([image])
        times.append(perf_counter())
        (found,) = self._run(loaded, [image])  # which waits for the device, as boxes come to the CPU
        times.append(perf_counter())
        return found, dict(zip(('prepare', 'network'), np.diff(times).tolist()))

    def _find(self, images: Sequence[Image]) -> list[Detections]:
        return self._run(self._prepare(images), images)

    def _prepare(self, images: Sequence[Image]) -> list[Any]:
        with told(self._config):
            return [self._pipeline(dict(img=image, img_id=0)) for image in images]

    @torch.no_grad()
    def _run(self, loaded: Sequence[Any], images: Sequence[Image]) -> list[Detections]:
        with told(self._config):
            samples = self._model.test_step({key: [each[key] for each in loaded] for key in loaded[0]})
        return [self._detections(sample, image) for sample, image in zip(samples, images)]

    def _detections(self, sample: Any, image: Image) -> Detections:
        found = sample.pred_instances.cpu().numpy()
        if 'bboxes' not in found:
            raise UserError(f'{self._config}: the model finds no boxes')
        limit = np.array([image.shape[1], image.shape[0]] * 2, np.float32)
        boxes = np.clip(found.bboxes.astype(np.float32), 0, limit)
        kept = (found.scores >= self._least) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        scores, labels = found.scores[kept], found.labels[kept]
        return Detections(boxes[kept], scores.astype(np.float32), labels.astype(np.int64))
