"""mmdet's COCO metric with the twelve figures under their own names, by the fastest evaluator installed."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS
from mmengine.logging import MMLogger

from ghost_det.data.annotations import complete_boxes

from .coco import Evaluation, evaluate
from .tables import class_table, figure_table


@METRICS.register_module()
class FullCocoMetric(CocoMetric):
    """COCO's standard evaluation, all twelve figures and the AP of each class.

    By faster-coco-eval if it is installed, else by pycocotools; both give the same figures. Figures are
    unrounded fractions of 1; -1 means that the ground truth has no box of that size or class.

    Args:
        ann_file: annotations in COCO's format.
        metric: ``'bbox'``, ``'segm'`` or both.
        collect_device: what gathers detections of several processes; despite its name, ``'gpu'`` uses
            whatever connects them. mmdet's default, ``'cpu'``, uses files in the current folder, which
            hosts do not share.
        **kwargs: mmdet's ``format_only``, ``outfile_prefix``, ``backend_args``, ``prefix``,
            ``sort_categories``.

    Raises:
        ValueError: another metric.

    Source: COCO detection evaluation, https://cocodataset.org/#detection-eval
    """

    def __init__(
        self, ann_file: str, metric: str | list[str] = 'bbox', collect_device: str = 'gpu', **kwargs: Any
    ) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            super().__init__(ann_file=ann_file, metric=metric, collect_device=collect_device, **kwargs)
        if not set(self.metrics) <= {'bbox', 'segm'}:
            raise ValueError(f'FullCocoMetric: expected metric bbox, segm or both, got {metric!r}')
        complete_boxes(self._coco_api.dataset)
        self.ann_file = ann_file
        self.truth: dict[str, Any] = self._coco_api.dataset  # the content of the annotation file
        self.evaluations: dict[str, Evaluation] = {}  # the last one of each metric
        self.keep = False  # set to have the detections afterwards
        self.detections: dict[str, list[dict[str, Any]]] = {}  # as COCO results, by metric

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Return the figures of every metric, and log them as tables."""
        if self.format_only:
            return dict(super().compute_metrics(results))
        logger = MMLogger.get_current_instance()
        categories = self._coco_api.getCatIds(catNms=self.dataset_meta['classes'])
        found: dict[str, float] = {}
        self.detections = {}  # not two evaluations' at once
        for metric in self.metrics:
            detections = coco_results([prediction for _, prediction in results], categories, metric)
            if self.keep:
                self.detections[metric] = detections
            evaluation = self.evaluations[metric] = evaluate(self.truth, detections, metric)
            logger.info(f'{metric} by class\n{class_table(evaluation)}')
            part = '' if metric == 'bbox' else f'{metric}_'
            found |= {f'{metric}_{name}': value for name, value in evaluation.figures.items()}
            found |= {f'{part}{each.name}_precision': each.figures['AP'] for each in evaluation.classes}
        logger.info('COCO figures\n' + figure_table([self.evaluations[metric] for metric in self.metrics]))
        return found


def coco_results(
    predictions: Sequence[dict[str, Any]], categories: Sequence[int], metric: str = 'bbox'
) -> list[dict[str, Any]]:
    """Return predictions of mmdet, one of each image, in COCO's results format, unrounded.

    ``categories`` are the data set's ids in the order of labels.
    """
    results = []
    for each in predictions:
        scores = each.get('mask_scores', each['scores']) if metric == 'segm' else each['scores']
        boxes = zip(each['labels'].tolist(), each['bboxes'].tolist(), scores.tolist())
        for index, (label, (x1, y1, x2, y2), score) in enumerate(boxes):
            result = {'image_id': each['img_id'], 'category_id': categories[label], 'score': score}
            result['bbox'] = [x1, y1, x2 - x1, y2 - y1]
            if metric == 'segm':
                size, counts = each['masks'][index]['size'], each['masks'][index]['counts']
                text = counts.decode() if isinstance(counts, bytes) else counts
                result['segmentation'] = {'size': list(size), 'counts': text}
            results.append(result)
    return results


def full_metric(evaluator: Any) -> FullCocoMetric | None:
    """Return the metric of a runner's evaluator that keeps what reports need, if it has it."""
    return next((metric for metric in evaluator.metrics if isinstance(metric, FullCocoMetric)), None)
