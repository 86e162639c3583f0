"""Pictures of an evaluation: precision over recall, confused classes, and what each kind of error costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from ghost_det.utils.plots import label, make_figure, save_figure
from ghost_det.utils.text import plural

from .coco import UNDEFINED, Evaluation
from .errors import KINDS, SPECIAL, Analysis

NAMED = 10  # classes that get a colour and a name of their own
NUMBERED = 25  # classes up to which each cell of the confusion matrix has its count


def draw_all(evaluation: Evaluation, analysis: Analysis, folder: Path) -> dict[str, Path]:
    """Draw the pictures of an evaluation, of masks with ``segm`` in their names, and return them by name."""
    suffix = '' if evaluation.iou_type == 'bbox' else f'_{evaluation.iou_type}'
    figures = {
        'pr_curves': plot_pr_curves(evaluation),
        'confusion': plot_confusion(analysis),
        'errors': plot_errors(analysis),
    }
    paths = {f'{name}{suffix}': folder / f'{name}{suffix}.png' for name in figures}
    for path, figure in zip(paths.values(), figures.values()):
        save_figure(figure, path)
    return paths


def plot_pr_curves(evaluation: Evaluation) -> Figure:
    """Draw precision over recall: the mean of all classes by IoU (left), each class at IoU 0.5 (right)."""
    figure = make_figure(14, 5.2)
    left, right = figure.subplots(1, 2)
    recalls = np.linspace(0, 1, evaluation.precision.shape[1])
    counted = [index for index, each in enumerate(evaluation.classes) if each.boxes]
    curves = evaluation.precision[:, :, counted]
    curves = curves[:, :, (curves > UNDEFINED).all(axis=(0, 1))]
    if curves.size:
        for index, colour in enumerate(colormaps['viridis'](np.linspace(0, 0.95, len(curves)))):
            mean = curves[index].mean(axis=1)
            left.plot(recalls, mean, color=colour, label=f'IoU {0.5 + index * 0.05:.2f}: {mean.mean():.3f}')
        left.legend(title='AP', fontsize=8)
    by_boxes = sorted(counted, key=lambda index: -evaluation.classes[index].boxes)
    for index in by_boxes[NAMED:]:
        right.plot(recalls, evaluation.precision[0, :, index], color='lightgrey', linewidth=0.7, zorder=1)
    named = sorted(by_boxes[:NAMED], key=lambda index: -evaluation.classes[index].figures['AP_50'])
    for index in named:
        each = evaluation.classes[index]
        text = f'{each.figures["AP_50"]:.3f} {label(each.name)} ({each.boxes})'
        right.plot(recalls, evaluation.precision[0, :, index], label=text)
    if named:
        title = 'AP_50 class (boxes)' + '\nthose with most boxes' * (len(by_boxes) > NAMED)
        place = dict(loc='upper left', bbox_to_anchor=(1.01, 1.01))
        right.legend(title=title, title_fontsize=8, fontsize=8, **place)
    titles = ('Mean over classes, by IoU', f'{plural(len(by_boxes), "class")} with ground truth, at IoU 0.5')
    for axis, title in zip((left, right), titles):
        axis.set(xlabel='recall', ylabel='precision', xlim=(0, 1), ylim=(0, 1.02), title=title)
        axis.grid(alpha=0.3)
    figure.suptitle(
        f'{evaluation.iou_type}: {plural(evaluation.detections, "detection")}, '
        f'{plural(evaluation.boxes, "box")} in the ground truth, {plural(evaluation.images, "image")}'
    )
    return figure


def plot_confusion(analysis: Analysis) -> Figure:
    """Draw which class is detected as which, in shares of the ground truth; unseen classes are left out."""
    counts = analysis.confusion
    shown = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1))
    shown = shown if len(counts) - 1 in shown else np.append(shown, len(counts) - 1)
    counts = counts[np.ix_(shown, shown)]
    names = (*analysis.classes, 'background')
    labels = [label(names[index]) for index in shown]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    few = len(labels) <= NUMBERED
    side = max(5.0, 0.5 * len(labels) + 2) if few else min(30.0, 0.19 * len(labels) + 2.5)
    figure = make_figure(side + 1, side)
    axis = figure.subplots()
    picture = axis.imshow(shares, cmap='Blues', vmin=0, vmax=1)
    size = 9 if few else 7
    axis.set_xticks(range(len(labels)), labels, rotation=90, fontsize=size)
    axis.set_yticks(range(len(labels)), labels, fontsize=size)
    axis.set_xticks(np.arange(len(labels)) + 0.5, minor=True)
    axis.set_yticks(np.arange(len(labels)) + 0.5, minor=True)
    axis.grid(which='minor', color='lightgrey', linewidth=0.3)
    axis.tick_params(which='minor', length=0)
    if few:
        for row, column in zip(*np.nonzero(counts)):
            colour = 'white' if shares[row, column] > 0.5 else 'black'
            axis.text(column, row, counts[row, column], ha='center', va='center', color=colour, fontsize=8)
    axis.set(xlabel='detected as', ylabel='ground truth')
    axis.set_title(
        f'Detections with a score from {analysis.score:g}, IoU 0.5\n'
        f'last column: not detected; last row: detected where nothing is ({counts[-1].sum()})',
        fontsize=10,
    )
    figure.colorbar(picture, ax=axis, shrink=0.6, pad=0.01, label='share of the row')
    return figure


def plot_errors(analysis: Analysis) -> Figure:
    """Draw how much AP at IoU 0.5 each kind of error costs, and how many there are."""
    errors = analysis.errors
    figure = make_figure(11, 3.8)
    left, right = figure.subplots(1, 2, width_ratios=(3, 1.4))
    places = range(len(KINDS))
    colours = [f'C{place}' for place in places]
    gains = [100 * errors.gains[name] for name in KINDS]
    bars = left.barh(places, gains, color=colours)
    texts = [f'{gain:.1f}  ({errors.counts[name]})' for gain, name in zip(gains, KINDS)]
    left.bar_label(bars, texts, padding=3, fontsize=9)
    left.set_yticks(places, KINDS)
    all_of_kind = [100 * errors.gains[name] for name in SPECIAL]
    bars = right.barh(range(len(SPECIAL)), all_of_kind, color=['C6', 'C7'])
    right.bar_label(bars, [f'{gain:.1f}' for gain in all_of_kind], padding=3, fontsize=9)
    right.set_yticks(range(len(SPECIAL)), SPECIAL)
    for axis, values in ((left, gains), (right, all_of_kind)):
        axis.invert_yaxis()
        axis.set(xlim=(0, max(*values, 1) * 1.25), xlabel='AP points gained without it')
    ap = 'undefined' if errors.ap == UNDEFINED else f'{100 * errors.ap:.1f}'
    left.set_title(f'AP at IoU 0.5 is {ap}; what each error costs (and how often)', fontsize=10)
    right.set_title('All of them', fontsize=10)
    return figure
