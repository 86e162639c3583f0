"""A detector of MMDetection behind the same calls as an exported one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from mmdet.evaluation import get_classes
from mmdet.utils import get_test_pipeline_cfg
from mmengine.dataset import Compose
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from ghost_det.config.load import load_config
from ghost_det.config.query import heads, set_num_classes
from ghost_det.deploy.detector import Detections, detections
from ghost_det.deploy.letterbox import Placement
from ghost_det.errors import UserError
from ghost_det.models.fuse import optimize
from ghost_det.swap.probe import build_detector
from ghost_det.utils.images import Image
from ghost_det.weights.checkpoint import check_fits, checkpoint_classes, load_checkpoint

from .loading import safe_loading
from .messages import BUILDING, FIRST_STEP, NamedCompose, explain_errors


class Loaded(NamedTuple):
    """A detector of MMDetection in evaluation mode, its config, and the names of its classes."""

    config: Any
    model: Any
    classes: tuple[str, ...]


def load_detector(
    config: str, checkpoint: str | None, options: dict[str, Any] | None = None, device: str = 'cpu'
) -> Loaded:
    """Open a config and its checkpoint, which sets the number of classes; without one, weights are random."""
    cfg = load_config(config, options)
    content = {} if checkpoint is None else load_checkpoint(checkpoint)
    classes = checkpoint_classes(content)
    if classes:
        set_num_classes(cfg.model, len(classes))
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    with safe_loading(), explain_errors(config, BUILDING):
        model = revert_sync_batchnorm(build_detector(cfg.model))
    if checkpoint is not None:
        check_fits(model, content, checkpoint, config)
        weights = content.get('state_dict', content)
        consume_prefix_in_state_dict_if_present(weights, 'module.')
        model.load_state_dict(weights, strict=False)
    if not classes:
        count = max((head['num_classes'] for _, head in heads(cfg.model)), default=80)
        # mmdet's old checkpoints with 80 classes, which do not name them, are of COCO.
        coco = checkpoint is not None and count == 80
        classes = tuple(get_classes('coco')) if coco else tuple(f'class {label}' for label in range(count))
    return Loaded(cfg, model.to(device), classes)


def array_pipeline(cfg: Any) -> Compose:
    """Return the test pipeline of a config, for images that are arrays in BGR."""
    pipeline = get_test_pipeline_cfg(cfg)
    pipeline[0].type = 'mmdet.LoadImageFromNDArray'
    return NamedCompose(Compose(pipeline).transforms)


class TorchDetector:
    """A config and its checkpoint, run by torch; what scores below ``score_threshold`` is left out.

    Without a checkpoint, the weights are random.
    """

    def __init__(
        self,
        config: str,
        checkpoint: str | None,
        threads: int | None = None,
        score_threshold: float = 0.0,
        options: dict[str, Any] | None = None,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
        cfg, self._model, self.classes = load_detector(config, checkpoint, options, device)
        self._pipeline = array_pipeline(cfg)
        optimize(self._model)
        self._config = config
        self._least = score_threshold

    def __call__(self, image: Image) -> Detections:
        return next(self.stream([image]))

    def stream(self, images: Iterable[Image], batch: int = 1) -> Iterator[Detections]:
        """See `ghost_det.deploy.Detector.stream`."""
        source = iter(images)
        while group := list(islice(source, batch)):
            yield from self._run(self._prepare(group), group)

    def _prepare(self, images: Sequence[Image]) -> list[Any]:
        with explain_errors(self._config):
            return [self._pipeline(dict(img=image, img_id=0)) for image in images]

    @torch.no_grad()
    def _run(self, loaded: Sequence[Any], images: Sequence[Image]) -> list[Detections]:
        with explain_errors(self._config, FIRST_STEP):
            samples = self._model.test_step({key: [each[key] for each in loaded] for key in loaded[0]})
        return [self._detections(sample, image) for sample, image in zip(samples, images)]

    def _detections(self, sample: Any, image: Image) -> Detections:
        found = sample.pred_instances.cpu().numpy()
        if 'bboxes' not in found:
            raise UserError(f'{self._config}: the model is not a box detector')
        height, width = image.shape[:2]
        at = Placement(width, height, width, height)
        return detections(found.bboxes, found.scores, found.labels, at, self._least)
