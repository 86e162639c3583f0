"""What a training and a test leave for a person to look at, and the commands that come next."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import find_latest_checkpoint

from ghost_det.evaluation.coco import CLASS_FIGURES
from ghost_det.evaluation.errors import Analysis, analyse
from ghost_det.evaluation.metric import full_metric
from ghost_det.evaluation.plots import draw_all
from ghost_det.evaluation.results import summary, write_results, write_summary
from ghost_det.evaluation.tables import error_table
from ghost_det.utils.files import write_file
from ghost_det.utils.html import page
from ghost_det.utils.plots import save_figure
from ghost_det.utils.system import command

from .history import add_evaluation, make_curves
from .pictures import plot_curves, plot_detections
from .record import RECORD, attempt, make_record, record_progress


class ReportHook(Hook):
    """Write ``report.json`` after each evaluation of a training, or warn that it cannot be written."""

    priority = 'NORMAL'  # before CheckpointHook, which saves the history

    @master_only
    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Write what is known so far."""
        add_evaluation(runner, metrics or {})
        metric = full_metric(runner.val_evaluator)
        if metric is not None:
            with attempt(runner, RECORD):
                write_summary(Path(runner.work_dir) / RECORD, record_progress(runner, metric))


@master_only
def report_training(runner: Any, seconds: dict[str, float]) -> None:
    """Write ``report.html`` and ``.json``, ``curves.png``, ``detections.png`` and ``commands.txt``.

    The training has succeeded, so what cannot be written is a warning. ``seconds`` of this process are
    ``'train'``, evaluations included, and ``'evaluate'``.
    """
    work_dir = Path(runner.work_dir)
    commands = _commands(runner)
    metric = full_metric(runner.val_evaluator)
    shown: dict[str, Any] = {}
    with attempt(runner, 'curves'):
        curves = plot_curves({work_dir.resolve().name: make_curves(runner)})
        shown['curves'] = save_figure(curves, work_dir / 'curves.png')
    analyses: dict[str, Analysis] = {}
    if metric is not None and metric.detections:
        with attempt(runner, 'analysis'):
            analyses = _analyse(metric, runner.val_dataloader.dataset, work_dir, shown)
    pictures = {name: path.read_bytes() for name, path in shown.items()}
    with attempt(runner, 'commands'):
        text = '\n'.join(f'# {name}\n{line}\n' for name, line in commands.items())
        shown['commands'] = write_file(work_dir / 'commands.txt', text)
    if metric is None or metric.evaluations or not (work_dir / 'report.html').exists():
        with attempt(runner, 'report'):
            record = {**make_record(runner, metric, analyses, seconds), 'commands': commands}
            write_summary(work_dir / RECORD, record)
            shown['report'] = write_file(work_dir / 'report.html', render(record, pictures))
    shown.update({name: commands[name] for name in ('evaluate', 'resume')})
    times = f'{seconds["train"] - seconds["evaluate"]:.0f} s training, {seconds["evaluate"]:.0f} s evaluation'
    runner.logger.info(f'Done: {times}{_lines(shown)}')


@master_only
def report_test(
    runner: Any,
    config: str,
    checkpoint: str,
    seconds: float,
    out: Path | None = None,
    json_file: Path | None = None,
) -> None:
    """Write ``detections.png`` and figures of an evaluation that took ``seconds``, and log the paths.

    Detections go to ``out`` as COCO results, those with masks to ``.segm.json`` next to it; figures and
    analysis to ``json_file``.
    """
    work_dir = Path(runner.work_dir)
    metric = full_metric(runner.test_evaluator)
    shown: dict[str, Any] = {}
    if metric is not None and metric.detections:
        analyses = _analyse(metric, runner.test_dataloader.dataset, work_dir, shown)
        for kind, detections in metric.detections.items():
            if out is not None:
                shown[kind] = out if kind == 'bbox' else out.with_suffix(f'.{kind}.json')
                write_results(shown[kind], detections)
                options = [] if kind == 'bbox' else ['--iou-type', kind]
                shown[f'{kind} again'] = command('eval', shown[kind], metric.ann_file, *options)
            runner.logger.info(f'{kind} errors\n{error_table(analyses[kind])}')
        if json_file is not None:
            files = (Path(metric.ann_file), out, config, Path(checkpoint))
            write_summary(json_file, summary(metric.evaluations, analyses, *files, round(seconds, 3)))
            shown['json'] = json_file
    runner.logger.info(f'Done: {seconds:.0f} s evaluation{_lines(shown)}')


def _analyse(metric: Any, dataset: Any, work_dir: Path, shown: dict[str, Any]) -> dict[str, Analysis]:
    """Return what is wrong with the detections of each metric, and add pictures of it to ``shown``."""
    shown['detections'] = save_figure(plot_detections(metric, dataset), work_dir / 'detections.png')
    analyses = {}
    for kind, detections in metric.detections.items():
        evaluation = metric.evaluations[kind]
        analyses[kind] = analyse(metric.truth, detections, evaluation.iou_type)
        shown.update(draw_all(evaluation, analyses[kind], work_dir))
    return analyses


def _commands(runner: Any) -> dict[str, str]:
    """Return the commands that evaluate, resume and repeat a training, with the config in its work folder."""
    work_dir = Path(runner.work_dir)
    config = work_dir / Path(runner.cfg.filename).name
    best = sorted(work_dir.glob('best_*.pth'), key=lambda path: path.stat().st_mtime)
    is_useful = best and runner.message_hub.get_info('best_score', 1) > 0
    checkpoint = best[-1] if is_useful else find_latest_checkpoint(str(work_dir)) or 'CHECKPOINT'
    again = work_dir.with_name(work_dir.name + '_again')
    seed = f'randomness.seed={runner.seed}'
    return {
        'evaluate': command('test', config, checkpoint),
        'resume': command('train', config, '--work-dir', work_dir, '--resume'),
        'repeat': command('train', config, '--work-dir', again, '--cfg-options', seed),
    }


def _lines(shown: dict[str, Any]) -> str:
    return ''.join(f'\n  {name:<11}{value}' for name, value in shown.items())


def render(record: dict[str, Any], pictures: dict[str, bytes]) -> str:
    """Return ``report.html`` of what ``report.json`` has, and pictures by the names of their files."""
    parts = record['cost']['parts'].values() if 'cost' in record else ()
    scored = [row for row in record['curves']['mAP'] if row['mAP'] is not None]
    data = record.get('data', {})
    return page(
        'reports/templates/training.html.j2',
        title=f'{record["name"]}: training report',
        record=record,
        pictures=pictures,
        best=max(scored, key=lambda row: float(row['mAP']), default=None),
        total={key: sum(part[key] for part in parts) for key in ('parameters', 'macs')},
        class_figures=list(CLASS_FIGURES),
        data_classes=list(dict.fromkeys(name for part in data.values() for name in part['by_class'])),
        settings=json.dumps(record['settings'], indent=1),
        duration=lambda seconds: str(timedelta(seconds=round(seconds))),
    )
