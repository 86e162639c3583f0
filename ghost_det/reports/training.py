"""What a training and a test leave for a person to look at, and the commands that come next."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import find_latest_checkpoint

from ghost_det.evaluation.coco import CLASS_FIGURES
from ghost_det.evaluation.errors import analyse
from ghost_det.evaluation.metric import full_metric
from ghost_det.evaluation.plots import draw_all
from ghost_det.evaluation.results import summary, write_results, write_summary
from ghost_det.evaluation.tables import error_table
from ghost_det.utils.files import atomic
from ghost_det.utils.html import page
from ghost_det.utils.plots import save_figure
from ghost_det.utils.system import command

from .logs import by_epoch, read_scalars
from .pictures import plot_detections, plot_training_curves
from .record import RECORD, Pictures, make_record, record_progress


class ReportHook(Hook):
    """Write ``report.json`` after each evaluation of a training, by which an unfinished one is compared.

    A report that cannot be written is a warning.
    """

    priority = 'VERY_LOW'  # the log has the figures by then

    @master_only
    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Write what is known so far."""
        metric = full_metric(runner.val_evaluator)
        if metric is None:
            return
        try:
            write_summary(Path(runner.work_dir) / RECORD, record_progress(runner, metric))
        except Exception as error:
            runner.logger.warning(f'{RECORD} is not written: {type(error).__name__}: {error}')


@master_only
def report_training(runner: Any, seconds: dict[str, float]) -> None:
    """Write ``report.html`` and ``.json``, ``curves.png``, ``detections.png``, ``commands.txt``; print where.

    The training is done: what cannot be written is a warning, and takes nothing else with it. ``seconds`` are
    those of this process for ``'train'``, evaluations included, and for ``'evaluate'``.
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
    runner.logger.info('Done: ' + times + _lines(shown))
    for line in lost:
        runner.logger.warning(line)


@master_only
def report_test(
    runner: Any,
    config: str,
    checkpoint: str,
    seconds: float,
    out: Path | None = None,
    json_file: Path | None = None,
) -> None:
    """Write ``detections.png`` and the pictures of the evaluation into the work folder, and print where.

    The detections go to ``out`` as COCO results, those with masks to ``.segm.json`` next to it; the figures
    and the analysis to ``json_file``. ``seconds`` are those of the evaluation.

    Raises:
        UserError: a file cannot be written.
    """
    work_dir = Path(runner.work_dir)
    metric = full_metric(runner.test_evaluator)
    shown: dict[str, Any] = {}
    found = {} if metric is None else metric.detections
    if metric is not None and out is not None:
        for kind, detections in found.items():
            path = out if kind == 'bbox' else out.with_suffix(f'.{kind}.json')
            write_results(path, detections)
            shown[kind] = path
            options = [] if kind == 'bbox' else ['--iou-type', kind]
            shown[f'{kind} again'] = command('eval', path, metric.ann_file, *options)
    dataset = runner.test_dataloader.dataset
    shown['detections'] = draw_detections(runner.model, dataset, work_dir / 'detections.png')
    if metric is not None and found:
        analyses = {}
        for kind, evaluation in metric.evaluations.items():
            analyses[kind] = analyse(metric.truth, found[kind], evaluation.iou_type)
            runner.logger.info(f'{kind} errors\n{error_table(analyses[kind])}')
            shown.update(draw_all(evaluation, analyses[kind], work_dir))
        if json_file is not None:
            annotations, weights = Path(metric.ann_file), Path(checkpoint)
            evaluations = metric.evaluations
            write_summary(
                json_file,
                summary(evaluations, analyses, annotations, out, config, weights, round(seconds, 3)),
            )
            shown['json'] = json_file
    runner.logger.info(f'Done: {seconds:.0f} s evaluation' + _lines(shown))


def draw_curves(work_dir: Path, epochs: bool = True) -> Path:
    """Draw losses, learning rate and mAP of a work folder into its ``curves.png``."""
    path = work_dir / 'curves.png'
    save_figure(plot_training_curves(read_scalars(work_dir), epochs), path)
    return path


def draw_detections(model: Any, dataset: Any, path: Path) -> Path:
    """Draw ground truth next to detections for images spread over a dataset."""
    save_figure(plot_detections(model, dataset), path, 100)
    return path


def _commands(runner: Any) -> dict[str, str]:
    """Return the commands that evaluate, resume and repeat a training, by the config that it left."""
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
        launcher = shlex.join([sys.executable, *start])
        return f'{launcher} --no-python {command("train", *words)}'

    again = work_dir.with_name(work_dir.name + '_again')
    seed = f'randomness.seed={runner.seed}'
    return {
        'evaluate': command('test', dumped, best[-1] if best else last or 'CHECKPOINT'),
        'resume': train(dumped, '--work-dir', work_dir, '--resume'),
        'repeat': train(dumped, '--work-dir', again, '--cfg-options', seed),
    }


def _lines(shown: dict[str, Any]) -> str:
    return ''.join(f'\n  {name:<11}{value}' for name, value in shown.items())


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
    record, pictures = make_record(runner, metric, commands, seconds)
    curves = work_dir / 'curves.png'
    if curves.exists():
        pictures['curves'] = [('Loss, learning rate and mAP', curves.read_bytes())]
    write_summary(work_dir / RECORD, record)
    _write_text(path, render(record, pictures))
    for name, reason in record['lacking'].items():
        runner.logger.warning(f'report.html has no {name}: {reason}')
    runner.logger.debug(f'The report took {time.perf_counter() - started:.1f} s')
    return path


def render(record: dict[str, Any], pictures: Pictures) -> str:
    """Return ``report.html`` of what `make_record` returns; ``pictures`` may have ``'curves'``, too."""
    parts = record['cost']['parts'].values() if 'cost' in record else ()
    scored = [row for row in record['curves']['mAP'] if row['mAP'] is not None]
    return page(
        'reports/templates/training.html.j2',
        title=f'{record["name"]}: training report',
        record=record,
        pictures=pictures,
        best=max(scored, key=lambda row: float(row['mAP']), default=None),
        total={key: sum(part[key] for part in parts) for key in ('parameters', 'macs')},
        class_figures=list(CLASS_FIGURES),
        classes={
            kind: sorted(metric['classes'], key=lambda each: -(each['AP'] or 0))
            for kind, metric in record['metrics'].items()
        },
        data_classes=list(
            dict.fromkeys(n for part in record.get('data', {}).values() for n in part['by_class'])
        ),
        data_names=[f'{name} boxes' for name in record.get('data', {})],
        settings=json.dumps(record['settings'], indent=1),
        duration=duration,
    )


def duration(seconds: float) -> str:
    """Return a time as ``2 h 5 min``, ``3 min 20 s`` or ``8 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours} h {minutes} min' if hours else f'{minutes} min {rest} s' if minutes else f'{rest} s'
