"""What a person looks at after a run: curves, found boxes beside true ones, and the next commands."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.dataset import pseudo_collate
from mmengine.dist import master_only
from mmengine.runner import find_latest_checkpoint

from ghost_det.deploy import Detections
from ghost_det.deploy.draw import colour_of
from ghost_det.evaluation.assess import error_table, pictures, save_results, save_summary
from ghost_det.evaluation.errors import analyse
from ghost_det.evaluation.metric import FullCocoMetric
from ghost_det.evaluation.plots import plot_steps
from ghost_det.evaluation.results import summary, write_summary
from ghost_det.utils.files import atomic
from ghost_det.utils.fonts import drawable
from ghost_det.utils.system import command, near

from .logs import by_epoch, curves, read_scalars
from .page import render
from .pictures import GAP, SIDE, draw_beside
from .record import make_record

matplotlib.use('Agg')
import matplotlib.pyplot as plt  # noqa: E402

SCORE = 0.3
PICTURES = 6
HEAD = 24  # px, above a picture


def draw_curves(work_dir: Path, epochs: bool = True) -> Path:
    """Draw losses, learning rate and mAP of a work folder into its ``curves.png``.

    Args:
        work_dir: the folder.
        epochs: what `curves` asks.
    """
    rows = read_scalars(work_dir)
    losses = [row for row in rows if 'loss' in row]
    found = curves(rows, epochs)
    names = sorted({name for row in losses for name in row if name.startswith('loss')})
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout='constrained')
    for name in names:
        plot_steps(left, [r['iter'] for r in losses], [r.get(name) for r in losses], label=name)
    left.set(xlabel='iteration', ylabel='loss', ylim=(0, None), title='Training loss')
    rate = left.twinx()
    style = {'linestyle': ':', 'color': 'grey', 'label': 'learning rate'}
    plot_steps(rate, [r['iter'] for r in losses], [r.get('lr') for r in losses], **style)
    rate.set(ylabel='learning rate', ylim=(0, None))
    handles = left.get_legend_handles_labels()[0] + rate.get_legend_handles_labels()[0]
    left.legend(handles=handles)
    for key, label in (
        ('mAP', 'mAP (IoU 0.50 to 0.95)'),
        ('mAP_50', 'mAP at IoU 0.50'),
        ('mAP_75', 'mAP at IoU 0.75'),
    ):
        plot_steps(right, [r['step'] for r in found['mAP']], [r[key] for r in found['mAP']], label=label)
    right.set(xlabel=found['unit'], ylabel='mAP', ylim=(0, 1), title='COCO mAP on the validation split')
    right.grid(alpha=0.3)
    right.legend()
    path = work_dir / 'curves.png'
    with atomic(path) as partial:
        figure.savefig(partial, format='png', dpi=110)
    plt.close(figure)
    return path


@torch.no_grad()
def draw_detections(model: Any, dataset: Any, path: Path) -> Path:
    """Draw true boxes (left) beside found ones (right) for images spread over a dataset.

    Args:
        model: a trained detector.
        dataset: an mmdet dataset in test mode.
        path: the picture to write.
    """
    picks = np.linspace(0, len(dataset) - 1, min(PICTURES, len(dataset))).round().astype(int)
    model.eval()
    pairs = []
    for pick in picks:
        sample = model.test_step(pseudo_collate([dataset[int(pick)]]))[0].cpu()
        info = dataset.get_data_info(int(pick))
        # By the data set's own loader, as img_path may be a key in a database or a URL.
        image = dataset.pipeline.transforms[0](info)['img']
        found = sample.pred_instances
        found = found[found.scores >= SCORE]
        masked = image.copy()
        for mask, label in zip(found.get('masks', ()), found.labels):
            masked[mask.numpy()] = masked[mask.numpy()] // 2 + np.array(colour_of(int(label))) // 2
        boxes = Detections(found.bboxes.numpy(), found.scores.numpy(), found.labels.numpy())
        pair = draw_beside((image, masked), (_true_boxes(info), boxes), dataset.metainfo['classes'])
        pairs.append((Path(sample.img_path).name, pair))
    width = 2 * SIDE + 3 * GAP
    rows = [pairs[start : start + 2] for start in range(0, len(pairs), 2)]
    heights = [HEAD + max(len(pair) for _, pair in row) for row in rows]
    left = sum(heights)
    figure = Figure(figsize=(2 * width / 100, left / 100), dpi=100)
    drawable([name for name, _ in pairs])
    for row, height in zip(rows, heights):
        for place, (name, pair) in enumerate(row):
            x, top = place * width + GAP, left - HEAD
            figure.figimage(pair[..., ::-1], x, top - len(pair))
            title = f'{name}: true | found (score from {SCORE})'
            figure.text(x / 2 / width, (top + GAP) / sum(heights), title, fontsize=9, parse_math=False)
        left -= height
    figure.savefig(path, dpi=100)
    return path


def _true_boxes(info: dict[str, Any]) -> Detections:
    """Return an image's true boxes in pixels of the file, whatever the test pipeline does to them."""
    boxes = [(each['bbox'], each['bbox_label']) for each in info['instances'] if not each['ignore_flag']]
    corners = np.array([box for box, _ in boxes], np.float32).reshape(-1, 4)
    return Detections(corners, np.ones(len(boxes), np.float32), np.array([n for _, n in boxes], np.int64))


@master_only
def report_training(runner: Any, seconds: dict[str, float]) -> None:
    """Write ``report.html`` and ``.json``, ``curves.png``, ``detections.png``, ``commands.txt``; say where.

    The training is done: what cannot be written is told, and takes nothing else with it.

    Args:
        runner: mmengine's, after ``train()``.
        seconds: wall time of the whole training, ``'train'``, and of its evaluations, ``'evaluate'``.
    """
    work_dir = Path(runner.work_dir)
    commands = _commands(runner)
    shown: dict[str, Any] = {}
    lost: list[str] = []

    def make(name: str, content: Callable[[], Any]) -> None:
        try:
            shown[name] = content()
        except Exception as error:
            lost.append(f'{name} is not written: {type(error).__name__}: {error}')

    make('curves', lambda: draw_curves(work_dir, by_epoch(runner.cfg)))
    dataset = runner.val_dataloader.dataset
    make('detections', lambda: draw_detections(runner.model, dataset, work_dir / 'detections.png'))
    make('commands', lambda: _write_text(work_dir / 'commands.txt', _listing(commands)))
    make('report', lambda: _write_report(runner, commands, seconds))
    shown.update({name: commands[name] for name in ('evaluate', 'resume')})
    times = f'{seconds["train"] - seconds["evaluate"]:.0f} s training, {seconds["evaluate"]:.0f} s evaluation'
    runner.logger.info('Done: ' + times + ''.join(f'\n  {name:<11}{value}' for name, value in shown.items()))
    for line in lost:
        runner.logger.warning(line)


def _commands(runner: Any) -> dict[str, str]:
    """Return the commands that evaluate, go on with, and repeat a training, from the config that it left."""
    work_dir = Path(runner.work_dir)
    dumped = work_dir / Path(runner.cfg.filename).name
    best = sorted(work_dir.glob('best_*.pth'), key=lambda p: p.stat().st_mtime)
    last = find_latest_checkpoint(str(work_dir))
    here = int(os.environ.get('LOCAL_WORLD_SIZE', runner.world_size))
    start = ['-m', 'torch.distributed.run', f'--nproc-per-node={here}'] if runner.world_size > 1 else []
    if runner.world_size > here:
        start.append(f'--nnodes={runner.world_size // here}')

    def train(*words: str | Path) -> str:
        if not start:
            return command('train', *words)
        launcher = shlex.join([near(sys.executable), *start])
        return f'{launcher} --no-python {command("train", *words)}'

    again = work_dir.with_name(work_dir.name + '_again')
    seed = f'randomness.seed={runner.seed}'
    return {
        'evaluate': command('test', dumped, best[-1] if best else last or 'CHECKPOINT'),
        'resume': train(dumped, '--work-dir', work_dir, '--resume'),
        'repeat': train(dumped, '--work-dir', again, '--cfg-options', seed),
    }


def _listing(commands: dict[str, str]) -> str:
    return '\n'.join(f'# {name}\n{line}\n' for name, line in commands.items())


def _write_text(path: Path, text: str) -> Path:
    with atomic(path) as partial:
        partial.write_text(text, encoding='utf-8')
    return path


def _write_report(runner: Any, commands: dict[str, str], seconds: dict[str, float]) -> Path:
    """Write ``report.json`` and ``report.html``, unless nothing was done since those that are there."""
    started = time.perf_counter()
    work_dir = Path(runner.work_dir)
    path = work_dir / 'report.html'
    metric = full_metric(runner.val_evaluator)
    if metric is not None and not metric.evaluations and path.exists():
        return path
    record, pictures = make_record(runner, runner.cfg.filename, metric, commands, seconds)
    curves = work_dir / 'curves.png'
    if curves.exists():
        pictures['curves'] = [('Loss, learning rate and mAP', curves.read_bytes())]
    _write_text(path, render(record, pictures))
    write_summary(work_dir / 'report.json', record)
    for name, reason in record['lacking'].items():
        runner.logger.warning(f'report.html has no {name}: {reason}')
    runner.logger.debug(f'The report took {time.perf_counter() - started:.1f} s')
    return path


def full_metric(evaluator: Any) -> FullCocoMetric | None:
    """Return the metric of a runner's evaluator that keeps what reports need, if it has it."""
    return next((metric for metric in evaluator.metrics if isinstance(metric, FullCocoMetric)), None)


@master_only
def report_test(
    runner: Any,
    config: str,
    checkpoint: str,
    seconds: float,
    out: Path | None = None,
    json_file: Path | None = None,
) -> None:
    """Write ``detections.png`` and the pictures of the evaluation into the work folder, and say where.

    Args:
        runner: mmengine's, after ``test()``.
        config: path of the config.
        checkpoint: path of the weights.
        seconds: wall time of the evaluation.
        out: where the detections go as COCO results; those with masks, into ``.segm.json`` beside it.
        json_file: where the figures and the analysis go for other programs.

    Raises:
        UserError: a file cannot be written.
    """
    work_dir = Path(runner.work_dir)
    dataset = runner.test_dataloader.dataset
    metric = full_metric(runner.test_evaluator)
    shown: dict[str, Any] = {}
    found = {} if metric is None else metric.detections
    if metric is not None and out is not None:
        for kind, detections in found.items():
            path = out if kind == 'bbox' else out.with_suffix(f'.{kind}.json')
            save_results(path, detections)
            shown[kind] = path
            options = [] if kind == 'bbox' else ['--iou-type', kind]
            shown[f'{kind} again'] = command('eval', path, metric.ann_file, *options)
    shown['detections'] = draw_detections(runner.model, dataset, work_dir / 'detections.png')
    if metric is not None and found:
        analyses = {}
        for kind, evaluation in metric.evaluations.items():
            analyses[kind] = analyse(metric.truth, found[kind], evaluation.iou_type)
            runner.logger.info(f'{kind} errors\n{error_table(analyses[kind])}')
            shown.update(pictures(evaluation, analyses[kind], work_dir))
        if json_file is not None:
            annotations = Path(metric.ann_file)
            content = summary(
                metric.evaluations, analyses, annotations, out, config, Path(checkpoint), round(seconds, 3)
            )
            save_summary(json_file, content)
            shown['json'] = json_file
    lines = ''.join(f'\n  {name:<11}{value}' for name, value in shown.items())
    runner.logger.info(f'Done: {seconds:.0f} s evaluation{lines}')
