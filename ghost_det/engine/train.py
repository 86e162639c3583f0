"""Training: a config and options, fitted to this data and this machine, run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ghost_det.config.load import load_config
from ghost_det.config.overrides import finish_config
from ghost_det.config.query import backbone_of
from ghost_det.data.checks.config import check_configured
from ghost_det.data.dataset import DetectionData, missing_data, use_data
from ghost_det.errors import UserError
from ghost_det.evaluation.metric import full_metric
from ghost_det.models import NETWORKS
from ghost_det.reports.training import report_training
from ghost_det.swap.swap import parse_backbone, swap
from ghost_det.utils.files import require_folder
from ghost_det.weights.checkpoint import check_fits
from ghost_det.weights.download import locate
from ghost_det.weights.load import read_tensors

from .checkpoints import (
    Saved,
    find_checkpoint,
    remove_interrupted,
    remove_partial,
    require_longer,
    resume_with,
    saved_in,
)
from .distributed import first_on_host, is_rank_zero, join, read_environment, require_same
from .loading import safe_loading
from .messages import BUILDING, explain_errors
from .runner import GhostRunner

Edit = Callable[[Any], None]


def require_data(cfg: Any, config: str, splits: tuple[str, ...]) -> None:
    """Stop where the data that a config names is not on this machine, or has errors in it."""
    missing = missing_data(cfg, splits)
    if missing:
        raise UserError(
            f'{config}: its data is not here: {missing[0]} does not exist. Options:\n'
            '  --data sample       a generated data set, to try things out\n'
            '  --data FOLDER       your own data in COCO format\n'
            '  --cfg-options train_dataloader.dataset.data_root=FOLDER/ ..., or COCO 2017 in data/coco/'
        )
    warnings = check_configured(cfg, splits)
    if is_rank_zero():
        for warning in warnings[:5]:
            print(f'warning: {warning.line()}')


def work_dir_of(cfg: Any, config: str) -> str:
    """Return where a run writes by default: as its config says, or by the config's name."""
    return str(cfg.get('work_dir') or Path('work_dirs') / Path(config.rpartition('::')[2]).stem)


def prepare(
    config: str,
    work_dir: str | None = None,
    options: dict[str, Any] | None = None,
    data: DetectionData | None = None,
    splits: tuple[str, ...] = ('train', 'val'),
    launcher: str = 'none',
    backbone: str | None = None,
    edits: Iterable[Edit] = (),
    **settings: Any,
) -> Any:
    """Return the final config of a run, and join its processes.

    Args:
        config: path of the config file.
        work_dir: where the run writes.
        options: ``--cfg-options``; they win over everything else.
        data: a data set to use instead of the config's.
        splits: the parts of the config's own data that must be on this machine.
        launcher: as in mmengine's ``Runner``.
        backbone: another one than the config's, ``NAME`` or ``NAME:WIDTH``; see `swap`.
        edits: further changes of the config.
        **settings: see `finish_config`.

    Raises:
        UserError: see `load_config`, `swap`, `finish_config`, `require_data`, `join`.
    """
    read_environment(launcher)
    cfg = load_config(config) if backbone is None else _with_backbone(config, backbone)
    cfg.work_dir = (options or {}).get('work_dir') or work_dir or work_dir_of(cfg, config)
    cfg.launcher = launcher

    def edit(cfg: Any) -> None:
        if data is not None:
            require_folder(cfg.work_dir, '--work-dir')
            use_data(cfg, data, Path(cfg.work_dir) / 'annotations')

    finish_config(cfg, config, [edit, *edits], options=options, **settings)
    if data is None:
        require_data(cfg, config, splits)
        require_folder(cfg.work_dir, '--work-dir')
    join(launcher, cfg.get('env_cfg', {}).get('dist_cfg'))
    return cfg


def _with_backbone(config: str, backbone: str) -> Any:
    network, settings = parse_backbone(backbone)
    swapped = swap(config, network, **settings)
    if is_rank_zero():
        print('\n'.join(swapped.notes))
    return swapped.config


def train(
    config: str,
    data: DetectionData | None = None,
    resume: str | None = None,
    pretrained: str | None = None,
    epochs: int | None = None,
    **settings: Any,
) -> Any:
    """Train a detector, evaluate it, and report; the runner is returned.

    Args:
        config: path of the config file.
        data: a data set to use instead of the config's.
        resume: ``'auto'`` for the work folder's last checkpoint, or the path of one.
        pretrained: other weights for the backbone than the config's; see `use_pretrained`.
        epochs: another length of training; a long warm-up follows it.
        **settings: see `prepare` and `finish_config`.

    Raises:
        UserError: an error in the arguments, the config, the data or the checkpoint.
    """
    saved: Saved | None = None
    damaged: list[str] = []

    def edit(cfg: Any) -> None:
        nonlocal saved, damaged
        saved, damaged = find_checkpoint(cfg.work_dir, resume)
        resume_with(cfg, resume, saved)

    with explain_errors(config):
        cfg = prepare(config, data=data, edits=[edit], pretrained=pretrained, epochs=epochs, **settings)
    remove_partial(cfg.work_dir)
    if saved is not None:
        require_longer(cfg, saved)
    require_same(
        saved and saved.path,
        f'--resume: checkpoints in {cfg.work_dir}',
        'every host reads the checkpoint, and the first writes it: put --work-dir on a file system that they '
        'share, or copy the checkpoint and last_checkpoint to each',
    )
    has_weights = saved is not None or starts_from_detector(cfg, config)
    if not has_weights:
        with first_on_host():
            fetch_weights(cfg)
    with safe_loading({saved.path: saved.content} if saved else None):
        with explain_errors(config, BUILDING):
            runner = GhostRunner.from_cfg(cfg)
        runner.shortens_warm_up = epochs is not None
        if has_weights:
            skip_pretrained(runner.model)
            if pretrained not in (None, 'none'):
                source = saved.path if saved else cfg.load_from
                runner.logger.warning(f'--pretrained {pretrained} is not used: {source} has weights.')
        _start(runner, config, resume, saved, damaged)
        saved = None  # its tensors are not needed any longer
        metric = full_metric(runner.val_evaluator)
        if metric is not None:
            metric.keep = True
        with explain_errors(config, folder=cfg.work_dir):
            runner.train()
            remove_interrupted(cfg.work_dir)
            report_training(runner, runner.seconds)
    return runner


def _start(runner: Any, config: str, resume: str | None, saved: Saved | None, damaged: list[str]) -> None:
    """Log what a training starts from, and have it resume there."""
    work_dir = runner.work_dir
    for problem in damaged:
        runner.logger.warning(f'--resume: passed over {problem}')
    if saved is not None:
        check_fits(runner.model, saved.content, saved.path, config)
        runner.resume_at_start(saved.path)
        if resume == 'auto':
            runner.began = saved.began
        runner.logger.info(
            f'--resume: resuming from {saved.path}, after {saved.meta["iter"]} steps and '
            f'{saved.meta["epoch"]} epochs'
        )
    elif resume is None and saved_in(work_dir):
        runner.logger.warning(
            f'{work_dir} has checkpoints of an earlier training: this one replaces those of the same '
            'names, and until it has saved its first, --resume would resume from them.'
        )
    elif resume == 'auto':
        runner.logger.warning(f'--resume: {work_dir} has no checkpoint yet: starting from the beginning.')
    note = batch_note(runner.cfg, runner.world_size)
    if note:
        runner.logger.warning(note)


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


def fetch_weights(cfg: Any) -> None:
    """Have the backbone's weights here before the long set-up of everything else."""
    backbone = backbone_of(cfg.model) or {}
    init = backbone.get('init_cfg')
    if backbone.get('type') in NETWORKS and isinstance(init, dict) and init.get('type') == 'Pretrained':
        read_tensors(locate(init['checkpoint']))


def skip_pretrained(model: Any) -> None:
    """Leave out weights of the backbone that those of a complete detector will replace."""
    for module in model.modules():
        cfg = getattr(module, 'init_cfg', None)
        if isinstance(cfg, dict) and str(cfg.get('type')).endswith('Pretrained'):
            module.init_cfg = None


def starts_from_detector(cfg: Any, config: str) -> bool:
    """Tell whether ``load_from`` names a local file that has the backbone, too."""
    if not cfg.get('load_from') or not Path(cfg.load_from).is_file():
        return False
    keys = read_tensors(cfg.load_from).keys()
    if not any(key.removeprefix('module.').split('.')[0] in cfg.model for key in keys):
        raise UserError(
            f'load_from={cfg.load_from}: no tensor of it has a place in {config}; the weights of a backbone '
            'only are named by --pretrained'
        )
    return any(key.removeprefix('module.').removeprefix('detector.').startswith('backbone.') for key in keys)
