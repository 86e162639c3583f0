"""Training and evaluation: a config file and options, fitted to this data and this machine, run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from ghost_det.config.load import load_config, merge_options
from ghost_det.config.query import evaluators
from ghost_det.config.schedules import set_epochs
from ghost_det.data.checks.config import check_configured
from ghost_det.data.dataset import DetectionData, missing_data, use_data
from ghost_det.errors import UserError
from ghost_det.reports.training import full_metric, report_test, report_training
from ghost_det.swap.swap import parse_backbone, swap
from ghost_det.utils.files import require_folder, require_writable
from ghost_det.weights.checkpoint import check_fits, load_checkpoint

from .checkpoints import began, remove_interrupted, remove_partial, resume_from, saved_in
from .distributed import first_on_host, is_first, join, require_same
from .loading import safe_loading
from .messages import told
from .runner import ConsoleRunner
from .start import fetch_weights, skip_pretrained, starts_whole, use_pretrained

# Of those of one priority, the first comes first.
OUR_HOOKS = (
    'RepeatableHook',
    'MeanLossHook',
    'LossGuardHook',
    'ProgressHook',
    'InterruptHook',
    'DueEvaluationHook',
)


def require_data(cfg: Any, config: str, splits: tuple[str, ...]) -> None:
    """Stop where the data that a config names is not on this machine, or has mistakes in it.

    Raises:
        UserError: with the three ways on, or the mistakes.
    """
    missing = missing_data(cfg, splits)
    if missing:
        raise UserError(
            f'{config}: its data is not here: {missing[0]} does not exist. Three ways on:\n'
            '  --data sample       a generated data set, to try things out\n'
            '  --data FOLDER       your own data in COCO format\n'
            '  --cfg-options train_dataloader.dataset.data_root=FOLDER/ ..., or COCO 2017 in data/coco/'
        )
    warnings = check_configured(cfg, splits)
    if is_first():
        for warning in warnings[:5]:
            print(f'warning: {warning.line()}')


def fit_to_cpu(cfg: Any) -> None:
    """Share the cores of a machine without a GPU between computing and loading.

    All cores compute. Loading at most needs half of them; each worker is one more process that
    imports everything, so few images get one worker.
    """
    if torch.cuda.is_available():
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    processes = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    if 'OMP_NUM_THREADS' not in os.environ:
        torch.set_num_threads(max(1, cores // processes))
    for name in ('train', 'val', 'test'):
        loader = cfg.get(f'{name}_dataloader')
        if loader is not None:
            loader.num_workers = min(loader.get('num_workers', 0), max(1, cores // processes // 2))
            loader.persistent_workers = loader.num_workers > 0


def prepare(
    config: str,
    work_dir: str | None = None,
    options: dict[str, Any] | None = None,
    data: DetectionData | None = None,
    splits: tuple[str, ...] = ('train', 'val'),
    epochs: int | None = None,
    batch_size: int | None = None,
    tensorboard: bool = False,
    launcher: str = 'none',
    backbone: str | None = None,
) -> Any:
    """Return the config of a run: file, options, data and machine put together.

    Args:
        config: path of the config file.
        work_dir: where the run writes; ``work_dirs/CONFIG`` if neither this nor the config says.
        options: ``--cfg-options``; they win over everything else.
        data: a data set to use instead of the config's.
        splits: the parts of the config's own data that must be on this machine.
        epochs: another length of training.
        batch_size: another number of images a step, on each device.
        tensorboard: write TensorBoard logs as well.
        launcher: as in mmengine's ``Runner``; the processes are joined here, see `join`.
        backbone: another one than the config's, ``NAME`` or ``NAME:WIDTH``; see `swap`.

    Raises:
        UserError: see `load_config`, `swap`, `join`, `require_data`, `set_epochs`.
    """
    if backbone is None:
        cfg = load_config(config, options)
    else:
        cfg = _with_backbone(config, backbone)
        merge_options(cfg, options, config)  # they are for the new backbone
    join(launcher, cfg.get('env_cfg', {}).get('dist_cfg'))
    cfg.launcher = launcher
    cfg.work_dir = work_dir or cfg.get('work_dir') or _work_dir(config)
    if data is None:
        require_data(cfg, config, splits)
    if epochs is not None:
        set_epochs(cfg, epochs)
    if batch_size is not None:
        if batch_size < 1:
            raise UserError(f'--batch-size {batch_size}: a number from 1 up')
        cfg.train_dataloader.batch_size = batch_size
    require_folder(cfg.work_dir, '--work-dir')
    if data is not None:
        use_data(cfg, data, Path(cfg.work_dir) / 'annotations')
    if 'name' in (cfg.get('visualizer') or {}):
        del cfg.visualizer['name']  # a second run of the process would write to the first one's folder
    if tensorboard:
        cfg.visualizer.vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
    fit_to_cpu(cfg)
    if options:
        cfg.merge_from_dict(options)  # once more, over what was set above
    hooks = list(cfg.get('custom_hooks') or [])
    present = {hook['type'] for hook in hooks}
    cfg.custom_hooks = [*hooks, *(dict(type=name) for name in OUR_HOOKS if name not in present)]
    return cfg


def _with_backbone(config: str, backbone: str) -> Any:
    network, settings = parse_backbone(backbone)
    swapped = swap(config, network, **settings)
    if is_first():
        print('\n'.join(swapped.notes))
    return swapped.config


def use_amp(cfg: Any) -> None:
    """Train in mixed precision: fp16 with a dynamic loss scale on a GPU, bfloat16 on a CPU."""
    if torch.cuda.is_available():
        cfg.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')
    else:
        cfg.optim_wrapper.type = 'Bf16OptimWrapper'
        for key in ('loss_scale', 'dtype', 'use_fsdp'):  # of AmpOptimWrapper, which the config may have had
            cfg.optim_wrapper.pop(key, None)


def scale_lr(cfg: Any, config: str) -> None:
    """Scale the learning rate from the config's own batch to this run's.

    Raises:
        UserError: the config does not say which batch its learning rate is for.
    """
    if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
        raise UserError(f'--auto-scale-lr: {config} has no auto_scale_lr.base_batch_size to scale from')
    cfg.auto_scale_lr.enable = True


def batch_note(cfg: Any, world_size: int) -> str | None:
    """Return a warning where the batch is not the one that the learning rate is meant for."""
    scaling = cfg.get('auto_scale_lr') or {}
    batch = cfg.train_dataloader.get('batch_size', 1) * world_size
    base = scaling.get('base_batch_size', batch)
    lr = cfg.optim_wrapper.optimizer.get('lr')
    if base == batch or scaling.get('enable') or lr is None:
        return None
    return (
        f'The learning rate {lr} is meant for {base} images a step and this run has {batch}; '
        f'--auto-scale-lr makes it {lr * batch / base:g}.'
    )


def _build_runner(cfg: Any, config: str) -> Any:
    with told(config):
        return ConsoleRunner.from_cfg(cfg)


def _work_dir(config: str) -> str:
    return str(Path('work_dirs') / Path(config.rpartition('::')[2]).stem)


@safe_loading()
def train(
    config: str,
    data: DetectionData | None = None,
    resume: str | None = None,
    amp: bool = False,
    auto_scale_lr: bool = False,
    pretrained: str | None = None,
    **settings: Any,
) -> Any:
    """Train a detector, evaluate it, and report; the runner is returned.

    Args:
        config: path of the config file.
        data: a data set to use instead of the config's.
        resume: ``'auto'`` for the work folder's last checkpoint, or the path of one.
        amp: mixed precision.
        auto_scale_lr: scale the learning rate to this run's batch.
        pretrained: other weights for the backbone than the config's; see `use_pretrained`.
        **settings: see `prepare`.

    Raises:
        UserError: a mistake in the arguments, the config, the data or the checkpoint.
    """
    with told(config):
        cfg = prepare(config, data=data, **settings)
    if amp:
        use_amp(cfg)
    if auto_scale_lr:
        scale_lr(cfg, config)
    if pretrained is not None:
        use_pretrained(cfg, pretrained)
    remove_partial(cfg.work_dir)
    source, damaged = resume_from(cfg, resume)
    require_same(
        source,
        f'--resume: checkpoints in {cfg.work_dir}',
        'every host reads the checkpoint, and the first writes it: put --work-dir on a file system that they '
        'share, or copy the checkpoint and last_checkpoint to each',
    )
    whole = source is not None or starts_whole(cfg, config)
    if not whole:
        with first_on_host():
            fetch_weights(cfg)
    runner = _build_runner(cfg, config)
    runner.shortens_warm_up = settings.get('epochs') is not None
    if whole:
        skip_pretrained(runner.model)
        if pretrained not in (None, 'none'):
            runner.logger.warning(
                f'--pretrained {pretrained} is not used: {source or cfg.load_from} has weights.'
            )
    for fault in damaged:
        runner.logger.warning(f'--resume: passed over {fault}')
    if source is not None:
        content = load_checkpoint(source)
        check_fits(runner.model, content, source, config)
        runner.resume_at_start(source)
        if resume == 'auto':
            runner.began = began(content['meta'])
        runner.logger.info(
            f'--resume: going on from {source}, after {content["meta"]["iter"]} steps and '
            f'{content["meta"]["epoch"]} epochs'
        )
    elif resume is None and saved_in(cfg.work_dir):
        runner.logger.warning(
            f'{cfg.work_dir} has checkpoints of an earlier training: this one replaces those of the same '
            'names, and until it has saved its first, --resume would go on from them.'
        )
    elif resume == 'auto':
        runner.logger.warning(f'--resume: {cfg.work_dir} has no checkpoint yet: starting from the beginning.')
    note = batch_note(cfg, runner.world_size)
    if note:
        runner.logger.warning(note)
    metric = full_metric(runner.val_evaluator)
    if metric is not None:
        metric.keep = True
    with told(config, runner):
        runner.train()
        remove_interrupted(cfg.work_dir)
        report_training(runner)
    return runner


@safe_loading()
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
        show_dir: a folder for every image with true and found boxes.
        fast: fold norms and branches first (`ghost_det.optimize`); scores differ by rounding.
        **settings: see `prepare`.

    Raises:
        UserError: a mistake in the arguments, the config or the data; or a checkpoint that does not fit.
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
        settings['work_dir'] = str(Path(load_config(config).get('work_dir') or _work_dir(config)) / 'test')
    with told(config):
        cfg = prepare(config, data=data, splits=('test',), **settings)
    cfg.load_from = checkpoint
    if out and out.endswith('.pkl'):
        cfg.test_evaluator = [*evaluators(cfg, 'test'), dict(type='DumpDetResults', out_file_path=out)]
    if show_dir:
        cfg.default_hooks.visualization = dict(type='DetVisualizationHook', draw=True, test_out_dir=show_dir)
    if fast:
        cfg.custom_hooks.append(dict(type='OptimizeHook'))
    runner = _build_runner(cfg, config)
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
    with told(config, runner):
        figures: dict[str, float] = runner.test()
        report_test(
            runner,
            config,
            checkpoint,
            Path(results) if results else None,
            Path(json_file) if json_file else None,
        )
    return figures
