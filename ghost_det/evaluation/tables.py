"""An evaluation as text for the terminal: COCO's figures, those of each class, and what the errors cost."""

from __future__ import annotations

from collections.abc import Sequence

from ghost_det.utils.text import cut, plural, table

from .coco import CLASS_FIGURES, FIGURES, UNDEFINED, Evaluation
from .errors import KINDS, SPECIAL, Analysis


def figure_table(evaluations: Sequence[Evaluation]) -> str:
    """Return COCO's twelve figures as a table, one column for each evaluation, and `notes` on them."""
    rows = [[name, *(_cell(each.figures[name]) for each in evaluations)] for name in FIGURES]
    text = table(['figure', *(each.iou_type for each in evaluations)], rows)
    return '\n'.join([text, *dict.fromkeys(note for each in evaluations for note in notes(each))])


def class_table(evaluation: Evaluation) -> str:
    """Return the figures of each class as a table; a class has none for a size without ground truth."""
    rows = [
        [cut(each.name), each.boxes, *(_cell(value) for value in each.figures.values())]
        for each in evaluation.classes
    ]
    text = table(['class', 'boxes', *CLASS_FIGURES], rows)
    gaps = any(UNDEFINED in each.figures.values() for each in evaluation.classes)
    return f'{text}\n- : no ground truth of this class and size' if gaps else text


def error_table(analysis: Analysis) -> str:
    """Return TIDE's errors as a table, with the AP at IoU 0.5 that each costs."""
    rows = [[name, analysis.counts[name], f'{analysis.gains[name]:.3f}'] for name in KINDS]
    rows += [[f'all {name}', '', f'{analysis.gains[name]:.3f}'] for name in SPECIAL]
    text = table(['error', 'count', 'AP_50 gained without it'], rows)
    return f'{text}\nno ground truth: nothing to gain' if analysis.ap == UNDEFINED else text


def notes(evaluation: Evaluation) -> list[str]:
    """Return why figures are undefined, or all of them 0."""
    if not evaluation.boxes:
        return ['- : the annotations have no box that counts, so no figure is defined']
    lines = []
    if UNDEFINED in evaluation.figures.values():
        sizes = 's: area to 32² pixels, m: to 96², l: larger'
        lines.append(f'- : no ground truth of this size ({sizes}) among {plural(evaluation.boxes, "box")}')
    empty = [each.name for each in evaluation.classes if not each.boxes]
    if empty:
        names = ', '.join(empty[:10]) + ', ...' * (len(empty) > 10)
        lines.append(f'{plural(len(empty), "class")} without ground truth, not counted: {names}')
    if not evaluation.detections:
        lines.append(
            f'All 0: nothing was detected in {plural(evaluation.images, "image")}; an untrained detector, or '
            'model.test_cfg.score_thr above all its scores'
        )
    return lines


def _cell(value: float) -> str:
    return '-' if value == UNDEFINED else f'{value:.3f}'
