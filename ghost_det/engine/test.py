"""Evaluation of a config and its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
from .train import prepare


def test(
    config: str,
    checkpoint: str,
    data: DetectionData | None = None,
    out: str | None = None,
    json_file: str | None = None,
    show_dir: str | None = None,
    fast: bool = False,
    content: dict[str, Any] | None = None,
    **settings: Any,
) -> dict[str, float]:
    """Evaluate a detector and return its figures; ``settings`` are those of `prepare`.

    ``out`` is a file for predictions, ``json_file`` one for figures, ``show_dir`` a folder for images. With
    ``fast``, norms and branches are folded. ``content`` is the checkpoint's, if it has been read already.
    """
    if out and not out.endswith(('.json', '.pkl')):
        raise UserError(f'--out {out}: predictions are written as .json (COCO results) or .pkl')
    for option, file in (('--out', out), ('--json', json_file)):
        if file:
            require_writable(Path(file), option)
    if show_dir:
        require_folder(show_dir, '--show-dir')
    content = load_checkpoint(checkpoint) if content is None else content
    with explain_errors(config):
        # Not the training's own folder, whose config and figures would be overwritten.
        cfg = prepare(config, data=data, splits=('test',), subfolder='test', **settings)
    cfg.load_from, cfg.resume = checkpoint, False  # whatever the config of a training says
    if out and out.endswith('.pkl'):
        cfg.test_evaluator = [*evaluators(cfg, 'test'), dict(type='DumpDetResults', out_file_path=out)]
    if show_dir:
        cfg.default_hooks.visualization = dict(type='DetVisualizationHook', draw=True, test_out_dir=show_dir)
    with safe_loading({checkpoint: content}):
        with explain_errors(config, BUILDING):
            runner = GhostRunner.from_cfg(cfg)
        if fast:
            runner.register_hook(OptimizeHook())
        check_fits(runner.model, content, checkpoint, config)
        results = Path(out) if out and out.endswith('.json') else None
        with explain_errors(config, lambda: runner.doing, cfg.work_dir):
            metric = full_metric(runner.test_evaluator)
            if metric is not None:
                metric.keep = True
            elif results or json_file:
                raise UserError(f'{config}: --json and --out .json need test_evaluator.type=FullCocoMetric')
            figures: dict[str, float] = runner.test()
            seconds = runner.seconds['evaluate']
            report_test(runner, config, checkpoint, seconds, results, Path(json_file) if json_file else None)
    return figures
