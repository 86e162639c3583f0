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

NAMED = 10  # classes, those with most boxes, that get a curve
NUMBERED = 25  # classes up to which each cell of the confusion matrix has its count


def draw_all(evaluation: Evaluation, analysis: Analysis, folder: Path) -> dict[str, Path]:
    """Draw the pictures of an evaluation, of masks with ``segm`` in their names, and return them by name."""
    suffix = '' if evaluation.iou_type == 'bbox' else f'_{evaluation.iou_type}'
    figures = plot_pr_curves(evaluation), plot_confusion(analysis), plot_errors(analysis)
    names = [f'{name}{suffix}' for name in ('pr_curves', 'confusion', 'errors')]
    return {name: save_figure(figure, folder / f'{name}.png') for name, figure in zip(names, figures)}


def plot_pr_curves(evaluation: Evaluation) -> Figure:
    """Draw precision over recall: the mean of all classes by IoU (left), each class at IoU 0.5 (right)."""
    figure = make_figure(14, 5.2)
    left, right = figure.subplots(1, 2)
    precision, classes = evaluation.precision, evaluation.classes
    recalls = np.linspace(0, 1, precision.shape[1])
    counted = sorted((-each.boxes, index) for index, each in enumerate(classes) if each.boxes)
    defined = (precision > UNDEFINED).all(axis=(0, 1))  # not so where every box is ignored
    if defined.any():
        for index, mean in enumerate(precision[:, :, defined].mean(axis=2)):
            colour = colormaps['viridis'](0.95 * index / (len(precision) - 1))
            left.plot(recalls, mean, color=colour, label=f'IoU {0.5 + index * 0.05:.2f}: {mean.mean():.3f}')
        left.legend(title='AP', fontsize=8)
    named = [index for _, index in counted[:NAMED]]
    for index in sorted(named, key=lambda index: -classes[index].figures['AP_50']):
        each = classes[index]
        text = f'{each.figures["AP_50"]:.3f} {label(each.name)} ({each.boxes})'
        right.plot(recalls, precision[0, :, index], label=text)
    if named:
        title = 'AP_50 class (boxes)' + '\nthose with most boxes' * (len(counted) > NAMED)
        right.legend(title=title, title_fontsize=8, fontsize=8, loc='upper left', bbox_to_anchor=(1.01, 1.01))
    left.set_title('Mean over classes, by IoU')
    right.set_title(f'{plural(len(counted), "class")} with ground truth, at IoU 0.5')
    for axis in (left, right):
        axis.set(xlabel='recall', ylabel='precision', xlim=(0, 1), ylim=(0, 1.02))
        axis.grid(alpha=0.3)
    figure.suptitle(
        f'{evaluation.iou_type}: {plural(evaluation.detections, "detection")}, '
        f'{plural(evaluation.boxes, "box")} in the ground truth, {plural(evaluation.images, "image")}'
    )
    return figure


def plot_confusion(analysis: Analysis) -> Figure:
    """Draw which class is detected as which, in shares of the ground truth; only classes that occur."""
    counts = analysis.confusion
    occur = np.asarray(counts.any(axis=0) | counts.any(axis=1))
    occur[-1] = True  # the background
    counts = counts[np.ix_(occur, occur)]
    labels = [label(name) for name, shown in zip((*analysis.classes, 'background'), occur) if shown]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    few = len(labels) <= NUMBERED
    side, size = (max(5, 0.5 * len(labels) + 2), 9) if few else (min(30, 0.19 * len(labels) + 2.5), 7)
    figure = make_figure(side + 1, side)
    axis = figure.subplots()
    picture = axis.imshow(shares, cmap='Blues', vmin=0, vmax=1)
    axis.set_xticks(range(len(labels)), labels, rotation=90, fontsize=size)
    axis.set_yticks(range(len(labels)), labels, fontsize=size)
    if few:
        for row, column in np.argwhere(counts):
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
    figure = make_figure(9, 4.2)
    axis = figure.subplots()
    names = [*KINDS, *(f'all {name}' for name in SPECIAL)]
    gains = [100 * analysis.gains[name] for name in (*KINDS, *SPECIAL)]
    counts = [f'  ({analysis.counts[name]})' if name in analysis.counts else '' for name in names]
    bars = axis.barh(names, gains, color=[f'C{place}' for place in range(len(names))])
    axis.bar_label(bars, [f'{gain:.1f}{count}' for gain, count in zip(gains, counts)], padding=3)
    axis.invert_yaxis()
    axis.set(xlim=(0, max(*gains, 1) * 1.25), xlabel='AP points gained without it')
    ap = 'undefined' if analysis.ap == UNDEFINED else f'{100 * analysis.ap:.1f}'
    axis.set_title(f'AP at IoU 0.5 is {ap}; what each error costs (and how often)', fontsize=10)
    return figure
