"""Saved detections evaluated again, and what an evaluation leaves for people and for programs."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ghost_det.errors import UserError
from ghost_det.utils.files import require_writable
from ghost_det.utils.text import plural, table

from .coco import UNDEFINED, Evaluation, IouType, class_table, evaluate, figure_table
from .errors import KINDS, SCORE, SPECIAL, Analysis, analyse, confused
from .plots import draw_all
from .results import read_results, read_truth, summary, write_results, write_summary


def evaluate_saved(
    results: Path,
    annotations: Path,
    iou_type: IouType = 'bbox',
    json_file: Path | None = None,
    folder: Path | None = None,
    score: float = SCORE,
) -> Iterator[str]:
    """Evaluate saved detections without their model, and yield the lines to print.

    The figures are those of the run that saved them, to the last digit. Detections from ``score`` on count in
    the confusion matrix; ``json_file`` is for other programs, ``folder`` for pictures.

    Raises:
        UserError: a file that cannot be read or written, or has other content.
    """
    if not math.isfinite(score):
        raise UserError(f'--score {score}: a number is wanted')
    if json_file is not None:
        require_writable(json_file, '--json', (results, annotations))
    if folder is not None:
        require_writable(folder / 'pr_curves.png', '--out-dir')
    truth = read_truth(annotations, iou_type)
    found = read_results(results, truth, iou_type)
    evaluation = evaluate(truth, found, iou_type)
    analysis = analyse(truth, found, iou_type, score)
    yield class_table(evaluation)
    yield figure_table([evaluation])
    yield error_table(analysis)
    yield f'{evaluation.seconds:.1f} s by {evaluation.evaluator}'
    for name, path in pictures(evaluation, analysis, folder).items():
        yield f'{name:<11}{path}'
    if json_file is not None:
        kind = evaluation.iou_type
        save_summary(json_file, summary({kind: evaluation}, {kind: analysis}, annotations, results))
        yield f'{"json":<11}{json_file}'


def error_table(analysis: Analysis) -> str:
    """Return TIDE's errors as a table, with the AP at IoU 0.5 that each costs, and what is confused most."""
    errors = analysis.errors
    rows = [[name, str(errors.counts[name]), f'{errors.gains[name]:.3f}'] for name in KINDS]
    rows += [[f'all {name}', '', f'{errors.gains[name]:.3f}'] for name in SPECIAL]
    text = table(['error', 'count', 'AP_50 gained without it'], rows)
    said = [] if errors.ap != UNDEFINED else ['no ground truth: nothing to gain']
    said += [
        f'{true} found as {taken}: {count} of {plural(total, "box")} (score from {analysis.score:g})'
        for true, taken, count, total in confused(analysis)
    ]
    return '\n'.join([text, *said])


def pictures(evaluation: Evaluation, analysis: Analysis, folder: Path | None) -> dict[str, Path]:
    """Draw into a folder, if there is one, and return the pictures by name.

    Raises:
        UserError: the folder cannot be written to.
    """
    if folder is None:
        return {}
    with _writing(folder):
        return draw_all(evaluation, analysis, folder)


def save_results(path: Path, results: Sequence[dict[str, Any]]) -> None:
    """Write detections as COCO results.

    Raises:
        UserError: the file cannot be written.
    """
    with _writing(path):
        write_results(path, results)


def save_summary(path: Path, content: dict[str, Any]) -> None:
    """Write a summary.

    Raises:
        UserError: the file cannot be written.
    """
    with _writing(path):
        write_summary(path, content)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f'{path}: cannot be written ({error.strerror})') from None
