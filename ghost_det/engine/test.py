"""Evaluation of a config and its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ghost_det.config.load import load_config
from ghost_det.config.query import evaluators
from ghost_det.data.dataset import DetectionData
from ghost_det.errors import UserError
from ghost_det.evaluation.metric import full_metric
from ghost_det.reports.training import report_test
from ghost_det.utils.files import require_folder, require_writable
from ghost_det.weights.checkpoint import check_fits, load_checkpoint

from .hooks import OptimizeHook
from .loading import safe_loading
from .messages import BUILDING, explain_errors
from .runner import GhostRunner
from .train import prepare, work_dir_of


def test(
    config: str,
    checkpoint: str,
    data: DetectionData | None = None,
    out: str | None = None,
    json_file: str | None = None,
    show_dir: str | None = None,
    fast: bool = False,
    **settings: Any,
) -> dict[str, float]:
    """Evaluate a detector and return its figures.

    Args:
        config: path of the config file.
        checkpoint: path of the weights.
        data: a data set to use instead of the config's.
        out: a file for the predictions: ``.json`` for COCO results, ``.pkl`` for mmdet's own.
        json_file: a file for the figures and their analysis, for other programs.
        show_dir: a folder for every image with ground truth and detections.
        fast: fold norms and branches first (`ghost_det.optimize`); scores differ by rounding.
        **settings: see `prepare`.

    Raises:
        UserError: an error in the arguments, the config or the data; or a checkpoint that does not fit.
    """
    if out and not out.endswith(('.json', '.pkl')):
        raise UserError(f'--out {out}: predictions are written as .json (COCO results) or .pkl')
    for option, file in (('--out', out), ('--json', json_file)):
        if file:
            require_writable(Path(file), option)
    content = load_checkpoint(checkpoint)
    if show_dir:
        require_folder(show_dir, '--show-dir')
    if settings.get('work_dir') is None:
        # Not the training's own, whose config and pictures would be overwritten.
        settings['work_dir'] = str(Path(work_dir_of(load_config(config), config)) / 'test')

    def edit(cfg: Any) -> None:
        if out and out.endswith('.pkl'):
            cfg.test_evaluator = [*evaluators(cfg, 'test'), dict(type='DumpDetResults', out_file_path=out)]
        if show_dir:
            drawing = dict(type='DetVisualizationHook', draw=True, test_out_dir=show_dir)
            cfg.default_hooks.visualization = drawing

    with explain_errors(config):
        cfg = prepare(config, data=data, splits=('test',), edits=[edit], **settings)
    cfg.load_from, cfg.resume = checkpoint, False  # whatever the options of a training said
    with safe_loading({checkpoint: content}):
        with explain_errors(config, BUILDING):
            runner = GhostRunner.from_cfg(cfg)
        if fast:
            runner.register_hook(OptimizeHook())
        check_fits(runner.model, content, checkpoint, config)
        metric = full_metric(runner.test_evaluator)
        results = out if out and out.endswith('.json') else None
        if metric is not None:
            metric.keep = True
        elif results or json_file:
            raise UserError(
                f'{config}: --json and --out FILE.json need the evaluator FullCocoMetric: '
                '--cfg-options test_evaluator.type=FullCocoMetric'
            )
        with explain_errors(config, folder=cfg.work_dir):
            figures: dict[str, float] = runner.test()
            report_test(
                runner,
                config,
                checkpoint,
                runner.seconds['evaluate'],
                Path(results) if results else None,
                Path(json_file) if json_file else None,
            )
    return figures
