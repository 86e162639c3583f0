"""COCO evaluation: the twelve figures under their own names, by the fastest evaluator installed."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from typing import Any

from mmdet import evaluation
from mmdet.registry import METRICS
from mmengine.logging import MMLogger
from terminaltables import AsciiTable

# mmdet's name for each of COCO's figures -> ours. mmdet calls the recalls by its own default
# limits (100, 300, 1000 detections an image) whatever limits are in force; COCO's are 1, 10, 100.
FIGURES = {
    'mAP': 'mAP',
    'mAP_50': 'mAP_50',
    'mAP_75': 'mAP_75',
    'mAP_s': 'mAP_s',
    'mAP_m': 'mAP_m',
    'mAP_l': 'mAP_l',
    'AR@100': 'AR@1',
    'AR@300': 'AR@10',
    'AR@1000': 'AR@100',
    'AR_s@1000': 'AR_s@100',
    'AR_m@1000': 'AR_m@100',
    'AR_l@1000': 'AR_l@100',
}

_FAST = hasattr(evaluation, 'FasterCocoMetric') and importlib.util.find_spec('faster_coco_eval') is not None
_Evaluator: Any = evaluation.FasterCocoMetric if _FAST else evaluation.CocoMetric


@METRICS.register_module()
class FullCocoMetric(_Evaluator):
    """COCO's standard evaluation, all twelve figures and the AP of each class.

    mmdet's ``FasterCocoMetric`` where it and faster-coco-eval are installed, else its ``CocoMetric``
    on pycocotools; both give the same figures. Takes their arguments. Figures are fractions of 1;
    -1 means that the ground truth has no box of that size. Without one detection all are 0.

    Source: COCO detection evaluation, https://cocodataset.org/#detection-eval
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault('classwise', True)
        # Despite its name, over whatever connects the processes. mmdet's own choice, 'cpu', goes through
        # files in the present folder, which hosts do not share.
        kwargs.setdefault('collect_device', 'gpu')
        with contextlib.redirect_stdout(io.StringIO()):
            super().__init__(**kwargs, proposal_nums=(1, 10, 100), metric_items=list(FIGURES))

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Return the figures of every metric asked for, and log them as a table."""
        with contextlib.redirect_stdout(io.StringIO()):
            found = super().compute_metrics(results)
        if self.format_only:
            return dict(found)
        named: dict[str, float] = {}
        rows = [['figure', *self.metrics]]
        for theirs, ours in FIGURES.items():
            values = [found.pop(f'{metric}_{theirs}', 0.0) for metric in self.metrics]
            named.update({f'{metric}_{ours}': value for metric, value in zip(self.metrics, values)})
            rows.append([ours, *(f'{value:.3f}' for value in values)])
        MMLogger.get_current_instance().info('COCO figures\n' + AsciiTable(rows).table)
        return {**named, **found}
