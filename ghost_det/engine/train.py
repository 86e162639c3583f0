"""Training: a config and options, fitted to this data and this machine, run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ghost_det.config.load import load_config, merge_options
from ghost_det.config.overrides import scale_lr, share_cores, stop_early, use_amp, use_pretrained
from ghost_det.config.query import backbone_of
from ghost_det.config.schedules import lengthen, set_epochs
from ghost_det.data.annotations import survey
from ghost_det.data.checks.config import check_configured
from ghost_det.data.dataset import DetectionData, missing_data, use_data
from ghost_det.errors import UserError
from ghost_det.evaluation.metric import full_metric
from ghost_det.models import NETWORKS
from ghost_det.reports.training import report_training
from ghost_det.swap.swap import parse_backbone, swap
from ghost_det.utils.files import PARTIAL, require_folder
from ghost_det.weights.catalog import SCHEME, address, is_shipped
from ghost_det.weights.checkpoint import check_fits, differences
from ghost_det.weights.download import locate
from ghost_det.weights.load import read_tensors

from .checkpoints import INTERRUPTED, find_checkpoint, remove_leftovers, require_longer, saved_in
from .distributed import is_rank_zero, join, require_same
from .loading import safe_loading
from .messages import BUILDING, explain_errors
from .runner import GhostRunner


def prepare(
    config: str,
    work_dir: str | None = None,
    options: dict[str, Any] | None = None,
    data: DetectionData | None = None,
    splits: tuple[str, ...] = ('train', 'val'),
    launcher: str = 'none',
    backbone: str | None = None,
    epochs: int | None = None,
    patience: int | None = None,
    batch_size: int | None = None,
    tensorboard: bool = False,
    amp: bool = False,
    auto_scale_lr: bool = False,
    pretrained: str | None = None,
    subfolder: str = '',
) -> Any:
    """Return the final config of a run, in which ``options`` win over all else, and join its processes."""
    if backbone is None:
        cfg = load_config(config)
    else:
        network, settings = parse_backbone(backbone)
        swapped = swap(config, network, **settings)
        cfg = swapped.config
        _announce(*swapped.notes)
    default = Path(cfg.get('work_dir') or Path('work_dirs') / Path(config.rpartition('::')[2]).stem)
    cfg.work_dir = (options or {}).get('work_dir') or work_dir or str(default / subfolder)
    cfg.launcher = launcher
    if epochs is not None:
        set_epochs(cfg, epochs)
    elif data and data.train and 'train_cfg.max_epochs' not in (options or {}):
        _announce(lengthen(cfg, len({*survey(data.train.annotations).table.image.tolist()})))
    if batch_size is not None:
        cfg.train_dataloader.batch_size = batch_size
    if data is not None:
        require_folder(cfg.work_dir, '--work-dir')
        use_data(cfg, data, Path(cfg.work_dir) / 'annotations')
    if 'name' in (cfg.get('visualizer') or {}):
        del cfg.visualizer['name']  # a second run of the process would write to the first one's folder
    if tensorboard:
        cfg.visualizer.vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
    if amp:
        use_amp(cfg)
    if auto_scale_lr:
        scale_lr(cfg, config)
    if pretrained is not None:
        use_pretrained(cfg, pretrained)
    if not torch.cuda.is_available():
        share_cores(cfg)
    merge_options(cfg, options, config)
    if patience is not None:
        stop_early(cfg, patience)
    if data is None:
        _require_data(cfg, config, splits)
        require_folder(cfg.work_dir, '--work-dir')
    join(launcher, cfg.get('env_cfg', {}).get('dist_cfg'))
    return cfg


def _announce(*lines: str | None) -> None:
    for line in filter(None, lines):
        if is_rank_zero():
            print(line)


def _require_data(cfg: Any, config: str, splits: tuple[str, ...]) -> None:
    """Raise a `UserError` if the config's data is not on this machine or has errors; print warnings."""
    missing = missing_data(cfg, splits)
    if missing:
        raise UserError(
            f'{config}: its data is not on this machine: {missing[0]} does not exist. Options:\n'
            '  --data sample       a generated data set, to try things out\n'
            '  --data FOLDER       your own data in COCO format\n'
            '  --cfg-options train_dataloader.dataset.data_root=FOLDER/ ..., or COCO 2017 in data/coco/'
        )
    _announce(*(f'warning: {finding.line()}' for finding in check_configured(cfg, splits)[:5]))


def train(config: str, data: DetectionData | None = None, resume: str | None = None, **settings: Any) -> Any:
    """Train a detector, evaluate it, and report; ``settings`` are those of `prepare`.

    ``resume`` is ``'auto'`` for the last checkpoint of the work folder, or the path of one.
    """
    with explain_errors(config):
        cfg = prepare(config, data=data, **settings)
    saved, damaged = find_checkpoint(cfg.work_dir, resume)
    if saved is not None:
        require_longer(cfg, saved)
        if 'randomness.seed' not in (settings.get('options') or {}):
            cfg.randomness = {**(cfg.get('randomness') or {}), 'seed': saved.meta.get('seed')}
    cfg.resume = False  # the runner gets what to resume from
    require_same(saved and saved.path)
    remove_leftovers(cfg.work_dir, f'{PARTIAL}*')
    complete = saved is not None or starts_from_detector(cfg, config)
    source = saved.path if saved else cfg.load_from if complete else fetch_weights(cfg)
    with safe_loading({saved.path: saved.content} if saved else None):
        with explain_errors(config, BUILDING):
            runner = GhostRunner.from_cfg(cfg)
        runner.shortens_warm_up = settings.get('epochs') is not None
        for problem in damaged:
            runner.logger.warning(f'--resume: skipped {problem}')
        if complete:
            if not str(source).startswith(SCHEME):  # there, the hook refuses two sources
                if saved is None:
                    _require_backbone(runner.model, str(source))
                _skip_pretrained(runner.model)
            pretrained = settings.get('pretrained')
            if pretrained is not None and address(pretrained) != source:
                runner.logger.warning(f'--pretrained {pretrained} is ignored: weights come from {source}.')
        if saved is None and is_shipped(source) and settings.get('pretrained') is None:
            runner.logger.info(
                f'Starting from {source}, which comes with ghost_det; --pretrained ghostnet_100 takes the '
                'published ImageNet weights instead, and none starts from scratch'
            )
        if saved is None and resume == 'auto':
            runner.logger.warning(f'--resume: no checkpoint in {cfg.work_dir}: starting from the beginning.')
        elif saved is None and saved_in(cfg.work_dir):
            runner.logger.warning(
                f'{cfg.work_dir} has checkpoints of an earlier training, which this one will overwrite'
            )
        elif saved is not None:
            check_fits(runner.model, saved.content, saved.path, config)
            runner.resume_at_start(saved.path)
            if resume == 'auto':
                runner.began = saved.meta.get('began', 0)
            runner.logger.info(f'--resume: resuming from {saved.path}, after {saved.meta["iter"]} steps')
            saved = None  # frees the memory of its tensors
        if note := batch_note(runner.cfg, runner.world_size):
            runner.logger.warning(note)
        with explain_errors(config, lambda: runner.doing, cfg.work_dir):
            metric = full_metric(runner.val_evaluator)
            if metric is not None:
                metric.keep = True
            runner.train()
            remove_leftovers(cfg.work_dir, INTERRUPTED)
            report_training(runner, runner.seconds)
    return runner


def batch_note(cfg: Any, world_size: int) -> str | None:
    """Return a warning if the batch is not the one that the learning rate is meant for."""
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


def fetch_weights(cfg: Any) -> str | None:
    """Download and check the backbone's weights before anything else is set up; return their source."""
    backbone = backbone_of(cfg.model) or {}
    init = backbone.get('init_cfg')
    if backbone.get('type') in NETWORKS and isinstance(init, dict) and init.get('type') == 'Pretrained':
        read_tensors(locate(init['checkpoint']))
        return str(init['checkpoint'])
    return None


def _skip_pretrained(model: Any) -> None:
    """Leave out weights of parts of a detector that a complete checkpoint will replace."""
    for module in model.modules():
        cfg = getattr(module, 'init_cfg', None)
        if isinstance(cfg, dict) and str(cfg.get('type')).endswith('Pretrained'):
            module.init_cfg = None


def _require_backbone(model: Any, source: str) -> None:
    """Raise a `UserError` if a checkpoint lacks a part of the backbone, which mmengine would not load."""
    found = {key.removeprefix('module.'): value for key, value in read_tensors(source).items()}
    state = model.state_dict()
    expected = {key: state[key] for key in state if key.removeprefix('detector.').startswith('backbone.')}
    problems = differences(expected, found)
    if problems:
        raise UserError(
            f'load_from={source}: does not fit the backbone: {len(problems)} of {len(expected)} tensors '
            f'differ: {problems[0]}; to load only the backbone, use --pretrained'
        )


def starts_from_detector(cfg: Any, config: str) -> bool:
    """Return whether ``load_from`` names our detector, or a local file with weights of the backbone."""
    source = address(str(cfg.get('load_from') or ''))
    if source.endswith('.safetensors'):
        raise UserError(
            f'load_from={source}: expected a PyTorch checkpoint (.pth); load backbones with --pretrained'
        )
    if source:
        cfg.load_from = source
    if not source.startswith(SCHEME) and not Path(source).is_file():
        return False
    keys = [key.removeprefix('module.') for key in read_tensors(locate(source))]
    if not any(key.split('.')[0] in cfg.model for key in keys):
        raise UserError(f'load_from={cfg.load_from} has no part of {config}; for backbones use --pretrained')
    return any(key.removeprefix('detector.').startswith('backbone.') for key in keys)
